"""Runs the two loops of a GEMM or ALU instruction: one micro-op a cycle, with its indices."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from vta_ext.config import Config
from vta_ext.rtl.decode import ALU, GEMM, Decoded, is_kind, micro_op


class Sequencer(wiring.Component):
    """The instruction ``new`` of a ``start`` as micro-ops at ``valid``, in order.

    ``word`` is the same instruction from the next cycle on, and stays.

    A micro-op stays until ``ready``. ``hold`` leaves a gap in their stream. ``first`` says that
    the outer loop is in its first iteration. ``running`` is 1 until the last one has been taken.
    uop_address, uop_enable, uop_word: the read port of the micro-op buffer.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "new": In(128),
                "word": In(128),
                "start": In(1),
                "hold": In(1),
                "uop_address": Out(config.log_uop_depth),
                "uop_enable": Out(1),
                "uop_word": In(32),
                "valid": Out(1),
                "ready": In(1),
                "dst": Out(config.log_acc_depth),
                "src": Out(config.log_src_depth),
                "wgt": Out(config.log_wgt_depth),
                "first": Out(1),
                "running": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m, c = Module(), self.config
        gemm, alu = Decoded(self.word, GEMM, c), Decoded(self.word, ALU, c)
        is_alu = is_kind(self.word, ALU, c)
        advance = Signal()
        m.d.comb += [advance.eq(~self.valid | self.ready), self.uop_enable.eq(advance)]

        # The loops: what is left of each, and the sums of their factors so far.
        active, outer_first = Signal(), Signal()
        place = Signal(c.log_uop_depth)
        inner, outer = Signal(14), Signal(14)
        last_micro_op = Signal()
        m.d.comb += [
            self.uop_address.eq(place),
            last_micro_op.eq(place + 1 == gemm.uop_end),
        ]
        step = Signal()
        m.d.comb += step.eq(active & advance & ~self.hold)
        with m.If(self.start):
            new = Decoded(self.new, GEMM, c)
            some = (new.uop_bgn < new.uop_end) & (new.iter_out != 0) & (new.iter_in != 0)
            m.d.sync += [
                active.eq(some),
                outer_first.eq(1),
                place.eq(new.uop_bgn),
                inner.eq(new.iter_in),
                outer.eq(new.iter_out),
            ]
        with m.Elif(step):
            m.d.sync += place.eq(place + 1)
            with m.If(last_micro_op):
                m.d.sync += [place.eq(gemm.uop_bgn), inner.eq(inner - 1)]
                with m.If(inner == 1):
                    m.d.sync += [inner.eq(gemm.iter_in), outer.eq(outer - 1), outer_first.eq(0)]
                    with m.If(outer == 1):
                        m.d.sync += active.eq(0)
        # Offsets of the three indices, a stage after the loops, in time with the buffer's word.
        fetched, fetched_first = Signal(), Signal()
        bases = dict(zip(("dst", "src", "wgt"), micro_op(self.uop_word, c), strict=True))
        with m.If(advance):
            m.d.sync += [fetched.eq(step), fetched_first.eq(outer_first)]
            m.d.sync += [self.valid.eq(fetched), self.first.eq(fetched_first)]
        for name, base in bases.items():
            index = getattr(self, name)
            begun, offset = (
                Signal(len(index), name=f"{name}_begun"),
                Signal(len(index), name=f"{name}_offset"),
            )
            used = Signal(len(index), name=f"{name}_used", reset_less=True)
            factor = {
                loop: _chosen(m, f"{name}_{loop}", is_alu, alu, gemm, len(index))
                for loop in ("out", "in")
            }
            with m.If(self.start):
                m.d.sync += [begun.eq(0), offset.eq(0)]
            with m.Elif(step & last_micro_op):
                m.d.sync += offset.eq(offset + factor["in"])
                with m.If(inner == 1):
                    m.d.sync += [
                        begun.eq(begun + factor["out"]),
                        offset.eq(begun + factor["out"]),
                    ]
            with m.If(advance):
                m.d.sync += [used.eq(offset), index.eq(base + used)]
        m.d.comb += self.running.eq(active | fetched | self.valid)
        return m


def _chosen(
    m: Module, name: str, is_alu: Signal, alu: Decoded, gemm: Decoded, width: int
) -> Signal:
    """The factor ``name`` of whichever instruction it is; an ALU instruction has none of wgt."""
    found = Signal(width, name=f"{name}_factor")
    m.d.comb += found.eq(getattr(gemm, name))
    with m.If(is_alu):
        m.d.comb += found.eq(getattr(alu, name))
    return found
