"""Operators that move: views where nothing is made, copies by the matrix unit elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vta_ext.compiler.layers import Layer
from vta_ext.compiler.lowering import Flat, Lowering
from vta_ext.compiler.operators import Operator
from vta_ext.compiler.refusal import RefusedError
from vta_ext.compiler.views import View


class Moving(Lowering):
    """Clips, joins, up-sampling, padding, slices, transpositions and flattening."""

    def _clip(self, operator: Operator) -> None:
        term = self._copy(View.of(self._source(operator)), operator.name)
        limits = (int(operator.attrs["lo"]), int(operator.attrs["hi"]))
        output = self._tensor(operator.output)
        self._keep(operator, Layer(operator.name, output, (term,), clip=limits))

    def _concat(self, operator: Operator) -> None:
        axis, rank = int(operator.attrs["axis"]), len(operator.output.shape)
        if axis != rank:
            raise RefusedError(operator.name, f"a concatenation along axis {axis}, not channels")
        total, start, terms = operator.output.shape[-1], 0, []
        for value in operator.inputs:
            view = self.views[value.name]
            if isinstance(view, Flat):
                raise RefusedError(operator.name, "it joins a flattened map")
            count = value.shape[-1]
            around = (start, total - start - count)
            wide = replace(view, channels=np.pad(view.channels, around, constant_values=-1))
            terms.append(self._copy(wide, operator.name))
            start += count
        output = self._tensor(operator.output)
        self._keep(operator, Layer(operator.name, output, tuple(terms)))

    def _upsample(self, operator: Operator) -> None:
        scale = operator.attrs["scale"]
        view = View.of(self._source(operator))
        repeated = (int(scale[0]), int(scale[1]))
        term = view.term(np.zeros(1, np.int64), self._linear(operator.name), repeated)
        self._keep(operator, Layer(operator.name, self._tensor(operator.output), (term,)))

    def _view(self, operator: Operator) -> View:
        view = self.views[operator.inputs[0].name]
        if isinstance(view, Flat) or len(operator.inputs[0].shape) not in (1, 3):
            raise RefusedError(operator.name, "it moves a flattened map")
        return view

    def _pad(self, operator: Operator) -> None:
        view, width = self._view(operator), list(operator.attrs["pad_width"])[2:]
        width = [0] * (6 - len(width)) + width
        before, after = (tuple(width[0::2]), tuple(width[1::2]))
        found = view.padded(before, after)
        if found is None:
            found = View.of(self._source(operator)).padded(before, after)
        assert found is not None
        self.views[operator.output.name] = found

    def _slice(self, operator: Operator) -> None:
        view, a = self._view(operator), operator.attrs
        missing = 3 - len(operator.inputs[0].shape)
        for axis, begin, end, step in zip(
            a["axes"], a["begin"], a["end"], a["strides"], strict=True
        ):
            found = view.sliced(axis - 1 + missing, begin, end, step) if axis else None
            if found is None:
                raise RefusedError(operator.name, f"a slice along axis {axis} by {step}")
            view = found
        self.views[operator.output.name] = view

    def _permute(self, operator: Operator) -> None:
        axes = list(operator.attrs["axes"])
        if axes == list(range(len(axes))):
            self.views[operator.output.name] = self._view(operator)
            return
        if axes != [0, 3, 1, 2]:
            raise RefusedError(operator.name, f"a transposition by {axes}")
        self.views[operator.output.name] = Flat(self._source(operator), "CHW")

    def _reshape(self, operator: Operator) -> None:
        view = self.views[operator.inputs[0].name]
        count = int(np.prod(operator.inputs[0].shape))
        if operator.output.shape != (count,):
            raise RefusedError(operator.name, "a reshape that is no flattening")
        if isinstance(view, View):
            view = view if view.size == (1, 1) else Flat(self._source(operator), "HWC")
        elif (view.source.height, view.source.width) == (1, 1):
            view = View.of(view.source)
        self.views[operator.output.name] = view
