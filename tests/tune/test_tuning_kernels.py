"""Every candidate computes the reference's integers, and tuned parameters reach the kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import tvm

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.target import cpu, parse
from tvm_shiftadd.topi.schedules.cpu.dot.parameters import ConvParameters, Parameters
from tvm_shiftadd.topi.schedules.cpu.dot.space import candidates, problem_of
from tvm_shiftadd.topi.schedules.cpu.dot.workload import Choices, Workload
from tvm_shiftadd.topi.schedules.shapes import conv_shape
from tvm_shiftadd.tune import check, cpu_space

ISA: Any = cpu.instruction_set(parse("cpu"))  # type: ignore[arg-type]

pytestmark = pytest.mark.skipif(ISA is None, reason="needs a processor with fused kernels")


def workload(
    kind: Any, size: tuple[int, int, int], outputs: int, terms: int, window: int, **known: Any
) -> Workload:
    stride, groups = known.pop("stride", 1), known.pop("groups", 1)
    pad = (window // 2,) * 4
    shape = conv_shape(
        size,
        outputs,
        terms,
        (window,) * 2,
        (stride,) * 2,
        pad,
        (1, 1),
        groups,  # type: ignore[arg-type]
    )
    return Workload(kind, shape, -(-size[2] // 16) * 16, **known)


SMALL = [
    workload("conv", (6, 7, 20), 40, 1, 3),
    workload("conv", (5, 5, 16), 33, 2, 3, residual="bytes", stride=2, signed=True),
    workload("conv", (4, 6, 32), 32, 2, 1, residual="wide", scaled=True),
    workload("conv", (4, 6, 32), 64, 3, 3, result="wide", groups=2, signed=True),
    workload("adder", (5, 6, 16), 20, 2, 3, scaled=True),
    workload("adder", (5, 6, 16), 20, 2, 3, scaled=True, signed=True),
    workload("dense", (1, 1, 50), 70, 1, 1, result="wide"),
    workload("dense", (1, 1, 50), 170, 2, 1, signed=True, images=3),
    # Two groups that are computed as one, of one pixel: no dense layer all the same.
    workload("conv", (1, 1, 32), 80, 2, 1, groups=2),
    workload("depthwise", (6, 9, 24), 24, 2, 3, stride=2, groups=24),
]
#: Large enough that a panel is cut and weights are fetched ahead.
LARGE = workload("conv", (7, 7, 256), 48, 2, 3)


def build(mod: Any) -> Any:
    return tvm.compile(mod, target=cpu.tvm_target(parse("cpu")))  # type: ignore[arg-type]


def wrong(work: Workload, parameters: Parameters) -> str:
    """What is wrong with a candidate's results."""
    arrays = check.arguments(work, ISA, parameters)
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    function = work.kernel(ISA, parameters).with_attr("global_symbol", "main")
    build(tvm.IRModule({"main": function}))["main"](*tensors)
    return check.problem(work, tensors[-1].numpy())


@pytest.mark.parametrize("work", [*SMALL, LARGE], ids=lambda work: work.text)
def test_some_candidates_equal_the_reference(work: Workload) -> None:
    found = candidates(work.plan(ISA), 2)
    chosen = np.random.default_rng(len(work.text)).permutation(len(found))[:2]
    for parameters in [found[0], *(found[index] for index in chosen)]:
        assert problem_of(work.plan(ISA, parameters)) == ""
        assert wrong(work, parameters) == "", parameters


@pytest.mark.slow
@pytest.mark.parametrize("work", SMALL, ids=lambda work: work.text)
def test_all_candidates_equal_the_reference(work: Workload) -> None:
    for parameters in candidates(work.plan(ISA), 2):
        assert wrong(work, parameters) == "", parameters


def test_wrong_results_are_noticed() -> None:
    work = SMALL[1]
    arrays = check.arguments(work, ISA, work.plan(ISA).parameters)
    result = check.stored(work.out, check.layer_of(work).expected)
    assert check.problem(work, result) == ""
    result[0, 4] ^= 1
    assert check.problem(work, result).startswith("1 of 297 results are wrong: at (0, 0, 4)")
    assert "297 of 297" in check.problem(work, np.full_like(arrays[-1], 255) ^ result)


