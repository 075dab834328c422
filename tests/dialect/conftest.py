"""Many small computations compiled in one module and compared with the NumPy reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray

from tvm_shiftadd._compat import TensorType, relax, tirx
from tvm_shiftadd.dialect.reference_module import run_reference

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """``build`` makes the expression from the variables of ``operands``, in their order.

    ``constants`` come after the operands, embedded in the module. With ``symbolic`` the first axis
    of the first operand is a symbol.
    """

    build: Callable[..., Any]
    operands: tuple[Array, ...]
    constants: tuple[Array, ...] = ()
    symbolic: bool = False
    text: str = ""


def build_module(cases: Sequence[Case]) -> Any:
    """One module with a function ``f0``, ``f1``, ... for each case."""
    builder = relax.BlockBuilder()
    for number, case in enumerate(cases):
        batch = tirx.Var("n", "int64")
        variables = []
        for position, array in enumerate(case.operands):
            shape = list(array.shape)
            if case.symbolic:
                shape[0] = batch
            variables.append(relax.Var(f"x{position}", TensorType(shape, str(array.dtype))))
        with builder.function(f"f{number}", variables):
            with builder.dataflow():
                constants = [relax.const(array) for array in case.constants]
                value = builder.emit(case.build(*variables, *constants), "y")
                result = builder.emit_output(value)
            builder.emit_func_output(result)
    return builder.get()


def check(cases: Sequence[Case]) -> None:
    """Compile all cases for the CPU; every result must equal the reference bit for bit."""
    module = build_module(cases)
    target = tvm.target.Target({"kind": "llvm"})
    machine = relax.VirtualMachine(tvm.compile(module, target=target), tvm.cpu())
    for number, case in enumerate(cases):
        feeds = {f"x{i}": array for i, array in enumerate(case.operands)}
        (expected,) = run_reference(module, feeds, function=f"f{number}").values()
        inputs = [tvm.runtime.tensor(array) for array in case.operands]
        actual = machine[f"f{number}"](*inputs).numpy()
        assert actual.dtype == expected.dtype, case.text
        np.testing.assert_array_equal(actual, expected, err_msg=case.text)


@pytest.fixture(scope="session")
def make_case() -> type[Case]:
    """The class of one computation."""
    return Case


@pytest.fixture(scope="session")
def check_cases() -> Callable[[Sequence[Case]], None]:
    """The function that compiles cases and compares them with the reference."""
    return check


@pytest.fixture(scope="session")
def make_module() -> Callable[[Sequence[Case]], Any]:
    """The function that builds one module of all cases."""
    return build_module
