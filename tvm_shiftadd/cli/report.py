"""``tvm-shiftadd report``: what an artifact's conversion did, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_shiftadd.cli import allocation, options, output

HELP = "Show an artifact's errors, operations, memory, energy."

_TRAFFIC = ("float32_traffic", "shift_add_traffic")


@dataclass(frozen=True)
class Config:
    """One call of ``report``."""

    artifact: Path


def command(
    artifact: options.ArtifactDirectory,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Load, print."""
    from tvm_shiftadd.artifact import Artifact

    config = Config(artifact)
    loaded = Artifact.load(config.artifact)
    if json:
        output.print_json(loaded.report)
        return
    source, target = loaded.manifest.source, loaded.manifest.target
    output.print_lines(f"{source.name} ({source.format}) for {target.kind}")
    if "conversion" in loaded.report:
        _print_layers(loaded.report["conversion"])
        if loaded.report["conversion"].get("allocation") is not None:
            allocation.show(loaded.report["conversion"]["allocation"])
    if "costs" in loaded.report:
        print_costs(loaded.report["costs"])


def _print_layers(conversion: dict[str, Any]) -> None:
    columns = {
        "name": "layer",
        "op": "operator",
        "terms": "K",
        "terms_per_weight": "terms/weight",
        "weight_snr_db": "weight SNR dB",
        "output_snr_db": "output SNR dB",
        "saturation": "saturated",
        "exact": "kept",
        "copies": "copies",
        "cause": "noise from",
    }
    rows = [[layer.get(key) for key in columns] for layer in conversion["layers"]]
    output.print_table("Layers", list(columns.values()), rows, right=2)
    named = {layer["name"]: layer for layer in conversion["layers"]}
    worst = [named[name] for name in conversion.get("worst", ())]
    if worst:
        output.print_lines("Noisiest outputs:", *(f"- {describe(layer)}" for layer in worst))


def describe(layer: dict[str, Any]) -> str:
    """A layer's error and its cause in one line."""
    steps = {"inputs": "input_snr_db", "weights": "rounding_snr_db", "storage": "storage_snr_db"}
    parts = [
        f"{step} {layer[key]:.1f}" for step, key in steps.items() if layer.get(key) is not None
    ]
    why = f", most of it from {layer['cause']}" if layer.get("cause") else ""
    return f"{layer['name']}: {layer['output_snr_db']:.1f} dB{why} ({', '.join(parts)} dB)"


def _where(layer: dict[str, Any]) -> str:
    if layer["on_host"]:
        return "host"
    return "adder" if layer["op"].startswith("adder_") else "shift-add"


def print_costs(costs: dict[str, Any]) -> None:
    """Print the layers' costs, the totals, and what was assumed."""
    rows = [
        [
            layer["name"],
            _where(layer),
            layer["macs"],
            *_counts(layer["float32"], "multiplies"),
            *_counts(layer["shift_add"], "multiplies", "adds", "shifts"),
            *(layer[form]["weights"] + layer[form]["activations"] for form in _TRAFFIC),
        ]
        for layer in costs["layers"]
    ]
    columns = ["operator", "where", "MACs", "multiplies\nin float"]
    columns += ["multiplies\nleft", "adds", "shifts", "bytes moved\nin float", "bytes moved\nnow"]
    output.print_table("Operations and memory traffic of one inference", columns, rows, right=2)
    _print_totals(costs)
    units = costs["unit_energies"]
    table = units["picojoules"] + units["picojoules_per_16_bits"]
    sources = "; ".join(dict.fromkeys(row["source"] for row in table))
    assumed = [f"- {text}" for text in costs["assumptions"]]
    output.print_lines("Assumed:", *assumed, f"- Unit energies: {sources}.")


def _print_totals(costs: dict[str, Any]) -> None:
    energy = costs["energy_microjoules"]
    forms = ("float32", "int8", "shift_add")
    weights = (costs["weight_bytes_float32"], costs["weight_bytes_int8"], costs["weight_bytes"])
    rows = [
        ["weight bytes", *weights],
        ["memory traffic, bytes", *(costs["traffic_bytes"][form] for form in forms)],
        *(
            [f"energy, {part}, microjoules", *(energy[form][part] for form in forms)]
            for part in ("compute", "memory", "total")
        ),
    ]
    output.print_table("Totals of one inference", ["", "float32", "int8", "shift-add"], rows)
    share = 100 * costs["shift_add_share"]
    output.print_lines(
        f"{share:.2f} % of the multiply-accumulates are shift-add; "
        f"{costs['multiplications']:,} multiplications of data are left on the host."
    )
    if costs["uncounted"]:
        output.print_lines(f"Not counted, operations unknown: {', '.join(costs['uncounted'])}.")


def _counts(operations: dict[str, int] | None, *names: str) -> list[int | None]:
    return [None if operations is None else operations[name] for name in names]
