"""Operators to layers: accumulators that only flow from one operator to the next become one sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.formats.codes import decode
from tvm_shiftadd.formats.pooling import avg_pool_reciprocal
from tvm_shiftadd.formats.windows import pool_counts
from vta_ext.compiler import layers
from vta_ext.compiler.layers import (
    Finish,
    Layer,
    MatrixTerm,
    Patches,
    PoolTerm,
    Region,
    Tensor,
    Term,
)
from vta_ext.compiler.lowering import Flat, Sum
from vta_ext.compiler.moving import Moving
from vta_ext.compiler.operators import Network, Operator, Value
from vta_ext.compiler.refusal import RefusedError
from vta_ext.config import Config

#: Operators whose result is 32 bits wide.
_WIDE = ("conv2d", "conv2d_transpose", "dense", "adder_conv2d", "adder_dense")


def lower(network: Network, config: Config) -> Region:
    """The layers of a network's operators for one machine.

    Raises RefusedError, naming the operator, for what the machine cannot do.
    """
    return _Lowering(network, config).run()


class _Lowering(Moving):
    def __init__(self, network: Network, config: Config) -> None:
        super().__init__(network, config)
        self.handlers: Mapping[str, Callable[[Operator], None]] = {
            **dict.fromkeys(_WIDE, self._weighted),
            "add": self._add,
            "scale": self._scale,
            "requantize": self._requantize,
            "avg_pool2d": self._average,
            "max_pool2d": self._maximum,
            "clip": self._clip,
            "concat": self._concat,
            "upsample2d": self._upsample,
            "pad": self._pad,
            "slice": self._slice,
            "permute": self._permute,
            "reshape": self._reshape,
        }

    def run(self) -> Region:
        for operator in self.network.operators:
            handler = self.handlers.get(operator.kind)
            if handler is None:
                raise RefusedError(operator.name, f"{operator.kind} has no lowering")
            for value in operator.inputs:
                if value.name not in self.views and value.name not in self.sums:
                    self._input(operator, value)
            handler(operator)
        outputs = tuple(self._output(value) for value in self.network.outputs)
        kept = self._needed(outputs)
        read = {term.source.name for layer in kept for term in layer.terms}
        given = (*(value.name for value in self.network.inputs), *self.patches)
        inputs = tuple(self.tensors[name] for name in given if name in read)
        return Region(kept, inputs, outputs, self.patches)

    def _needed(self, outputs: tuple[Tensor, ...]) -> tuple[Layer, ...]:
        """The layers without those that nothing reads."""
        wanted, kept = {tensor.name for tensor in outputs}, []
        for layer in reversed(self.layers):
            if layer.output.name in wanted:
                kept.append(layer)
                wanted |= {term.source.name for term in layer.terms}
        return tuple(reversed(kept))

    def _output(self, value: Value) -> Tensor:
        if value.name in self.sums:
            total = self.sums[value.name]
            output = self._tensor(value)
            nothing = np.zeros(output.channels, np.int64)
            finish = Finish(total.bias, nothing, None) if total.bias.any() else None
            self.layers.append(Layer(value.name, output, total.terms, finish))
            return output
        view = self.views[value.name]
        if isinstance(view, Flat):
            raise RefusedError(value.name, "a flattened map that is an output is not supported")
        if view.whole and view.source.name not in {layer.output.name for layer in self.layers}:
            # What the host gave, and takes back.
            output = self._tensor(value)
            self.layers.append(Layer(value.name, output, (self._copy(view, value.name),)))
            return output
        return self._stored(view, value)

    def _weighted(self, operator: Operator) -> None:
        adder = operator.kind.startswith("adder")
        if adder and "adder" not in self.config.gemm_modes:
            raise RefusedError(operator.name, "this machine has no GEMM mode adder")
        mode = "adder" if adder else self._linear(operator.name)
        raw = operator.constants["weight"][None] if adder else operator.constants["codes"]
        if mode == "multiply":
            raw = decode(raw)[None].astype(np.int8)
        bias = operator.constants["bias"].astype(np.int64)
        if operator.kind.endswith("dense"):
            source, window, weights = self._dense(operator, raw)
        else:
            source = self._source(operator)
            window, weights = _convolution(operator, raw, source.channels)
            source, window, weights = self._patched(operator, source, window, weights)
        zero = np.zeros(weights.shape[3], np.int64)
        term = MatrixTerm(source, window, mode, weights, zero)
        self.sums[operator.output.name] = Sum((term,), bias)

    def _patched(
        self, operator: Operator, source: Tensor, window: layers.Window, weights: NDArray[Any]
    ) -> tuple[Tensor, layers.Window, NDArray[Any]]:
        """A layer that reads an input of few channels: the host puts its taps side by side.

        Each tap would fill but a few lanes of an element.
        """
        taps, planes, channels, outputs = weights.shape
        ours = source.name in {layer.output.name for layer in self.layers}
        if ours or taps == 1 or 2 * channels > self.config.block or len(window.phases) > 1:
            return source, window, weights
        height, width = operator.output.shape[:2]
        name = f"{source.name}.{operator.name}"
        patches = Tensor(name, height, width, taps * channels, source.dtype)
        self.tensors[name], self.patches[name] = patches, Patches(source, window)
        joined = weights.transpose(1, 0, 2, 3).reshape(1, planes, taps * channels, outputs)
        return patches, layers.convolution((1, 1), (1, 1), (0, 0, 0, 0), (1, 1)), joined

    def _dense(
        self, operator: Operator, raw: NDArray[Any]
    ) -> tuple[Tensor, layers.Window, NDArray[Any]]:
        view = self.views[operator.inputs[0].name]
        planes, _, outputs = raw.shape
        if not isinstance(view, Flat):
            source = self._stored(view, operator.inputs[0])
            if (source.height, source.width) != (1, 1):
                raise RefusedError(operator.name, "a dense layer on every position of a map")
            return source, layers.convolution((1, 1), (1, 1), (0, 0, 0, 0), (1, 1)), raw[None]
        source = view.source
        size = (source.height, source.width)
        if view.order == "CHW":
            shaped = raw.reshape(planes, source.channels, *size, outputs).transpose(2, 3, 0, 1, 4)
        else:
            shaped = raw.reshape(planes, *size, source.channels, outputs).transpose(1, 2, 0, 3, 4)
        weights = shaped.reshape(size[0] * size[1], planes, source.channels, outputs)
        return source, layers.convolution(size, (1, 1), (0, 0, 0, 0), (1, 1)), weights

    def _add(self, operator: Operator) -> None:
        terms: list[Term] = []
        bias = np.zeros(operator.output.shape[-1], np.int64)
        for number, key in enumerate(("lhs_shift", "rhs_shift")):
            value, shift = operator.inputs[number], operator.constants[key].astype(np.int64)
            shift = np.broadcast_to(shift, bias.shape)
            part = self.sums.get(value.name)
            if part is None:
                view = self.views[value.name]
                if isinstance(view, Flat):
                    raise RefusedError(operator.name, "it adds a flattened map")
                terms.append(view.term(shift, self._linear(operator.name)))
                continue
            terms += [replace(term, shift=term.shift + shift) for term in part.terms]
            bias = bias + (part.bias << shift)
        self.sums[operator.output.name] = Sum(tuple(terms), bias)

    def _scale(self, operator: Operator) -> None:
        if "mul" not in self.config.alu_ops:
            self._need(operator, "lsa")
        value, codes = operator.inputs[0], operator.constants["codes"]
        part = self.sums.get(value.name)
        channels = value.shape[-1]
        codes = np.broadcast_to(codes, (codes.shape[0], channels))
        if part is None or len(part.terms) > 1 or not isinstance(part.terms[0], MatrixTerm):
            raise RefusedError(operator.name, "a factor is supported on one weight layer only")
        term = part.terms[0]
        if term.factor is not None or term.multiplier is not None or term.shift.any():
            raise RefusedError(operator.name, "a second factor on one layer is not supported")
        bias = part.bias * decode(codes)
        if "mul" in self.config.alu_ops:
            term = replace(term, multiplier=decode(codes).astype(np.int64))
        else:
            term = replace(term, factor=codes)
        self.sums[operator.output.name] = Sum((term,), bias)

    def _pooled(self, operator: Operator) -> Tensor:
        """The map that pooling reads, on a machine that can."""
        self._need(operator, "sha")
        if not self.config.has("input-source"):
            raise RefusedError(operator.name, "this machine's ALU does not read inputs")
        return self._source(operator)

    def _average(self, operator: Operator) -> None:
        source, a = self._pooled(operator), operator.attrs
        keys = ("pool_size", "strides", "padding", "dilation", "ceil_mode", "count_include_pad")
        given: dict[str, Any] = {key: a[key] for key in keys}
        size = (source.height, source.width)
        counts = pool_counts(size, **given)
        found = avg_pool_reciprocal(size, **given).terms
        distinct = sorted(found)
        factors = tuple(tuple(found[count]) for count in distinct)
        index = np.searchsorted(distinct, counts)
        channels = operator.output.shape[-1]
        shift = np.zeros(channels, np.int64)
        window = _pool_window(a)
        term = PoolTerm(source, window, "add", shift, index, factors)
        if len(factors) == 1 and len(factors[0]) == 1 and factors[0][0][0] > 0:
            term = PoolTerm(source, window, "add", shift + factors[0][0][1])
        self.sums[operator.output.name] = Sum((term,), np.zeros(channels, np.int64))

    def _requantize(self, operator: Operator) -> None:
        value, channels = operator.inputs[0], operator.output.shape[-1]
        shift = operator.constants["shift"].astype(np.int64)
        shift = np.broadcast_to(shift, (channels,))
        total = self.sums.get(value.name)
        if total is None:
            view = self.views[value.name]
            if isinstance(view, Flat):
                raise RefusedError(operator.name, "it requantises a flattened map")
            nothing = np.zeros(channels, np.int64)
            total = Sum((self._copy(view, operator.name),), nothing)
        terms = total.terms
        if len(terms) == 1 and not total.bias.any() and (shift - terms[0].shift >= -31).all():
            # A left shift right before a rounding shift is one shift.
            shift = shift - terms[0].shift
            terms = (replace(terms[0], shift=np.zeros(channels, np.int64)),)
        limits = (int(operator.attrs["lo"]), int(operator.attrs["hi"]))
        finish = Finish(total.bias, shift, limits)
        self._keep(operator, Layer(operator.name, self._tensor(operator.output), terms, finish))

    def _maximum(self, operator: Operator) -> None:
        source = self._pooled(operator)
        if any(operator.attrs["padding"]) and not self.config.has("pad-least"):
            raise RefusedError(operator.name, "this machine's loads pad with 0 only")
        shift = np.zeros(source.channels, np.int64)
        term = PoolTerm(source, _pool_window(operator.attrs), "max", shift)
        self._keep(operator, Layer(operator.name, self._tensor(operator.output), (term,)))


def _pool_window(attrs: Mapping[str, Any]) -> layers.Window:
    return layers.convolution(
        tuple(attrs["pool_size"]),
        tuple(attrs["strides"]),
        tuple(attrs["padding"]),
        tuple(attrs["dilation"]),
    )


def _convolution(
    operator: Operator, raw: NDArray[Any], channels: int
) -> tuple[layers.Window, NDArray[Any]]:
    """Window and weights ``[T, K, I, O]``; groups become zeros outside their blocks."""
    a = operator.attrs
    kernel = tuple(a["kernel_size"])
    geometry = (kernel, tuple(a["strides"]), tuple(a["padding"]))
    dilation = tuple(a.get("dilation", (1, 1)))
    planes, _, outputs = raw.shape
    weights = raw.reshape(planes, kernel[0] * kernel[1], -1, outputs).transpose(1, 0, 2, 3)
    if operator.kind == "conv2d_transpose":
        return layers.transposed(*geometry, dilation), weights
    groups = int(a.get("groups", 1))
    if groups > 1:
        full = np.zeros((*weights.shape[:2], channels, outputs), raw.dtype)
        inputs, share = channels // groups, outputs // groups
        for group in range(groups):
            mine = slice(group * share, (group + 1) * share)
            full[:, :, group * inputs : (group + 1) * inputs, mine] = weights[..., mine]
        weights = full
    return layers.convolution(*geometry, dilation), weights
