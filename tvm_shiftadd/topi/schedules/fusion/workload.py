"""A layer as a tuner and its database see it: what the workloads of all targets share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.formats.codes import MAX_TERMS
from tvm_shiftadd.topi.schedules.shapes import ConvShape

_Work = TypeVar("_Work", bound="LayerWork")
_Parameters = TypeVar("_Parameters")


@dataclass(frozen=True)
class LayerWork:
    """One kernel's work; a target's class says what else decides how fast it is.

    ``shape.terms`` is 2 for all layers whose weights have more than one.
    """

    kind: str
    shape: ConvShape

    @property
    def work(self) -> int:
        """Multiply-accumulates of an image."""
        shape = self.shape
        return shape.out_height * shape.out_width * shape.outputs * shape.reduction

    def described(self, *details: str) -> str:
        """For people: ``conv 3x3/1 14x14x256 -> 256``, then the details that are not empty."""
        s = self.shape
        window = f"{s.kernel[0]}x{s.kernel[1]}/{s.strides[0]}"
        size = f"{s.height}x{s.width}x{s.channels} -> {s.outputs}"
        return ", ".join([f"{self.kind} {window} {size}", *filter(None, details)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which ``from_dict`` reads back."""
        return dict(msgspec.json.decode(msgspec.json.encode(self)))

    @classmethod
    def from_dict(cls: type[_Work], values: Mapping[str, Any]) -> _Work:
        """The workload of a record. Raises InputError where that is none."""
        try:
            found = msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            raise InputError(
                f"expected a layer's workload, got one that is none: {error}"
            ) from None
        if found.to_dict() != values or not found.can_be:
            raise InputError(f"expected a layer's workload, got {dict(values)}")
        return found

    @property
    def can_be(self) -> bool:
        """Whether there may be such a layer: its sizes fit each other."""
        s = self.shape
        extents = (s.height, s.width, s.channels, s.out_height, s.out_width, s.outputs)
        windows = (*s.kernel, *s.strides, *s.dilation, *s.spread)
        if min(*extents, *windows, s.groups) < 1 or not 1 <= s.terms <= MAX_TERMS:
            return False
        return s.channels % s.groups == 0 and s.outputs % s.groups == 0


@dataclass
class LayerChoices(Generic[_Work, _Parameters]):
    """Where kernels take their parameters from: ``tuned`` by workload, else from the rules.

    ``made`` is what was chosen for each layer of a build, in order: the name of the kernel's
    result, the workload, the parameters, and whether they were tuned ones.
    """

    tuned: Mapping[_Work, _Parameters] = field(default_factory=dict)
    made: list[tuple[str, _Work, _Parameters, bool]] = field(default_factory=list)
