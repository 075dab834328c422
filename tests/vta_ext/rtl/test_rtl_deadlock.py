"""Bounded model checking of fetch, its queues and the tokens: nothing gets stuck, nothing is lost.

Of the first cycles after a start, for all streams of instructions that could run one after the
other, all latencies of units and all behaviours of memory; see :mod:`token_network`. Faults that
are put in are found within the same bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="no Amaranth: pip install 'tvm-shiftadd[rtl]'")

from amaranth.hdl import Module, Signal
from amaranth.lib.fifo import SyncFIFOBuffered

from tests.vta_ext.programs import TINY
from tests.vta_ext.rtl import token_network
from tests.vta_ext.rtl.proving import prove_bounded
from vta_ext.rtl import fetch
from vta_ext.rtl.tokens import TokenQueue

pytestmark = pytest.mark.rtl

#: Instructions of a stream; with these bounds not all of a longer one are fetched.
COUNT = 6


@pytest.fixture(autouse=True)
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    token_network.replace_units(monkeypatch)


def holds(folder: Path, log_depth: int, cycles: int, assumed: str = "ordered") -> bool:
    """Whether nothing goes wrong in so many cycles, with queues of ``1 << log_depth``."""
    config = replace(TINY, log_queue_depth=log_depth)
    return prove_bounded(token_network.TokenNetwork(config, COUNT), folder, cycles, assumed)


@pytest.mark.parametrize(
    ("log_depth", "cycles", "assumed"),
    [(0, 13, "ordered"), (1, 13, "ordered"), (0, 15, "hurried"), (1, 15, "hurried")],
)
def test_nothing_gets_stuck(log_depth: int, cycles: int, assumed: str, tmp_path: Path) -> None:
    assert holds(tmp_path, log_depth, cycles, assumed)


def test_streams_in_no_order_get_stuck(tmp_path: Path) -> None:
    """A token that comes after it is waited for: the assumption is needed, and is all there is."""
    assert not holds(tmp_path, 0, 13, "true")


def lost_push(queue: TokenQueue, m: Module, count: Signal) -> None:
    """A push is lost where a pop comes in the same cycle."""
    m.d.comb += queue.room.eq(count != queue._depth)
    with m.If(queue.pop & queue.some):
        m.d.sync += count.eq(count - 1)
    with m.Elif(queue.push & queue.room):
        m.d.sync += count.eq(count + 1)


def always_room(queue: TokenQueue, m: Module, count: Signal) -> None:
    """A full queue says that it has room; what is pushed then is lost."""
    m.d.comb += queue.room.eq(1)
    m.d.sync += count.eq(count + (queue.push & (count != queue._depth)) - (queue.pop & queue.some))


@pytest.mark.parametrize(("fault", "log_depth"), [(lost_push, 1), (always_room, 0)])
def test_token_queues_that_lose_tokens_are_found(
    fault: Callable[[TokenQueue, Module, Signal], None],
    log_depth: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def elaborate(queue: TokenQueue, platform: object) -> Module:
        m, count = Module(), Signal(range(queue._depth + 1))
        m.d.comb += queue.some.eq(count != 0)
        fault(queue, m, count)
        return m

    monkeypatch.setattr(TokenQueue, "elaborate", elaborate)
    assert not holds(tmp_path, log_depth, 13)


def test_a_fetch_that_loses_instructions_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It asks for more instructions than it has room for, so that some are lost on their way."""

    def small(width: int, depth: int) -> SyncFIFOBuffered:
        return SyncFIFOBuffered(width=width, depth=1 if depth > 1 else depth)

    monkeypatch.setattr(fetch, "SyncFIFOBuffered", small)
    assert not holds(tmp_path, 0, 18, "hurried")
