"""The operators' attributes as typed, checked, frozen dataclasses.

Each class converts to and from the attribute node a call carries: ``to_node`` when a builder
makes the call, ``of(call)`` when type inference, legalisation or a pass reads it. Fields are named
as the keyword arguments of ``topi`` and ``formats.reference``, so that ``vars(attrs)`` calls them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from tvm_shiftadd._compat import make_attrs
from tvm_shiftadd.errors import VerificationError
from tvm_shiftadd.formats.ranges import ACTIVATION_RANGES
from tvm_shiftadd.formats.reference import MAX_SCALE

_Attrs = TypeVar("_Attrs", bound="OpAttrs")


@dataclass(frozen=True)
class OpAttrs:
    """Base of all attribute classes; every field is an int, a bool, a str or a tuple of ints."""

    OP: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Bring lists and TVM values to plain ones, then check.

        Raises VerificationError.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if str(field.type).startswith("tuple"):
                value = tuple(int(v) for v in value)
            elif field.type == "bool":
                value = bool(value)
            elif field.type == "str":
                value = str(value)
            else:
                value = int(value)
            object.__setattr__(self, field.name, value)
        self.check()

    def check(self) -> None:
        """Raise VerificationError if a value is not allowed."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The attributes' names in the order of their declaration."""
        return tuple(field.name for field in fields(cls))

    def to_node(self) -> Any:
        """The attribute node of a call."""
        return make_attrs({k: _plain(v) for k, v in asdict(self).items()})

    @classmethod
    def of(cls: type[_Attrs], call: Any) -> _Attrs:
        """The attributes of a call, checked.

        Raises VerificationError if one is missing or not allowed.
        """
        names = cls.names()
        missing = [n for n in names if call.attrs is None or n not in call.attrs]
        if missing:
            raise VerificationError(
                f"shiftadd.{cls.OP} expects the attributes {', '.join(names)}, but "
                f"{', '.join(missing)} came not; make the call with the builder of dialect.ops"
            )
        return cls(**{n: call.attrs[n] for n in names})

    def _require(self, ok: bool, name: str, expected: str) -> None:
        if not ok:
            raise VerificationError(
                f"shiftadd.{self.OP} expects {name} to be {expected}, got {getattr(self, name)}"
            )

    def _require_ints(self, name: str, count: int, least: int) -> None:
        value = getattr(self, name)
        kind = "positive" if least == 1 else "non-negative"
        self._require(
            len(value) == count and all(v >= least for v in value),
            name,
            f"{count} {kind} integers",
        )

    def _check_window(self, *names: str) -> None:
        """Check the pairs of those names and the padding."""
        for name in names:
            self._require_ints(name, 2, 1)
        self._require_ints("padding", 4, 0)


def _check_dtype(attrs: QuantizeAttrs | RequantizeAttrs) -> None:
    known = " or ".join(ACTIVATION_RANGES)
    attrs._require(attrs.dtype in ACTIVATION_RANGES, "dtype", known)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Conv2DAttrs(OpAttrs):
    """kernel_size, strides, dilation (y, x); padding (top, left, bottom, right); groups."""

    OP: ClassVar[str] = "conv2d"
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def check(self) -> None:
        """See the base class."""
        self._check_window("kernel_size", "strides", "dilation")
        self._require(self.groups >= 1, "groups", "a positive integer")


@dataclass(frozen=True)
class Conv2DTransposeAttrs(OpAttrs):
    """As Conv2DAttrs, with output_padding (y, x) and without groups."""

    OP: ClassVar[str] = "conv2d_transpose"
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def check(self) -> None:
        """See the base class."""
        self._check_window("kernel_size", "strides", "dilation")
        self._require_ints("output_padding", 2, 0)
        self._require(
            all(
                o < max(s, d)
                for o, s, d in zip(self.output_padding, self.strides, self.dilation, strict=True)
            ),
            "output_padding",
            "smaller than the stride or the dilation",
        )


@dataclass(frozen=True)
class AdderConv2DAttrs(OpAttrs):
    """kernel_size, strides (y, x); padding (top, left, bottom, right)."""

    OP: ClassVar[str] = "adder_conv2d"
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]

    def check(self) -> None:
        """See the base class."""
        self._check_window("kernel_size", "strides")


@dataclass(frozen=True)
class FloatAdderConv2DAttrs(OpAttrs):
    """strides (y, x), padding (top, left, bottom, right); both layouts channels first or last."""

    OP: ClassVar[str] = "float_adder_conv2d"
    LAYOUTS: ClassVar[dict[str, str]] = {"NCHW": "OIHW", "NHWC": "HWIO"}
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    data_layout: str
    kernel_layout: str

    def check(self) -> None:
        """See the base class."""
        self._check_window("strides")
        self._require(self.data_layout in self.LAYOUTS, "data_layout", "NCHW or NHWC")
        expected = self.LAYOUTS[self.data_layout]
        self._require(
            self.kernel_layout == expected, "kernel_layout", f"{expected} with {self.data_layout}"
        )


