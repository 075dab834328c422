"""What a network costs before and after its conversion: operations, bytes, energy."""

from __future__ import annotations

from tvm_shiftadd.costs.operations import Operations
from tvm_shiftadd.costs.report import ASSUMPTIONS, CostReport, Energy, LayerCost, Traffic, count

__all__ = [
    "ASSUMPTIONS",
    "CostReport",
    "Energy",
    "LayerCost",
    "Operations",
    "Traffic",
    "count",
]
