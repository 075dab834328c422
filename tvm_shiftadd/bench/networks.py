"""Whole networks: a compiled artifact beside other runtimes on the same inputs and threads."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd.bench import machine as machines
from tvm_shiftadd.bench import peers
from tvm_shiftadd.bench.agreement import Agreement, check_float, compare
from tvm_shiftadd.bench.results import Table
from tvm_shiftadd.bench.timing import Clock, Timing, interleaved
from tvm_shiftadd.bench.work import Run, Work
from tvm_shiftadd.convert.feeds import silent
from tvm_shiftadd.errors import ModelError, ShiftAddError, VerificationError
from tvm_shiftadd.target import runtime
from tvm_shiftadd.target.gpu import CUDA

if TYPE_CHECKING:
    from tvm_shiftadd.api import Model
    from tvm_shiftadd.artifact import Artifact

Array = NDArray[Any]
Progress = Callable[[str, int, int], None]

#: What we are called among the peers.
OURS = "shift-add"

_COLUMNS = (
    "",
    "what is run",
    "ms",
    "quartiles",
    "CPU ms",
    "times ours",
    "weights, bytes",
    "error %",
    "same class %",
)


@dataclass(frozen=True)
class Row:
    """One participant with one number of threads; figures are None where it did not run.

    wall, cpu: milliseconds of a run, first quartile, median, third quartile. times_ours: how many
    times as long as the artifact, quartiles of the ratios within rounds. weight_bytes: of ours,
    the constants that the kernels read; of a peer, those of the model it was given.
    """

    name: str
    how: str
    wall: tuple[float, float, float] | None = None
    cpu: tuple[float, float, float] | None = None
    times_ours: tuple[float, float, float] | None = None
    weight_bytes: int | None = None
    error: float | None = None
    same_class: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Group:
    """The participants with one number of threads; ``clock`` is what ratios are taken of."""

    threads: int
    clock: Clock
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Comparison:
    """One benchmark of one network. ``inputs`` says where they came from."""

    model: str
    batch: int
    inputs: str
    target: Mapping[str, Any]
    rounds: int
    machine: machines.Machine
    groups: tuple[Group, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """For people: one table a number of threads."""
        return [_table(group) for group in self.groups]


@dataclass(frozen=True)
class Task:
    """What is compared.

    ``feed``: inputs by name, batch included. ``calibration``: such sets for the peers' int8
    models. ``model``: the ONNX file for the peers, None where there is none; ``network``: the float
    network, None where it is not known, and then so is ``reference``, its outputs for ``feed``.
    ``inputs``: where they are from, in words.
    """

    artifact: Artifact
    feed: Mapping[str, Array]
    calibration: Sequence[Mapping[str, Array]]
    model: Path | None
    network: Model | None
    reference: Sequence[Array] | None
    inputs: str


@dataclass(frozen=True)
class _Participant:
    how: str
    run: Run
    weight_bytes: int
    agreement: Agreement | None


def bench(
    task: Task,
    *,
    names: Sequence[str] = (),
    asked: bool = False,
    threads: Sequence[int] = (1,),
    rounds: int = 11,
    progress: Progress = silent,
) -> Comparison:
    """Time an artifact and ``names`` of the peers in turns, after a check of all their outputs.

    ``asked``: whether the user named the peers; then one that fails is an error. ``threads``:
    the numbers to measure with, in falling order, because TVM cannot raise it again. Raises
    InputError for a number that cannot be set, VerificationError where the artifact's outputs
    are no numbers or of another shape than float's.
    """
    described = machines.describe()
    groups = []
    with tempfile.TemporaryDirectory(prefix="tvm-shiftadd-bench-") as folder:
        work = Work(task.model, task.network, task.feed, task.calibration, Path(folder))
        for count in sorted(set(threads), reverse=True):
            groups.append(_group(task, work, list(names), asked, count, rounds, progress))
    manifest = task.artifact.manifest
    return Comparison(
        model=manifest.source.name,
        batch=next(iter(task.feed.values())).shape[0],
        inputs=task.inputs,
        target=dict(manifest.target.attributes),
        rounds=rounds,
        machine=described,
        groups=tuple(groups),
    )


def _group(
    task: Task,
    work: Work,
    names: list[str],
    asked: bool,
    threads: int,
    rounds: int,
    progress: Progress,
) -> Group:
    runtime.set_num_threads(threads)
    taking_part = {OURS: _ours(task, threads)}
    absent: dict[str, str] = {}
    for done, name in enumerate(names):
        progress(f"prepare, threads {threads}", done, len(names))
        try:
            taking_part[name] = _peer(name, work, task.reference, threads)
        except ShiftAddError as error:
            if asked:
                raise
            absent[name] = str(error)
    # A thread's own time leaves out what a GPU does meanwhile.
    beside = task.artifact.manifest.target.kind == CUDA
    clock: Clock = "cpu" if threads == 1 and not beside else "wall"
    timings = interleaved(
        {name: participant.run for name, participant in taking_part.items()},
        rounds,
        progress=lambda done, total: progress(f"time, threads {threads}", done, total),
    )
    rows = [_row(name, taking_part[name], timings, clock) for name in taking_part]
    rows += [Row(name, peers.PEERS[name].how, note=note) for name, note in absent.items()]
    return Group(threads, clock, tuple(rows))


def _ours(task: Task, threads: int) -> _Participant:
    machine = task.artifact.machine(threads)
    arrays = [np.ascontiguousarray(task.feed[info.name]) for info in task.artifact.inputs]

    def run() -> list[Array]:
        return machine(arrays)

    agreement = None
    if task.reference is not None:
        agreement = compare(OURS, run(), task.reference)
    elif not all(np.isfinite(output).all() for output in run()):
        raise VerificationError(f"{OURS}: expected finite outputs, got NaN or infinity")
    terms = task.artifact.report.get("costs", {}).get("terms_per_weight")
    how = "compiled artifact" if terms is None else f"{terms:.2f} terms a weight"
    return _Participant(how, run, machine.constant_bytes, agreement)


def _peer(name: str, work: Work, reference: Sequence[Array] | None, threads: int) -> _Participant:
    peer = peers.PEERS[name]
    if not peer.installed:
        raise ModelError(peers.missing(name))
    try:
        prepared = peer.prepare(work, threads)
        outputs = prepared.run()
    except Exception as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{name} could not run the model: {first[0]}") from error
    agreement = None
    if reference is not None:
        agreement = compare(name, outputs, reference)
        if not peer.integer:
            check_float(name, agreement)
    return _Participant(peer.how, prepared.run, prepared.weight_bytes, agreement)


def _row(name: str, participant: _Participant, timings: Mapping[str, Timing], clock: Clock) -> Row:
    ours, mine, found = timings[OURS], timings[name], participant.agreement
    return Row(
        name,
        participant.how,
        wall=_milliseconds(mine, "wall"),
        cpu=_milliseconds(mine, "cpu"),
        times_ours=None if name == OURS else _rounded(ours.ratio(mine, clock), 1, 3),
        weight_bytes=participant.weight_bytes,
        error=None if found is None else found.error,
        same_class=None if found is None else found.same_class,
    )


def _milliseconds(timing: Timing, clock: Clock) -> tuple[float, float, float]:
    return _rounded(timing.quartiles(clock), 1e3, 5)


def _rounded(values: Any, scale: float, digits: int) -> tuple[float, float, float]:
    first, median, third = (
        round(scale * value, digits) for value in (values.first, values.median, values.third)
    )
    return first, median, third


def _table(group: Group) -> Table:
    rows: list[tuple[object, ...]] = []
    for row in group.rows:
        if row.wall is None or row.cpu is None:
            rows.append((row.name, row.note, *[None] * (len(_COLUMNS) - 2)))
            continue
        spread = f"{row.wall[0]:.4g} to {row.wall[2]:.4g}"
        ratio = None if row.times_ours is None else f"{row.times_ours[1]:.2f}"
        error = None if row.error is None else f"{100 * row.error:.3g}"
        figures = (f"{row.wall[1]:.4g}", spread, f"{row.cpu[1]:.4g}", ratio, row.weight_bytes)
        rows.append((row.name, row.how, *figures, error, row.same_class))
    what = "processor time" if group.clock == "cpu" else "time"
    threads = "1 thread" if group.threads == 1 else f"{group.threads} threads"
    notes = (
        f"Times ours: the {what} of a run over ours, the middle of the rounds' ratios; "
        "above 1 we are faster. Error and same class: of the outputs, against float.",
    )
    return Table(f"A run on {threads}", _COLUMNS, tuple(rows), 2, notes)
