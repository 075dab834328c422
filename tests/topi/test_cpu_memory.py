"""Maps between layers take turns in a few pieces of memory, which runs after the first keep."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import pytest
from tvm import relax

from tvm_shiftadd._runtime import Machine
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.target import cpu, parse
from tvm_shiftadd.target.batch import SINGLE

#: Bytes of a map of the networks below, and of a page of memory.
MAP, PAGE = 128 * 128 * 64, resource.getpagesize()


def network_of(net: Any, depth: int, target: Any) -> Any:
    """A chain of layers, from and to floats: what it is compiled to."""
    x = net.input((1, 64, 128, 128), "float32")
    layers = [(net.weights(64, 64, 1), net.shift(8, 9, 64)) for _ in range(depth)]
    builder = relax.BlockBuilder()
    with builder.function("main", net.variables):
        with builder.dataflow():
            y = builder.emit(relax.op.permute_dims(builder.emit(ops.quantize(x, 5)), (0, 2, 3, 1)))
            for weights, shift in layers:
                y = builder.emit(ops.conv2d(y, *weights, kernel_size=(1, 1)))
                y = builder.emit(ops.requantize(y, shift))
            y = builder.emit_output(ops.dequantize(y, relax.const(np.full(1, 3, np.int32))))
        builder.emit_func_output(y)
    return cpu.build(builder.get(), parse(target), data_inputs=1)


def storages(executable: Any) -> int:
    """Pieces of memory that a run for one image asks for."""
    text = str(executable.as_text())
    single = text[text.index(f"@{SINGLE}") :]
    single = single[: single.find("\n@")] if "\n@" in single else single
    return single.count("vm.builtin.alloc_storage")


@pytest.mark.parametrize("target", ["cpu", {"kind": "llvm", "kernels": "shift"}])
def test_deeper_networks_take_no_more_memory(network: Any, target: Any) -> None:
    few, many = (storages(network_of(network(0), depth, target)) for depth in (3, 9))
    assert 1 < few == many


def test_later_runs_take_no_memory_from_the_system(network: Any) -> None:
    net = network(1)
    machine = Machine(network_of(net, 4, "cpu"), net.parameters, 1)
    image = net.data["x0"]
    for _ in range(3):
        expected = machine([image])[0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        (got,) = machine([image])
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    np.testing.assert_array_equal(got, expected)
    # Fresh memory is given by pages, each with a fault: for every run a map would be some hundred.
    assert taken < 20 * MAP // PAGE // 4
