"""The second main function, for one image: the same results, and no shapes computed in a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_shiftadd._runtime import Machine
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.formats import codes, packing
from tvm_shiftadd.target import CPUTarget, cpu
from tvm_shiftadd.target.batch import SINGLE

RNG = np.random.default_rng(0)
VALUES = RNG.choice(codes.representable(2), (9 * 16, 16))
WEIGHTS = {
    "codes": packing.pack(codes.encode(VALUES, 2)),
    "bias": RNG.integers(-99, 99, 16).astype(np.int32),
    "shift": np.full(16, 9, np.int32),
}


def module(*shapes: tuple[Any, ...]) -> tvm.IRModule:
    """Inputs of these shapes through one layer each, added up."""
    inputs = [
        relax.Var(f"x{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(shapes)
    ]
    weights = [
        relax.Var(name, relax.TensorType(array.shape, str(array.dtype)))
        for name, array in WEIGHTS.items()
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", [*inputs, *weights]):
        with builder.dataflow():
            total = None
            for x in inputs:
                y = builder.emit(ops.quantize(x, 4))
                y = builder.emit(
                    ops.conv2d(y, *weights[:2], kernel_size=(3, 3), padding=(1, 1, 1, 1))
                )
                y = builder.emit(ops.requantize(y, weights[2], lo=0, hi=127))
                y = builder.emit(ops.dequantize(y, relax.const(np.full(1, 3, np.int32))))
                total = y if total is None else builder.emit(relax.op.add(total, y))
            output = builder.emit_output(total)
        builder.emit_func_output(output)
    return builder.get()


def any_batch() -> Any:
    return tvm.tirx.Var("n", "int64")


def functions(executable: Any) -> str:
    return str(executable.as_text())


@pytest.mark.parametrize("kernels", ["auto", "shift"])
@pytest.mark.parametrize("count", [1, 2])
def test_one_image_and_several_have_the_same_results(count: int, kernels: str) -> None:
    n = any_batch()
    mod = module(*[(n, 6, 6, 16)] * count)
    executable = cpu.build(mod, CPUTarget(kernels=kernels), data_inputs=count)
    machine = Machine(executable, WEIGHTS, 1)
    several = [RNG.normal(size=(4, 6, 6, 16)).astype(np.float32) for _ in range(count)]
    (expected,) = machine(several)
    assert expected.std() > 0
    for image in range(4):
        (got,) = machine([array[image : image + 1] for array in several])
        np.testing.assert_array_equal(got, expected[image : image + 1])


def test_no_shape_is_computed_for_one_image() -> None:
    text = functions(cpu.build(module((any_batch(), 6, 6, 16)), CPUTarget(), data_inputs=1))
    main, single = (text.split(f"{name}:")[1].split("\n\n")[0] for name in ("main", SINGLE))
    assert "vm.builtin.make_shape" in main
    assert "vm.builtin.make_shape" not in single
    kernels = [line.split()[1] for line in main.splitlines() if " shiftadd_" in line]
    assert kernels and all(f" {kernel} " in single for kernel in kernels)


@pytest.mark.parametrize(
    "shapes",
    [[(2, 6, 6, 16)], [(1, 6, 6, 16)], [("n", 6, 6, 16), (1, 6, 6, 16)]],
)
def test_a_batch_that_is_known_needs_none(shapes: list[tuple[Any, ...]]) -> None:
    n = any_batch()
    mod = module(*[tuple(n if d == "n" else d for d in shape) for shape in shapes])
    executable = cpu.build(mod, CPUTarget(), data_inputs=len(shapes))
    assert SINGLE not in functions(executable)


def test_without_data_inputs_there_is_none() -> None:
    executable = cpu.build(module((any_batch(), 6, 6, 16)), CPUTarget())
    assert SINGLE not in functions(executable)
