"""Where a compiled network's time goes: each kernel call, and how near it is to what bounds it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd import _runtime
from tvm_shiftadd.bench import machine as machines
from tvm_shiftadd.bench import peaks as measured
from tvm_shiftadd.bench.peaks import Peaks
from tvm_shiftadd.bench.timing import PAUSE, Quartiles
from tvm_shiftadd.convert.feeds import silent
from tvm_shiftadd.target import host, parse

if TYPE_CHECKING:
    from tvm_shiftadd.artifact import Artifact

Array = NDArray[Any]
Bound = Literal["compute", "memory", "overhead"]
Progress = Callable[[str, int, int], None]

#: Runs that make one sample, at most, and seconds for them.
_BLOCK, _SECONDS = 20, 0.2


@dataclass(frozen=True)
class Call:
    """One kernel call.

    layers: the network's layers it computes, none where it only brings ``result`` into another
    form. instruction: what stands for shifts, "" for real shifts and on the host. seconds:
    quartiles. work: multiply-accumulates, or shifts of activations where they are real ones; 0
    where neither is counted. bytes: of all operands and results, once each. bound: what takes
    longest at the machine's peaks, ``least`` seconds of it.
    """

    kernel: str
    result: str
    layers: tuple[str, ...]
    operators: tuple[str, ...]
    instruction: str
    seconds: tuple[float, float, float]
    work: int
    bytes: int
    of_peak: float | None = None
    of_bandwidth: float = 0.0
    bound: Bound = "overhead"
    least: float = 0.0

    @property
    def name(self) -> str:
        """The call by its layers' names."""
        return " + ".join(self.layers) or f"{self.result} (form)"


@dataclass(frozen=True)
class Profile:
    """A network's calls in the order of their running.

    seconds_in_calls: of all calls of a run, the median; seconds: quartiles of whole runs.
    """

    model: str
    batch: int
    target: Mapping[str, Any]
    rounds: int
    machine: machines.Machine
    peaks: tuple[Peaks, ...]
    calls: tuple[Call, ...]
    seconds_in_calls: float
    seconds: tuple[float, float, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def profile(
    artifact: Artifact,
    feed: Mapping[str, Array],
    *,
    threads: int = 1,
    rounds: int = 11,
    progress: Progress = silent,
) -> Profile:
    """Time each kernel call of an artifact, and measure what the machine can do.

    ``feed``: inputs by name. The kernels are called where the virtual machine would call them,
    with what it would give them, and timed one by one; whole runs are timed in turns with those.
    Raises DataError for wrong inputs, InputError for a number of threads that cannot be set,
    ArtifactError where the library cannot be used here.
    """
    arrays = _runtime.check_inputs(artifact.inputs, feed)
    described = machines.describe()
    _runtime.check_processor(artifact.manifest)
    target = host(parse(artifact.manifest.target.asked or "cpu"))
    progress("peaks", 0, 1)
    peaks = measured.measure(target, threads)
    machine = artifact.machine(threads)
    watched = _Watched(machine, arrays)
    whole: list[float] = []
    samples: list[list[float]] = []
    totals: list[float] = []
    for turn in range(rounds):
        progress("time", turn, rounds)
        time.sleep(PAUSE)
        whole.append(_median_run(machine, arrays))
        taken, total = watched.sample()
        samples.append(taken)
        totals.append(total)
    progress("time", rounds, rounds)
    batch = arrays[0].shape[0]
    calls = _calls(artifact, watched, np.array(samples), batch, peaks[0])
    return Profile(
        model=artifact.manifest.source.name,
        batch=batch,
        target=dict(artifact.manifest.target.attributes),
        rounds=rounds,
        machine=described,
        peaks=peaks,
        calls=calls,
        seconds_in_calls=float(np.median(totals)),
        seconds=_triple(whole),
    )


class _Watched:
    """A machine's kernel calls: their names, the bytes they touch, and samples of their times."""

    def __init__(self, machine: _runtime.Machine, arrays: Sequence[Array]) -> None:
        self._machine, self._arrays = machine, arrays
        self.kernels: list[str] = []
        self.bytes: list[int] = []
        self._times: list[float] = []
        self._run(self._note)

    def _run(self, instrument: Callable[..., int]) -> None:
        self._machine.watch(instrument)
        try:
            self._machine(self._arrays)
        finally:
            self._machine.watch(None)

    def _note(self, _function: Any, name: str, before: bool, _result: Any, *arguments: Any) -> int:
        if before and _is_kernel(name):
            self.kernels.append(str(name))
            tensors = (value for value in arguments if hasattr(value, "dtype"))
            self.bytes.append(sum(map(_runtime.tensor_bytes, tensors)))
        return 0

    def _time(self, function: Any, name: str, before: bool, _result: Any, *arguments: Any) -> int:
        if not before or not _is_kernel(name):
            return 0
        # Called here rather than by the machine: what an instrument's own call costs would
        # otherwise be between the two readings of the clock.
        begun = time.perf_counter()
        function(*arguments)
        self._times.append(time.perf_counter() - begun)
        return 1

    def sample(self) -> tuple[list[float], float]:
        """Seconds of each call and of all calls of a run, medians of several runs."""
        runs: list[list[float]] = []
        end = time.perf_counter() + _SECONDS
        while not runs or (len(runs) < _BLOCK and time.perf_counter() < end):
            self._times = []
            self._run(self._time)
            runs.append(self._times)
        # The first of several brings threads and data back.
        rows = np.array(runs[1:] or runs)
        calls = [float(value) for value in np.median(rows, axis=0)]
        return calls, float(np.median(rows.sum(axis=1)))


def _is_kernel(name: str) -> bool:
    """Whether a called function is a kernel of the network, which writes its last argument.

    The rest is built in, and may return what the virtual machine needs.
    """
    return "." not in name and not name.startswith("shape_func")


def _median_run(machine: _runtime.Machine, arrays: Sequence[Array]) -> float:
    taken: list[float] = []
    end = time.perf_counter() + _SECONDS
    machine(arrays)
    while not taken or (len(taken) < _BLOCK and time.perf_counter() < end):
        begun = time.perf_counter()
        machine(arrays)
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken))


