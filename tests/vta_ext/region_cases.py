"""Small regions by hand, and what they compute by the integer reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.formats import codes as term_codes
from tvm_shiftadd.formats import reference
from vta_ext import checker
from vta_ext.compiler.compile import CompiledRegion, compile_network
from vta_ext.compiler.operators import Network, Operator, Value
from vta_ext.config import Config
from vta_ext.runtime.device import SimulatorDevice
from vta_ext.runtime.executor import RegionExecutor

Array = NDArray[Any]


@dataclass
class RegionCase:
    """Adds operators one by one; ``values`` are the reference's results for a batch of two."""

    rng: np.random.Generator
    operators: list[Operator] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    values: dict[str, Array] = field(default_factory=dict)

    def input(self, *shape: int, dtype: str = "int8") -> str:
        name = f"x{len(self.inputs)}"
        low, high = (0, 256) if dtype == "uint8" else (-128, 128)
        self.values[name] = self.rng.integers(low, high, (2, *shape)).astype(dtype)
        self.inputs.append(self._value(name))
        return name

    def _value(self, name: str) -> Value:
        array = self.values[name]
        return Value(name, array.shape[1:], array.dtype.name)

    def add(
        self,
        kind: str,
        inputs: tuple[str, ...],
        compute: Callable[..., Array],
        attrs: Mapping[str, Any] | None = None,
        **constants: Array,
    ) -> str:
        name = f"{kind}{len(self.operators)}"
        self.values[name] = compute(*(self.values[given] for given in inputs))
        self.operators.append(
            Operator(
                kind,
                name,
                tuple(self._value(given) for given in inputs),
                self._value(name),
                attrs or {},
                constants,
            )
        )
        return name

    def codes(self, terms: int, rows: int, outputs: int, zeros: float = 0.2) -> Array:
        """Random codes ``[K, R, O]`` of values that many terms can make."""
        values = self.rng.choice(term_codes.representable(terms), (rows, outputs))
        values[self.rng.random((rows, outputs)) < zeros] = 0
        return term_codes.encode(values, terms)

    def bias(self, outputs: int) -> Array:
        return self.rng.integers(-3000, 3000, outputs).astype(np.int32)

    def conv2d(
        self,
        x: str,
        outputs: int,
        kernel: tuple[int, int] = (3, 3),
        strides: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (1, 1, 1, 1),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        terms: int = 2,
        zeros: float = 0.2,
    ) -> str:
        inputs = self.values[x].shape[3] // groups
        codes = self.codes(terms, kernel[0] * kernel[1] * inputs, outputs, zeros)
        weight = term_codes.decode(codes).reshape(*kernel, inputs, outputs)
        bias = self.bias(outputs)
        where = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}

        def compute(data: Array) -> Array:
            return reference.conv2d(data, weight, bias, **where)  # type: ignore[arg-type]

        attrs = {"kernel_size": kernel, **where}
        return self.add("conv2d", (x,), compute, attrs, codes=codes, bias=bias)

    def adder_conv2d(
        self,
        x: str,
        outputs: int,
        strides: tuple[int, int],
        padding: tuple[int, int, int, int],
        kernel: tuple[int, int] = (3, 3),
    ) -> str:
        inputs, taps = self.values[x].shape[3], kernel[0] * kernel[1]
        weight = self.rng.integers(-128, 128, (taps * inputs, outputs)).astype(np.int8)
        bias = self.bias(outputs)
        attrs = {"kernel_size": kernel, "strides": strides, "padding": padding}

        def compute(data: Array) -> Array:
            filters = weight.reshape(*kernel, inputs, outputs)
            return reference.adder_conv2d(data, filters, bias, strides=strides, padding=padding)

        return self.add("adder_conv2d", (x,), compute, attrs, weight=weight, bias=bias)

    def conv2d_transpose(self, x: str, outputs: int, kernel: int, stride: int, pad: int) -> str:
        inputs = self.values[x].shape[3]
        codes = self.codes(1, kernel * kernel * inputs, outputs)
        weight = term_codes.decode(codes).reshape(kernel, kernel, inputs, outputs)
        bias = self.bias(outputs)
        where: dict[str, Any] = {
            "strides": (stride, stride),
            "padding": (pad,) * 4,
            "output_padding": (0, 0),
            "dilation": (1, 1),
        }

        def compute(data: Array) -> Array:
            return reference.conv2d_transpose(data, weight, bias, **where)

        attrs = {"kernel_size": (kernel, kernel), **where}
        return self.add("conv2d_transpose", (x,), compute, attrs, codes=codes, bias=bias)

    def dense(self, x: str, outputs: int, terms: int = 2) -> str:
        codes = self.codes(terms, self.values[x].shape[1], outputs)
        bias = self.bias(outputs)

        def compute(data: Array) -> Array:
            return reference.dense(data, term_codes.decode(codes), bias)

        return self.add("dense", (x,), compute, codes=codes, bias=bias)

    def scale(self, x: str, terms: int = 2) -> str:
        channels = self.values[x].shape[-1]
        codes = self.codes(terms, 1, channels, zeros=0.0)[:, 0]
        return self.add("scale", (x,), lambda acc: reference.scale(acc, codes), codes=codes)

    def requantize(self, x: str, dtype: str = "int8", per_channel: bool = True) -> str:
        channels = self.values[x].shape[-1] if per_channel else 1
        wide = self.values[x].dtype == np.int32
        low = 6 if wide else -2
        shift = self.rng.integers(low, low + 5, channels).astype(np.int32)
        lo, hi = (3, 200) if dtype == "uint8" else (-100, 127)

        def compute(acc: Array) -> Array:
            return reference.requantize(acc, shift, lo, hi, dtype)

        attrs = {"lo": lo, "hi": hi, "dtype": dtype}
        return self.add("requantize", (x,), compute, attrs, shift=shift)

    def sum(self, lhs: str, rhs: str, least: int, most: int) -> str:
        """An addition whose shifts are between these, one of them 0 at each channel."""
        channels = self.values[lhs].shape[-1]
        shift = self.rng.integers(least, most + 1, channels).astype(np.int32)
        left = (self.rng.random(channels) < 0.5) & (least == 0)
        lhs_shift = np.where(left, shift, 0).astype(np.int32)
        rhs_shift = np.where(left, 0, shift).astype(np.int32)
        return self.add(
            "add",
            (lhs, rhs),
            lambda a, b: reference.add(a, b, lhs_shift, rhs_shift),
            lhs_shift=lhs_shift,
            rhs_shift=rhs_shift,
        )

    def network(self, *outputs: str) -> Network:
        return Network(
            tuple(self.operators),
            tuple(self.inputs),
            tuple(self._value(name) for name in outputs),
        )

    def verify(
        self, config: Config, *outputs: str, network: Network | None = None
    ) -> CompiledRegion:
        """Compile, prove safe, run, and compare the outputs bit for bit."""
        region = compile_network(network or self.network(*outputs), config)
        assert checker.check(region.program) == []
        executor = RegionExecutor(region, SimulatorDevice(config))
        found = executor.run({value.name: _maps(self.values[value.name]) for value in self.inputs})
        for name in outputs:
            np.testing.assert_array_equal(found[name], _maps(self.values[name]), err_msg=name)
        return region


def _maps(array: Array) -> Array:
    return array if array.ndim == 4 else array.reshape(len(array), 1, 1, -1)
