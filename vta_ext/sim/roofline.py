"""The roofline of a timed program: how near each label comes to what machine and memory allow."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tvm_shiftadd.errors import DependencyError
from vta_ext.sim.report import TimingReport


@dataclass(frozen=True)
class Point:
    """One label. ``intensity``: sums a byte of DRAM traffic; ``rate``: sums a cycle."""

    name: str
    intensity: float
    rate: float
    of_bound: float


@dataclass(frozen=True)
class Roofline:
    """``peak``: sums of the matrix unit a cycle; ``bandwidth``: bytes of the port a cycle."""

    peak: int
    bandwidth: float
    points: tuple[Point, ...]

    def bound(self, intensity: float) -> float:
        """The most sums a cycle at that intensity."""
        return min(float(self.peak), self.bandwidth * intensity)


def roofline(report: TimingReport) -> Roofline:
    """The roofline of a report; labels without sums or traffic have no point on it."""
    sums = report.program.config.macs_per_cycle
    points = [
        Point(
            name=label.name,
            intensity=sums * label.gemm_micro_ops / label.bytes,
            rate=sums * label.utilisation,
            of_bound=label.of_bound,
        )
        for label in report.labels()
        if label.gemm_micro_ops and label.bytes and label.cycles
    ]
    return Roofline(sums, report.memory_bits / 8, tuple(points))


def save_plot(found: Roofline, path: str | Path) -> None:
    """Write a picture in the format that the suffix names; DependencyError without matplotlib."""
    if find_spec("matplotlib") is None:
        raise DependencyError(
            "a picture needs matplotlib; install the extra: pip install 'tvm-shiftadd[docs]'"
        )
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    ridge = found.peak / found.bandwidth
    reached = [point.intensity for point in found.points] or [ridge]
    ends = (min(*reached, ridge) / 2, max(*reached, ridge) * 2)
    axes.plot((ends[0], ridge, ends[1]), [found.bound(x) for x in (ends[0], ridge, ends[1])])
    axes.plot(reached, [point.rate for point in found.points] or [0], "o")
    for point in found.points:
        axes.annotate(point.name, (point.intensity, point.rate), fontsize=7)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="sums a byte of DRAM traffic",
        ylabel="sums a cycle",
        title=f"{found.peak} sums a cycle, {found.bandwidth:g} bytes a cycle",
    )
    figure.savefig(path)
