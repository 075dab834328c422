"""The NumPy interpreter of dialect modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tvm_shiftadd._compat import TensorType, relax, tirx
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.dialect.reference_module import run_reference
from tvm_shiftadd.errors import DataError, UnsupportedOperatorError


def movement() -> Any:
    n = tirx.Var("n", "int64")
    x = relax.Var("x", TensorType((n, 4, 6), "int8"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            turned = builder.emit(relax.op.permute_dims(x, [0, 2, 1]))
            sliced = builder.emit_output(
                relax.op.strided_slice(turned, [1, 2], [5, 1], [-7, 3], [-2, 1]), "sliced"
            )
            flat = builder.emit_output(relax.op.reshape(sliced, (n, 6)), "flat")
        builder.emit_func_output(relax.Tuple([flat, sliced]))
    return builder.get()


def test_data_movement_and_symbolic_batch() -> None:
    x = np.arange(72, dtype=np.int8).reshape(3, 4, 6)
    results = run_reference(movement(), {"x": x})
    expected = x.transpose(0, 2, 1)[:, ::-2, 1:3]
    assert list(results) == ["flat", "sliced"]
    np.testing.assert_array_equal(results["sliced"], expected)
    np.testing.assert_array_equal(results["flat"], expected.reshape(3, 6))


def test_a_layer_by_hand() -> None:
    # Two weights: 3 = 2 + 1 with codes 2, 1, and -64 with code 15; the low nibble comes first.
    x = relax.Var("x", TensorType((1, 2), "int8"))
    codes = relax.const(np.array([[[0xF2]], [[0x01]]], np.uint8))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        y = builder.emit(ops.dense(x, codes, relax.const(np.array([10], np.int32))))
        y = builder.emit(ops.requantize(y, relax.const(np.array([1], np.int32))), "y")
        builder.emit_func_output(y)
    results = run_reference(builder.get(), {"x": np.array([[5, 1]], np.int8)})
    # 5 * 3 - 64 + 10 = -39; (-39 + 1) >> 1 = -19.
    assert results["y"].tolist() == [[-19]]


def test_calls_of_other_functions_are_followed() -> None:
    builder = relax.BlockBuilder()
    inner = relax.Var("a", TensorType((3,), "int8"))
    with builder.function("region", [inner]):
        builder.emit_func_output(builder.emit(ops.clip(inner, lo=0, hi=2)))
    region = builder.get().get_global_var("region")
    x = relax.Var("x", TensorType((3,), "int8"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.Call(region, [x]), "y"))
    results = run_reference(builder.get(), {"x": np.array([-1, 1, 9], np.int8)})
    assert results["y"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "expected a feed x"),
        ({"x": np.zeros((1, 4, 5), np.int8)}, r"int8\[n, 4, 6\], got int8\[1, 4, 5\]"),
        ({"x": np.zeros((1, 4, 6), np.float32)}, "got float32"),
    ],
)
def test_wrong_feeds_are_refused(feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run_reference(movement(), feeds)


def test_host_operators_are_refused_by_name() -> None:
    x = relax.Var("x", TensorType((3,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.nn.softmax(x)))
    with pytest.raises(UnsupportedOperatorError, match=r"relax\.nn\.softmax"):
        run_reference(builder.get(), {"x": np.zeros(3, np.float32)})
