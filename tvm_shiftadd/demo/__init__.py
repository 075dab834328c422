"""``tvm-shiftadd demo``: a small network, converted and compiled while one looks on."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

#: Where the demo leaves its files, in the current directory.
DIRECTORY = Path("tvm-shiftadd-demo")

TERMS = 2


def run(console: Console | None = None, *, directory: Path = DIRECTORY) -> dict[str, Any]:
    """Convert, compile and measure the shipped network; tell the story on ``console``.

    Needs no download. Leaves the network, its images and the artifact in ``directory``. Returns the
    figures as plain values: ``artifact``, ``weight``, ``evaluation``, ``costs``. Without a console
    it prints to standard output; hand in a quiet one to print nothing.

    Raises DependencyError without scikit-learn, InputError where ``directory`` cannot be written.
    """
    from rich.console import Console

    from tvm_shiftadd import api
    from tvm_shiftadd.convert import ConvertOptions
    from tvm_shiftadd.demo import digits, show
    from tvm_shiftadd.demo.weight import pick
    from tvm_shiftadd.evaluation import compare

    console = console or Console()
    train, test = digits.datasets()
    path = digits.write_files(directory, train, test)
    show.heading(
        console,
        1,
        "The network",
        "It reads handwritten digits of 8 x 8 pixels and was trained in float. "
        f"Converting it takes {len(train):,} sample images without their labels, no "
        "training, and some seconds.",
    )
    with console.status("importing the network") as status:

        def progress(phase: str, done: int, total: int) -> None:
            status.update(f"{phase} {done}/{total}" if total else phase)

        model = api.load(path)
        conversion = api.convert(model, train, ConvertOptions(terms=TERMS), progress)
        artifact = api.build(model, conversion, progress=progress)
        artifact.save(directory / "digits")
        result = compare(artifact, model.graph, test, progress)
    costs = artifact.report["costs"]
    show.network(console, costs)
    one = pick(conversion.scaled, artifact)
    show.heading(
        console,
        2,
        "One weight, from float to shifts",
        f"Layer {one.layer}, {one.where()}. Every weight goes this way.",
    )
    show.weight(console, one)
    show.heading(
        console,
        3,
        "Does it still read?",
        f"{result.n} images, used neither to train the network nor to convert it:",
    )
    show.accuracy(console, result)
    show.heading(
        console, 4, "What it costs", "Every multiplication by a weight became shifts and additions."
    )
    show.energy(console, costs)
    show.heading(console, 5, "Your turn", "It runs without the model file, from here on.")
    show.next_steps(console, directory / "digits", _commands(directory))
    return {
        "artifact": str(directory / "digits"),
        "weight": asdict(one) | {"after": one.after, "powers": one.as_powers()},
        "evaluation": result.to_dict(),
        "costs": costs,
    }


def _commands(directory: Path) -> list[tuple[str, str]]:
    """Commands to type next, each with its purpose."""
    from tvm_shiftadd.demo.digits import NETWORK, TEST, TRAIN

    tool = _tool()
    artifact, model, test, train = (
        shlex.quote(str(directory / name)) for name in ("digits", NETWORK, TEST, TRAIN)
    )
    return [
        (f"{tool} report {artifact}", "the error and the cost of every layer, and all assumptions"),
        (f"{tool} eval {artifact} --data {test}", "the compiled network once more"),
        (
            f"{tool} eval {model} --data {test} --calib {train} --terms 1",
            "one power of two for each weight",
        ),
        (f"{tool} explain {model}", "any network of yours: what would be converted, what not, why"),
    ]


def _tool() -> str:
    """How to call the command line from here."""
    if shutil.which("tvm-shiftadd"):
        return "tvm-shiftadd"
    beside = Path(sys.executable).with_name("tvm-shiftadd")
    if not beside.is_file():
        return f"{shlex.quote(sys.executable)} -m tvm_shiftadd.cli"
    relative = os.path.relpath(beside)
    return shlex.quote(str(beside) if relative.startswith("..") else relative)
