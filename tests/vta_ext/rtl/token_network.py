"""Fetch, its queues and the four token queues, closed by units and a memory that take any time.

The hardware's own parts: :class:`Fetch`, the control of :class:`Compute`, the wires and queues of
``Machine._tokens``. Loader, storer, core and memory are replaced by ones that take as long as free
inputs say, so that every memory and every latency is covered. What they run is free as well: any
stream of loads, products, loads of accumulators and stores, with any tokens, that could run one
instruction after the other.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from vta_ext.config import Config
from vta_ext.isa import instruction as isa
from vta_ext.isa.codec import codec
from vta_ext.isa.layout import instruction_layout
from vta_ext.rtl import compute, fetch
from vta_ext.rtl.fetch import Fetch
from vta_ext.rtl.machine import Machine
from vta_ext.rtl.port import taken

#: Cycles in a row without any event in which nothing outside fetch makes it wait: its queues may
#: take so long to hand an instruction on.
QUIET = 5
#: Instructions of a request; the real one asks for more, which only makes longer streams.
FETCHED = 2
BEAT = 16

TOKENS = ("pop_prev", "pop_next", "push_prev", "push_next")
#: What each token of a load, a compute and a store instruction means: queue and direction.
LINKS = {
    "load": {"pop_next": "back", "push_next": "to"},
    "compute": {"pop_prev": "to", "pop_next": "returned", "push_prev": "back", "push_next": "on"},
    "store": {"pop_prev": "on", "push_prev": "returned"},
}
_KINDS = (
    ("load", isa.load("inp", sram_base=0, dram_base=0, x_size=1)),
    ("compute", isa.gemm("shift", uops=(0, 1))),
    ("compute", isa.load("acc", sram_base=0, dram_base=0, x_size=1)),
    ("store", isa.store(sram_base=0, dram_base=0, x_size=1)),
)


class Unit(wiring.Component):
    """A loader or storer with two instructions under way, done in any time."""

    def __init__(self, *_: object) -> None:
        ports = {name: In(1) for name in ("start", "done_ready", "free")}
        ports |= {name: Out(1) for name in ("ready", "idle", "done")}
        super().__init__({"word": In(128), "done_word": Out(128), **ports})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = SyncFIFO(width=128, depth=2)
        through = Signal()
        m.d.sync += through.eq((through | self.free) & words.r_rdy & ~words.r_en)
        m.d.comb += [
            self.ready.eq(words.w_rdy),
            words.w_en.eq(self.start),
            words.w_data.eq(self.word),
            self.done.eq(words.r_rdy & (through | self.free)),
            self.done_word.eq(words.r_data),
            words.r_en.eq(self.done & self.done_ready),
        ]
        return m


class Core(wiring.Component):
    """The core, busy for any time after a start."""

    def __init__(self, *_: object) -> None:
        super().__init__({"word": In(128), "start": In(1), "free": In(1), "busy": Out(1)})
        self.gemm_step, self.alu_step = Const(0, 1), Const(0, 1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.start):
            m.d.sync += self.busy.eq(1)
        with m.Elif(self.free):
            m.d.sync += self.busy.eq(0)
        return m


def replace_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let compute have the parts above, and fetch ask for fewer instructions at once."""
    monkeypatch.setattr(compute, "Core", Core)
    monkeypatch.setattr(compute, "Loader", Unit)
    monkeypatch.setattr(fetch, "_FETCHED", FETCHED)


