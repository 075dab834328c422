"""The ALU: all lanes of a vector, one a cycle, in four stages.

Stage 1 adds the bias of a requantisation; stage 2 shifts by a funnel that goes both ways; stage 3
adds or compares; stage 4 limits. An operation that does not need a stage passes it.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from vta_ext.config import Config
from vta_ext.isa.table import OPERATION_BY_NAME
from vta_ext.rtl.decode import ALU, Decoded, parameter

#: Cycles from operands to the result.
LATENCY = 4


class Controls:
    """What the ALU does, from an instruction ``word`` that stays while it runs.

    Operations are decoded into registers, so that these lag the word by a cycle.
    """

    def __init__(self, m: Module, word: Value, config: Config) -> None:
        self._m = m
        self._fields, self._config = Decoded(word, ALU, config), config
        code = Cat(self._fields.alu_op, self._fields.alu_page)
        self._is: dict[str, Value] = {}
        for name in config.alu_ops:
            self._is[name] = self.register(f"is_{name}", code == OPERATION_BY_NAME[name].code)
        self.use_imm = self.register("use_imm", self._fields.use_imm)
        self.from_inp = self.register("from_inp", self._fields.from_inp)
        self.imm = self.register("imm", self._fields.imm)
        #: 1 where the old destination does not count.
        self.replace = self.register(
            "replace",
            (self.any("sha") & self.parameter("sha", "replace"))
            | (self.any("lsa") & self.parameter("lsa", "replace")),
        )

    def register(self, name: str, value: Value) -> Signal:
        """``value``, which depends on the word alone, a cycle later."""
        found = Signal(value.shape(), name=name, reset_less=True)
        self._m.d.sync += found.eq(value)
        return found

    def any(self, *names: str) -> Value:
        """1 for one of these operations; those that this machine lacks do not count."""
        found: Value = Const(0, 1)
        for name in names:
            if name in self._is:
                found = found | self._is[name]
        return found

    def known(self, *names: str) -> list[str]:
        """Those of ``names`` that this machine has."""
        return [name for name in names if name in self._is]

    def parameter(self, operation: str, name: str) -> Value:
        """A parameter of the immediate, read as ``operation`` has it."""
        return parameter(OPERATION_BY_NAME[operation], name, self.imm, self._config)


class Alu(wiring.Component):
    """All lanes: new destinations ``result`` from the old ones, ``LATENCY`` cycles later.

    x: destinations. y: second operands, or biases. z: what the shifts of a requantisation are
    in the low six bits of. Each ``[lanes]`` of 32 bits. codes: ``[block]`` term codes. word: the
    instruction, which stays until the last result is out.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.lanes = config.batch * config.block
        vector = 32 * self.lanes
        super().__init__(
            {
                "word": In(128),
                "x": In(vector),
                "y": In(vector),
                "z": In(vector),
                "codes": In(4 * config.block),
                "result": Out(vector),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        controls = Controls(m, self.word, self.config)
        for number in range(self.lanes):
            lane = _Lane(controls)
            m.d.comb += [
                lane.x.eq(self.x.word_select(number, 32)),
                lane.y.eq(self.y.word_select(number, 32)),
                lane.z.eq(self.z.word_select(number, 32)[:6]),
                lane.code.eq(self.codes.word_select(number % self.config.block, 4)),
                self.result.word_select(number, 32).eq(lane.result),
            ]
            lane.build(m)
        return m


class _Lane:
    """One lane; its signals belong to the module of all, which decodes once for all."""

    def __init__(self, controls: Controls) -> None:
        self.controls = controls
        self.x, self.y = Signal(signed(32)), Signal(signed(32))
        self.z, self.code = Signal(6), Signal(4)
        self.result = Signal(signed(32), reset_less=True)

    def build(self, m: Module) -> None:
        """The four stages."""
        c = self.controls

        def register(name: str, value: Value) -> Signal:
            signal = Signal(value.shape(), name=name, reset_less=True)
            m.d.sync += signal.eq(value)
            return signal

        # Stage 1: the bias; how far and what to shift.
        requantising = c.register("requantising", c.any("req", "requ"))
        to_add = Mux(requantising, self.y, 0)
        biased = (self.x + to_add)[:32].as_signed()
        x1, y1 = register("x1", biased), register("y1", self.y)
        to_shift = register("to_shift", Mux(c.any("sha", "lsa"), self.y, biased))
        distance = register("distance", self._distance(m, c))
        # A clip adds nothing to what it limits.
        clips = c.any("clip", "clipu")
        zero = register("zero", clips | (c.any("lsa") & (self.code[:3] == 0)))
        minus = register(
            "minus",
            (c.any("sha") & c.parameter("sha", "subtract"))
            | (c.any("lsa") & self.code[3])
            | c.any("absd", "min", "max"),
        )

        # Stage 2: the shift.
        shifted, half = self._funnel(m, to_shift, distance)
        plain = c.register("plain", c.any("add", "min", "max", "absd"))
        x2 = register("x2", Mux(c.replace, 0, x1))
        y2 = register("y2", Mux(plain, y1, Mux(zero, 0, shifted)))
        carry2 = register("carry2", half)
        minus2 = register("minus2", minus & ~zero)
        if c.known("mul"):
            product = register("product", (x1 * y1)[:32].as_signed())

        # Stage 3: one adder for sums, differences and the rounding.
        rounding = c.register("rounding", c.any("req", "requ", "rshr"))
        alone = c.register("alone", c.any("req", "requ", "rshr", "shr"))
        first = Mux(alone, 0, x2)
        total = Signal(signed(33))
        carry = Mux(rounding, carry2, minus2)
        m.d.comb += total.eq(
            (first + (y2 ^ minus2.replicate(32).as_signed()) + carry)[:33].as_signed()
        )
        x3, y3 = register("x3", x2), register("y3", y2)
        total3 = register("total3", total)

        # Stage 4: choices by the sign of the difference, and limits.
        less = total3[32]
        chosen = Signal(signed(32))
        m.d.comb += chosen.eq(total3[:32].as_signed())
        with m.If(c.any("absd") & less):
            m.d.comb += chosen.eq((-total3)[:32].as_signed())
        with m.If(c.any("min")):
            m.d.comb += chosen.eq(Mux(less, x3, y3))
        with m.If(c.any("max")):
            m.d.comb += chosen.eq(Mux(less, y3, x3))
        if c.known("mul"):
            product3 = register("product3", product)
            with m.If(c.any("mul")):
                m.d.comb += chosen.eq(product3)
        limiting = c.known("clip", "req", "clipu", "requ")
        if limiting:
            with m.If(c.register("limiting", c.any(*limiting))):
                m.d.comb += chosen.eq(self._limited(m, c, total3[:32].as_signed(), limiting))
        m.d.sync += self.result.eq(chosen)

    def _distance(self, m: Module, c: Controls) -> Signal:
        """Six bits: how far to the right, or negative to the left."""
        distance = Signal(6)
        m.d.comb += distance.eq(self.y[:6])
        with m.If(c.any("req", "requ")):
            m.d.comb += distance.eq(self.z)
        with m.If(c.any("sha")):
            m.d.comb += distance.eq(-c.parameter("sha", "shift"))
        with m.If(c.any("lsa")):
            # Magnitude 1 to 7 stands for exponent 0 to 6.
            m.d.comb += distance.eq(1 - self.code[:3])
        return distance

    def _funnel(self, m: Module, value: Value, distance: Value) -> tuple[Value, Value]:
        """``value`` shifted, and the last bit that a right shift drops.

        To the right by n: the sign and the value, moved by n. To the left by n: the value and 32
        zeros, moved to the right by 32 - n, which is the distance's five low bits.
        """
        left = distance[5]
        wide = Signal(signed(65))
        sign = value[31].replicate(32)
        m.d.comb += wide.eq(
            Mux(left, Cat(Const(0, 33), value), Cat(Const(0, 1), value, sign)).as_signed()
        )
        moved = Signal(33)
        m.d.comb += moved.eq((wide >> distance[:5])[:33])
        return moved[1:].as_signed(), moved[0] & ~left

    def _limited(self, m: Module, c: Controls, value: Value, names: list[str]) -> Value:
        """``value`` between the limits of the operation, which is one of ``names``.

        The limits have nine bits. So what does not fit nine bits is beyond them on the side of its
        sign, and the rest takes no long comparison.
        """
        bounds = []
        for name in ("lo", "hi"):
            bound = Signal(signed(9))
            m.d.comb += bound.eq(c.parameter(names[-1], name))
            with m.If(c.any("clip", "req")):
                m.d.comb += bound.eq(c.parameter(names[0], name))
            bounds.append(c.register(name, bound))
        lo, hi = bounds
        # The upper limit counts where they cross.
        least = c.register("least", Mux(lo > hi, hi, lo))
        short, minus = value[:9].as_signed(), value[31]
        fits = (value[8:31] ^ minus.replicate(23)) == 0
        below, above = Mux(fits, short < lo, minus), Mux(fits, short > hi, ~minus)
        return Mux(below, least, Mux(above, hi, value))
