"""Single layers on a GPU: made, run and timed.

Everything is timed on the device, many runs between two events, so that the time to start kernels
is hidden as far as it can be. Layers whose weights would stay in the cache are there many times,
with other weights each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tvm
from numpy.typing import NDArray

from tvm_shiftadd._compat import relax
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.formats import codes, packing
from tvm_shiftadd.target import CUDATarget, cuda, runtime

Array = NDArray[Any]
#: Seconds on the device of one run.
Timer = Callable[[], float]

#: Bytes of weights that no cache of a GPU holds.
COPIED = 256 << 20
#: Seconds that the runs between two events are to take together.
BLOCK = 0.05


@dataclass(frozen=True)
class Layer:
    """A layer of random weights, requantised to int8.

    ``size``: rows and columns of a map, 1 for a vector. Adder layers have one weight a byte, others
    weights of ``terms`` terms.
    """

    name: str
    kind: Literal["dense", "conv2d", "adder"]
    batch: int
    inputs: int
    outputs: int
    size: int = 1
    kernel: int = 1
    stride: int = 1
    terms: int = 1

    @property
    def reduction(self) -> int:
        """Products, or differences, of an element of the result."""
        return self.inputs * self.kernel**2

    @property
    def pixels(self) -> int:
        """Of the outputs of all images."""
        return self.batch * (-(-self.size // self.stride)) ** 2

    @property
    def results(self) -> int:
        """Elements of the result."""
        return self.pixels * self.outputs

    @property
    def operations(self) -> int:
        """Products and sums, or differences and sums, of one run."""
        return 2 * self.results * self.reduction

    @property
    def weight_bytes(self) -> int:
        """Of one copy, as the kernels are to read it: four bits a code, eight a sum of two."""
        bits = 4 if self.kind != "adder" and self.terms == 1 else 8
        return self.reduction * self.outputs * bits // 8

    @property
    def copies(self) -> int:
        """How many layers one run computes; only weights of dense layers are all there is to do."""
        return max(1, COPIED // self.weight_bytes) if self.kind == "dense" else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the inputs, channels last."""
        if self.kind == "dense":
            return (self.batch, self.inputs)
        return (self.batch, self.size, self.size, self.inputs)

    @property
    def window(self) -> dict[str, Any]:
        """Attributes of a convolution."""
        border = self.kernel // 2
        pair = {"kernel_size": (self.kernel,) * 2, "strides": (self.stride,) * 2}
        return {**pair, "padding": (border,) * 4}

    def weights(self, rng: np.random.Generator) -> Array:
        """The weights of one copy as the dialect has them."""
        if self.kind == "adder":
            return rng.integers(-128, 128, (self.reduction, self.outputs)).astype(np.int8)
        values = rng.choice(codes.representable(self.terms), (self.reduction, self.outputs))
        return packing.pack(codes.encode(values, self.terms))

    def inputs_of(self, rng: np.random.Generator) -> Array:
        """int8 inputs of one run."""
        return rng.integers(-128, 128, self.shape).astype(np.int8)


def module(layer: Layer, copies: int) -> Any:
    """``main(x, weights and bias of each copy)``: the results of all copies."""
    rng = np.random.default_rng(0)
    x = relax.Var("x", relax.TensorType(layer.shape, "int8"))
    stored = layer.weights(rng)
    weights, biases = [], []
    for copy in range(copies):
        kind = relax.TensorType(stored.shape, str(stored.dtype))
        weights.append(relax.Var(f"weights{copy}", kind))
        biases.append(relax.Var(f"bias{copy}", relax.TensorType((layer.outputs,), "int32")))
    builder = relax.BlockBuilder()
    pairs = list(zip(weights, biases, strict=True))
    with builder.function("main", [x, *(var for pair in pairs for var in pair)]):
        with builder.dataflow():
            shift = relax.const(np.full(1, 10, np.int32))
            made = []
            for weight, bias in pairs:
                total = builder.emit(_sums(layer, x, weight, bias))
                made.append(builder.emit(ops.requantize(total, shift, lo=-128, hi=127)))
            results = builder.emit_output(relax.Tuple(made) if copies > 1 else made[0])
        builder.emit_func_output(results)
    return builder.get()


def _sums(layer: Layer, x: Any, weight: Any, bias: Any) -> Any:
    if layer.kind == "dense":
        return ops.dense(x, weight, bias)
    return (ops.adder_conv2d if layer.kind == "adder" else ops.conv2d)(
        x, weight, bias, **layer.window
    )


def parameters(layer: Layer, copies: int) -> list[Array]:
    """Weights and bias of each copy, in the order of ``module``."""
    rng = np.random.default_rng(1)
    first = layer.weights(rng)
    bias = np.zeros(layer.outputs, np.int32)
    # Other weights in each copy, without drawing hundreds of millions of random numbers.
    return [a for i in range(copies) for a in (np.roll(first, i, axis=1), bias)]


def ours(layer: Layer, arch: str, device: Any) -> tuple[Timer, Array]:
    """The time of one copy of a layer, and the result of the first."""
    built = cuda.build(module(layer, layer.copies), CUDATarget(arch=arch), data_inputs=1)
    machine = relax.VirtualMachine(built, device)
    given = [tvm.runtime.tensor(array, device) for array in parameters(layer, layer.copies)]
    prepared = runtime.prepare_parameters(machine, given)
    x = tvm.runtime.tensor(layer.inputs_of(np.random.default_rng(2)), device)
    result = machine["main"](x, *prepared)
    first = result[0] if layer.copies > 1 else result
    arguments, copies = [x, *prepared], layer.copies

    def timed(number: int) -> float:
        return float(machine.time_evaluator("main", device, number=number)(*arguments).mean)

    run = repeated(timed)
    return lambda: run() / copies, first.numpy()


def repeated(timed: Callable[[int], float]) -> Timer:
    """``timed``, the mean of so many runs, with as many as fill ``BLOCK`` seconds."""
    number = max(1, int(BLOCK / max(timed(3), 1e-6)))
    return lambda: timed(number)