@dataclass(frozen=True)
class QuantizeAttrs(OpAttrs):
    """exponent a of the scale 2^-a of the result; dtype of the result."""

    OP: ClassVar[str] = "quantize"
    exponent: int
    dtype: str = "int8"

    def check(self) -> None:
        """See the base class."""
        ok = -MAX_SCALE <= self.exponent <= MAX_SCALE
        self._require(ok, "exponent", f"in {-MAX_SCALE}..{MAX_SCALE}")
        _check_dtype(self)


@dataclass(frozen=True)
class RequantizeAttrs(OpAttrs):
    """lo and hi, the bounds of the result; activation clips are fused into them; its dtype."""

    OP: ClassVar[str] = "requantize"
    lo: int
    hi: int
    dtype: str = "int8"

    def check(self) -> None:
        """See the base class."""
        _check_dtype(self)
        least, most = ACTIVATION_RANGES[self.dtype]
        ok = least <= self.lo <= self.hi <= most
        self._require(ok, "lo", f"in {least}..{most} and not above hi={self.hi}")


@dataclass(frozen=True)
class ClipAttrs(OpAttrs):
    """lo and hi, integers of the type and on the scale of the operand."""

    OP: ClassVar[str] = "clip"
    lo: int
    hi: int

    def check(self) -> None:
        """See the base class."""
        ok = any(lo <= self.lo <= self.hi <= hi for lo, hi in ACTIVATION_RANGES.values())
        self._require(ok, "lo", f"with hi={self.hi} a range within int8 or uint8")


@dataclass(frozen=True)
class MaxPool2DAttrs(OpAttrs):
    """pool_size, strides, dilation (y, x), padding (top, left, bottom, right), ceil_mode."""

    OP: ClassVar[str] = "max_pool2d"
    pool_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool

    def check(self) -> None:
        """See the base class."""
        self._check_window("pool_size", "strides", "dilation")
        # A window that lies wholly in the padding has no maximum and no mean.
        reach = [(p - 1) * d + 1 for p, d in zip(self.pool_size, self.dilation, strict=True)] * 2
        self._require(
            all(pad < size for pad, size in zip(self.padding, reach, strict=True)),
            "padding",
            f"smaller than the window {reach[:2]}",
        )


@dataclass(frozen=True)
class AvgPool2DAttrs(MaxPool2DAttrs):
    """As MaxPool2DAttrs; reciprocal_shift is the exponent the result's scale gains."""

    OP: ClassVar[str] = "avg_pool2d"
    count_include_pad: bool
    reciprocal_shift: int

    def check(self) -> None:
        """See the base class."""
        super().check()
        self._require(self.reciprocal_shift >= 0, "reciprocal_shift", "non-negative")

    def window(self) -> dict[str, Any]:
        """What the definition takes: all but the shift, which follows from it and the map."""
        return {name: value for name, value in vars(self).items() if name != "reciprocal_shift"}


@dataclass(frozen=True)
class ConcatAttrs(OpAttrs):
    """axis along which the operands are joined, counted from the front."""

    OP: ClassVar[str] = "concat"
    axis: int

    def check(self) -> None:
        """See the base class."""
        self._require(self.axis >= 0, "axis", "non-negative")


@dataclass(frozen=True)
class PadAttrs(OpAttrs):
    """pad_width: before and after of each axis in turn, 2 * rank integers; pads with zeros."""

    OP: ClassVar[str] = "pad"
    pad_width: tuple[int, ...]

    def check(self) -> None:
        """See the base class."""
        self._require(all(p >= 0 for p in self.pad_width), "pad_width", "non-negative")


@dataclass(frozen=True)
class Upsample2DAttrs(OpAttrs):
    """scale (y, x): how often each row and column is repeated."""

    OP: ClassVar[str] = "upsample2d"
    scale: tuple[int, ...]

    def check(self) -> None:
        """See the base class."""
        self._require_ints("scale", 2, 1)


#: The attribute class of each operator that has attributes.
OPERATOR_ATTRS: dict[str, type[OpAttrs]] = {
    cls.OP: cls
    for cls in (
        Conv2DAttrs,
        Conv2DTransposeAttrs,
        AdderConv2DAttrs,
        FloatAdderConv2DAttrs,
        QuantizeAttrs,
        RequantizeAttrs,
        ClipAttrs,
        MaxPool2DAttrs,
        AvgPool2DAttrs,
        ConcatAttrs,
        PadAttrs,
        Upsample2DAttrs,
    )
}
