"""The whole machine: fetch, load, compute, store, buffers, token queues, registers, memory port."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Final

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory, ReadPort, WritePort
from amaranth.lib.wiring import In, Out

from tvm_shiftadd.errors import InputError
from vta_ext.config import Config
from vta_ext.isa.schema import Module as Unit
from vta_ext.isa.table import MEMORIES
from vta_ext.rtl.buffers import Banks, Buffer, Writes, buffers
from vta_ext.rtl.compute import Compute
from vta_ext.rtl.core import GEMM_LOOP, Core
from vta_ext.rtl.decode import LOAD, Decoded
from vta_ext.rtl.fetch import Fetch
from vta_ext.rtl.loader import Loader
from vta_ext.rtl.map import NUMBER_BITS
from vta_ext.rtl.port import ADDRESS_BITS, Beats, Readers, Requests, WriteBeats, taken
from vta_ext.rtl.registers import Registers
from vta_ext.rtl.store import Storer
from vta_ext.rtl.tokens import TokenQueue

#: Widths of the memory port in bits.
PORT_BITS: Final = (16, 32, 64, 128)


class Machine(wiring.Component):
    """One accelerator on a memory port of ``memory_bits``.

    address, write, write_word, read_word: the registers. read_requests, read_beats,
    write_requests, write_beats, written: the memory port. running: 1 during a run.
    load_starts ... store_ends: 1 in the cycle in which an instruction of a module starts or ends;
    each module runs its instructions in order, so that a trace needs no more.

    Raises InputError for a width that is none of PORT_BITS, and for a configuration whose pipeline
    is shorter than this one's.
    """

    def __init__(self, config: Config, memory_bits: int = 64) -> None:
        if memory_bits not in PORT_BITS:
            raise InputError(f"the memory port can have 16, 32, 64 or 128 bits, not {memory_bits}")
        if config.acc_latency < GEMM_LOOP:
            raise InputError(
                f"the hardware needs ACC_LATENCY of {GEMM_LOOP} or more, not {config.acc_latency}"
            )
        self.config, self.beat = config, memory_bits // 8
        events = {
            f"{unit}_{event}": Out(1)
            for unit in ("load", "compute", "store")
            for event in ("starts", "ends")
        }
        super().__init__(
            {
                "address": In(NUMBER_BITS),
                "write": In(1),
                "write_word": In(32),
                "read_word": Out(32),
                "running": Out(1),
                "read_requests": Out(Requests(self.beat)),
                "read_beats": In(Beats(self.beat)),
                "write_requests": Out(Requests(self.beat)),
                "write_beats": Out(WriteBeats(self.beat)),
                "written": In(1),
                **events,
            }
        )

    def elaborate(self, platform: object) -> Module:
        m, config = Module(), self.config
        m.submodules.registers = registers = Registers(config)
        m.submodules.fetch = fetch = Fetch(config, self.beat)
        m.submodules.compute = compute = Compute(config, self.beat)
        m.submodules.storer = storer = Storer(config, self.beat)
        memories = tuple(
            memory
            for memory in MEMORIES
            if config.has(memory.load_needs)
            and (memory.load is Unit.LOAD or (memory.prefetch and config.has("prefetch")))
        )
        m.submodules.loader = loader = Loader(memories, config, self.beat)
        self._control(m, registers, fetch)
        self._port(m, registers, fetch, compute.loader, loader, storer)
        self._buffers(m, compute, loader, storer)
        self._tokens(m, registers, fetch, compute, loader, storer)
        return m

    def _control(self, m: Module, registers: Registers, fetch: Fetch) -> None:
        m.d.comb += [
            registers.address.eq(self.address),
            registers.write.eq(self.write),
            registers.write_word.eq(self.write_word),
            self.read_word.eq(registers.read_word),
            self.running.eq(registers.running),
            fetch.start.eq(registers.start),
            fetch.address.eq(registers.instructions),
            fetch.count.eq(registers.count),
            registers.count_read_beats.eq(taken(self.read_beats)),
            registers.count_write_beats.eq(taken(self.write_beats)),
        ]

    def _port(
        self,
        m: Module,
        registers: Registers,
        fetch: Fetch,
        own: Loader,
        loader: Loader,
        storer: Storer,
    ) -> None:
        """Fetch, compute and load share the reads, in this order; writes are the storer's."""
        m.submodules.readers = readers = Readers(3, self.beat)
        makers = ((fetch.requests, fetch.beats), (own.requests, own.beats))
        for number, (requests, beats) in enumerate((*makers, (loader.requests, loader.beats))):
            wiring.connect(m, requests, getattr(readers, f"requests{number}"))
            wiring.connect(m, getattr(readers, f"beats{number}"), beats)
        wiring.connect(m, wiring.flipped(self.read_requests), readers.port_requests)
        wiring.connect(m, wiring.flipped(self.read_beats), readers.port_beats)
        wiring.connect(m, wiring.flipped(self.write_beats), storer.beats)
        m.d.comb += [
            readers.base.eq(registers.arena),
            self.write_requests.valid.eq(storer.requests.valid),
            self.write_requests.address.eq(
                (storer.requests.address + registers.arena)[:ADDRESS_BITS]
            ),
            self.write_requests.beats.eq(storer.requests.beats),
            storer.requests.ready.eq(self.write_requests.ready),
            storer.written.eq(self.written),
        ]

    def _buffers(self, m: Module, compute: Compute, loader: Loader, storer: Storer) -> None:
        core, own = compute.core, compute.loader
        shapes = buffers(
            tuple(s.memory for s in (*own.shapes, *loader.shapes)), self.config, self.beat
        )
        self._micro_ops(m, shapes["uop"], core, own, loader)
        for name in ("inp", "wgt"):
            read, write = self._buffer(m, shapes[name])
            m.d.comb += [
                read.addr.eq(getattr(core, f"{name}_address")),
                read.en.eq(1),
                getattr(core, f"{name}_word").eq(read.data),
            ]
            self._loads(m, write, shapes[name], loader)
        acc, acc_write = self._buffer(m, shapes["acc"])
        m.d.comb += [acc.addr.eq(core.acc_address), acc.en.eq(1), core.acc_word.eq(acc.data)]
        # The core rests while compute loads accumulators.
        self._loads(m, acc_write, shapes["acc"], own)
        out_bits = 8 * self.config.out_bytes
        out, out_write = self._buffer(
            m, Buffer("out", self.config.log_acc_depth, out_bits, out_bits)
        )
        with m.If(core.write):
            m.d.comb += [
                acc_write.addr.eq(core.write_address),
                acc_write.data.eq(core.write_word),
                acc_write.en.eq((1 << shapes["acc"].grains) - 1),
                out_write.en.eq(1),
            ]
        m.d.comb += [out_write.addr.eq(core.write_address), out.addr.eq(storer.out_address)]
        m.d.comb += [out.en.eq(1), storer.out_word.eq(out.data)]
        for lane in range(self.config.out_bytes):
            m.d.comb += out_write.data.word_select(lane, 8).eq(
                core.write_word.word_select(lane, 32)[:8]
            )
        m.d.comb += [
            core.store_request.eq(storer.acc_request),
            core.store_address.eq(storer.acc_address),
            storer.acc_grant.eq(core.store_grant),
            storer.acc_valid.eq(core.store_valid),
            storer.acc_word.eq(core.store_word),
        ]

    def _buffer(self, m: Module, buffer: Buffer) -> tuple[ReadPort, WritePort]:
        memory = Memory(shape=unsigned(buffer.width), depth=1 << buffer.address_bits, init=[])
        m.submodules[f"{buffer.name}_buffer"] = memory
        granularity = buffer.grain if buffer.grains > 1 else None
        return memory.read_port(), memory.write_port(granularity=granularity)

    def _micro_ops(
        self, m: Module, buffer: Buffer, core: Core, own: Loader, loader: Loader
    ) -> None:
        """The micro-op buffer, whose banks take as many micro-ops at once as a beat has."""
        shift = buffer.banks.bit_length() - 1
        words, writes = [], []
        for number in range(buffer.banks):
            bank = Buffer(f"uop{number}", buffer.address_bits - shift, buffer.width, buffer.grain)
            read, write = self._buffer(m, bank)
            m.d.comb += [read.addr.eq(core.uop_address >> shift), read.en.eq(core.uop_enable)]
            words.append(read.data)
            writes.append(write)
        chosen = Signal(max(shift, 1))
        with m.If(core.uop_enable):
            m.d.sync += chosen.eq(core.uop_address & (buffer.banks - 1))
        m.d.comb += core.uop_word.eq(Array(words)[chosen])
        self._loads(m, Banks(m, buffer, writes), buffer, own, loader)

    def _loads(
        self, m: Module, port: Writes, buffer: Buffer, first: Loader, *others: Loader
    ) -> None:
        """The write port of a buffer, from registers; where two loaders meet, the first one wins.

        What is read of it waits for a token, or for the next instruction, and so for longer.
        """
        name = buffer.name
        loaders = [loader for loader in (first, *others) if name in loader.buffers]
        busy: Value = Const(0)
        for loader in loaders:
            if loader.buffers[name].grains != buffer.grains:
                raise ValueError(f"loaders of {name} differ in their grains")
            m.d.comb += getattr(loader, f"{name}_ready").eq(~busy)
            busy = busy | getattr(loader, f"{name}_write")
        address = Signal.like(port.addr, name=f"{name}_goal", reset_less=True)
        data = Signal.like(port.data, name=f"{name}_new", reset_less=True)
        enable = Signal.like(port.en, name=f"{name}_enables")
        for number, loader in enumerate(reversed(loaders)):
            write = getattr(loader, f"{name}_write")
            # Address and word are there whether anything is written or not: the enables say it.
            with m.If(write) if number else nullcontext():
                m.d.sync += [
                    address.eq(getattr(loader, f"{name}_address")),
                    data.eq(getattr(loader, f"{name}_word")),
                    enable.eq(Mux(write, getattr(loader, f"{name}_enables"), 0)),
                ]
        m.d.comb += [port.addr.eq(address), port.data.eq(data), port.en.eq(enable)]

    def _tokens(
        self,
        m: Module,
        registers: Registers,
        fetch: Fetch,
        compute: Compute,
        loader: Loader,
        storer: Storer,
    ) -> None:
        """The four queues, and what each module may start and end."""
        depth = self.config.queue_depth
        queues = {}
        for name in ("load_compute", "compute_load", "compute_store", "store_compute"):
            m.submodules[name] = queues[name] = TokenQueue(depth)
        to, back = queues["load_compute"], queues["compute_load"]
        onward, returned = queues["compute_store"], queues["store_compute"]

        def fields(word: Value) -> Decoded:
            return Decoded(word, LOAD, self.config)

        # Load has no module before it, store none after it: they wait for ever.
        new = fields(fetch.load_word)
        m.d.comb += [
            loader.word.eq(fetch.load_word),
            loader.start.eq(
                fetch.load_valid & loader.ready & ~new.pop_prev & (~new.pop_next | back.some)
            ),
            fetch.load_pop.eq(loader.start),
            back.pop.eq(loader.start & new.pop_next),
            loader.done_ready.eq(~fields(loader.done_word).push_next | to.room),
            to.push.eq(self.load_ends & fields(loader.done_word).push_next),
            self.load_starts.eq(loader.start),
            self.load_ends.eq(loader.done & loader.done_ready),
            registers.count_load_waits.eq(fetch.load_valid & new.pop_next & ~back.some),
        ]
        new = fields(fetch.store_word)
        m.d.comb += [
            storer.word.eq(fetch.store_word),
            storer.start.eq(
                fetch.store_valid & storer.ready & ~new.pop_next & (~new.pop_prev | onward.some)
            ),
            fetch.store_pop.eq(storer.start),
            onward.pop.eq(storer.start & new.pop_prev),
            storer.done_ready.eq(~fields(storer.done_word).push_prev | returned.room),
            returned.push.eq(self.store_ends & fields(storer.done_word).push_prev),
            self.store_starts.eq(storer.start),
            self.store_ends.eq(storer.done & storer.done_ready),
            registers.count_store_waits.eq(fetch.store_valid & new.pop_prev & ~onward.some),
        ]
        new, old = fields(fetch.compute_word), fields(compute.ended)
        m.d.comb += [
            compute.valid.eq(fetch.compute_valid),
            compute.word.eq(fetch.compute_word),
            fetch.compute_pop.eq(compute.pop),
            compute.tokens.eq((~new.pop_prev | to.some) & (~new.pop_next | returned.some)),
            to.pop.eq(compute.start & new.pop_prev),
            returned.pop.eq(compute.start & new.pop_next),
            compute.room.eq((~old.push_prev | back.room) & (~old.push_next | onward.room)),
            back.push.eq(compute.end & old.push_prev),
            onward.push.eq(compute.end & old.push_next),
            self.compute_starts.eq(compute.start),
            self.compute_ends.eq(compute.end),
            registers.finish.eq(compute.finish),
            registers.idle.eq(loader.idle & storer.idle & ~fetch.load_valid & ~fetch.store_valid),
            registers.count_gemm_micro_ops.eq(compute.core.gemm_step),
            registers.count_alu_micro_ops.eq(compute.core.alu_step),
            registers.count_compute_idle.eq(~fetch.compute_valid),
            registers.count_compute_waits.eq(fetch.compute_valid & ~compute.tokens),
        ]
