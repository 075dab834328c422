"""Layers fused into CUDA kernels and emulated equal the NumPy reference, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tvm import relax

from tests.cuda.emulation import COPIES, ORDERS, copies_made, emulated
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.dialect.reference_module import run_reference
from tvm_shiftadd.formats import codes, packing
from tvm_shiftadd.target import CUDATarget, cuda, runtime

Emit = Callable[[Any], Any]


@dataclass(frozen=True)
class Layer:
    """A layer and what follows it. ``padding`` and the like are unused by dense layers."""

    kind: str
    size: tuple[int, int, int]
    outputs: int
    terms: int = 1
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    dtype: str = "int8"
    out: str = "int8"
    other: str = ""
    scaled: bool = False
    lo: int = -128
    hi: int = 127


class Network:
    """Layers side by side in one function: data first, then parameters."""

    def __init__(self, seed: int, images: int, symbolic: bool) -> None:
        self.rng = np.random.default_rng(seed)
        self.images = images
        self.batch: Any = tvm.tirx.Var("n", "int64") if symbolic else images
        self.data: dict[str, np.ndarray] = {}
        self.parameters: dict[str, np.ndarray] = {}
        self.variables: list[Any] = []

    def input(self, shape: tuple[int, ...], dtype: str) -> Any:
        low, high = (-2000, 2000) if dtype == "int32" else _range(dtype)
        name = f"x{len(self.data)}"
        values = self.rng.integers(low, high + 1, (self.images, *shape)).astype(dtype)
        self.data[name] = values
        var = relax.Var(name, relax.TensorType((self.batch, *shape), dtype))
        self.variables.insert(len(self.data) - 1, var)
        return var

    def parameter(self, values: np.ndarray) -> Any:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = values
        self.variables.append(relax.Var(name, relax.TensorType(values.shape, str(values.dtype))))
        return self.variables[-1]

    def integers(self, low: int, high: int, shape: Any, dtype: str = "int32") -> Any:
        return self.parameter(self.rng.integers(low, high + 1, shape).astype(dtype))

    def emit(self, emit: Emit, layer: Layer) -> Any:
        """The operators of a layer and what follows it."""
        y = emit(self._sums(layer))
        shape, channels = [int(size) for size in list(y.ty.shape)[1:]], layer.outputs
        if layer.scaled:
            factor = codes.encode(self.rng.choice(codes.representable(1), channels), 2)
            y = emit(ops.scale(y, self.parameter(factor)))
        if layer.other:
            left = self.rng.integers(0, 3, channels)
            mine = self.rng.integers(0, 2, channels)
            shifts = [self.parameter((left * s).astype(np.int32)) for s in (mine, 1 - mine)]
            y = emit(ops.add(self.input(tuple(shape), layer.other), y, *shifts))
        if layer.out == "int32":
            return y
        shift = self.integers(-1, 9, channels)
        lo = max(layer.lo, _range(layer.out)[0])
        return emit(ops.requantize(y, shift, lo=lo, hi=layer.hi, dtype=layer.out))

    def _sums(self, layer: Layer) -> Any:
        channels = layer.size[2]
        dense, adder = layer.kind.endswith("dense"), layer.kind.startswith("adder")
        x = self.input((channels,) if dense else layer.size, layer.dtype)
        rows = channels // layer.groups * layer.kernel[0] * layer.kernel[1]
        if adder:
            weights = self.integers(-128, 127, (rows, layer.outputs), "int8")
        else:
            values = self.rng.choice(codes.representable(layer.terms), (rows, layer.outputs))
            weights = self.parameter(packing.pack(codes.encode(values, layer.terms)))
        args = (x, weights, self.integers(-5000, 5000, layer.outputs))
        window = {"kernel_size": layer.kernel, "strides": layer.strides, "padding": layer.padding}
        if dense:
            return ops.adder_dense(*args) if adder else ops.dense(*args)
        if adder:
            return ops.adder_conv2d(*args, **window)
        return ops.conv2d(*args, **window, dilation=layer.dilation, groups=layer.groups)

    def check(
        self, layers: list[Layer], arch: str, order: str, rewrite: Callable[[str], str] = str
    ) -> None:
        """Build the layers, run them in the emulator, and compare with the reference.

        ``rewrite`` changes the source of the kernels.
        """
        builder = relax.BlockBuilder()
        with builder.function("main"):
            with builder.dataflow():
                made = [self.emit(builder.emit, layer) for layer in layers]
                output = builder.emit_output(relax.Tuple(made))
            builder.emit_func_output(output, params=self.variables)
        module = builder.get()
        feeds = {**self.data, **self.parameters}
        expected = list(run_reference(module, feeds).values())
        with emulated(order, rewrite):
            target = CUDATarget(arch=arch)
            machine = relax.VirtualMachine(
                cuda.build(module, target, data_inputs=len(self.data)), tvm.cuda()
            )
            tensors = [tvm.runtime.tensor(v, tvm.cuda()) for v in self.parameters.values()]
            prepared = runtime.prepare_parameters(machine, tensors)
            # What kernels do may depend on how many images there are.
            for images in {self.images, self.images if isinstance(self.batch, int) else 1}:
                data = [tvm.runtime.tensor(v[:images], tvm.cuda()) for v in self.data.values()]
                for copies in COPIES if arch == "sm_80" else COPIES[:1]:
                    with copies_made(copies):
                        made = [tensor.numpy() for tensor in machine["main"](*data, *prepared)]
                    self._compare(layers, made, [values[:images] for values in expected])

    @staticmethod
    def _compare(layers: list[Layer], got: list[np.ndarray], expected: list[np.ndarray]) -> None:
        for layer, mine, wanted in zip(layers, got, expected, strict=True):
            assert mine.dtype == wanted.dtype
            np.testing.assert_array_equal(mine, wanted, err_msg=str(layer))


def _range(dtype: str) -> tuple[int, int]:
    return np.iinfo(dtype).min, np.iinfo(dtype).max


@st.composite
def layers(draw: Callable[[Any], Any]) -> Layer:
    """Layers of any kind with all that may follow them."""

    def number(low: int, high: int) -> int:
        return int(draw(st.integers(low, high)))

    def choose(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    kind = choose("conv", "conv", "conv", "depthwise", "dense", "adder_conv", "adder_dense")
    adder, dense = kind.startswith("adder"), kind.endswith("dense")
    kernel = (1, 1) if dense else (number(1, 3), number(1, 3))
    dilation = (1, 1) if dense or adder else (number(1, 2), number(1, 2))
    extents = [number((k - 1) * d + 1, 9) for k, d in zip(kernel, dilation, strict=True)]
    groups = number(2, 40) if kind == "depthwise" else 1 if dense or adder else number(1, 3)
    # Half of the layers have the whole pieces of channels that tensor cores want.
    channels = choose(16 * number(1, 5), number(1, 40))
    outputs = number(1, 40)
    out = choose("int8", "uint8", "int32")
    lo, hi = sorted(number(*_range(out if out != "int32" else "int8")) for _ in range(2))
    return Layer(
        kind,
        (1, 1, channels) if dense else (*extents, groups * (1 if groups > 3 else channels)),
        groups if kind == "depthwise" else groups * outputs,
        number(1, 3),
        kernel,
        (1, 1) if dense else (number(1, 3), number(1, 3)),
        (0, 0, 0, 0) if dense else (number(0, 2), number(0, 2), number(0, 2), number(0, 2)),
        dilation,
        groups,
        "int8" if adder else choose("int8", "uint8"),
        out,
        choose("", "int8", "uint8", "int32"),
        choose(False, True),
        lo,
        hi,
    )


def compare(examples: int, together: int, arch: str, order: str) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        phases=(Phase.generate,),  # every smaller case is another build
    )
    @given(
        st.lists(layers(), min_size=together, max_size=together),
        st.integers(1, 9),
        st.booleans(),
    )
    def compare_drawn(drawn: list[Layer], images: int, symbolic: bool) -> None:
        Network(images, images, symbolic).check(drawn, arch, order)

    compare_drawn()


#: A layer for each path through the kernels of tensor cores.
MATRIX = [
    Layer("conv", (5, 4, 16), 16, 1, (3, 3), padding=(1, 1, 1, 1), dtype="uint8", out="uint8"),
    Layer("conv", (5, 4, 48), 36, 2, (3, 2), (2, 1), (0, 1, 1, 2), (2, 1), other="int32"),
    Layer("conv", (3, 3, 32), 36, 1, groups=2, scaled=True, other="uint8", out="uint8", hi=99),
]
DENSE = Layer("dense", (1, 1, 80), 70, 1, other="int8", scaled=True)
#: Those of others.
WORDS = [
    Layer("conv", (5, 5, 3), 7, 1, (3, 3), (2, 2), (1, 1, 1, 1), dtype="uint8", out="int32"),
    Layer("conv", (4, 4, 10), 15, 3, (2, 2), groups=5, other="int8"),
    Layer("depthwise", (6, 5, 6), 6, 1, (3, 3), (1, 2), (1, 0, 1, 1), (1, 1), 6, out="uint8"),
    Layer("adder_conv", (5, 6, 6), 10, 1, (3, 3), (2, 1), (1, 1, 1, 1), scaled=True),
    Layer("adder_conv", (4, 3, 16), 6, 1, (2, 2), out="int32"),
    Layer("adder_dense", (1, 1, 3), 1, 1, other="int32"),
]


def test_convolutions_on_tensor_cores_equal_the_reference() -> None:
    Network(0, 3, symbolic=False).check(MATRIX, "sm_80", "backward")


def test_the_barrier_between_slabs_is_needed() -> None:
    def without(source: str) -> str:
        assert source.count("__syncthreads();") == 1
        return source.replace("__syncthreads();", "")

    with pytest.raises(AssertionError, match="Mismatched elements"):
        Network(0, 3, symbolic=False).check(MATRIX[:1], "sm_80", "backward", without)


def test_layers_by_words_equal_the_reference() -> None:
    Network(1, 2, symbolic=True).check(WORDS, "sm_75", "random")


@pytest.mark.parametrize("arch", ["sm_75", "sm_80"])
def test_a_vector_through_a_dense_layer_equals_the_reference(arch: str) -> None:
    Network(2, 1, symbolic=False).check([DENSE], arch, "forward")


@pytest.mark.slow
def test_dense_layers_choose_by_the_batch() -> None:
    Network(3, 11, symbolic=True).check([DENSE], "sm_80", "random")


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_75", "sm_80"])
@pytest.mark.parametrize("order", ORDERS)
def test_layers_of_any_shape_equal_the_reference(arch: str, order: str) -> None:
    compare(4, 8, arch, order)
