"""A multiplication in a region is found and named, on the graph and in the TensorIR."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tvm import te

from relay_passes.base import Rewriter
from relay_passes.verify_multiplier_free import VerifyMultiplierFree
from tests.relay_passes.onnx_networks import NETWORKS, converted
from tests.relay_passes.programs import Program, constant, names
from tvm_shiftadd._compat import relax
from tvm_shiftadd.dialect import ops, registry
from tvm_shiftadd.errors import VerificationError

VERIFY = VerifyMultiplierFree()


def int8() -> tuple[Program, Any]:
    """A program whose input has just become int8."""
    p = Program(x=("N", 3))
    return p, p.inputs[0]


def multiplying(bb: Any, call: Any) -> Any:
    """A legalisation of ``clip`` that squares its operand."""
    return bb.call_te(lambda x: te.compute(x.shape, lambda *i: x(*i) * x(*i)), call.args[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_converted_networks_pass_unchanged(name: str) -> None:
    mod = converted(name).integer
    assert VERIFY(mod).same_as(mod)


@pytest.mark.parametrize(
    "op",
    [
        lambda x: relax.op.multiply(x, x),
        lambda x: relax.op.add(x, x),
        lambda x: relax.op.astype(x, "float32"),
        lambda x: relax.op.multiply(constant([1, 2, 3], "int8"), x),
    ],
)
def test_other_operators_on_the_regions_integers_are_refused(op: Any) -> None:
    p, x = int8()
    y = p("user/layer", op(p("x.int8", ops.quantize(x, 4))))
    with pytest.raises(VerificationError, match=r"got relax\.\w+ at user/layer"):
        VERIFY(p.module(y))


def test_they_are_refused_behind_a_movement_of_bytes() -> None:
    p, x = int8()
    moved = p("moved", relax.op.permute_dims(p("x.int8", ops.quantize(x, 4))))
    y = p("squared", relax.op.multiply(moved, moved))
    with pytest.raises(VerificationError, match=r"relax\.multiply at squared"):
        VERIFY(p.module(y))


def test_integers_of_the_host_must_not_enter() -> None:
    p, x = int8()
    host = p("host", relax.op.astype(x, "int8"))
    squared = p("squared", relax.op.multiply(host, host))
    y = p("clip", ops.clip(squared, lo=0, hi=5))
    with pytest.raises(VerificationError, match=r"shiftadd\.clip at clip; .*host's squared"):
        VERIFY(p.module(y))


def test_integers_of_the_host_may_be_multiplied_there() -> None:
    p, x = int8()
    inside = p("inside", ops.dequantize(p("x.int8", ops.quantize(x, 4)), constant([4], "int32")))
    index = p("index", relax.op.astype(inside, "int32"))
    mod = p.module(p("square", relax.op.multiply(index, index)))
    assert VERIFY(mod).same_as(mod)


def test_a_legalisation_that_multiplies_data_is_refused() -> None:
    spec = registry.specs()["clip"]
    p, x = int8()
    y = p("user/relu", ops.clip(p("x.int8", ops.quantize(x, 4)), lo=0, hi=5))
    mod = p.module(y)
    try:
        registry.register(replace(spec, legalize=multiplying))
        with pytest.raises(VerificationError, match=r"no multiplication of data.* in user/relu"):
            VERIFY(mod)
    finally:
        registry.register(spec)
    assert VERIFY(mod).same_as(mod)


class SquareRelu(Rewriter):
    """Puts a product behind the requantisation of one layer."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer

    def rewrite(self, name: str, value: Any, old: Any) -> Any:
        if name != self.layer:
            return value
        relu = self.emit(value, name)
        return relax.op.multiply(relu, relu)


def test_a_network_with_a_multiplication_put_in_is_refused() -> None:
    mod = converted("residual").integer
    assert "first/relu.uint8" in names(mod)
    broken = SquareRelu("first/relu.uint8").run(mod)
    with pytest.raises(VerificationError, match=r"relax\.multiply at first/relu"):
        VERIFY(broken)
