"""Why an operator without a rule in ``classify.py`` stays on the host, by Relax name."""

from __future__ import annotations

_INDEX = "it picks elements by an index, which a region does not do"
_COMPARES = "it makes truth values, of which a region has none"
_ORDERS = "it finds positions, not values; a region has no indices"
_REDUCES = "it reduces axes, which in a region only pooling does"
_ROUNDS = "it rounds real values, which integers on a power-of-two scale have no use for"
_DIMENSION = "its feature map is not two-dimensional"
_SPREADS = "it repeats data, for which a region has only upsampling by whole numbers"

#: Operator, without ``relax.``, to the reason that is shown to users.
HOST_REASONS: dict[str, str] = {
    # Products of data.
    "multiply": "it multiplies activations, or scales them by a factor that no layer can take",
    "divide": "it divides",
    "floor_divide": "it divides",
    "mod": "it divides",
    "power": "a power is a product of data",
    "square": "a square is a product of data",
    "einsum": "a product of activations is a multiplication of data",
    "outer": "a product of two activations is a multiplication of data",
    "nn.attention": "attention multiplies activations by each other",
    "prod": "it multiplies activations by each other",
    # Curved functions.
    "exp": "an exponential has no shift-add form",
    "log": "a logarithm has no shift-add form",
    "sqrt": "a square root has no shift-add form",
    "rsqrt": "a square root has no shift-add form",
    "erf": "the error function has no shift-add form",
    "tanh": "tanh has no shift-add form",
    "sigmoid": "a sigmoid has no shift-add form",
    "sin": "a sine has no shift-add form",
    "cos": "a cosine has no shift-add form",
    "nn.silu": "SiLU multiplies its input by a sigmoid",
    "nn.gelu": "GELU multiplies its input by the error function",
    "nn.gelu_tanh": "GELU multiplies its input by a tanh",
    "nn.softplus": "softplus needs an exponential and a logarithm",
    "nn.selu": "SELU needs an exponential",
    "nn.leakyrelu": "a leaky ReLU multiplies negative values by its slope",
    "zeros_like": "it makes a constant in the shape of its input",
    "ones_like": "it makes a constant in the shape of its input",
    "nn.prelu": "a parametric ReLU multiplies negative values by its slopes",
    "nn.softmax": "softmax needs exponentials and a division",
    "nn.log_softmax": "softmax needs exponentials and a logarithm",
    # Normalisation by statistics of the data.
    "nn.instance_norm": "instance normalisation divides by the deviation of the data",
    "nn.layer_norm": "layer normalisation divides by the deviation of the data",
    "nn.group_norm": "group normalisation divides by the deviation of the data",
    "nn.rms_norm": "RMS normalisation divides by the magnitude of the data",
    "nn.batch_norm": "its statistics are not constants of the channel axis, so no layer takes them",
    "variance": "a variance is a product of data",
    "std": "a standard deviation is a product of data",
    # Element by element, without a form in integers.
    "subtract": "it subtracts two activations in float",
    "negative": "it negates activations in float",
    "abs": "it takes absolute values in float",
    "sign": "it makes signs of real values",
    "minimum": "a region compares with constants only, as clips",
    "maximum": "a region compares with constants only, as clips",
    "floor": _ROUNDS,
    "ceil": _ROUNDS,
    "round": _ROUNDS,
    "trunc": _ROUNDS,
    "astype": "it converts between types; a region has its own",
    "where": "it chooses between values by a condition computed from data",
    "equal": _COMPARES,
    "not_equal": _COMPARES,
    "less": _COMPARES,
    "less_equal": _COMPARES,
    "greater": _COMPARES,
    "greater_equal": _COMPARES,
    "logical_and": _COMPARES,
    "logical_or": _COMPARES,
    "logical_not": _COMPARES,
    # Reductions, order and indices.
    "sum": _REDUCES,
    "min": _REDUCES,
    "cumsum": "it sums along an axis step by step, for which a region has no operator",
    "argmax": _ORDERS,
    "argmin": _ORDERS,
    "argsort": _ORDERS,
    "topk": _ORDERS,
    "sort": "it sorts, for which a region has no operator",
    "take": _INDEX,
    "gather_elements": _INDEX,
    "gather_nd": _INDEX,
    "scatter_elements": _INDEX,
    "scatter_nd": _INDEX,
    "one_hot": _INDEX,
    # Movement of data that a region does not hold.
    "split": "the size of its parts is not known",
    "stack": "it joins tensors along a new axis; a region joins along an existing one",
    "tile": _SPREADS,
    "repeat": _SPREADS,
    "broadcast_to": _SPREADS,
    "flip": "it reverses an axis, for which a region has no operator",
    "dynamic_strided_slice": "its window is computed from data",
    "nn.pixel_shuffle": "it interleaves channels and pixels, for which a region has no operator",
    "squeeze": "the shape of its result is not known",
    "flatten": "the shape of its result is not known",
    "expand_dims": "the shape of its result is not known",
    # Layers in other than two dimensions.
    "nn.conv1d": _DIMENSION,
    "nn.conv3d": _DIMENSION,
    "nn.conv1d_transpose": _DIMENSION,
    "nn.conv3d_transpose": _DIMENSION,
    "nn.avg_pool1d": _DIMENSION,
    "nn.avg_pool3d": _DIMENSION,
    "nn.max_pool1d": _DIMENSION,
    "nn.max_pool3d": _DIMENSION,
    "nn.adaptive_avg_pool2d": "its windows differ in size, and it is no whole-map mean",
    # What the importer wrote in TensorIR itself.
    "call_tir": "it came as code, not as an operator",
}
