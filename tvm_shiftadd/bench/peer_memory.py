"""Memory of one network in several runtimes, and the table of several networks."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_shiftadd.bench import memory, peers
from tvm_shiftadd.bench.memory import Memory
from tvm_shiftadd.bench.networks import OURS
from tvm_shiftadd.bench.results import Table
from tvm_shiftadd.bench.work import Array, Work
from tvm_shiftadd.errors import ShiftAddError

if TYPE_CHECKING:
    from tvm_shiftadd.artifact import Artifact

#: Peers whose memory can be measured: the runtime, and the file of Work.
FILES = {
    "onnxruntime": ("onnxruntime", "float_model"),
    "onnxruntime-int8": ("onnxruntime", "qdq_model"),
    "openvino": ("openvino", "float_model"),
    "openvino-int8": ("openvino", "qdq_model"),
}
_MIB = 1 << 20


def measure(
    artifact: Artifact, model: Path | None, feed: Mapping[str, Array], names: Sequence[str]
) -> dict[str, Memory | str]:
    """What a process on one thread grows by to run a network: ours, and ``names`` of the peers.

    ``model``: the ONNX file for the peers, None where there is none. ``feed``: inputs by name. Of
    a peer that fails, what it said; those not installed or not of FILES are left out. Raises
    ModelError where ours fails.
    """
    found: dict[str, Memory | str]
    with tempfile.TemporaryDirectory(prefix="tvm-shiftadd-bench-") as name:
        folder = Path(name)
        artifact.save(folder / "artifact")
        found = {OURS: memory.measure(OURS, folder / "artifact", feed, 1)}
        work = Work(model, None, feed, [feed], folder)
        for peer in names:
            if peer in FILES and peers.PEERS[peer].installed:
                runtime, form = FILES[peer]
                try:
                    found[peer] = memory.measure(runtime, getattr(work, form), feed, 1)
                except ShiftAddError as error:
                    found[peer] = str(error)
    return found


def table(found: Mapping[str, Mapping[str, Memory | str]]) -> Table:
    """Memory of processes, by network and runtime; notes say what failed."""
    names = [name for name in (OURS, *FILES) if any(name in sizes for sizes in found.values())]
    rows, failures = [], []
    for network, sizes in found.items():
        rows.append((network, *(_shown(sizes.get(name)) for name in names)))
        said = {name: size for name, size in sizes.items() if isinstance(size, str)}
        failures += [f"{network}, {name}: {error}." for name, error in said.items()]
    unit = (
        "MiB by which a process grew from the imported runtime on, one thread: at most, loading "
        "included / after three runs."
    )
    return Table("Memory of a process", ("network", *names), tuple(rows), notes=(unit, *failures))


def _shown(size: Memory | str | None) -> str | None:
    if not isinstance(size, Memory):
        return None
    return f"{size.peak / _MIB:.1f} / {size.after / _MIB:.1f}"
