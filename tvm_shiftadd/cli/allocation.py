"""How the terms of a network were given out, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm_shiftadd.cli import output


def show(allocation: Mapping[str, Any]) -> None:
    """Print the layers of a conversion report's ``allocation``, and its frontier if it has one."""
    unit = allocation["unit"]
    rows = [
        [
            layer["name"],
            layer["terms"],
            layer["terms_per_weight"],
            *(_small(effect) for effect in layer["effect"]),
            _small(layer["sensitivity"]),
            _cost(layer["cost_before"], unit),
            _cost(layer["cost"], unit),
        ]
        for layer in allocation["layers"]
    ]
    columns = ["layer", "K", "terms/weight"]
    columns += [f"effect of\n{terms}" for terms in ("1 term", "2 terms", "3 terms")]
    columns += ["sensitivity", f"{unit} with\n2 terms", f"{unit}\nallocated"]
    title = f"Terms by {allocation['grain']}, {allocation['budget']}"
    output.print_table(title, columns, rows, right=1)
    least, largest = (_cost(value, unit) for value in allocation["reachable"])
    output.print_lines(
        f"{unit}: {_cost(allocation['cost'], unit)} of a range from {least} to {largest}; "
        f"{allocation['trials']} conversions tried.",
        "Effect: squared error of the outputs, relative to their variance, with so many terms in "
        "this layer alone; sensitivity: the same for a unit of squared error in the layer.",
    )
    if allocation["gap"] is not None:
        gap = 100 * allocation["gap"]
        proof = "proved optimal" if gap == 0 else f"within {gap:.2g} % of the optimum"
        output.print_lines(f"For the effects as measured, the choice of layers is {proof}.")
    if allocation["disagreement"] is not None:
        output.print_lines(
            f"Of {allocation['held_out']} held-out calibration images, "
            f"{allocation['disagreement']:.2f} % change class."
        )
    if allocation["frontier"]:
        _show_frontier(allocation)


def _show_frontier(allocation: Mapping[str, Any]) -> None:
    rows = [
        [
            point["label"] + (" (kept)" if point["chosen"] else ""),
            *(_cost(cost, unit) for unit, cost in point["costs"].items()),
            _small(point["error"]),
            point["agreement"],
        ]
        for point in allocation["frontier"]
    ]
    units = list(allocation["frontier"][0]["costs"])
    columns = ["terms", *units, "output error", "agreement %"]
    output.print_table("Frontier, on held-out calibration images", columns, rows)


def _cost(value: float, unit: str) -> str:
    return f"{value:,.0f}" if unit in ("bytes", "cycles") else f"{value:,.4g}"


def _small(value: float) -> str:
    return f"{value:.2g}"