@pytest.mark.parametrize("work", [*SMALL, LARGE], ids=lambda work: work.text)
def test_candidates_can_be_and_differ(work: Workload) -> None:
    for threads in (1, 2):
        found = candidates(work.plan(ISA), threads)
        assert found[0] == work.plan(ISA).parameters
        assert len(found) == len(set(found))
        assert all(problem_of(work.plan(ISA, parameters)) == "" for parameters in found)
    space = cpu_space.CPUSpace(ISA, 1)
    listed = space.candidates(work.to_dict())
    lengths = {len(space.features(work.to_dict(), parameters)) for parameters in listed}
    assert lengths == {len(space.features(SMALL[0].to_dict(), {}))}, "one model learns from all"


def test_images_that_share_weights_are_part_of_a_dense_workload() -> None:
    """What is fastest for one image alone is not for four, which have four times the sums."""
    alone, four = (workload("dense", (1, 1, 50), 170, 2, 1, images=images) for images in (1, 4))
    assert {p.rows for p in candidates(alone.plan(ISA), 1)} == {1}  # type: ignore[union-attr]
    found = {(p.rows, p.vectors) for p in candidates(four.plan(ISA), 1)}  # type: ignore[union-attr]
    assert {(1, 8), (4, 1), (4, ISA.registers // 8)} <= found
    assert (4, ISA.registers // 8 + 1) not in found
    assert "4 rows, but 1 images" in problem_of(alone.plan(ISA, ConvParameters(rows=4)))
    tuned = ConvParameters(vectors=8)
    choices = Choices({alone: tuned})
    assert choices.plan("a", alone, alone.source, ISA).parameters == tuned
    assert choices.plan("b", four, four.source, ISA).parameters == four.plan(ISA).parameters
    assert four.text == f"{alone.text}, 4 images"


def test_workloads_come_back_from_json() -> None:
    for work in SMALL:
        again = msgspec.json.decode(msgspec.json.encode(work.to_dict()))
        assert Workload.from_dict(again) == work
        shape = again["shape"]
        changes: list[dict[str, Any]] = [
            *({"kind": "pool"}, {"pitch": 0}, {"more": 1}, {"pitch": "16"}),
            *({"shape": {**shape, name: 0}} for name in ("channels", "outputs", "groups", "terms")),
            *({"shape": {**shape, name: [0, 1]}} for name in ("kernel", "spread")),
            {"shape": {**shape, "channels": work.pitch + 1}},
            {"shape": {**shape, "groups": shape["groups"] * 7}},
            {"kind": "dense", "shape": {**shape, "out_height": 2}},
            {"images": 0},
            {"images": 5 if work.kind == "dense" else 2},
        ]
        for change in changes:
            with pytest.raises(InputError, match="expected a layer's workload"):
                Workload.from_dict({**again, **change})
    with pytest.raises(InputError, match="expected a layer's workload"):
        Workload.from_dict({**SMALL[0].to_dict(), "kind": "depthwise"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rows": 4, "columns": 7, "vectors": 2}, "does not fit the registers"),
        ({"rows": 9}, "does not fit 6x7"),
        ({"vectors": 41}, "the layer has {group_vectors}"),
        ({"unroll": 5}, "in turns of 5"),
        ({"fetch": True}, "not fetched"),
        ({"parts": 9}, "9 parts"),
        ({"columns": 0}, "less than 1"),
    ],
)
def test_parameters_that_cannot_be_are_refused(change: dict[str, int], says: str) -> None:
    work = SMALL[0]
    parameters = replace(ConvParameters(), **change)  # type: ignore[arg-type]
    says = says.format(group_vectors=work.plan(ISA).group_vectors)  # type: ignore[union-attr]
    assert says in problem_of(work.plan(ISA, parameters))
    choices = Choices({work: parameters})
    with pytest.raises(InputError, match=says):
        choices.plan("layer", work, work.source, ISA)


def test_tuned_parameters_are_used_where_the_workload_is_equal() -> None:
    work, other = SMALL[0], SMALL[1]
    tuned = candidates(work.plan(ISA), 1)[-1]
    choices = Choices({work: tuned})
    assert choices.plan("a", work, work.source, ISA).parameters == tuned
    assert choices.plan("b", other, other.source, ISA).parameters == other.plan(ISA).parameters
    assert [(name, used) for name, _, _, used in choices.made] == [("a", True), ("b", False)]


def test_parameters_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="expected parameters for depthwise"):
        cpu_space.parameters_of(SMALL[-1], {"groups": "many"})
    with pytest.raises(InputError, match="kind depthwise"):
        SMALL[-1].plan(ISA, ConvParameters())
