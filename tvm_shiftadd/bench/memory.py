"""Memory that a process takes to load a network and run it, a process for each runtime.

Linux only: the kernel counts a process's resident pages and their peak.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tvm_shiftadd import _json
from tvm_shiftadd.bench.work import Array, Run
from tvm_shiftadd.errors import InputError, ModelError

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
#: What the kernel takes as: the peak begins anew.
_RESET_PEAK = "5"
_RUNS = 3


@dataclass(frozen=True)
class Memory:
    """Bytes by which a process grew from the imported runtime on.

    peak: at most, loading included; after: when some runs are over.
    """

    peak: int
    after: int


def available() -> bool:
    """Whether this system can tell."""
    return _STATUS.exists() and _CLEAR.exists()


def measure(runtime: str, network: Path, feed: Mapping[str, Array], threads: int) -> Memory:
    """The memory of a network in ``runtime``, of RUNTIMES, in a process of its own.

    ``network``: an ONNX file, or for "shift-add" an artifact's folder. Its pages of code count
    where the runs touch them. Raises InputError for another runtime, ModelError with the last line
    of what the process said where it fails.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"expected a runtime of {', '.join(RUNTIMES)}, got {runtime!r}")
    with tempfile.TemporaryDirectory(prefix="tvm-shiftadd-memory-") as folder:
        arrays = Path(folder) / "feed.npz"
        np.savez(arrays, **feed)  # type: ignore[arg-type]
        command = [sys.executable, "-m", __name__, runtime, str(network), str(arrays), str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
        raise ModelError(f"{runtime} could not run {network.name}: {said[-1]}")
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def _artifact(path: Path, threads: int) -> Callable[[Mapping[str, Array]], Run]:
    # What the first run would import.
    from tvm import relax  # noqa: F401

    from tvm_shiftadd.artifact import Artifact
    from tvm_shiftadd.target import batch, cpu, runtime  # noqa: F401

    def load(feed: Mapping[str, Array]) -> Run:
        artifact = Artifact.load(path)
        machine = artifact.machine(threads)
        arrays = [feed[info.name] for info in artifact.inputs]
        return lambda: machine(arrays)

    return load


def _onnxruntime(path: Path, threads: int) -> Callable[[Mapping[str, Array]], Run]:
    import onnxruntime  # noqa: F401

    from tvm_shiftadd.bench.onnx_peers import onnxruntime_run

    return lambda feed: onnxruntime_run(path, feed, threads)


def _openvino(path: Path, threads: int) -> Callable[[Mapping[str, Array]], Run]:
    import openvino  # noqa: F401

    from tvm_shiftadd.bench.onnx_peers import openvino_run

    return lambda feed: openvino_run(path, feed, threads)


#: What imports a runtime and gives what loads a network into it.
RUNTIMES = {"shift-add": _artifact, "onnxruntime": _onnxruntime, "openvino": _openvino}


def main(runtime: str, network: str, arrays: str, threads: str) -> None:
    """The process: import, note the memory, load, run, print what it grew by."""
    load = RUNTIMES[runtime](Path(network), int(threads))
    with np.load(arrays) as stored:
        feed = dict(stored)
    _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    before = _resident("VmRSS")
    run = load(feed)
    for _ in range(_RUNS):
        run()
    after = _resident("VmRSS")
    # The kernel sums the pages of threads up now and then: the peak may lag behind.
    grown = Memory(max(_resident("VmHWM"), after) - before, after - before)
    sys.stdout.write(_json.encode(asdict(grown)).decode() + "\n")


def _resident(name: str) -> int:
    """A line of the process's status, in bytes; the kernel gives kB."""
    lines = dict(
        line.split(":", 1)
        for line in _STATUS.read_text(encoding="ascii").splitlines()
        if ":" in line
    )
    return int(lines[name].split()[0]) << 10


if __name__ == "__main__":
    main(*sys.argv[1:])
