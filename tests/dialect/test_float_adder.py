"""The float adder operators: types, and the same numbers compiled, in NumPy and by definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_shiftadd._compat import TensorType, relax, tirx
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.dialect.reference_module import run_reference
from tvm_shiftadd.dialect.types import describe_type
from tvm_shiftadd.errors import VerificationError


def infer(call: Any) -> Any:
    return relax.BlockBuilder().normalize(call).ty


def variable(shape: tuple[Any, ...], dtype: str = "float32") -> Any:
    return relax.Var("x", TensorType(shape, dtype))


def by_definition(x: np.ndarray, weight: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """NCHW and OIHW, one output element at a time."""
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    n, _, height, width = padded.shape
    outputs, _, kh, kw = weight.shape
    shape = (n, outputs, (height - kh) // stride + 1, (width - kw) // stride + 1)
    out = np.empty(shape)
    for b, o, y, c in np.ndindex(*shape):
        y0, x0 = y * stride, c * stride
        window = padded[b, :, y0 : y0 + kh, x0 : x0 + kw]
        out[b, o, y, c] = -np.abs(window.astype(np.float64) - weight[o]).sum()
    return out


def test_type_of_a_convolution_in_both_layouts() -> None:
    n = tirx.Var("n", "int64")
    first = ops.float_adder_conv2d(
        variable((n, 3, 9, 8)), variable((5, 3, 3, 2)), strides=2, padding=(1, 0)
    )
    assert describe_type(infer(first)) == "float32[n, 5, 5, 4]"
    last = ops.float_adder_conv2d(
        variable((n, 9, 8, 3)),
        variable((3, 2, 3, 5)),
        strides=(2, 2),
        padding=(1, 0, 1, 0),
        data_layout="NHWC",
    )
    assert describe_type(infer(last)) == "float32[n, 5, 4, 5]"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: ops.float_adder_conv2d(x, variable((5, 2, 3, 3))), "without groups"),
        (lambda x: ops.float_adder_conv2d(x, variable((5, 4, 9, 9))), "a window that fits"),
        (
            lambda x: ops.float_adder_conv2d(x, variable((5, 4, 3, 3)), variable((4,))),
            r"scale float32 \[5\]",
        ),
        (
            lambda x: ops.float_adder_conv2d(x, variable((5, 4, 3, 3), "int8"), variable((5,))),
            "weight to be float32",
        ),
        (lambda x: ops.float_adder_dense(x, variable((6, 3))), "x with 6 values"),
    ],
)
def test_operands_that_do_not_fit_are_refused(make: Callable[..., Any], message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        infer(make(variable((1, 4, 8, 8))))


def test_layouts_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(VerificationError, match="OIHW with NCHW"):
        ops.float_adder_conv2d(variable((1, 4, 8, 8)), variable((5, 4, 3, 3)), kernel_layout="HWIO")


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_compiled_and_reference_give_the_definition(data: st.DataObject) -> None:
    pick = st.integers(1, 3)
    n, channels, outputs, kernel, stride = (data.draw(pick) for _ in range(5))
    size, pad = data.draw(st.integers(kernel, 7)), data.draw(st.integers(0, 2))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = random.normal(size=(n, channels, size, size)).astype(np.float32)
    weight = random.normal(size=(outputs, channels, kernel, kernel)).astype(np.float32)
    scale = random.normal(size=outputs).astype(np.float32)
    expected = by_definition(x, weight, stride, pad) * scale.reshape(-1, 1, 1)
    last, hwio = (np.ascontiguousarray(a) for a in (x.transpose(0, 2, 3, 1), weight.T))
    for array, taps, layout in ((x, weight, "NCHW"), (last, hwio.transpose(1, 0, 2, 3), "NHWC")):
        wanted = expected if layout == "NCHW" else expected.transpose(0, 2, 3, 1)
        mod = module(
            array,
            lambda v, t=taps, la=layout: ops.float_adder_conv2d(
                v,
                relax.const(np.ascontiguousarray(t)),
                relax.const(scale),
                strides=stride,
                padding=pad,
                data_layout=la,
            ),
        )
        assert_both(mod, array, wanted)


def test_dense_gives_the_definition() -> None:
    random = np.random.default_rng(3)
    x, weight = (random.normal(size=s).astype(np.float32) for s in ((4, 6), (6, 5)))
    expected = -np.abs(x[:, :, None] - weight[None]).sum(axis=1)
    mod = module(x, lambda v: ops.float_adder_dense(v, relax.const(weight)))
    assert_both(mod, x, expected)


def module(x: np.ndarray, build: Callable[[Any], Any]) -> Any:
    builder = relax.BlockBuilder()
    var = relax.Var("x", TensorType(x.shape, "float32"))
    with builder.function("main", [var]):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(build(var), "y"))
        builder.emit_func_output(result)
    return builder.get()


def assert_both(mod: Any, x: np.ndarray, expected: np.ndarray) -> None:
    (reference,) = run_reference(mod, {"x": x}).values()
    np.testing.assert_allclose(reference, expected, rtol=1e-5, atol=1e-5)
    compiled = tvm.compile(mod, target=tvm.target.Target({"kind": "llvm"}))
    machine = relax.VirtualMachine(compiled, tvm.cpu())
    actual = machine["main"](tvm.runtime.tensor(x)).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
