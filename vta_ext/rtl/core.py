"""The compute core: sequencer, matrix unit and ALU around the accumulator's one read port.

Cycles of a vector, counted from its read of the accumulators at 0, whose address is put into a
register in the cycle before, its slot: the word is there at 1 and in a register at 2. A GEMM adds
its sum then and writes at 3, so that an accumulator can be read again after 4 cycles. An ALU
operation takes three more cycles; where an index comes again before that, the next micro-op waits.
"""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from vta_ext.config import Config
from vta_ext.rtl import alu, decode
from vta_ext.rtl.decode import GEMM, Decoded
from vta_ext.rtl.delay import delayed
from vta_ext.rtl.elements import INPUT_BITS, pick
from vta_ext.rtl.matrix import Matrix
from vta_ext.rtl.sequencer import Sequencer

#: Cycles from the read of an accumulator to the next read that sees what GEMM wrote to it.
GEMM_LOOP: Final = 4
#: Cycles from the read of an ALU's destination to the next read that sees the result.
ALU_LOOP: Final = 3 + alu.LATENCY

#: The store module's reads of accumulators get a turn every so many cycles at least.
_TURNS: Final = 8


class Core(wiring.Component):
    """Runs one GEMM or ALU instruction at a time.

    ``start`` takes ``word``; ``busy`` is 1 from the next cycle on until the last write is under
    way. The other signals are ports of buffers: read addresses with the words a cycle later, and
    the write port that accumulators and outputs share. ``store_*``: the store module's read of an
    accumulator, granted when the port is free; its word is valid with ``store_valid``.
    gemm_step, alu_step: 1 for each micro-op, for the counters.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        vector = 8 * config.acc_bytes
        super().__init__(
            {
                "word": In(128),
                "start": In(1),
                "busy": Out(1),
                "uop_address": Out(config.log_uop_depth),
                "uop_enable": Out(1),
                "uop_word": In(32),
                "inp_address": Out(config.log_inp_depth),
                "inp_word": In(INPUT_BITS * config.inp_bytes),
                "wgt_address": Out(config.log_wgt_depth),
                "wgt_word": In(8 * config.wgt_slot_bytes),
                "acc_address": Out(config.log_acc_depth),
                "acc_word": In(vector),
                "write": Out(1),
                "write_address": Out(config.log_acc_depth),
                "write_word": Out(vector),
                "store_request": In(1),
                "store_address": In(config.log_acc_depth),
                "store_grant": Out(1),
                "store_valid": Out(1),
                "store_word": Out(vector),
                "gemm_step": Out(1),
                "alu_step": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = Signal(128)
        is_alu = Signal()
        with m.If(self.start):
            m.d.sync += held.eq(self.word)
        m.d.comb += is_alu.eq(decode.is_kind(held, decode.ALU, self.config))
        m.submodules.sequencer = sequencer = Sequencer(self.config)
        turn = Signal(range(_TURNS))
        yields = Signal()
        # A request of the cycle before is good enough to make room.
        m.d.sync += [turn.eq(turn + 1), yields.eq(self.store_request & (turn == 0))]
        m.d.comb += [
            sequencer.new.eq(self.word),
            sequencer.word.eq(held),
            sequencer.start.eq(self.start),
            sequencer.hold.eq(yields & ~is_alu),
            sequencer.uop_word.eq(self.uop_word),
            self.uop_address.eq(sequencer.uop_address),
            self.uop_enable.eq(sequencer.uop_enable),
        ]
        gemm = _Gemm(m, self, held, sequencer, ~is_alu)
        vectors = _Vectors(m, self, held, sequencer, is_alu, yields)

        # The accumulator's read port: GEMM, ALU, and what they leave, to the store module. From a
        # register, as block memories are far away.
        m.d.sync += self.acc_address.eq(self.store_address)
        m.d.comb += [
            self.store_grant.eq(self.store_request & ~gemm.slot & ~vectors.slot),
            sequencer.ready.eq(~is_alu | vectors.ready),
            self.inp_address.eq(Mux(is_alu, vectors.src, sequencer.src)),
        ]
        with m.If(gemm.slot):
            m.d.sync += self.acc_address.eq(gemm.slot_dst)
        with m.Elif(vectors.slot):
            m.d.sync += self.acc_address.eq(vectors.address)
        acc = Signal(8 * self.config.acc_bytes, reset_less=True)
        m.d.sync += acc.eq(self.acc_word)
        (granted,) = _delayed(m, "granted", 3, self.store_grant)
        m.d.comb += [self.store_valid.eq(granted[-1]), self.store_word.eq(acc)]
        gemm.add(acc)
        vectors.compute(acc, held)

        m.d.sync += [
            self.write.eq(gemm.done | vectors.done),
            self.write_address.eq(Mux(gemm.done, gemm.dst, vectors.dst)),
        ]
        # The ALU's last stage is a register already, the matrix unit's sums are not.
        sums = Signal.like(acc)
        from_gemm = Signal()
        m.d.sync += [sums.eq(gemm.result), from_gemm.eq(gemm.done)]
        m.d.comb += [
            self.write_word.eq(Mux(from_gemm, sums, vectors.result)),
            self.busy.eq(sequencer.running | gemm.busy | vectors.busy),
            self.gemm_step.eq(gemm.slot & ~gemm.clears),
            self.alu_step.eq(vectors.taken),
        ]
        return m


class _Gemm:
    """The matrix unit's way: from the sequencer's index to the sum of products and accumulator."""

    def __init__(
        self, m: Module, core: Core, held: Value, sequencer: Sequencer, mine: Value
    ) -> None:
        self.m, self.config = m, core.config
        m.submodules.matrix = self.matrix = matrix = Matrix(core.config)
        fields = Decoded(held, GEMM, core.config)
        for number, kind in enumerate(decode.modes(core.config)):
            with m.If(decode.is_kind(held, kind, core.config)):
                m.d.comb += matrix.select.eq(number)
        m.d.comb += [matrix.inputs.eq(core.inp_word), matrix.weights.eq(core.wgt_word)]
        self.clears = fields.reset & ~fields.fresh
        replaces = Signal()
        m.d.comb += replaces.eq(fields.fresh & (~fields.reset | sequencer.first))

        # The sum is there a cycle after the buffers' words and the matrix unit's latency; the
        # accumulator is in a register three cycles after its slot.
        delay = 1 + matrix.latency - 3
        valid, dst, replace = _delayed(
            m, "gemm", delay, sequencer.valid & mine, sequencer.dst, replaces
        )
        self.slot, self.slot_dst = valid[-1], dst[-1]
        after, self._dst, self._replace = _delayed(m, "sum", 3, valid[-1], dst[-1], replace[-1])
        self.done, self.dst = after[-1], self._dst[-1]
        # The next instruction's first read, and the store module's, come after the last write. The
        # sequencer is running while one is in the first stage.
        self.busy = Signal(name="gemm_under_way")
        m.d.sync += self.busy.eq(Cat(*valid, after[1]).any())
        self.result = Signal(8 * core.config.acc_bytes)

    def add(self, acc: Value) -> None:
        """Sums and accumulators of all lanes."""
        matrix, m = self.matrix, self.m
        for lane in range(len(acc) // 32):
            total = matrix.totals.word_select(lane, matrix.sum_bits).as_signed()
            old = Mux(self._replace[-1], 0, acc.word_select(lane, 32).as_signed())
            with m.If(~self.clears):
                m.d.comb += self.result.word_select(lane, 32).eq(old + total + matrix.carries[lane])


class _MicroOp:
    """A micro-op of the ALU: its indices, the one after src, and whether src has to be read."""

    def __init__(self, config: Config, name: str) -> None:
        self.valid = Signal(name=f"{name}_valid")
        depth = config.log_acc_depth
        self.dst, self.src = Signal(depth, name=f"{name}_dst"), Signal(config.log_src_depth)
        self.after, self.fetches = Signal(depth, name=f"{name}_after"), Signal()
        self.row = Signal(16, name=f"{name}_row")
        self.all = (self.valid, self.dst, self.src, self.after, self.fetches, self.row)


class _Vectors:
    """The ALU's way: reads its operands, a vector a cycle, and waits for what it still writes."""

    def __init__(
        self,
        m: Module,
        core: Core,
        held: Value,
        sequencer: Sequencer,
        mine: Value,
        yields: Value,
    ) -> None:
        self.m, self.core, self.config = m, core, core.config
        self.controls = c = alu.Controls(m, held, core.config)
        self.slot, self.taken = Signal(), Signal()
        # Destinations on their way.
        depth = core.config.log_acc_depth
        self.under_way = [Signal(name=f"alu_valid{n}") for n in range(ALU_LOOP - 1)]
        self.targets = [
            Signal(depth, name=f"alu_dst{n}", reset_less=True) for n in range(ALU_LOOP - 1)
        ]
        micro_op = self._buffered(sequencer, mine)
        self.src = micro_op.src

        # What is read next: the vector at src, the one after it, or the destination.
        have, second = Signal(), Signal()
        current = micro_op.fetches & ~have
        operand = Mux(second, micro_op.after, micro_op.src[:depth])
        self.address = Mux(current, operand, micro_op.dst)
        rows = c.register("rows", c.any("req", "requ"))
        with m.If(self.slot):
            m.d.sync += [
                second.eq(current & rows & ~second),
                have.eq(current & (~rows | second)),
            ]

        # What is read must not be on its way.
        src, after, dst = self._clashes
        waits = Mux(current, Mux(second, after, src), dst & ~c.replace)
        m.d.comb += [
            self.slot.eq(micro_op.valid & ~waits & ~yields),
            self.taken.eq(self.slot & ~current),
        ]
        m.d.sync += [self.under_way[0].eq(self.taken), self.targets[0].eq(micro_op.dst)]
        for n in range(1, ALU_LOOP - 1):
            m.d.sync += [
                self.under_way[n].eq(self.under_way[n - 1]),
                self.targets[n].eq(self.targets[n - 1]),
            ]
        # A slot of cycle 0 gives operands at 3 and a result at 3 + LATENCY, which is written.
        self.done, self.dst = self.under_way[alu.LATENCY + 1], self.targets[alu.LATENCY + 1]
        # The last write comes in the cycle after this, before anything that starts then can read.
        later = Signal(name="alu_under_way")
        m.d.sync += later.eq(Cat(*self.under_way[: alu.LATENCY]).any())
        self.busy = micro_op.valid | self.under_way[0] | later

        reads = self.slot & current
        (first, last) = _delayed(m, "operand", 3, reads & ~second, reads & second)
        self._arrives = (first[-1], last[-1])
        self._codes(c, micro_op, sequencer, mine)

    def _compare(self, here: _MicroOp, advances: Value, src: Value, dst: Value) -> None:
        """Registers of whether src, the one after it and dst are on their way.

        So they are compared in the cycle before, with what is on its way then: those of the
        micro-op that stays, and ``src`` and ``dst`` of the next one, which comes if it ``advances``
        and may wait for the one that is leaving.
        """
        pairs = list(zip(self.under_way, self.targets, strict=True))[:-1]

        def under_way(address: Value, *more: tuple[Value, Value]) -> Value:
            return Cat(*(valid & (at == address[: len(at)]) for valid, at in (*pairs, *more))).any()

        leaves = (here.valid, here.dst)
        self._clashes = [Signal(name=f"{name}_clashes") for name in ("src", "after", "dst")]
        of_src, of_after, of_dst = self._clashes
        self.m.d.sync += [
            of_src.eq(Mux(advances, under_way(src, leaves), under_way(here.src))),
            # It is read after src, so that the micro-op has been here for a cycle.
            of_after.eq(under_way(here.after)),
            of_dst.eq(Mux(advances, under_way(dst, leaves), under_way(here.dst))),
        ]

    def _buffered(self, sequencer: Sequencer, mine: Value) -> _MicroOp:
        """The micro-op at hand; a second place, so that the sequencer may stop a cycle later."""
        m, c, config = self.m, self.controls, self.config
        comes, first, before = Signal(), Signal(), Signal.like(sequencer.src)
        here, spare = _MicroOp(config, "here"), _MicroOp(config, "spare")
        self.ready = ~spare.valid
        m.d.comb += comes.eq(sequencer.valid & mine & self.ready)
        with m.If(self.core.start):
            m.d.sync += first.eq(1)
        with m.Elif(comes):
            m.d.sync += [first.eq(0), before.eq(sequencer.src)]
        new = (
            comes,
            sequencer.dst,
            sequencer.src,
            (sequencer.src + 1)[: config.log_acc_depth],
            # An operand is read again only where its index changes.
            ~c.use_imm & ~c.from_inp & (first | (before != sequencer.src)),
            (sequencer.wgt + c.parameter("lsa", "row"))[:16] if c.known("lsa") else Const(0, 1),
        )
        advances = self.taken | ~here.valid
        following = [
            Mux(spare.valid, other, value) for other, value in zip(spare.all, new, strict=True)
        ]
        self._compare(here, advances, src=following[2], dst=following[1])
        with m.If(advances):
            m.d.sync += [place.eq(value) for place, value in zip(here.all, following, strict=True)]
            m.d.sync += spare.valid.eq(0)
        with m.Elif(comes):
            m.d.sync += [place.eq(value) for place, value in zip(spare.all, new, strict=True)]
        return here

    def _codes(
        self, c: alu.Controls, micro_op: _MicroOp, sequencer: Sequencer, mine: Value
    ) -> None:
        """The row of term codes of lsa: the entry it is in, and later its place there."""
        m, config = self.m, self.config
        self.codes = Signal(4 * config.block, reset_less=True)
        if not c.known("lsa"):
            m.d.comb += self.core.wgt_address.eq(sequencer.wgt)
            return
        place = Signal(range(config.block), reset_less=True)
        chosen = Signal.like(place, name="chosen", reset_less=True)
        entry = Signal.like(self.core.wgt_word, name="codes_entry", reset_less=True)
        m.d.comb += self.core.wgt_address.eq(
            Mux(mine, micro_op.row >> config.log_block, sequencer.wgt)
        )
        # The entry goes into a register before it is picked from, as block memories are slow.
        m.d.sync += [place.eq(micro_op.row), chosen.eq(place), entry.eq(self.core.wgt_word)]
        m.d.sync += self.codes.eq(pick(entry, chosen, 4 * config.block))

    def compute(self, acc: Value, held: Value) -> None:
        """Operands in registers, and the ALU."""
        m, c, core = self.m, self.controls, self.core
        m.submodules.alu = unit = alu.Alu(self.config)
        second, third = (
            Signal.like(acc, name="second", reset_less=True),
            Signal.like(acc, name="third", reset_less=True),
        )
        for arrives, register in zip(self._arrives, (second, third), strict=True):
            with m.If(arrives):
                m.d.sync += register.eq(acc)
        come = Signal.like(core.inp_word, reset_less=True)
        inputs = Signal.like(core.inp_word, reset_less=True)
        m.d.sync += [come.eq(core.inp_word), inputs.eq(come)]
        m.d.comb += [
            unit.word.eq(held),
            unit.x.eq(acc),
            unit.z.eq(third),
            unit.codes.eq(self.codes),
        ]
        for lane in range(unit.lanes):
            y = unit.y.word_select(lane, 32)
            m.d.comb += y.eq(second.word_select(lane, 32))
            with m.If(c.use_imm):
                m.d.comb += y.eq(c.imm)
            with m.Elif(c.from_inp):
                m.d.comb += y.eq(inputs.word_select(lane, INPUT_BITS).as_signed())
        self.result = unit.result


def _delayed(m: Module, name: str, cycles: int, *values: Value) -> list[list[Value]]:
    """Each value now and after 1 to ``cycles`` cycles."""
    return [delayed(m, value, cycles, f"{name}{n}") for n, value in enumerate(values)]
