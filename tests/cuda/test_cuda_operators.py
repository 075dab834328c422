"""Every operator, compiled for a GPU and emulated, equals ``formats.reference`` bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax

from tests.cuda.emulation import ORDERS, emulated
from tests.dialect.conftest import Case, build_module
from tests.dialect.test_dialect_numerics import CASES
from tvm_shiftadd.dialect.reference_module import run_reference
from tvm_shiftadd.target import CUDATarget, cuda


def check(cases: list[Case], order: str) -> None:
    module = build_module(cases)
    with emulated(order):
        machine = relax.VirtualMachine(cuda.build(module, CUDATarget(kernels="shift")), tvm.cuda())
        for number, case in enumerate(cases):
            feeds = {f"x{i}": array for i, array in enumerate(case.operands)}
            (expected,) = run_reference(module, feeds, function=f"f{number}").values()
            inputs = [tvm.runtime.tensor(array, tvm.cuda()) for array in case.operands]
            actual = machine[f"f{number}"](*inputs).numpy()
            assert actual.dtype == expected.dtype, case.text
            np.testing.assert_array_equal(actual, expected, err_msg=case.text)


def compare(examples: int, together: int, order: str) -> None:
    one_of_each = st.tuples(*(CASES[name]() for name in sorted(CASES)))

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.lists(one_of_each, min_size=together, max_size=together), st.booleans())
    def compare_drawn(drawn: Any, symbolic: bool) -> None:
        cases = [
            Case(build, operands, constants, symbolic, f"{name} {attrs}")
            for batch in drawn
            for name, (build, operands, constants, attrs) in zip(sorted(CASES), batch, strict=True)
        ]
        check(cases, order)

    compare_drawn()


def test_operators_equal_the_reference() -> None:
    compare(2, 1, "backward")  # the first of Hypothesis' examples is always the smallest


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_many_cases_of_operators_equal_the_reference(order: str) -> None:
    compare(6, 4, order)
