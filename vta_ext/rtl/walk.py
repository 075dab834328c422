"""The entries of a LOAD in order: padding and elements, as runs along the rows."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from vta_ext.config import Config
from vta_ext.rtl.decode import LOAD, Decoded

#: Bits of a width with its padding.
WIDTH_BITS: Final = 17
#: Runs of a row: padding on the left, elements, and padding on the right, or all of a padded row.
_LEFT, _ELEMENTS, _RIGHT = range(3)
#: Bands of rows.
_ABOVE, _WITHIN, _BELOW = range(3)


class Walk(wiring.Component):
    """From ``start`` on, with the instruction ``new``, which is ``word`` from the next cycle on.

    A step goes on by ``together`` entries, which belong to one run. ``active`` until the last one;
    ``inside``: the run is one of elements; ``left``: of the run; ``row_ends``: after this run;
    ``last_row``: of this band.
    """

    def __init__(self, config: Config, together_bits: int) -> None:
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "new": In(128),
                "word": In(128),
                "step": In(1),
                "run_ends": In(1),
                "together": In(together_bits),
                "active": Out(1),
                "inside": Out(1),
                "left": Out(WIDTH_BITS),
                "row_ends": Out(1),
                "last_row": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        new, fields = Decoded(self.new, LOAD, self._config), Decoded(self.word, LOAD, self._config)
        run, band, rows = Signal(2), Signal(2), Signal(16)
        m.d.comb += [
            self.row_ends.eq((run == _RIGHT) | ((run == _ELEMENTS) & (fields.x_pad_1 == 0))),
            self.last_row.eq(rows == 1),
        ]
        with m.If(self.start):
            m.d.sync += self.active.eq(new.x_size != 0)
            self._enter(m, new, run, band, rows, (_ABOVE, _WITHIN, _BELOW))
        with m.Elif(self.step):
            m.d.sync += self.left.eq(self.left - self.together)
            with m.If(self.run_ends & ~self.row_ends):
                elements = run == _LEFT
                m.d.sync += [
                    run.eq(Mux(elements, _ELEMENTS, _RIGHT)),
                    self.inside.eq(elements),
                    self.left.eq(Mux(elements, fields.x_size, fields.x_pad_1)),
                ]
            with m.Elif(self.run_ends & ~self.last_row):
                m.d.sync += rows.eq(rows - 1)
                self._begin_row(m, fields, band == _WITHIN, run)
            with m.Elif(self.run_ends & (band == _ABOVE)):
                self._enter(m, fields, run, band, rows, (_WITHIN, _BELOW))
            with m.Elif(self.run_ends):
                self._enter(m, fields, run, band, rows, (_BELOW,), band == _WITHIN)
        return m

    def _enter(
        self,
        m: Module,
        fields: Decoded,
        run: Signal,
        band: Signal,
        rows: Signal,
        following: tuple[int, ...],
        some: Value | int = 1,
    ) -> None:
        """The first of the ``following`` bands that has rows, or the end; ``some``: not the end."""
        counts = {_ABOVE: fields.y_pad_0, _WITHIN: fields.y_size, _BELOW: fields.y_pad_1}
        chain = m.If
        for number in following:
            with chain((counts[number] != 0) & some):
                m.d.sync += [band.eq(number), rows.eq(counts[number])]
                self._begin_row(m, fields, number == _WITHIN, run)
            chain = m.Elif
        with m.Else():
            m.d.sync += self.active.eq(0)

    def _begin_row(self, m: Module, fields: Decoded, within: Value | bool, run: Signal) -> None:
        padded = fields.x_pad_0 != 0
        columns = (fields.x_pad_0 + fields.x_size + fields.x_pad_1)[:WIDTH_BITS]
        first = Mux(padded, fields.x_pad_0, fields.x_size)
        m.d.sync += [
            run.eq(Mux(within, Mux(padded, _LEFT, _ELEMENTS), _RIGHT)),
            self.inside.eq(Mux(within, ~padded, 0)),
            self.left.eq(Mux(within, first, columns)),
        ]