def _calls(
    artifact: Artifact, watched: _Watched, samples: Any, batch: int, peaks: Peaks
) -> tuple[Call, ...]:
    """The calls with the layers that were recorded for them when the network was compiled."""
    records = _aligned(watched.kernels, artifact.report.get("calls", []))
    costs = {cost["name"]: cost for cost in artifact.report.get("costs", {}).get("layers", [])}
    known = {*costs, *(info.name for info in artifact.inputs)}
    calls = []
    for number, (kernel, record) in enumerate(zip(watched.kernels, records, strict=True)):
        operators, instruction = record.get("operators", []), record.get("computed_by", "")
        work = sum(
            _work(costs[name], instruction)
            for name, operator in zip(record.get("layers", []), operators, strict=True)
            # Not of what follows a layer under its name, with a suffix.
            if name in costs and operator.endswith(f".{costs[name]['op']}")
        )
        call = Call(
            kernel=kernel,
            result=_layers([record.get("result", kernel)], known)[0],
            layers=_layers(record.get("layers", [kernel]), known),
            operators=tuple(operators),
            instruction=instruction,
            seconds=_triple(samples[:, number]),
            work=batch * work,
            bytes=watched.bytes[number],
        )
        calls.append(_bounded(call, peaks))
    return tuple(calls)


def _aligned(
    kernels: Sequence[str], records: Sequence[Mapping[str, Any]]
) -> Iterable[Mapping[str, Any]]:
    """The record of each call, an empty one where there is none."""
    at = 0
    for kernel in kernels:
        if at < len(records) and records[at]["kernel"] == kernel:
            yield records[at]
            at += 1
        else:
            yield {}


def _layers(names: Iterable[str], known: Set[str]) -> tuple[str, ...]:
    """The network's own names: what the passes made of them has a suffix more."""
    found: dict[str, None] = {}
    for name in names:
        short = name
        while short not in known and "." in short:
            short = short.rpartition(".")[0]
        found[short if short in known else name] = None
    return tuple(found)


def _work(cost: Mapping[str, Any], instruction: str) -> int:
    """Multiply-accumulates, or without an instruction for them the shifts by weights' terms."""
    macs, weights = cost["macs"] or 0, cost["weights"]
    if not weights:
        return 0
    return macs if instruction else cost["terms"] * macs // weights


def _bounded(call: Call, peaks: Peaks) -> Call:
    peak = peaks.macs if call.instruction else peaks.shift_adds
    seconds = max(call.seconds[1], 1e-9)
    least: dict[Bound, float] = {
        "compute": call.work / peak if peak else 0.0,
        "memory": call.bytes / peaks.reading(call.bytes),
        "overhead": peaks.call,
    }
    bound = max(least, key=lambda name: least[name])
    return replace(
        call,
        of_peak=least["compute"] / seconds if call.work and peak else None,
        of_bandwidth=least["memory"] / seconds,
        bound=bound,
        least=least[bound],
    )


def _triple(samples: Any) -> tuple[float, float, float]:
    found = Quartiles.of(list(samples))
    return found.first, found.median, found.third
