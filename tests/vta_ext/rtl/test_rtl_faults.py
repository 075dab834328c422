"""Faults put into the hardware on purpose: each one is caught by the scoreboard or by a proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")

from amaranth.hdl import Const, Module, Signal, Value

from tests.vta_ext.programs import TINY
from tests.vta_ext.rtl.proving import Claim, prove
from tests.vta_ext.rtl.scoreboard import (
    Generator,
    Scoreboard,
    alone,
    open_simulation,
    program,
    random_memory,
)
from tvm_shiftadd.errors import DeviceError
from vta_ext.rtl import alu, elements, loader, matrix, tokens
from vta_ext.rtl.elements import Term


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Faulty machines are kept out of the cache of good ones, whose name they would have."""
    monkeypatch.setenv("TVM_SHIFTADD_CACHE", str(tmp_path))
    yield


def wrong_shift(m: Module, x: Value, code: Value) -> Term:
    """Shifts by the magnitude, as if 1 stood for 2."""
    term = elements.shift_term(m, x, code)
    return Term((term.value << 1)[: len(term.value)].as_signed(), term.negative)


def patch_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(elements._ELEMENTS, "shift", (wrong_shift, 4))


def patch_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A push is lost where a pop comes in the same cycle."""

    def elaborate(self: tokens.TokenQueue, platform: object) -> Module:
        m = Module()
        count = Signal(range(self._depth + 1))
        m.d.comb += [self.room.eq(count != self._depth), self.some.eq(count != 0)]
        with m.If(self.pop & self.some):
            m.d.sync += count.eq(count - 1)
        with m.Elif(self.push & self.room):
            m.d.sync += count.eq(count + 1)
        return m

    monkeypatch.setattr(tokens.TokenQueue, "elaborate", elaborate)


def patch_saturation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requantisation keeps what does not fit."""
    monkeypatch.setattr(alu._Lane, "_limited", lambda self, m, c, value, names: value)


def patch_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adders of the tree forget the ones that make complements negative numbers."""
    monkeypatch.setattr(matrix, "add", lambda m, one, other, carry: one + other)


def patch_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding with the least value pads with 0."""
    monkeypatch.setattr(loader, "_least", lambda memory, buffer: Const(0, buffer.width))


FAULTS = [patch_shift, patch_token, patch_saturation, patch_carry, patch_padding]


def is_caught() -> bool:
    """Whether a short co-simulation sees a difference, or a program that never ends."""
    board = Scoreboard(open_simulation(TINY))
    rng = np.random.default_rng(0)
    generator = Generator(TINY, rng)
    try:
        for number in range(400):
            if number % 20 == 0:
                board.fill(number)
            board.run(alone(generator.draw(board.simulator)), random_memory(rng))
        for _ in range(60):
            board.run(program(generator, board.simulator, 25), random_memory(rng))
    except (AssertionError, DeviceError):
        return True
    return False


@pytest.mark.rtl
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__[6:])
def test_faults_are_caught(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, own_cache: None
) -> None:
    fault(monkeypatch)
    assert is_caught()


@pytest.mark.rtl
def test_a_wrong_shift_is_caught_by_proof(tmp_path: Path) -> None:
    def holds(m: Module, x: Value, code: Value) -> Value:
        good, bad = (make(m, x.as_signed(), code) for make in (elements.shift_term, wrong_shift))
        return good.complemented + good.negative == bad.complemented + bad.negative

    assert not prove(Claim(holds, x=9, code=4), tmp_path)
