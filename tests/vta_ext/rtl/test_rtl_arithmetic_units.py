"""Processing elements and rows: proved for all inputs, and sampled in Amaranth's simulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")

from amaranth.hdl import Array, Const, Module, Signal, Value, signed
from amaranth.sim import Simulator

from tests.vta_ext.rtl.proving import Claim, prove
from tvm_shiftadd.formats.codes import DECODE_TABLE
from vta_ext.isa.table import MODE_BY_NAME
from vta_ext.rtl import elements
from vta_ext.rtl.matrix import Row
from vta_ext.rtl.tokens import TokenQueue

MODES = ("multiply", "shift", "adder")
TOGETHER = [("multiply",), ("shift",), ("adder",), ("shift", "adder"), MODES]


def defined(m: Module, mode: str, x: Value, weight: Value) -> Value:
    """What a mode's term must be, by the plainest formula."""
    if mode == "multiply":
        return x * weight.as_signed()
    if mode == "adder":
        distance = Signal(signed(11))
        m.d.comb += distance.eq(x - weight.as_signed())
        return -abs(distance)
    factor = Signal(signed(8))
    m.d.comb += factor.eq(Array([Const(int(v), signed(8)) for v in DECODE_TABLE])[weight[:4]])
    return x * factor


@pytest.mark.rtl
@pytest.mark.parametrize("modes", TOGETHER, ids="+".join)
def test_elements_are_proved(modes: tuple[str, ...], tmp_path: Path) -> None:
    """Each mode for all 512 inputs and all weights, alone and where it can be selected."""
    for number, mode in enumerate(modes):

        def holds(m: Module, x: Value, weight: Value, at: int = number, name: str = mode) -> Value:
            term = elements.element(m, modes, Const(at, 2), x.as_signed(), weight)
            total = term.complemented + term.negative
            return total == defined(m, name, x.as_signed(), weight)

        assert prove(Claim(holds, x=9, weight=8), tmp_path)


@pytest.mark.rtl
def test_addition_with_carry_is_proved(tmp_path: Path) -> None:
    def holds(m: Module, a: Value, b: Value, carry: Value) -> Value:
        total = elements.add(m, a.as_signed(), b.as_signed(), carry)
        return total == a.as_signed() + b.as_signed() + carry

    assert prove(Claim(holds, a=17, b=15, carry=1), tmp_path)


@pytest.mark.rtl
def test_a_wrong_element_is_not_proved(tmp_path: Path) -> None:
    def holds(m: Module, x: Value, weight: Value) -> Value:
        term = elements.shift_term(m, x.as_signed(), weight)
        return term.complemented == defined(m, "shift", x.as_signed(), weight)

    assert not prove(Claim(holds, x=9, weight=4), tmp_path)


@pytest.mark.rtl
@pytest.mark.parametrize("lost", [False, True], ids=["sound", "lossy"])
def test_token_queues_are_proved(lost: bool, tmp_path: Path) -> None:
    """By induction: what went in and not out is there, never more than fit; a lossy one is not."""
    depth = 5

    def holds(m: Module, push: Value, pop: Value) -> Value:
        m.submodules.queue = queue = TokenQueue(depth)
        held = Signal(8)
        m.d.comb += [queue.push.eq(push), queue.pop.eq(pop)]
        into, out = push & queue.room, pop & queue.some
        m.d.sync += held.eq(held + (into & ~(out if lost else Const(0, 1))) - out)
        return (queue.some == (held != 0)) & (queue.room == (held != depth)) & (held <= depth)

    assert prove(Claim(holds, push=1, pop=1), tmp_path, induction=True) is not lost


@pytest.mark.parametrize(("modes", "log_block"), [(("shift",), 4), (MODES, 2), (("adder",), 1)])
def test_rows_add_up_what_the_definition_says(modes: tuple[str, ...], log_block: int) -> None:
    """Random lanes and the extremes, a new set every cycle."""
    bits, lanes = 4 if modes == ("shift",) else 8, 1 << log_block
    rng = np.random.default_rng(0)
    count = 40
    x = rng.choice([-128, -1, 0, 255, 7, -77, 200], (count, lanes))
    weights = rng.integers(0, 1 << bits, (count, lanes))
    for number, mode in enumerate(modes):
        integers = weights.astype(np.uint8).astype(np.int8).astype(np.int32)
        given = weights.astype(np.int32) & 15 if mode == "shift" else integers
        products = MODE_BY_NAME[mode].products
        wanted = products(x[:, None].astype(np.int32), given[:, None])[:, 0, 0]
        row = Row(modes, log_block, bits)
        assert run_row(row, number, x, weights).tolist() == wanted.tolist()


def run_row(row: Row, select: int, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    found = []

    async def bench(ctx) -> None:
        ctx.set(row.select, select)
        for cycle in range(len(x) + row.latency):
            if cycle >= row.latency:
                found.append(ctx.get(row.total) + ctx.get(row.carry))
            if cycle < len(x):
                ctx.set(row.inputs, packed(x[cycle], elements.INPUT_BITS))
                ctx.set(row.weights, packed(weights[cycle], row.bits))
            await ctx.tick()

    simulator = Simulator(row)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return np.array(found)


def packed(lanes: np.ndarray, bits: int) -> int:
    mask = (1 << bits) - 1
    return sum((int(lane) & mask) << (bits * number) for number, lane in enumerate(lanes))
