"""The accuracy-cost frontier of an allocation as a file: JSON, CSV or a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tvm_shiftadd.errors import DependencyError, InputError

SUFFIXES = (".json", ".csv", ".png")

_UNITS = {
    "terms": "non-zero terms a weight",
    "bytes": "packed weight codes, bytes",
    "energy": "energy of the terms of one inference, microjoules",
    "cycles": "micro-ops of the accelerator for one inference",
}


def check(path: Path) -> None:
    """Raise what :func:`write` would raise for ``path``, without anything to write."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{path} cannot be written: its folder does not exist, or it is a folder")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"a frontier is written as {', '.join(SUFFIXES)}, not as '{path.name}'")
    if path.suffix.lower() == ".png" and find_spec("matplotlib") is None:
        raise DependencyError(
            "a picture needs matplotlib; install the extra: pip install 'tvm-shiftadd[docs]', or "
            "write a .csv or .json"
        )


def write(path: Path, allocation: Mapping[str, Any]) -> None:
    """Write the frontier of a conversion report's allocation.

    Raises InputError for an unknown suffix and DependencyError for a picture without matplotlib.
    """
    check(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        from tvm_shiftadd import _json

        keys = ("budget", "unit", "grain", "held_out")
        content = {key: allocation[key] for key in keys}
        content["points"] = list(allocation["frontier"])
        path.write_bytes(_json.encode(content) + b"\n")
    elif suffix == ".csv":
        _write_csv(path, allocation["frontier"])
    else:
        _draw(path, allocation)


def _write_csv(path: Path, points: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["label", *_UNITS, "error", "agreement", "chosen"])
        for point in points:
            costs = [point["costs"][unit] for unit in _UNITS]
            rest = [point["error"], point["agreement"], point["chosen"]]
            rows.writerow([point["label"], *costs, *rest])


def _draw(path: Path, allocation: Mapping[str, Any]) -> None:
    """Output error over cost, and below it agreement, where the network names classes."""
    from matplotlib.figure import Figure

    points = allocation["frontier"]
    panels = {"error": "squared error of the outputs,\nrelative to their variance"}
    if all(point["agreement"] is not None for point in points):
        panels["agreement"] = "same class as\nthe float network, %"
    figure = Figure(figsize=(7, 1 + 3 * len(panels)), layout="constrained")
    every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (key, label) in zip(every, panels.items(), strict=True):
        _panel(axes, allocation, key)
        axes.set_ylabel(label)
    every[0].set_yscale("log")
    every[0].legend()
    every[0].set_title(f"{allocation['held_out']} held-out calibration images")
    every[-1].set_xlabel(_UNITS[allocation["unit"]])
    figure.savefig(path, dpi=150)


def _panel(axes: Any, allocation: Mapping[str, Any], key: str) -> None:
    """One figure of every point over its cost."""
    groups: dict[str, list[tuple[float, float]]] = {"auto": [], "same": [], "kept": []}
    for point in allocation["frontier"]:
        place = (point["costs"][allocation["unit"]], point[key])
        groups["auto" if point["label"] == "auto" else "same"].append(place)
        if point["chosen"]:
            groups["kept"].append(place)
        if point["label"] != "auto":
            axes.annotate(point["label"], place, xytext=(5, 5), textcoords="offset points")
    kept = f"kept: {allocation['budget']}"
    labels = (f"terms by {allocation['grain']}", "same terms everywhere", kept)
    for places, style, name in zip(groups.values(), ("o-", "s", "*"), labels, strict=True):
        columns = list(zip(*places, strict=True)) or [(), ()]
        axes.plot(*columns, style, markersize=14 if style == "*" else 6, label=name)
    axes.margins(0.1)
    axes.grid(alpha=0.3)
