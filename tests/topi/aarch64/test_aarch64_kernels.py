"""The kernels of AArch64's dot products, run under emulation: the reference's integers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.topi.aarch64 import emulation
from tests.topi.dot_workloads import (
    ARM,
    Arrays,
    Case,
    all_codes,
    any_layer,
    built,
    extreme_products,
    probe,
    sums_to_narrow,
)
from tvm_shiftadd.topi.schedules.cpu.dot.instructions import ANY, ONE_TERM, InstructionSet
from tvm_shiftadd.topi.schedules.cpu.dot.space import candidates, problem_of
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Workload
from tvm_shiftadd.tune import check

pytestmark = [pytest.mark.slow, emulation.TOOLS]

Call = tuple[Any, Arrays]

LAYERS = 60


def run(isa: InstructionSet, calls: Sequence[Call], folder: Path) -> Arrays:
    """The last argument of each function after its call."""
    objects = [folder / f"kernel{index}.o" for index in range(len(calls))]
    for path, (function, _) in zip(objects, calls, strict=True):
        built(function, isa, path.stem).mod.write_to_file(str(path))
    return emulation.run_kernels(folder, objects, [arguments for _, arguments in calls])


@pytest.mark.parametrize("isa", ARM, ids=lambda isa: isa.name)
def test_layers_of_any_shape(isa: InstructionSet, tmp_path: Path) -> None:
    random, calls = np.random.default_rng(LAYERS), []
    works: list[Workload] = []
    while len(works) < LAYERS:
        work = any_layer(
            lambda low, high: int(random.integers(low, high + 1)),
            lambda *values: values[random.integers(len(values))],
        )
        if work is None:
            continue
        found = candidates(work.plan(isa), 2)
        parameters = found[random.integers(len(found)) if len(works) % 2 else 0]
        assert problem_of(work.plan(isa, parameters)) == ""
        arguments = check.arguments(work, isa, parameters)
        calls.append((work.kernel(isa, parameters), arguments))
        works.append(work)
    results = run(isa, calls, tmp_path)
    wrong = {work.text: check.problem(work, got) for work, got in zip(works, results, strict=True)}
    assert {text: problem for text, problem in wrong.items() if problem} == {}


@pytest.mark.parametrize("isa", ARM, ids=lambda isa: isa.name)
def test_single_operations(isa: InstructionSet, tmp_path: Path) -> None:
    """Extremes of dot products, all codes, the order and the limits of narrowed sums."""
    cases: list[tuple[Case, Any]] = [
        (case, lambda *registers, most=most: isa.dot(*registers, most))
        for most in (ONE_TERM, ANY)
        for case in extreme_products(isa, most)
    ]
    for half, case in enumerate(all_codes(isa)):
        cases.append((case, lambda packed, half=half: isa.decode(packed)[half]))
    for kind in ("int8", "uint8"):
        case = sums_to_narrow(isa, kind)
        cases.append((case, lambda *sums, kind=kind: isa.narrow(sums, kind, natural=True)))
    calls = [
        (probe(isa, case.arrays, made), [*case.arrays, np.zeros(isa.vector, np.int8)])
        for case, made in cases
    ]
    for (case, _), got in zip(cases, run(isa, calls, tmp_path), strict=True):
        np.testing.assert_array_equal(got, case.expected)