class TokenNetwork(wiring.Component):
    """The closed system, from the first cycle after a start with ``count`` instructions.

    free: one bit of choice for each part that takes its time. kind, tokens: the instruction that
    the memory hands over in this cycle. ordered: it could run after all before it, one at a time.
    hurried: it could, and nothing makes anything wait.
    holds: nothing is stuck, and token queues hold what was pushed and not popped. Stuck is a
    system in which nothing has happened for ``QUIET`` cycles in which ``free`` allowed everything,
    and not all instructions have ended. ended: how many have.
    """

    def __init__(self, config: Config, count: int) -> None:
        self.config, self.count = config, count
        super().__init__(
            {
                "free": In(6),
                "kind": In(2),
                "tokens": In(4),
                "ordered": Out(1),
                "hurried": Out(1),
                "true": Out(1, init=1),
                "holds": Out(1),
                "ended": Out(range(count + 2)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m, config = Module(), self.config
        parts = SimpleNamespace(fetch=Fetch(config, BEAT), compute=compute.Compute(config, BEAT))
        m.submodules.fetch, m.submodules.compute = parts.fetch, parts.compute
        parts.loader, parts.storer = Unit(), Unit()
        m.submodules.loader, m.submodules.storer = parts.loader, parts.storer
        for number, unit in enumerate(
            (parts.loader, parts.storer, parts.compute.loader, parts.compute.core)
        ):
            m.d.comb += unit.free.eq(self.free[number])
        signals = {
            f"{unit}_{event}": Signal(name=f"{unit}_{event}")
            for unit in LINKS
            for event in ("starts", "ends")
        }
        counts = ("gemm_micro_ops", "alu_micro_ops", "compute_idle", *(f"{u}_waits" for u in LINKS))
        registers = {name: Signal(name=name) for name in ("finish", "idle")}
        registers |= {f"count_{name}": Signal(name=f"count_{name}") for name in counts}
        holder: Any = SimpleNamespace(config=config, **signals)
        Machine._tokens(
            holder, m, SimpleNamespace(**registers), parts.fetch, parts.compute,
            parts.loader, parts.storer,
        )  # fmt: skip
        came = self._memory(m, parts.fetch)
        self._order(m, came)
        ends = sum((signals[f"{unit}_ends"] for unit in LINKS), Const(0, 2))
        progress = Cat(came, taken(parts.fetch.requests), *signals.values()).any()
        quiet = Signal(range(QUIET + 1))
        m.d.sync += self.ended.eq(self.ended + ends)
        with m.If(progress | (self.ended == self.count) | ~self.free.all()):
            m.d.sync += quiet.eq(0)
        with m.Elif(quiet != QUIET):
            m.d.sync += quiet.eq(quiet + 1)
        sound: Value = Const(1, 1)
        for name in ("load_compute", "compute_load", "compute_store", "store_compute"):
            queue = m.submodules[name]
            # What was pushed and not popped is there, and no more than fits.
            held = Signal(range(config.queue_depth + 1), name=f"{name}_held")
            m.d.sync += held.eq(held + queue.push - queue.pop)
            sound = sound & (queue.some == (held != 0)) & ~(queue.pop & (held == 0))
            full = held == config.queue_depth
            sound = sound & (queue.room == ~full) & ~(queue.push & full)
        m.d.comb += self.holds.eq((quiet != QUIET) & sound & (self.ended <= self.count))
        return m

    def _memory(self, m: Module, fetcher: Fetch) -> Value:
        """Takes requests and gives beats when it likes; 1 in a cycle with a beat."""
        begun = Signal()
        owed = Signal(8)
        requests, beats = fetcher.requests, fetcher.beats
        m.d.sync += [
            begun.eq(1),
            owed.eq(owed + Mux(taken(requests), requests.beats, 0) - taken(beats)),
        ]
        m.d.comb += [
            fetcher.start.eq(~begun),
            fetcher.count.eq(self.count),
            requests.ready.eq(self.free[4]),
            beats.valid.eq((owed != 0) & self.free[5]),
            beats.data.eq(Array(self._word(*kind) for kind in _KINDS)[self.kind]),
        ]
        came = Signal()
        m.d.comb += came.eq(taken(beats))
        return came

    def _word(self, unit: str, instruction: isa.Instruction) -> Value:
        """The instruction with the tokens that its module may have; others are 0."""
        bits = instruction_layout(instruction.kind, self.config).by_name
        word: Value = Const(codec(self.config).encode(instruction), 128)
        for name, token in zip(TOKENS, self.tokens, strict=True):
            if name in LINKS[unit]:
                word = word | (token << bits[name].low)
        return word[:128]

    def _order(self, m: Module, came: Value) -> None:
        """Follow the tokens of instructions that run one after the other."""
        ordered: Value = Const(1, 1)
        changes: dict[str, Value] = {}
        depth = self.config.queue_depth
        counts = {
            name: Signal(range(depth + 1), name=f"ordered_{name}")
            for name in ("to", "back", "on", "returned")
        }
        for number, (unit, _) in enumerate(_KINDS):
            mine = came & (self.kind == number)
            for name, token in zip(TOKENS, self.tokens, strict=True):
                queue = LINKS[unit].get(name)
                if queue is None:
                    continue
                used, held = mine & token, counts[queue]
                pops = name.startswith("pop")
                ordered = ordered & ~(used & (held == (0 if pops else depth)))
                step = -used if pops else used
                changes[queue] = changes.get(queue, Const(0, 1)) + step
        m.d.comb += [self.ordered.eq(ordered), self.hurried.eq(ordered & self.free.all())]
        for name, held in counts.items():
            m.d.sync += held.eq(held + changes[name])
