"""A NumPy interpreter of dialect modules: the oracle for compiled ones.

It walks Relax functions and computes every ``shiftadd`` operator with ``formats.reference``, and
the data movement that regions leave to Relax (reshape, permute_dims, strided_slice).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd._compat import TensorType, constant_array, handle, ir, relax, tirx
from tvm_shiftadd.dialect import attrs as op_attrs
from tvm_shiftadd.dialect.registry import is_dialect_call, op_name
from tvm_shiftadd.dialect.types import describe_type, dimensions
from tvm_shiftadd.errors import DataError, UnsupportedOperatorError
from tvm_shiftadd.formats import distance, reference
from tvm_shiftadd.formats.packing import decode_packed

Array = NDArray[Any]


def run_reference(
    mod: Any, feeds: Mapping[str, Array], *, function: str = "main"
) -> dict[str, Array]:
    """Run a function of a module in integer NumPy.

    ``feeds`` holds one array for each parameter, by its name. Returns the results by the names of
    the variables that the function returns, in order. Raises DataError for a missing feed or one
    of another dtype or shape, UnsupportedOperatorError for an operator of the float host.
    """
    entry = mod[function]
    arguments = [_feed(parameter, feeds) for parameter in entry.params]
    values = _Frame(mod).run(entry, arguments)
    names = _result_names(entry)
    results = values if isinstance(values, tuple) else (values,)
    return dict(zip(names, results, strict=True))


def _feed(parameter: Any, feeds: Mapping[str, Array]) -> Array:
    name = str(parameter.name)
    expected = describe_type(parameter.ty)
    if name not in feeds:
        raise DataError(f"expected a feed {name} of {expected}, got only {', '.join(feeds)}")
    value = np.asarray(feeds[name])
    dims = dimensions(parameter.ty)
    fits = len(dims) == value.ndim and all(
        not isinstance(d, int) or d == size for d, size in zip(dims, value.shape, strict=True)
    )
    if not fits or str(parameter.ty.dtype) != str(value.dtype):
        raise DataError(
            f"expected the feed {name} to be {expected}, got {value.dtype}{list(value.shape)}"
        )
    return value


def _result_names(function: Any) -> list[str]:
    """Names of the returned variables; a returned tuple gives one a field."""
    result = function.body.body
    for block in function.body.blocks:
        for binding in block.bindings:
            if handle(binding.var) == handle(result) and isinstance(binding.value, relax.Tuple):
                result = binding.value
    fields = result.fields if isinstance(result, relax.Tuple) else [result]
    names: list[str] = []
    for position, field in enumerate(fields):
        name = str(getattr(field, "name", f"result{position}"))
        names.append(name if name not in names else f"{name}.{position}")
    return names


class _Frame:
    """The values of the variables of one function call."""

    def __init__(self, mod: Any) -> None:
        self._mod = mod
        self._values: dict[int, Any] = {}
        self._symbols: dict[int, int] = {}

    def run(self, function: Any, arguments: list[Any]) -> Any:
        """Bind the parameters, compute every binding, return the function's value."""
        for parameter, value in zip(function.params, arguments, strict=True):
            self._values[handle(parameter)] = value
            if isinstance(parameter.ty, TensorType):
                for dim, size in zip(dimensions(parameter.ty), np.shape(value), strict=True):
                    if isinstance(dim, tirx.Var):
                        self._symbols[handle(dim)] = int(size)
        for block in function.body.blocks:
            for binding in block.bindings:
                self._values[handle(binding.var)] = self._evaluate(binding.value)
        return self._evaluate(function.body.body)

    def _evaluate(self, expr: Any) -> Any:
        value = constant_array(expr)
        if value is not None:
            return value
        if isinstance(expr, relax.Var):
            return self._values[handle(expr)]
        if isinstance(expr, relax.Tuple):
            return tuple(self._evaluate(field) for field in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            return self._evaluate(expr.tuple_value)[int(expr.index)]
        if isinstance(expr, relax.Call):
            return self._call(expr)
        raise UnsupportedOperatorError(
            f"the reference runs calls, tuples and constants, not a {type(expr).__name__}; "
            "hand in a module of dialect operators"
        )

    def _call(self, call: Any) -> Any:
        if isinstance(call.op, ir.GlobalVar):
            callee = self._mod[call.op]
            if isinstance(callee, relax.Function):
                arguments = [self._evaluate(argument) for argument in call.args]
                return _Frame(self._mod).run(callee, arguments)
        name = str(getattr(call.op, "name", call.op))
        if is_dialect_call(call):
            arguments = [self._evaluate(argument) for argument in call.args]
            return _OPERATORS[op_name(call)](call, *arguments)
        if name == "relax.reshape":
            return self._evaluate(call.args[0]).reshape(self._shape(call.args[1]))
        if name == "relax.permute_dims":
            axes = None if call.attrs.axes is None else [int(a) for a in call.attrs.axes]
            return np.ascontiguousarray(np.transpose(self._evaluate(call.args[0]), axes))
        if name == "relax.strided_slice":
            return _slice(self._evaluate(call.args[0]), *map(_integers, call.args[1:]))
        raise UnsupportedOperatorError(
            f"the reference runs the dialect's operators, not {name}; run host operators in float"
        )

    def _shape(self, shape: Any) -> list[int]:
        """Known sizes; what is no plain symbol is left to NumPy as -1."""
        return [
            dim if isinstance(dim, int) else self._symbols.get(handle(dim), -1)
            for dim in (int(v) if isinstance(v, tirx.IntImm) else v for v in shape.values)
        ]


def _integers(values: Any) -> list[int]:
    return [int(value) for value in values.fields]


def _slice(
    x: Array, axes: list[int], begin: list[int], end: list[int], strides: list[int] | None = None
) -> Array:
    index = [slice(None)] * x.ndim
    for position, axis in enumerate(axes):
        step = strides[position] if strides else 1
        index[axis] = slice(begin[position], end[position], step)
    return np.ascontiguousarray(x[tuple(index)])


def _conv2d(call: Any, x: Array, codes: Array, bias: Array) -> Array:
    a = op_attrs.Conv2DAttrs.of(call)
    weight = decode_packed(codes, [*a.kernel_size, x.shape[3] // a.groups, codes.shape[2]])
    return reference.conv2d(x, weight, bias, **_but_kernel_size(a))


def _conv2d_transpose(call: Any, x: Array, codes: Array, bias: Array) -> Array:
    a = op_attrs.Conv2DTransposeAttrs.of(call)
    weight = decode_packed(codes, [*a.kernel_size, x.shape[3], codes.shape[2]])
    return reference.conv2d_transpose(x, weight, bias, **_but_kernel_size(a))


def _dense(_call: Any, x: Array, codes: Array, bias: Array) -> Array:
    return reference.dense(x, decode_packed(codes, [x.shape[-1], codes.shape[2]]), bias)


def _adder_conv2d(call: Any, x: Array, weight: Array, bias: Array) -> Array:
    a = op_attrs.AdderConv2DAttrs.of(call)
    filters = weight.reshape(*a.kernel_size, x.shape[3], weight.shape[1])
    return reference.adder_conv2d(x, filters, bias, **_but_kernel_size(a))


def _but_kernel_size(attrs: op_attrs.OpAttrs) -> dict[str, Any]:
    """The attributes as NumPy's definitions take them, which see the kernel in the weight."""
    return {name: value for name, value in vars(attrs).items() if name != "kernel_size"}


def _float_adder_conv2d(call: Any, x: Array, weight: Array, scale: Array) -> Array:
    a = op_attrs.FloatAdderConv2DAttrs.of(call)
    first = a.data_layout == "NCHW"
    maps = x.transpose(0, 2, 3, 1) if first else x
    taps = weight.transpose(2, 3, 1, 0) if first else weight
    total = distance.conv2d(maps, taps, strides=a.strides, padding=a.padding)  # type: ignore[arg-type]
    result = -total * scale
    return result.transpose(0, 3, 1, 2) if first else result


def _requantize(call: Any, x: Array, shift: Array) -> Array:
    a = op_attrs.RequantizeAttrs.of(call)
    return reference.requantize(x, shift, a.lo, a.hi, a.dtype)


def _quantize(call: Any, x: Array) -> Array:
    a = op_attrs.QuantizeAttrs.of(call)
    return reference.quantize(x, a.exponent, a.dtype)


def _avg_pool2d(call: Any, x: Array) -> Array:
    return reference.avg_pool2d(x, **op_attrs.AvgPool2DAttrs.of(call).window())


def _max_pool2d(call: Any, x: Array) -> Array:
    return reference.max_pool2d(x, **vars(op_attrs.MaxPool2DAttrs.of(call)))


def _clip(call: Any, x: Array) -> Array:
    a = op_attrs.ClipAttrs.of(call)
    return reference.clip(x, a.lo, a.hi)


_OPERATORS: dict[str, Callable[..., Array]] = {
    "add": lambda _call, *operands: reference.add(*operands),
    "adder_conv2d": _adder_conv2d,
    "adder_dense": lambda _call, *operands: reference.adder_dense(*operands),
    "avg_pool2d": _avg_pool2d,
    "clip": _clip,
    "concat": lambda call, x: reference.concat(x, op_attrs.ConcatAttrs.of(call).axis),
    "conv2d": _conv2d,
    "conv2d_transpose": _conv2d_transpose,
    "dense": _dense,
    "dequantize": lambda _call, x, exponent: reference.dequantize(x, exponent),
    "float_adder_conv2d": _float_adder_conv2d,
    "float_adder_dense": lambda _call, x, weight, scale: -distance.dense(x, weight) * scale,
    "max_pool2d": _max_pool2d,
    "pad": lambda call, x: reference.pad(x, op_attrs.PadAttrs.of(call).pad_width),
    "quantize": _quantize,
    "requantize": _requantize,
    "scale": lambda _call, x, codes: reference.scale(x, codes),
    "upsample2d": lambda call, x: reference.upsample2d(
        x,
        op_attrs.Upsample2DAttrs.of(call).scale,  # type: ignore[arg-type]
    ),
}
