"""Which layers each kernel call computes, by the names in the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tvm_shiftadd._compat import TensorType, relax, tirx
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.target import cpu, parse
from tvm_shiftadd.target.calls import CallRecord

WINDOW = {"kernel_size": (3, 3), "strides": (1, 1), "padding": (1, 1, 1, 1)}


def parameters(name: str, reduction: int, outputs: int) -> list[Any]:
    """Codes of one term and biases of a layer, as parameters of the network."""
    packed = TensorType((1, (reduction + 1) // 2, outputs), "uint8")
    return [
        relax.Var(f"{name}.codes", packed),
        relax.Var(f"{name}.bias", TensorType((outputs,), "int32")),
    ]


def network(batch: Any) -> Any:
    """Two equal convolutions, the second added to what it reads; softmax on the host."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", TensorType((batch, 6, 6, 16), "int8"))
    left_weights, right_weights = (parameters(name, 144, 16) for name in ("left", "right"))
    shift, none = (relax.const(np.full(1, value, np.int32)) for value in (9, 0))
    with builder.function("main", [x, *left_weights, *right_weights]):
        with builder.dataflow():
            y = builder.emit(ops.conv2d(x, *left_weights, **WINDOW), "left")
            y = builder.emit(ops.requantize(y, shift, lo=0, hi=127), "left_relu")
            z = builder.emit(ops.conv2d(y, *right_weights, **WINDOW), "right")
            z = builder.emit(ops.add(z, y, none, none), "both")
            z = builder.emit(ops.requantize(z, shift, lo=0, hi=127), "both_relu")
            z = builder.emit(ops.dequantize(z, shift), "real")
            out = builder.emit_output(builder.emit(relax.op.nn.softmax(z), "scores"))
        builder.emit_func_output(out)
    return builder.get()


@pytest.mark.parametrize("kernels", ["shift", "auto"])
@pytest.mark.parametrize("batch", [1, "n"])
def test_every_layer_is_in_the_call_that_computes_it(kernels: str, batch: Any) -> None:
    record = CallRecord()
    size = tirx.Var("n", "int64") if batch == "n" else batch
    target = parse({"kind": "llvm", "kernels": kernels})
    cpu.build(network(size), target, data_inputs=1, record=record)
    layers = [name for call in record.calls for name in call["layers"]]
    wanted = ["left", "left_relu", "right", "both", "both_relu", "real", "scores"]
    assert layers == wanted
    together = next(call for call in record.calls if "left" in call["layers"])
    assert together["layers"] == ["left", "left_relu"]
    assert together["operators"] == ["shiftadd.conv2d", "shiftadd.requantize"]
    last = record.calls[-1]
    assert (last["layers"], last["operators"]) == (["scores"], ["relax.nn.softmax"])
    isa = cpu.instruction_set(target)
    assert together["computed_by"] == (isa.computed_by if isa else "")


def test_a_result_without_a_name_belongs_to_its_reader() -> None:
    """Legalisation makes a dense layer of a convolution that covers its map, between reshapes."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", TensorType((1, 1, 1, 32), "int8"))
    weights = parameters("classes", 32, 32)
    window = {"kernel_size": (1, 1), "strides": (1, 1), "padding": (0, 0, 0, 0)}
    with builder.function("main", [x, *weights]):
        with builder.dataflow():
            y = builder.emit(ops.conv2d(x, *weights, **window), "classes")
            exponent = relax.const(np.full(1, 3, np.int32))
            out = builder.emit_output(builder.emit(ops.dequantize(y, exponent), "real"))
        builder.emit_func_output(out)
    record = CallRecord()
    target = parse({"kind": "llvm", "kernels": "shift"})
    cpu.build(builder.get(), target, data_inputs=1, record=record)
    dense = next(call for call in record.calls if "dense" in call["kernel"])
    assert "classes" in dense["layers"]
