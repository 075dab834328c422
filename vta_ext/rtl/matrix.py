"""The matrix unit: sums of ``block`` terms, one set of sums a cycle, pipelined by level."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from vta_ext.config import Config
from vta_ext.rtl.elements import INPUT_BITS, add, element, weight_bits


class Row(wiring.Component):
    """One output: ``total + carry`` is the sum over i of the terms of inputs[i], weights[i].

    inputs: ``block`` lanes of nine bits; weights: ``block`` lanes of :func:`weight_bits`. The sum
    of what is there in one cycle is there ``latency`` cycles later: terms are in registers, and so
    is each level of the tree but the first. The tree has as many adders as terms less one, and
    each takes a term's carry; the last one is left for the accumulator.
    """

    def __init__(self, modes: tuple[str, ...], log_block: int, bits: int) -> None:
        self.modes, self.log_block, self.bits = modes, log_block, bits
        self.latency = 1 + max(log_block - 1, 0)
        self.sum_bits = max(_TERM_BITS[name] for name in modes) + log_block
        super().__init__(
            {
                "inputs": In(INPUT_BITS << log_block),
                "weights": In(bits << log_block),
                "select": In(range(max(len(modes), 2))),
                "total": Out(signed(self.sum_bits)),
                "carry": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        terms = []
        for lane in range(1 << self.log_block):
            x = self.inputs.word_select(lane, INPUT_BITS).as_signed()
            weight = self.weights.word_select(lane, self.bits)
            terms.append(element(m, self.modes, self.select, x, weight))
        values = [_register(m, term.complemented) for term in terms]
        carries = [_register(m, term.negative) for term in terms]
        first = True
        while len(values) > 1:
            adders = len(values) // 2
            values = [add(m, values[2 * n], values[2 * n + 1], carries[n]) for n in range(adders)]
            carries = carries[adders:]
            if not first:
                values = [_register(m, value) for value in values]
                carries = [_register(m, carry) for carry in carries]
            first = False
        m.d.comb += [self.total.eq(values[0]), self.carry.eq(carries[0])]
        return m


#: Bits of the terms of each mode.
_TERM_BITS = {"multiply": 17, "shift": 15, "adder": 10}


def _register(m: Module, value: Value) -> Signal:
    """A register of the data path: it needs no reset, since nobody looks at it before it is set."""
    register = Signal(value.shape(), reset_less=True)
    m.d.sync += register.eq(value)
    return register


class Matrix(wiring.Component):
    """All rows of the matrix unit: for each row b of the input and each output o, one sum.

    inputs: ``batch * block`` lanes of nine bits. weights: an entry of the weight buffer; both go
    into registers first, since block memories are slow. totals, carries: lane ``b * block + o``,
    ``latency`` cycles later; see :class:`Row`.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        lanes = config.batch * config.block
        bits = weight_bits(config)
        self._rows = [Row(config.gemm_modes, config.log_block, bits) for _ in range(lanes)]
        self.latency, self.sum_bits = 1 + self._rows[0].latency, self._rows[0].sum_bits
        super().__init__(
            {
                "inputs": In(INPUT_BITS * lanes),
                "weights": In(8 * config.wgt_slot_bytes),
                "select": In(range(max(len(config.gemm_modes), 2))),
                "totals": Out(self.sum_bits * lanes),
                "carries": Out(lanes),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        block = self.config.block
        inputs, self._entry = _register(m, self.inputs), _register(m, self.weights)
        for lane, row in enumerate(self._rows):
            m.submodules[f"row{lane}"] = row
            first = lane // block * block * INPUT_BITS
            m.d.comb += [
                row.inputs.eq(inputs[first : first + block * INPUT_BITS]),
                row.weights.eq(self._weights(m, lane % block)),
                row.select.eq(self.select),
                self.totals.word_select(lane, self.sum_bits).eq(row.total),
                self.carries[lane].eq(row.carry),
            ]
        return m

    def _weights(self, m: Module, output: int) -> Value:
        """The weights of one output, each as wide as an element takes it.

        A buffer entry holds 8-bit weights ``[output, input]``, or 4-bit codes in the same order.
        """
        config, bits = self.config, weight_bits(self.config)
        wide = self._entry[output * config.block * bits : (output + 1) * config.block * bits]
        if bits == 4 or "shift" not in config.gemm_modes:
            return wide
        found = Signal(bits * config.block)
        coded = self.select == config.gemm_modes.index("shift")
        for lane in range(config.block):
            code = self._entry.word_select(output * config.block + lane, 4)
            m.d.comb += found.word_select(lane, bits).eq(wide.word_select(lane, bits))
            with m.If(coded):
                m.d.comb += found.word_select(lane, bits).eq(code)
        return found
