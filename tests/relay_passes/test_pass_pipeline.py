"""The order of the passes, the properties between them, and the dumps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relay_passes import pipeline, properties
from relay_passes.base import ModulePass
from relay_passes.canonicalize import Canonicalize
from relay_passes.channels_last import ChannelsLast
from relay_passes.fold_batch_norm import FoldBatchNorm
from relay_passes.lift_constants import PARAMETERS_ATTR, LiftConstants
from relay_passes.select_regions import REGIONS_ATTR, SelectRegions
from tests.relay_passes.onnx_networks import converted
from tests.relay_passes.programs import (
    Program,
    constant,
    conv2d,
    conv2d_last,
    program,
    random,
)
from tests.relay_passes.test_fold_batch_norm import batch_norm
from tvm_shiftadd._compat import relax
from tvm_shiftadd.dialect import ops
from tvm_shiftadd.errors import VerificationError

W = random(4, 4, 3, 3)


@dataclass(frozen=True)
class Claims(ModulePass):
    """Ensures a property without doing anything."""

    ensures = ("canonical",)

    def __call__(self, mod: Any) -> Any:
        return mod


def all_passes(name: str = "residual") -> tuple[ModulePass, ...]:
    passes = pipeline.integer_passes(converted(name).plan)
    return (*pipeline.FLOAT_PASSES, *passes, *pipeline.FINAL_PASSES)


def test_every_pass_finds_what_it_requires_and_every_property_has_a_check() -> None:
    held = set(pipeline.IMPORTED)
    for pass_ in all_passes():
        assert set(pass_.requires) <= held, pass_.name
        assert pass_.ensures, pass_.name
        held.update(pass_.ensures)
    assert held == set(properties.CHECKS)
    assert pipeline.ensured(all_passes()) == held


@pytest.mark.parametrize("position", range(1, 8))
def test_a_pass_too_early_is_refused(position: int) -> None:
    passes = list(all_passes())
    # AlignResiduals and FoldBatchNorm are among them; each needs the pass in front of it.
    order = [*passes[: position - 1], passes[position]]
    if set(passes[position].requires) <= pipeline.ensured(order[:-1]):
        order = [passes[position]]
    network = converted("residual")
    with pytest.raises(VerificationError, match=f"{passes[position].name} requires"):
        pipeline.run(network.model.module, order)


def test_a_pass_that_breaks_its_promise_is_refused() -> None:
    p, x = program()
    with pytest.raises(VerificationError, match=r"expected no relax.nn.relu, .* at user/relu"):
        pipeline.run(p.module(p("user/relu", relax.op.nn.relu(x))), [Claims()])


def test_dumps_are_numbered_and_speak_of_the_users_layers(tmp_path: Path) -> None:
    network = converted("residual")
    dump = tmp_path / "deep" / "dump"
    pipeline.write_dump(dump, "Imported", network.model.module)
    pipeline.run(network.model.module, pipeline.FLOAT_PASSES, dump=dump)
    passes = pipeline.integer_passes(network.plan)
    given = pipeline.ensured(pipeline.FLOAT_PASSES)
    pipeline.run(network.selected, passes, given=given, dump=dump)
    files = sorted(path.name for path in dump.iterdir())
    assert files == [
        "00-Imported.txt",
        "01-Canonicalize.txt",
        "02-FoldBatchNorm.txt",
        "03-ChannelsLast.txt",
        "04-SelectRegions.txt",
        "05-RewriteToDialect.txt",
        "06-AlignResiduals.txt",
        "07-PlaceRequantize.txt",
        "08-VerifyMultiplierFree.txt",
    ]
    for name in files:
        text = (dump / name).read_text()
        for layer in ("stem/conv", "first/add", "shortcut", "fc"):
            assert f"%{layer} : " in text, (name, layer)
    assert "%stem/bn : " in (dump / "01-Canonicalize.txt").read_text()
    last = (dump / "08-VerifyMultiplierFree.txt").read_text()
    assert "%stem/conv : i32[N, 8, 8, 8] = shiftadd.conv2d(%x." in last
    assert "#" not in last


def test_the_names_of_layers_are_each_on_one_binding() -> None:
    folded = FoldBatchNorm()(Canonicalize()(converted("residual").model.module))
    found = [b.var.name for block in folded["main"].body.blocks for b in block.bindings]
    assert len(found) == len(set(found))
    assert not any("#" in name for name in found)


def broken(name: str) -> Any:
    """A module that lacks a property."""
    p, x = program()
    if name == "float_form":
        return p.module(p("user/layer", ops.quantize(x, 4)))
    if name == "canonical":
        return p.module(p("user/layer", relax.op.nn.relu(x)))
    if name == "batch_norm_folded":
        batch_norm(p, "user/layer", x, 4)
        return p.module(p._bindings[-1][0])
    if name in ("channels_last", "regions_selected"):
        return p.module(p("user/layer", conv2d(x, W)))
    if name == "constants_lifted":
        y = p("user/layer", relax.op.add(x, constant(random(8))))
        return p.module(y, attrs={PARAMETERS_ATTR: []})
    wide = p("wide", ops.dequantize(p("int8", ops.quantize(x, 4)), constant([4], "int32")))
    if name == "residuals_aligned":
        return p.module(p("user/layer", relax.op.add(wide, wide)))
    assert name == "requantized"
    clipped = p("clipped", relax.op.clip(wide, 0.0, 1.0))
    return p.module(p("user/layer", ops.quantize(clipped, 3)))


CHECKED = sorted(set(properties.CHECKS) - {"dialect", "multiplier_free"})


@pytest.mark.parametrize("name", CHECKED)
def test_a_broken_property_is_found_and_the_operator_named(name: str) -> None:
    with pytest.raises(VerificationError, match=r"expected .* at user/layer"):
        properties.check(name, broken(name))


@pytest.mark.parametrize("name", CHECKED)
def test_a_property_that_holds_is_let_pass(name: str) -> None:
    network = converted("residual")
    if name in ("residuals_aligned", "requantized"):
        properties.check(name, network.integer)
    elif name == "constants_lifted":
        properties.check(name, LiftConstants()(network.integer))
    else:
        properties.check(name, network.selected)


def test_without_the_list_of_constants_they_are_not_lifted() -> None:
    p, x = program()
    with pytest.raises(VerificationError, match="list of lifted constants"):
        properties.check("constants_lifted", p.module(p("y", relax.op.exp(x))))


def test_an_operator_without_a_decision_is_found() -> None:
    p, x = program(("N", 8, 8, 4))
    conv = p("conv", conv2d_last(x, W))
    mod = p.module(p("user/layer", relax.op.exp(conv)), attrs={REGIONS_ATTR: {"conv": ""}})
    with pytest.raises(VerificationError, match=r"decision for every operator.* at user/layer"):
        properties.check("regions_selected", mod)
    properties.check("regions_selected", SelectRegions()(mod))


def test_what_no_pass_can_change_breaks_no_property() -> None:
    """A batch norm of data, a grouped transposed convolution and a relu of integers."""
    p = Program({"i": "int32"}, x=("N", 4, 8, 8), gamma=(4,), i=("N", 4))
    x, gamma, i = p.inputs
    ones = (constant(random(4)) for _ in range(3))
    statistics = relax.op.nn.batch_norm(x, gamma, *ones, axis=1, training=False)
    norm = p("norm", relax.TupleGetItem(p("statistics", statistics), 0))
    weight = constant(random(4, 2, 3, 3))
    layer = p("layer", relax.op.nn.conv2d_transpose(norm, weight, groups=2))
    mod = p.module(layer, p("relu", relax.op.nn.relu(i)))
    after = pipeline.run(mod, (Canonicalize(), FoldBatchNorm(), ChannelsLast(), SelectRegions()))
    reasons = after["main"].attrs[REGIONS_ATTR]
    assert "grouped" in reasons["layer"] or "two-dimensional" in reasons["layer"]
    assert "not constants" in reasons["statistics"]
