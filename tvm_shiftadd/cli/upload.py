"""``tvm-shiftadd deploy ARTIFACT``: onto a board, with a first run beside the simulator's."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_shiftadd.cli import feeds, options, output
from tvm_shiftadd.errors import DeviceError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tvm_shiftadd.artifact import Artifact
    from vta_ext.boards import Board


@dataclass(frozen=True)
class Config:
    """What a call says about the board and what is run on it."""

    artifact: Path
    inputs: Path | None
    port: str | None
    time_limit: float | None
    rpc: str | None
    key: str | None


@dataclass(frozen=True)
class Result:
    """What was sent, and what the first run took.

    ``program_bytes``: of the board's memory. ``upload_seconds``, ``run_seconds``: of this process,
    transfers included. ``counted``: the hardware's counters, over ``images``. ``clock_mhz``: of the
    board. Results were those of the functional simulator, bit for bit, or there is no result.
    """

    board: str
    device: str
    model: str
    images: int
    program_bytes: int
    upload_seconds: float
    run_seconds: float
    clock_mhz: int
    counted: dict[str, int]

    @property
    def milliseconds(self) -> float | None:
        """Of the accelerator, an image; None where the device counts no cycles."""
        cycles = self.counted.get("cycles")
        return None if cycles is None else cycles / self.images / self.clock_mhz / 1000

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "milliseconds": self.milliseconds, "equal": True}


def upload(board: Board, config: Config) -> Result:
    """Send an artifact's programs to ``board``, run them, and compare with the simulator.

    Raises InputError where it is not said where the board is, for an artifact of another machine,
    and for a port that the board does not have; DeviceError where the board is not reached, and
    where its results differ.
    """
    from tvm_shiftadd.artifact import Artifact

    choice = _choice(board, config)
    artifact = Artifact.load(config.artifact)
    if artifact.regions is None or artifact.regions.config != board.config:
        machine = artifact.manifest.target.attributes.get("machine", artifact.manifest.target.kind)
        raise InputError(
            f"{config.artifact} is made for {machine}, not for the machine of {board.name}: "
            f"compile it with --target vta:{board.name}"
        )
    given = _given(artifact, config.inputs)
    with output.progress() as progress:
        progress("upload", 0, 3)
        started = time.perf_counter()
        artifact.connect(choice)
        sent = time.perf_counter()
        progress("run", 1, 3)
        found = artifact.run(given)
        ended = time.perf_counter()
        counted = dict(artifact.counted)
        progress("simulate", 2, 3)
        artifact.connect("sim")
        wanted = artifact.run(given)
        progress("done", 3, 3)
    _compare(board, wanted, found)
    programs = [region.program for region in artifact.regions.regions]
    return Result(
        board=board.name,
        device=choice.rpc or choice.name,
        model=artifact.manifest.source.name,
        images=len(next(iter(given.values()))),
        program_bytes=sum(program.dram_bytes for program in programs),
        upload_seconds=sent - started,
        run_seconds=ended - sent,
        clock_mhz=board.clock_mhz,
        counted=counted,
    )


def _choice(board: Board, config: Config) -> Any:
    """The ``DeviceChoice`` of a call."""
    if (config.port is None) == (config.rpc is None):
        raise InputError(
            "say where the board is, with one of --port DEVICE[,BAUD], its serial port here, and "
            "--rpc HOST:PORT, a tvm-shiftadd serve that has it"
        )
    if config.port is not None and not board.baud:
        raise InputError(
            f"{board.name} has no serial link: on the board run tvm-shiftadd serve {board.name} "
            "--device pynq:OVERLAY.bit, and name it here with --rpc"
        )
    device = None if config.port is None else f"serial:{config.port}"
    return options.DeviceOptions(device, config.time_limit, config.rpc, config.key).choice()


def _given(artifact: Artifact, path: Path | None) -> dict[str, Any]:
    """The arrays of the file, or one random image."""
    from tvm_shiftadd.bench import inputs

    if path is not None:
        return feeds.read(artifact, path)
    return inputs.random_inputs(artifact, inputs.batch_size(artifact, None))


def _compare(board: Board, wanted: Any, found: Any) -> None:
    """Raise DeviceError unless two results are equal."""
    import numpy as np

    def named(result: Any) -> Mapping[str, Any]:
        return result if isinstance(result, dict) else {"the result": result}

    for name, expected in named(wanted).items():
        different = int(np.count_nonzero(named(found)[name] != expected))
        if different:
            raise DeviceError(
                f"{board.name} computes something else than the functional simulator: {different} "
                f"of {expected.size} values of {name} differ; is it configured with this version's "
                "bitstream, and its clock met?"
            )
