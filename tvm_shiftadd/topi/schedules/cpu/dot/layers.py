"""Which kernel computes a chain, and how its parameters are prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from tvm_shiftadd._compat import tirx
from tvm_shiftadd.topi.schedules.fusion.chains import Chain, name_of
from tvm_shiftadd.topi.schedules.fusion.layers import is_adder, layer_shape

from . import weights
from .dense import TOGETHER
from .depthwise import DepthwisePlan, order_constants, pack_depthwise
from .epilogue import Epilogue
from .plan import ConvPlan
from .stored import Stored, Wide
from .workload import Workload, kernel_of


@dataclass(frozen=True)
class LayerKernel:
    """A kernel and what it wants.

    ``pack`` brings the weights into its order and ``order`` the matrix of constants, both as
    compute definitions; ``build(epilogue, batch)`` is the kernel. ``bias`` makes that of the
    kernel from weights and bias, where it is another. ``zero`` is what its sums take an input of
    zero as, which the bias has to make up for with the weights.
    """

    pack: Callable[[Any], Any]
    order: Callable[[Any], Any]
    build: Callable[[Epilogue, Any], tirx.PrimFunc]
    bias: Callable[[Any, Any], Any] | None = None
    zero: int = 0


def is_depthwise(chain: Chain) -> bool:
    """Whether the depthwise kernel computes a chain: it stores bytes and adds nothing."""
    if name_of(chain.layer) != "shiftadd.conv2d":
        return False
    stores = chain.requantize is not None and chain.add is None
    return stores and layer_shape(chain.layer).is_depthwise


def workload(chain: Chain, source: Stored, epilogue: Epilogue) -> Workload:
    """What the kernel of a chain has to do."""
    shape = layer_shape(chain.layer)
    # Of two terms or more the kernels are given the sums. A flattened map has what pads its pixels.
    channels = source.channels if shape.is_pixel else shape.channels
    shape = replace(shape, channels=channels, terms=min(shape.terms, 2))
    kind: Literal["conv", "adder", "dense", "depthwise"] = "dense" if shape.is_pixel else "conv"
    if is_adder(chain.layer) or is_depthwise(chain):
        kind = "adder" if is_adder(chain.layer) else "depthwise"
    other, batch = epilogue.residual, chain.result.ty.shape[0]
    # Any batch may be a large one.
    images = min(int(batch), TOGETHER) if isinstance(batch, tirx.IntImm) else TOGETHER
    return Workload(
        kind,
        shape,
        source.pitch,
        signed=source.zero != 0,
        result="wide" if isinstance(epilogue.out, Wide) else "bytes",
        residual="" if other is None else "wide" if isinstance(other, Wide) else "bytes",
        scaled=epilogue.scaled,
        images=images if kind == "dense" else 1,
    )


def layer_kernel(
    layer: Workload, plan: ConvPlan | DepthwisePlan, rows: weights.Rows | None = None
) -> LayerKernel:
    """The kernel of a workload by a plan of it; ``rows`` as in ``weights.pack_codes``."""

    def build(epilogue: Epilogue, batch: Any) -> tirx.PrimFunc:
        return kernel_of(layer.kind, plan, epilogue, batch)

    if isinstance(plan, DepthwisePlan):
        return LayerKernel(
            lambda codes: pack_depthwise(codes, plan),
            lambda constants: order_constants(constants, plan),
            build,
            zero=plan.isa.zero(plan.source.zero),
        )
    if plan.adder:
        return LayerKernel(
            lambda weight: weights.pack_adder(weight, plan),
            lambda constants: constants,
            build,
            lambda weight, bias: weights.adder_bias(weight, bias, plan.source.zero),
        )
    return LayerKernel(
        lambda codes: weights.pack_codes(codes, plan, rows),
        lambda constants: constants,
        build,
        zero=plan.zero,
    )
