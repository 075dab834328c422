"""The loop that rebuilds the main function: names, readers, what is left out."""

from __future__ import annotations

from typing import Any

from relay_passes.base import Rewriter
from relay_passes.expressions import op_name
from tests.relay_passes.programs import Program, assert_becomes, assert_unchanged, names, program
from tvm_shiftadd._compat import relax


class Twice(Rewriter):
    """Emits every ``exp`` twice; only the second is read."""

    def rewrite(self, name: str, value: Any, old: Any) -> Any:
        if op_name(value) != "relax.exp":
            return value
        self.emit(value, name)
        return self.emit(value, name)


class Both(Rewriter):
    def rewrite(self, name: str, value: Any, old: Any) -> Any:
        return relax.op.add(self.emit(value, name), value.args[0])


class DropNegative(Rewriter):
    """Leaves out ``negative`` and notes which variables have one reader."""

    def __init__(self) -> None:
        super().__init__()
        self.once: dict[str, bool] = {}

    def rewrite(self, name: str, value: Any, old: Any) -> Any:
        if op_name(value) == "relax.negative":
            return value.args[0]
        if op_name(value):
            self.once[name] = self.read_once(value.args[0])
        return value


def test_the_layer_that_survives_keeps_its_name() -> None:
    p, x = program()
    mod = p.module(p("layer 1/kernel", relax.op.exp(x)))
    assert_unchanged(Twice().run, mod)


def test_where_two_live_the_later_one_is_numbered() -> None:
    p, x = program()
    after = Both().run(p.module(p("a", relax.op.exp(x))))
    assert names(after) == ["a", "a#2", "gv"]


def test_a_name_of_a_parameter_is_taken() -> None:
    p, x = program()
    assert names(Rewriter().run(p.module(p("x", relax.op.exp(x))))) == ["x#2", "gv"]


def test_what_nothing_reads_is_dropped() -> None:
    p, x = program()
    p("unused", relax.op.sin(x))
    q, y = program()
    used, wanted = p("used", relax.op.exp(x)), q("used", relax.op.exp(y))
    assert_becomes(Rewriter().run, p.module(used), q.module(wanted))


def test_readers_are_those_that_remain() -> None:
    p, x = program()
    a = p("a", relax.op.exp(x))
    dropped = p("dropped", relax.op.negative(a))
    b = p("b", relax.op.exp(dropped))
    c = p("c", relax.op.exp(b))
    d = p("d", relax.op.exp(b))
    e = p("e", relax.op.exp(d))
    rewriter = DropNegative()
    rewriter.run(p.module(c, e, d))
    assert rewriter.once == {"a": True, "b": True, "c": False, "d": False, "e": False}


def test_tuples_and_their_items_are_looked_through() -> None:
    p, x = program()
    a, b = p("a", relax.op.exp(x)), p("b", relax.op.sin(x))
    pair = p("pair", relax.Tuple([a, b]))
    before = p.module(p("second", relax.TupleGetItem(pair, 1)), a)
    q, x = program()
    a, b = q("a", relax.op.exp(x)), q("b", relax.op.sin(x))
    assert_becomes(Rewriter().run, before, q.module(b, a))


def test_several_inputs_and_attributes_survive() -> None:
    p = Program(left=("N", 4), right=("N", 4))
    total = p("total", relax.op.add(*p.inputs))
    mod = p.module(total, attrs={"shiftadd.outputs": ["y"]})
    after = Rewriter().run(mod, {"more": 3})
    assert [param.name for param in after["main"].params] == ["left", "right"]
    assert list(after["main"].attrs["shiftadd.outputs"]) == ["y"]
    assert after["main"].attrs["more"] == 3
