"""Fetch: reads instructions ahead and hands each to the queue of the module that runs it."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from vta_ext.config import Config
from vta_ext.isa.codec import INSTRUCTION_BYTES
from vta_ext.isa.schema import Module as Unit
from vta_ext.rtl.decode import runs_in
from vta_ext.rtl.port import ADDRESS_BITS, BURST_BYTES, Beats, Requests, taken

#: Instructions of a request; as many again are kept ready.
_FETCHED: Final = BURST_BYTES // INSTRUCTION_BYTES


class Fetch(wiring.Component):
    """From ``start`` on, ``count`` instructions from byte ``address``, a multiple of 256.

    load_*, compute_*, store_*: the three queues' ends, an instruction with ``valid`` until ``pop``.
    """

    def __init__(self, config: Config, beat_bytes: int) -> None:
        self.config, self.beat = config, beat_bytes
        queues: dict[str, wiring.Member] = {}
        for name in ("load", "compute", "store"):
            queues |= {f"{name}_valid": Out(1), f"{name}_word": Out(128), f"{name}_pop": In(1)}
        super().__init__(
            {
                "start": In(1),
                "address": In(ADDRESS_BITS),
                "count": In(32),
                "requests": Out(Requests(beat_bytes)),
                "beats": In(Beats(beat_bytes)),
                **queues,
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        each = INSTRUCTION_BYTES // self.beat
        m.submodules.ready = ready = SyncFIFOBuffered(width=128, depth=2 * _FETCHED)
        address, left = Signal(ADDRESS_BITS), Signal(32)
        # Instructions asked for that are not in a queue yet: there must be room for all.
        owed = Signal(range(2 * _FETCHED + 1))
        size = Signal(range(_FETCHED + 1))
        asked = taken(self.requests)
        m.d.comb += [
            self.requests.address.eq(address),
            self.requests.beats.eq(size << (each.bit_length() - 1)),
        ]
        # A register, since all others wait for this one; so requests are two cycles apart.
        m.d.sync += [
            size.eq(Mux(left < _FETCHED, left, _FETCHED)),
            self.requests.valid.eq((left != 0) & (owed <= _FETCHED) & ~asked),
        ]
        with m.If(self.start):
            m.d.sync += [address.eq(self.address), left.eq(self.count)]
        with m.Elif(asked):
            m.d.sync += [address.eq(address + BURST_BYTES), left.eq(left - size)]
        m.d.sync += owed.eq(owed + Mux(asked, size, 0) - (ready.r_rdy & ready.r_en))

        # Beats to instructions.
        m.d.comb += self.beats.ready.eq(1)
        if each == 1:
            whole, arrived = self.beats.data, taken(self.beats)
        else:
            parts = Signal(128 - 8 * self.beat)
            number = Signal(range(each))
            with m.If(taken(self.beats)):
                m.d.sync += [
                    parts.eq(Cat(parts, self.beats.data)[8 * self.beat :]),
                    number.eq(number + 1),
                ]
            whole = Cat(parts, self.beats.data)
            arrived = taken(self.beats) & (number == each - 1)
        m.d.comb += [ready.w_en.eq(arrived), ready.w_data.eq(whole)]
        self._dispatch(m, ready)
        return m

    def _dispatch(self, m: Module, ready: SyncFIFOBuffered) -> None:
        word = ready.r_data
        to_load = runs_in(word, Unit.LOAD, self.config)
        to_store = runs_in(word, Unit.STORE, self.config)
        targets = {"load": to_load, "store": to_store, "compute": ~to_load & ~to_store}
        for name, mine in targets.items():
            queue = SyncFIFOBuffered(width=128, depth=self.config.queue_depth)
            m.submodules[f"{name}_queue"] = queue
            m.d.comb += [
                queue.w_data.eq(word),
                queue.w_en.eq(ready.r_rdy & mine),
                getattr(self, f"{name}_valid").eq(queue.r_rdy),
                getattr(self, f"{name}_word").eq(queue.r_data),
                queue.r_en.eq(getattr(self, f"{name}_pop")),
            ]
            with m.If(mine):
                m.d.comb += ready.r_en.eq(queue.w_rdy)
