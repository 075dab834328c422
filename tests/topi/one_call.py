"""Modules of a single call, or of a few, whose operands are all parameters; run on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_shiftadd.target import cpu, parse

#: Shape and type of each parameter, by name; None is the batch, a symbol.
Shapes = Mapping[str, tuple[Sequence[int | None], str]]

#: Real shifts, on this machine's processor and on a lesser one; then the fastest kernels.
SHIFTS = [
    '{"kind": "llvm", "kernels": "shift"}',
    '{"kind": "llvm", "mcpu": "generic", "kernels": "shift"}',
]
TARGETS = [*SHIFTS, "cpu:generic", "cpu"]


def shapes_of(**arrays: np.ndarray) -> Shapes:
    """The parameters that take these arrays, with any batch in x and residual."""
    return {
        name: ((None, *a.shape[1:]) if name in ("x", "residual") else a.shape, str(a.dtype))
        for name, a in arrays.items()
    }


def module(call: Callable[..., Any], shapes: Shapes) -> Any:
    """A module whose ``main`` is ``call(builder, *variables)``."""
    batch = tvm.tirx.Var("n", "int64")
    params = []
    for name, (shape, dtype) in shapes.items():
        sizes = tuple(batch if size is None else size for size in shape)
        params.append(relax.Var(name, relax.TensorType(sizes, dtype)))
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(call(builder, *params)))
        builder.emit_func_output(result)
    return builder.get()


def compiled(call: Callable[..., Any], shapes: Shapes, target: str) -> Any:
    """The executable of such a module."""
    return cpu.build(module(call, shapes), parse(target))


def run(executable: Any, *arrays: np.ndarray) -> np.ndarray:
    """What ``main`` makes of the arrays."""
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result: np.ndarray = machine["main"](
        *(tvm.runtime.tensor(np.ascontiguousarray(array)) for array in arrays)
    ).numpy()
    return result
