"""The network as the converter sees it: a list of operators on channels-last arrays.

A :class:`Graph` is read off the canonical float module once (``relay_passes.extract``) and never
changed. It holds NumPy arrays and plain values only, so that everything in ``convert`` runs,
and can be tested, without a compiler.

Layouts: maps ``[N, H, W, C]``; convolution and adder weights ``[kh, kw, I/groups, O]``; transposed
convolution weights ``[kh, kw, I, O/groups]``; dense weights ``[I, O]``. Batch is axis 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Operators with constant weights: these become shift-add layers.
WEIGHT_OPS = frozenset({"conv2d", "conv2d_transpose", "dense"})

#: Operators with constant weights that measure distances: these become adder layers.
ADDER_OPS = frozenset({"adder_conv2d", "adder_dense"})

#: Every operator with constant weights.
LAYER_OPS = WEIGHT_OPS | ADDER_OPS

#: Operators of a region whose result is a wide (int32) tensor until it is requantised.
WIDE_OPS = LAYER_OPS | {"add", "avg_pool2d"}


@dataclass(frozen=True)
class Node:
    """One operator.

    ``name`` is the layer's name in the user's model; ``output`` names the tensor it makes (they
    differ where a bias was merged into the layer). Attributes by operator:

    - ``conv2d``: strides (2), padding (top, left, bottom, right), dilation (2), groups
    - ``conv2d_transpose``: strides (2), padding (4), output_padding (2), dilation (2), groups
    - ``adder_conv2d``: strides (2), padding (4)
    - ``clip``: lo, hi (floats; a ReLU is 0 and infinity)
    - ``max_pool2d``, ``avg_pool2d``: pool_size (2), strides (2), padding (4), dilation (2),
      ceil_mode (bool), and for the average count_include_pad (bool). Global pooling has
      pool_size = (H, W).
    - ``pad``: pad_width, one (before, after) for each axis; zeros
    - ``concat``: axis; ``reshape``: shape (-1 for the batch axis); ``permute``: axes
    - ``upsample2d``: scale (2), nearest neighbour
    - ``slice``: axes, begin, end, strides
    - ``host``: operator, and ``evaluate``, which runs it on float arrays

    An adder layer is ``factor * -sum |x - weight| + bias``; ``factor``, ``[O]``, is the batch norm
    behind it, which its weights cannot take. Other operators have none.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    weight: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    factor: NDArray[np.float32] | None = None
    evaluate: Callable[..., NDArray[Any]] | None = None
    reason: str = ""

    @property
    def on_host(self) -> bool:
        """Whether the operator stays in float, outside every shift-add region."""
        return self.op == "host"


@dataclass(frozen=True)
class Graph:
    """A network: nodes in an order in which every input is made before it is used.

    ``shapes`` holds every tensor's shape with the batch axis first; the batch axis is -1 where
    it is symbolic. ``batch`` is the fixed batch size, or None.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    batch: int | None = None

    def producers(self) -> dict[str, Node]:
        """The node that makes each tensor; graph inputs are absent."""
        return {node.output: node for node in self.nodes}

    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each tensor, in order; a node that reads it twice is there twice."""
        uses: dict[str, list[Node]] = {name: [] for name in self.shapes}
        for node in self.nodes:
            for name in node.inputs:
                uses[name].append(node)
        return uses
