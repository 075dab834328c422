"""Tilings of a layer that are worth a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from math import log2
from typing import Any, Final

from tvm_shiftadd.errors import InputError
from vta_ext.compiler.layers import Layer
from vta_ext.compiler.schedule import ordered, vectors_of
from vta_ext.compiler.tiling import Tiling, choose, tilings_of
from vta_ext.config import Config
from vta_ext.tuning.workload import layer_of, name_of, work_of

#: Candidates are tilings of up to so much of the least estimated time, and at most so many.
_NEAR: Final = 1.5
_MOST: Final = 500


def candidates(workload: Mapping[str, Any], config: Config) -> list[Tiling]:
    """Tilings that fit the machine, the compiler's own choice first.

    Beside the most input channels that a step has room for, half of them: steps are then shorter.
    """
    layer = layer_of(workload, config)
    arranged, vectors = ordered(layer), vectors_of(layer, config)
    costs = {tiling: cost for cost, tiling in tilings_of(arranged, vectors, config)}
    first = choose(arranged, vectors, config)
    near = sorted((t for t in costs if costs[t] <= _NEAR * costs[first]), key=costs.__getitem__)
    found = dict.fromkeys([first])
    for tiling in near:
        found[tiling] = None
        halves = tuple(-(-inputs // 2) for inputs in tiling.inputs)
        found[replace(tiling, inputs=halves)] = None
    return list(found)[:_MOST]


def is_possible(tiling: Tiling, layer: Layer, config: Config) -> bool:
    """Whether a layer can have a tiling on this machine."""
    arranged, vectors = ordered(layer), vectors_of(layer, config)
    return any(
        replace(tiling, inputs=most.inputs) == most
        and len(tiling.inputs) == len(most.inputs)
        and all(1 <= mine <= most for mine, most in zip(tiling.inputs, most.inputs, strict=True))
        for _, most in tilings_of(arranged, vectors, config)
    )


def tiling_of(values: Mapping[str, Any]) -> Tiling:
    """The tiling of a record. Raises InputError where it is none."""
    try:
        found = Tiling(**{**values, "inputs": tuple(values["inputs"])})
        sizes = (found.rows, found.columns, found.outputs, *found.inputs)
        if all(type(size) is int for size in sizes) and type(found.spatial_first) is bool:
            return found
    except (KeyError, TypeError):
        pass
    raise InputError(f"expected a tiling, got {dict(values)}")


def plain(tiling: Tiling) -> dict[str, Any]:
    """A tiling as plain values for JSON."""
    return {**asdict(tiling), "inputs": list(tiling.inputs)}


class Space:
    """The candidates of one machine's layers, as plain values."""

    unit = "cycles"

    def __init__(self, config: Config) -> None:
        self.config = config

    def candidates(self, workload: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All tilings to try, the compiler's own choice first."""
        return [plain(tiling) for tiling in candidates(workload, self.config)]

    def describe(self, workload: Mapping[str, Any]) -> tuple[str, int]:
        """A workload for people, and its micro-ops of the matrix unit."""
        return name_of(workload), work_of(workload, self.config)

    def features(self, workload: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[float]:
        """The layer's sizes, the tile's, and the tiles and steps that come of both."""
        height, width, outputs, _ = workload["output"]
        blocks = -(-outputs // self.config.block)
        down, across = -(-height // parameters["rows"]), -(-width // parameters["columns"])
        groups, inputs = -(-blocks // parameters["outputs"]), max(parameters["inputs"])
        deep = max(-(-term["weights"][2] // self.config.block) for term in workload["terms"])
        sizes = (height, width, blocks, deep, work_of(workload, self.config), down, across, groups)
        tile = (parameters["rows"], parameters["columns"], parameters["outputs"], inputs)
        steps = down * across * groups * -(-deep // inputs)
        padded = down * across * parameters["rows"] * parameters["columns"] / (height * width)
        numbers = [log2(size + 1) for size in (*sizes, *tile, steps)]
        return [*numbers, padded, float(parameters["spatial_first"]), float(len(workload["terms"]))]
