"""The compute module: one instruction at a time, by the core or by its own loader."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from vta_ext.config import Config
from vta_ext.isa.schema import Module as Unit
from vta_ext.isa.table import MEMORIES
from vta_ext.rtl import decode
from vta_ext.rtl.core import Core
from vta_ext.rtl.loader import Loader


class Compute(wiring.Component):
    """Takes instructions from ``valid`` and ``word`` (``pop``).

    ``start`` is 1 in the cycle in which one begins, allowed by ``tokens``; ``end`` in the one in
    which it is done, allowed by ``room``. ``ended`` is that instruction. ``finish`` goes with the
    end of FINISH. The core's and the loader's other ports are the parts' own.
    """

    def __init__(self, config: Config, beat_bytes: int) -> None:
        self.config = config
        self.core = Core(config)
        memories = tuple(
            memory
            for memory in MEMORIES
            if memory.load is Unit.COMPUTE and config.has(memory.load_needs)
        )
        self.loader = Loader(memories, config, beat_bytes)
        super().__init__(
            {
                "valid": In(1),
                "word": In(128),
                "pop": Out(1),
                "tokens": In(1),
                "start": Out(1),
                "room": In(1),
                "end": Out(1),
                "ended": Out(128),
                "finish": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m, c = Module(), self.config
        m.submodules.core, m.submodules.loader = core, loader = self.core, self.loader
        held, active = Signal(128), Signal()
        done, loads, new_loads = Signal(), Signal(), Signal()

        moved = decode.Decoded(self.word, decode.LOAD, c).x_size
        m.d.comb += [
            # A LOAD that moves nothing only passes tokens on.
            new_loads.eq(decode.is_kind(self.word, decode.LOAD, c) & (moved != 0)),
            done.eq(Mux(loads, loader.done, ~core.busy)),
            loader.done_ready.eq(self.room),
            self.ended.eq(held),
            self.end.eq(active & done & self.room),
            self.finish.eq(self.end & decode.is_kind(held, decode.FINISH, c)),
            # The next one may begin in the cycle in which this one ends.
            self.start.eq(self.valid & self.tokens & (~active | self.end)),
            self.pop.eq(self.start),
            core.word.eq(self.word),
            loader.word.eq(self.word),
            loader.start.eq(self.start & new_loads),
        ]
        for kind in (*decode.modes(c), decode.ALU):
            with m.If(decode.is_kind(self.word, kind, c)):
                m.d.comb += core.start.eq(self.start)
        with m.If(self.start):
            m.d.sync += [held.eq(self.word), loads.eq(new_loads), active.eq(1)]
        with m.Elif(self.end):
            m.d.sync += active.eq(0)
        return m
