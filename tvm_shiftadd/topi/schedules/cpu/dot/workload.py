"""A layer as the tuner and its database see it: what decides how fast a kernel is, and no more.

Two layers with equal workloads have the same best parameters, whatever networks they are in. The
borders of stored maps, which depend on who else reads them, are left out. So is the batch, since
kernels compute image by image; but the dense kernel has images share its weights, as many as
``images`` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.errors import InputError
from tvm_shiftadd.topi.schedules.fusion.epilogue import CHANNELS
from tvm_shiftadd.topi.schedules.fusion.workload import LayerChoices, LayerWork
from tvm_shiftadd.topi.schedules.shapes import round_up

from .conv import conv
from .dense import TOGETHER, dense, dense_plan
from .dense import shared_by_rule as shared_dense
from .depthwise import DepthwisePlan, depthwise, depthwise_plan, parted_by_rule
from .epilogue import Epilogue
from .instructions import InstructionSet
from .parameters import ConvParameters, DepthwiseParameters, Parameters
from .plan import ConvPlan, choose_plan, reach_of, shared_by_rule
from .space import problem_of
from .stored import Stored, Wide

#: The kernel of each kind of layer, and the record it takes.
KINDS: dict[str, type[ConvParameters] | type[DepthwiseParameters]] = {
    "conv": ConvParameters,
    "adder": ConvParameters,
    "dense": ConvParameters,
    "depthwise": DepthwiseParameters,
}


@dataclass(frozen=True)
class Workload(LayerWork):
    """One kernel's work.

    ``pitch`` is the bytes of a pixel of its input, which holds negative values if ``signed``.
    ``result``: "bytes" where sums are requantised, "wide" where they stay int32. ``residual``:
    what is added, "" for nothing. ``scaled``: a factor for each channel comes before that.
    ``images`` are computed in a call: of a dense layer as many as its weights can be used for at
    once, of others one.
    """

    kind: Literal["conv", "adder", "dense", "depthwise"]
    pitch: int
    signed: bool = False
    result: Literal["bytes", "wide"] = "bytes"
    residual: Literal["", "bytes", "wide"] = ""
    scaled: bool = False
    images: int = 1

    @property
    def source(self) -> Stored:
        """The input as it is stored where nothing else reads it."""
        shape = self.shape
        right = (shape.out_width - 1) * shape.strides[1] - shape.origin[1] - shape.width + 1
        right += (shape.kernel[1] - 1) * shape.dilation[1]
        top, bottom = reach_of(shape)
        border = (top, shape.origin[1], bottom, max(0, right))
        size = (shape.height, shape.width, shape.channels)
        return Stored(*size, self.pitch, border, 128 if self.signed else 0)

    def epilogue(self, isa: InstructionSet) -> Epilogue:
        """What follows the sums; stored results hold no negative values."""
        return Epilogue(self.out, 0, 255, self.scaled, self._map(self.residual), isa=isa)

    @property
    def out(self) -> Stored | Wide:
        """The result as it is stored where nothing else reads it."""
        out = self._map(self.result)
        assert out is not None
        return out

    def _map(self, form: str) -> Stored | Wide | None:
        size = (self.shape.out_height, self.shape.out_width, self.shape.outputs)
        if form == "bytes":
            return Stored(*size, round_up(size[2], CHANNELS))
        return Wide(*size) if form == "wide" else None

    def plan(
        self, isa: InstructionSet, parameters: Parameters | None = None
    ) -> ConvPlan | DepthwisePlan:
        """The plan of the kernel; without parameters by rule."""
        return plan_of(self, self.source, isa, parameters)

    def shared(self, isa: InstructionSet, parameters: Parameters) -> Parameters:
        """The parameters with the work given to threads as the rules have it."""
        plan = self.plan(isa, parameters)
        if isinstance(plan, DepthwisePlan):
            return parted_by_rule(plan).parameters
        return (shared_dense if self.kind == "dense" else shared_by_rule)(plan).parameters

    def kernel(self, isa: InstructionSet, parameters: Parameters) -> tirx.PrimFunc:
        """The kernel for ``images``, its parameters as those of ``conv``."""
        return kernel_of(self.kind, self.plan(isa, parameters), self.epilogue(isa), self.images)

    @property
    def text(self) -> str:
        """For people: ``conv 3x3/1 14x14x256 -> 256, K=1``; K=2 stands for more, too."""
        return self.described(
            "" if self.kind == "adder" else f"K={self.shape.terms}",
            f"+ {self.residual}" if self.residual else "",
            f"{self.images} images" if self.images > 1 else "",
        )

    @property
    def can_be(self) -> bool:
        """Whether there may be such a layer: its sizes fit each other and its kind."""
        s = self.shape
        if not super().can_be or self.pitch < s.channels:
            return False
        if not 1 <= self.images <= (TOGETHER if self.kind == "dense" else 1):
            return False
        if self.kind == "depthwise":
            return s.groups == s.channels == s.outputs
        return self.kind != "dense" or s.is_pixel


def plan_of(
    layer: Workload, source: Stored, isa: InstructionSet, parameters: Parameters | None
) -> ConvPlan | DepthwisePlan:
    """The plan of a workload's kernel for an input as it is stored in a network."""
    if parameters is not None and not isinstance(parameters, KINDS[layer.kind]):
        raise InputError(f"expected parameters of a kernel of kind {layer.kind}, got {parameters}")
    if layer.kind == "depthwise":
        taps = parameters if isinstance(parameters, DepthwiseParameters) else None
        return depthwise_plan(layer.shape, source, isa, taps)
    tile = parameters if isinstance(parameters, ConvParameters) else None
    if layer.kind == "dense":
        return dense_plan(layer.shape, source, isa, layer.images, tile)
    return choose_plan(layer.shape, source, isa, layer.kind == "adder", tile)


def kernel_of(
    kind: str, plan: ConvPlan | DepthwisePlan, epilogue: Epilogue, batch: Any
) -> tirx.PrimFunc:
    """The kernel of a plan: PrimFunc (x, weights, constants[, residual], out)."""
    if isinstance(plan, DepthwisePlan):
        return depthwise(plan, epilogue, batch)
    return (dense if kind == "dense" else conv)(plan, epilogue, batch)


class Choices(LayerChoices[Workload, Parameters]):
    """The parameters of a processor's kernels."""

    def plan(
        self, name: str, layer: Workload, source: Stored, isa: InstructionSet
    ) -> ConvPlan | DepthwisePlan:
        """The plan of a layer. Raises InputError for tuned parameters that do not fit it."""
        found = self.tuned.get(layer)
        plan = plan_of(layer, source, isa, found)
        problem = problem_of(plan)
        if problem:
            raise InputError(f"the parameters recorded for {layer.text} cannot be: {problem}")
        self.made.append((name, layer, plan.parameters, found is not None))
        return plan
