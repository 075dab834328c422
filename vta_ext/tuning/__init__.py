"""Tile sizes as something to tune: candidates, their cycles, and what layers are compiled with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tvm_shiftadd.errors import InputError
from vta_ext.compiler.layers import Layer
from vta_ext.compiler.schedule import ordered, vectors_of
from vta_ext.compiler.tiling import Tiling, choose
from vta_ext.config import ISA_VERSION, Config
from vta_ext.presets import Preset
from vta_ext.tuning.space import is_possible, plain, tiling_of
from vta_ext.tuning.workload import text_of, workload_of

#: Raised when tilings change their meaning, or the compiler so much that cycles change.
VERSION: Final = 1
#: What starts a process that tries candidates.
FACTORY: Final = "vta_ext.tuning.trials:serve"


@dataclass(frozen=True)
class Chosen:
    """What a layer was compiled with: ``tuned`` where a record said so."""

    layer: str
    workload: dict[str, Any]
    tiling: Tiling
    tuned: bool

    def plain(self) -> dict[str, Any]:
        """As plain values, for an artifact's report."""
        return {
            "result": self.layer,
            "workload": self.workload,
            "parameters": plain(self.tiling),
            "tuned": self.tuned,
        }


class Tilings:
    """Where layers take their tilings from: records by workload, else the compiler's estimate.

    ``made`` is what layers that can be tuned were last compiled with, by name.
    """

    def __init__(self, config: Config, records: Mapping[str, Mapping[str, Any]]) -> None:
        self.config, self.records = config, records
        self.made: dict[str, Chosen] = {}

    def __call__(self, layer: Layer) -> Tiling | None:
        """The tiling of a layer; None for one that is not tuned. InputError where it is none."""
        workload = workload_of(layer, self.config)
        if workload is None:
            return None
        found = self.records.get(text_of(workload))
        if found is None:
            tiling = choose(ordered(layer), vectors_of(layer, self.config), self.config)
        else:
            tiling = tiling_of(found)
            if not is_possible(tiling, layer, self.config):
                raise InputError(
                    f"the tiling recorded for {layer.name} does not fit this machine: {found}"
                )
        self.made[layer.name] = Chosen(layer.name, workload, tiling, found is not None)
        return tiling


def identity(machine: Preset) -> dict[str, Any]:
    """What a database of a machine must be for."""
    return {
        "target": "vta",
        "machine": machine.name,
        "configuration": machine.config.hash,
        "memory_bits": machine.memory_bits,
        "compiler": VERSION,
        "instructions": ISA_VERSION,
    }
