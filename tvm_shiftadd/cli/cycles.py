"""``tvm-shiftadd profile`` of an accelerator's artifact: the timing model's cycles by layer.

And, of a device that is named, what its hardware counts in a run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_shiftadd.cli import options, output
from tvm_shiftadd.errors import InputError

if TYPE_CHECKING:
    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.bench.results import Table
    from vta_ext.sim.report import TimingReport


@dataclass(frozen=True)
class Config:
    """What a call says about the timing model and its pictures."""

    memory_bits: int | None = None
    memory_latency: int | None = None
    trace: Path | None = None
    roofline: Path | None = None

    @property
    def said(self) -> bool:
        """Whether anything was."""
        return self != Config()


@dataclass(frozen=True)
class Result:
    """Reports of all programs by the names of their functions, and the parameters.

    ``images``: how many images a launch takes, which is what its cycles and bytes are for.
    ``counted``: by the device's own counters, in a launch of each program; empty without a device.
    """

    model: str
    machine: str
    images: int
    parameters: dict[str, int]
    reports: dict[str, TimingReport]
    counted: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``profile --json`` prints them."""
        regions = [{"region": name, **one.to_dict()} for name, one in self.reports.items()]
        return {
            "model": self.model,
            "machine": self.machine,
            "images": self.images,
            "parameters": self.parameters,
            "cycles": self.cycles,
            "utilisation": self.utilisation,
            "regions": regions,
            **({"device": self.counted} if self.counted else {}),
        }

    @property
    def cycles(self) -> int:
        """Of all programs, a launch each."""
        return sum(report.cycles for report in self.reports.values())

    @property
    def utilisation(self) -> float:
        """Share of all cycles in which the matrix unit adds up products."""
        products = sum(report.gemm_micro_ops() for report in self.reports.values())
        return products / self.cycles if self.cycles else 0.0


def profile(artifact: Artifact, config: Config, device: options.DeviceOptions) -> Result:
    """Time the programs of an artifact and write the pictures; run them where a device is named.

    Raises InputError for parameters that make no sense, DependencyError for a plot without
    matplotlib, DeviceError where the device cannot be reached.
    """
    from vta_ext.sim import roofline, timing, trace

    port = artifact.regions.memory_bits if config.memory_bits is None else config.memory_bits
    parameters = timing.TimingParameters(memory_bits=port)
    if config.memory_latency is not None:
        parameters = replace(parameters, memory_latency=config.memory_latency)
    for path in filter(None, (config.trace, config.roofline)):
        if not path.parent.is_dir() or path.is_dir():
            raise InputError(f"expected a file in an existing folder, got {path}")
    regions = artifact.regions.regions
    reports = {}
    with output.progress() as progress:
        for number, region in enumerate(regions):
            progress("simulate", number, len(regions))
            report = timing.simulate(region.program, parameters)
            reports[region.function] = report
            if config.trace is not None:
                trace.save_trace(report, _numbered(config.trace, number))
            if config.roofline is not None:
                plot = _numbered(config.roofline, number)
                roofline.save_plot(roofline.roofline(report), plot)
        progress("simulate", len(regions), len(regions))
    machine = str(artifact.manifest.target.attributes.get("machine", ""))
    name, images = artifact.manifest.source.name, artifact.regions.config.batch
    counted = _counted(artifact, device, images)
    return Result(name, machine, images, vars(parameters), reports, counted)


def _counted(artifact: Artifact, device: options.DeviceOptions, images: int) -> dict[str, int]:
    """What the device counts in one launch, on random images; nothing where none was named."""
    from tvm_shiftadd.bench import inputs

    choice = device.choice()
    if choice is None:
        return {}
    artifact.connect(choice)
    artifact.run(inputs.random_inputs(artifact, inputs.batch_size(artifact, images)))
    return dict(artifact.counted)


def tables(result: Result) -> list[Table]:
    """Layers, waits, and bytes, for people."""
    from tvm_shiftadd.bench.results import Table

    layers, bytes_, waits = [], [], []
    for report in result.reports.values():
        memories = list(report.bytes)
        for label in report.labels():
            layers.append(_layer(label.to_dict(), result.cycles))
        bytes_ += [(name, report.bytes[name]) for name in memories]
        waits += _waits(report)
    each = "an image" if result.images == 1 else f"a launch of {result.images} images"
    alone = f", {result.cycles / result.images:,.0f} an image" if result.images > 1 else ""
    note = (
        f"{result.cycles:,} cycles {each}{alone}; the matrix unit adds up products in "
        f"{100 * result.utilisation:.1f} % of them."
    )
    return [
        Table("Cycles by layer", _LAYER, tuple(layers), 1, (note, *_NOTES)),
        Table(f"Bytes by buffer, {each}", ("buffer", "bytes"), tuple(_summed(bytes_)), 1),
        Table("Idle before an instruction", ("module", "waiting for", "cycles"), tuple(waits), 2),
    ]


_LAYER = (
    "layer",
    "cycles",
    "share %",
    "busy %",
    "of roofline %",
    "bound by",
    "inputs",
    "weights",
    "results",
    "other",
    "waits",
)
_WEIGHTS = ("code", "wgt")
_NOTES = (
    "Busy: cycles in which the matrix unit adds up products. Roofline: the cycles that it or the "
    "memory port need in any case. Inputs, weights, results, other: bytes moved. Waits: cycles in "
    "which compute stood still.",
)


def _layer(label: dict[str, Any], cycles: int) -> tuple[object, ...]:
    moved = dict(label["bytes_by_memory"])
    # Weights are term codes or integers.
    named = [sum(moved.pop(name, 0) for name in names) for names in (("inp",), _WEIGHTS, ("out",))]
    memory = label["memory_cycles"] > label["gemm_micro_ops"]
    return (
        label["name"],
        label["cycles"],
        f"{100 * label['cycles'] / max(cycles, 1):.1f}",
        f"{100 * label['utilisation']:.1f}",
        f"{100 * label['of_bound']:.1f}",
        "memory" if memory else "compute",
        *named,
        sum(moved.values()),
        sum(label["waits"].values()),
    )


def _waits(report: TimingReport) -> list[tuple[str, str, int]]:
    return [
        (module, cause, cycles)
        for module, causes in report.waits.items()
        for cause, cycles in sorted(causes.items(), key=lambda pair: -pair[1])
    ]


def _summed(rows: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    found: dict[str, int] = {}
    for name, count in rows:
        found[name] = found.get(name, 0) + count
    return list(found.items())


def _numbered(path: Path, number: int) -> Path:
    """The path, with a number for the second program and so on."""
    return path if not number else path.with_name(f"{path.stem}-{number}{path.suffix}")
