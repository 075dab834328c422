"""Options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tvm_shiftadd.errors import InputError, ModelError

#: The environment variable that may hold a server's key.
KEY_VARIABLE: Final = "TVM_SHIFTADD_KEY"

_debug = False


def reset() -> None:
    """Forget the ``--debug`` of an earlier call in the same process."""
    _set_debug(False)


def debug() -> bool:
    """Whether ``--debug`` was given."""
    return _debug


def _set_debug(value: bool) -> bool:
    global _debug
    _debug = value
    return value


@dataclass(frozen=True)
class TermChoice:
    """What a call says about terms: K, or "auto" within limits."""

    terms: int | str
    budget: str | None = None
    max_drop: float | None = None
    grain: str | None = None
    frontier: Path | None = None

    def check(self) -> None:
        """Refuse what does not go together, before minutes of work.

        Raises InputError, and DependencyError where a picture is wanted without matplotlib.
        """
        from tvm_shiftadd.cli import frontier
        from tvm_shiftadd.convert import ConvertOptions

        ConvertOptions.choose(**self.arguments())
        if self.frontier is not None:
            frontier.check(self.frontier)

    def arguments(self) -> dict[str, Any]:
        """For ``api.compile`` and ``api.evaluate``."""
        return {**asdict(self), "frontier": self.frontier is not None}


@dataclass(frozen=True)
class ModelChoice:
    """What a call says about the model: its file, and what that leaves open."""

    path: Path
    shapes: tuple[str, ...] = ()
    weights: str | None = None

    def load(self) -> Any:
        """The imported model. Raises InputError for a shape that is none, and ModelError."""
        from tvm_shiftadd import api

        return api.load(self.path, shape=shape_of(self.shapes), weights=self.weights)

    def check_exists(self) -> None:
        """Raise ModelError where there is neither a model nor an artifact."""
        if not self.path.exists():
            raise ModelError(
                f"{self.path} does not exist; give an ONNX file, a checkpoint or an artifact"
            )

    def refuse_for_artifact(self) -> None:
        """Raise InputError where what only a model has is said of an artifact."""
        if self.shapes or self.weights:
            raise InputError(
                f"--shape and --weights are for models; {self.path} is an artifact, whose shapes "
                "and weights are settled"
            )


@dataclass(frozen=True)
class DeviceOptions:
    """What a call says about the device of an accelerator's artifact."""

    device: str | None = None
    time_limit: float | None = None
    rpc: str | None = None
    key: str | None = None

    def choice(self) -> Any:
        """A ``DeviceChoice``, or None where nothing was said. Raises InputError.

        A server's key may come from the environment, which is set for a whole shell: where no
        server is named, it says nothing.
        """
        if self.key is not None and self.rpc is None:
            raise InputError("--key is for --rpc HOST:PORT, the server it belongs to")
        if self == DeviceOptions():
            return None
        from tvm_shiftadd.target import DeviceChoice

        key = self.key
        if key is None and self.rpc is not None:
            key = os.environ.get(KEY_VARIABLE)
        return DeviceChoice(self.device or "", self.time_limit, self.rpc, key)


def shape_of(texts: Sequence[str]) -> tuple[int, ...] | dict[str, tuple[int, ...]] | None:
    """Shapes of ``--shape 1,3,224,224`` or of several ``--shape NAME=...``; InputError."""
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        if not re.fullmatch(r"(-1|[0-9]{1,9})(,[0-9]{1,9})*", sizes) or name in found:
            raise InputError(
                "expected --shape NAME=SIZES once for each input, or --shape SIZES for the only "
                f"one, with sizes such as -1,3,224,224, got {text!r}"
            )
        found[name] = tuple(int(size) for size in sizes.split(","))
    if "" not in found:
        return found or None
    if len(found) > 1:
        raise InputError("expected a name in every --shape where there are several")
    return found[""]


def terms_of(text: str) -> int | str:
    """K of ``--terms``, or "auto"; raises :class:`InputError` for anything else."""
    if text in ("1", "2", "3"):
        return int(text)
    if text == "auto":
        return text
    raise InputError(f"expected --terms 1, 2, 3 or auto, got {text!r}")


ModelOrArtifact = Annotated[Path, typer.Argument(help="An ONNX file, a checkpoint or an artifact.")]
ArtifactDirectory = Annotated[Path, typer.Argument(help="An artifact directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", callback=_set_debug, is_eager=True, help="Show the traceback of an error."
    ),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        help="Shape of an input that the model leaves open: 1,3,224,224, or NAME=1,3,224,224 for "
        "each of several; -1 first keeps the batch open.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="How a checkpoint's weights are to be read where its keys do not tell: "
        "deepshift-q, apot-2 to apot-5.",
    ),
]
Target = Annotated[
    str,
    typer.Option(
        "--target",
        help="cpu, cpu:generic, cpu:aarch64 (for another machine), cuda, cuda:ARCH such as "
        "cuda:sm_90 (NVIDIA GPUs), vta (the accelerator), "
        "vta:MACHINE with a preset's name or a JSON file of parameters, or a target's JSON file.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Where the accelerator's part runs: sim (the functional simulator, the default), "
        "timing (the same, and counts cycles), rtl (the hardware, simulated; needs the extra rtl), "
        "serial:PORT[,BAUD] (a board; needs the extra boards), pynq:OVERLAY.bit (this Zynq board).",
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option("--time-limit", help="Seconds that the device may take for one program."),
]
Rpc = Annotated[
    str | None,
    typer.Option("--rpc", help="HOST:PORT of tvm-shiftadd serve, whose device runs it instead."),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key", help=f"The key that the server of --rpc printed; default: ${KEY_VARIABLE}."
    ),
]
Terms = Annotated[
    str,
    typer.Option("--terms", help="Most terms of a weight: 1, 2, 3, or auto: where they count."),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="With --terms auto: terms=MEAN a weight (default 1.3), bytes=N of packed weights, "
        "energy=MICROJOULES of terms an inference, or cycles=N of the accelerator.",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        help="With --terms auto, instead of a budget: points of top-1 that may be lost. Without "
        "labels it is held by disagreement with the float network on held-out calibration images.",
    ),
]
Grain = Annotated[
    str | None,
    typer.Option(
        "--grain",
        help="What gets its own number of terms: layer, tile (16 x 16 weights) or weight. "
        "Default: weight for terms and energy, tile for cycles, layer for bytes.",
    ),
]
Frontier = Annotated[
    Path | None,
    typer.Option(
        "--frontier",
        help="With --terms auto: convert at other budgets too and write cost and agreement to "
        "this .json, .csv or .png.",
    ),
]
Spec = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        help="JSON file or text with any of scale, mean, std, bgr, grey, resize, reshape, "
        "label_offset, batch.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Also write OUTPUT.json and OUTPUT.md."),
]
Calib = Annotated[
    Path | None,
    typer.Option("--calib", help="Images to calibrate on: .npz, idx .gz, .zip or a folder."),
]
CalibLimit = Annotated[
    int | None, typer.Option("--calib-limit", help="Calibrate on the first N images only.")
]
