"""A row of the matrix unit as a circuit of its own, for synthesis alone."""

from __future__ import annotations

from typing import Final

from amaranth.back import verilog
from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from vta_ext.rtl.elements import INPUT_BITS
from vta_ext.rtl.matrix import Row

#: The rows that are compared, the one that others are compared with first.
VARIANTS: Final = (("multiply",), ("shift",), ("adder",), ("shift", "adder"))


class AccumulatingRow(wiring.Component):
    """A row of ``1 << log_block`` elements, registers in front of it, an accumulator behind it."""

    def __init__(self, modes: tuple[str, ...], log_block: int = 4) -> None:
        self.row = Row(modes, log_block, 4 if modes == ("shift",) else 8)
        super().__init__(
            {
                "inputs": In(INPUT_BITS << log_block),
                "weights": In(self.row.bits << log_block),
                "select": In(len(self.row.select)),
                "clear": In(1),
                "acc": Out(signed(32)),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from operands at the ports to the accumulator that holds their sum."""
        return 2 + self.row.latency

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.row = row = self.row
        inputs = Signal.like(self.inputs, reset_less=True)
        weights = Signal.like(self.weights, reset_less=True)
        m.d.sync += [inputs.eq(self.inputs), weights.eq(self.weights)]
        m.d.comb += [row.inputs.eq(inputs), row.weights.eq(weights), row.select.eq(self.select)]
        m.d.sync += self.acc.eq(Mux(self.clear, 0, self.acc) + row.total + row.carry)
        return m


def to_verilog(component: wiring.Component) -> str:
    """Its Verilog, as module ``top``."""
    return str(verilog.convert(component, name="top", strip_internal_attrs=True, emit_src=False))


def preparation(modes: tuple[str, ...]) -> str:
    """yosys's commands before synthesis: multipliers get Booth's encoding, the smaller one."""
    return "flatten; opt; wreduce; " + ("booth; opt; " if "multiply" in modes else "")
