"""A layer as the tuner and its database see it: what decides how fast a CUDA kernel is.

Two layers with equal workloads have the same best parameters, whatever networks they are in.
Which parameters there are follows from the compute capability too, which a database is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.topi.schedules.fusion.workload import LayerChoices, LayerWork

from .epilogue import Epilogue, Tensor
from .layers import layer_kernel
from .parameters import DenseParameters, Parameters
from .problem import Problem
from .space import by_rule, candidates

#: Images of a call by which a kernel for any number of them is measured, and those of a dense
#: layer's second kernel, which takes more than a few.
_FEW, _MANY = 8, 64


@dataclass(frozen=True)
class Workload(LayerWork):
    """One kernel's work.

    ``dtype`` is the type of its input; ``result`` that of its result, "int32" where sums are not
    requantised. ``residual``: the type of what is added, "" for nothing. ``scaled``: a factor for
    each channel comes before that. ``images`` are computed in a call; 0 stands for any number.
    """

    kind: Literal["dot", "adder"]
    dtype: Literal["int8", "uint8"]
    result: Literal["int8", "uint8", "int32"] = "int8"
    residual: Literal["", "int8", "uint8", "int32"] = ""
    scaled: bool = False
    images: int = 0

    @classmethod
    def of(cls, problem: Problem, epilogue: Epilogue, batch: Any) -> Workload:
        """The work of a kernel; ``batch`` is a number of images or a variable."""
        return cls(
            problem.kind,
            replace(problem.shape, terms=min(2, problem.shape.terms)),
            problem.dtype,  # type: ignore[arg-type]
            epilogue.out.dtype,  # type: ignore[arg-type]
            "" if epilogue.residual is None else epilogue.residual.dtype,  # type: ignore[arg-type]
            epilogue.scaled,
            batch if isinstance(batch, int) else 0,
        )

    @property
    def problem(self) -> Problem:
        """The layer as its kernel sees it."""
        return Problem(self.shape, self.dtype, self.kind)

    @property
    def epilogue(self) -> Epilogue:
        """What follows the sums; results take their type's whole range."""
        channels = self.shape.outputs
        out = Tensor(channels, self.result)
        residual = Tensor(channels, self.residual) if self.residual else None
        bounds = (0, 255) if self.result == "uint8" else (-128, 127)
        return Epilogue(out, *bounds, self.scaled, residual)

    def by_rule(self, arch: int) -> Parameters:
        """The parameters without tuning, for a compute capability (80 for 8.0)."""
        return by_rule(self.problem, self._batch, arch)

    def candidates(self, arch: int) -> list[Parameters]:
        """The parameters that are worth a trial, that of the rule first."""
        return candidates(self.problem, self._batch, arch)

    def kernel(self, parameters: Parameters) -> tirx.PrimFunc:
        """The kernel, PrimFunc (x, weights, constants[, residual], out); maps have four axes."""
        shape, batch = self.shape, self._batch
        source = batch, shape.height, shape.width, shape.channels
        out = batch, shape.out_height, shape.out_width, shape.outputs
        return layer_kernel(self.problem, parameters).build(self.epilogue, batch, (source, out))

    def calls(self, arch: int) -> tuple[int, ...]:
        """The images of the calls by which the kernel is measured and checked."""
        if self.images:
            return (self.images,)
        return (_FEW, _MANY) if isinstance(self.by_rule(arch), DenseParameters) else (_FEW,)

    @property
    def _batch(self) -> Any:
        return self.images or tirx.Var("n", "int64")

    @property
    def text(self) -> str:
        """For people: ``dot 3x3/1 14x14x256 -> 256, K=1``; K=2 stands for more, too."""
        s = self.shape
        return self.described(
            f"{s.groups} groups" if s.groups > 1 else "",
            "" if self.kind == "adder" else f"K={s.terms}",
            f"+ {self.residual}" if self.residual else "",
            f"{self.images} image{'s' * (self.images > 1)}" if self.images else "",
        )

    @property
    def can_be(self) -> bool:
        """Whether there may be such a layer: its sizes fit each other, and its type its kind."""
        return super().can_be and self.images >= 0 and (self.kind == "dot" or self.dtype == "int8")


def parameters_of(work: Workload, values: Mapping[str, Any], arch: int) -> Parameters:
    """The parameters of a record. Raises InputError where they are none of the workload's kernel.

    ``arch``: the compute capability, 80 for 8.0.
    """
    try:
        found: Parameters = msgspec.convert(values, type(work.by_rule(arch)))
    except msgspec.ValidationError as error:
        raise InputError(f"expected parameters for {work.text}, got {values}: {error}") from None
    if found not in work.candidates(arch):
        raise InputError(
            f"the parameters recorded for {work.text} cannot be: {found}; tune into a new file"
        )
    return found


class Choices(LayerChoices[Workload, Parameters]):
    """The parameters of a GPU's kernels."""

    def parameters(self, name: str, work: Workload, arch: int) -> Parameters:
        """The parameters of a layer's kernel."""
        found = self.tuned.get(work)
        parameters = work.by_rule(arch) if found is None else found
        self.made.append((name, work, parameters, found is not None))
        return parameters
