"""Whole networks on the CPU, next to other runtimes, float and int8.

What `tvm-shiftadd bench` and `profile` do, for several models and with one page of results for all;
how it is measured is in docs/benchmarking.md. Times do not depend on the images, so random ones
are used, for the conversion too, which leaves out what only serves accuracy.

    python benchmarks/networks.py MODEL ... [--threads 2 1] [--terms 2] [--kernels auto|shift]
        [--batch 1] [--peers NAMES] [--layers] [--memory] [--results benchmarks/results]

A model is an ONNX file or a checkpoint. `python models/classifiers.py FOLDER` writes models of
well-known shapes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tvm_shiftadd import api
from tvm_shiftadd.artifact import Artifact
from tvm_shiftadd.bench import (
    inputs,
    layer_tables,
    layers,
    machine,
    networks,
    peer_memory,
    peers,
    results,
)
from tvm_shiftadd.bench import memory as memories
from tvm_shiftadd.bench.memory import Memory
from tvm_shiftadd.bench.networks import OURS, Comparison
from tvm_shiftadd.bench.results import Table
from tvm_shiftadd.bench.work import Array
from tvm_shiftadd.convert import Graph
from tvm_shiftadd.errors import InputError, ShiftAddError
from tvm_shiftadd.target import parse, runtime


@dataclass(frozen=True)
class Compiled:
    """A model and its artifact; processor seconds of the conversion and of the rest.

    ``constants``: bytes of the constants as the kernels read them, by the terms of a weight.
    """

    path: Path
    model: api.Model
    artifact: Artifact
    convert_seconds: float
    build_seconds: float
    constants: dict[int, int]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def onnx(self) -> Path | None:
        return self.path if self.path.suffix == ".onnx" else None


def compiled(path: Path, threads: int, arguments: argparse.Namespace) -> Compiled:
    """A model compiled as asked, and with one and two terms for the size of the constants."""
    model = api.load(path)
    random = inputs.random_calibration(model.graph)
    target = parse({"kind": "llvm", "kernels": arguments.kernels})
    taken, artifacts = {}, {}
    for terms in sorted({1, 2, arguments.terms}):
        start = time.process_time()
        conversion = api.convert(model, random, inputs.plain_options(terms))
        converted = time.process_time()
        artifacts[terms] = api.build(model, conversion, target=target)
        taken[terms] = (converted - start, time.process_time() - converted)
    constants = {t: artifact.machine(threads).constant_bytes for t, artifact in artifacts.items()}
    return Compiled(path, model, artifacts[arguments.terms], *taken[arguments.terms], constants)


def measure(one: Compiled, threads: int, arguments: argparse.Namespace) -> Comparison:
    """A model beside its peers. One that fails is a line of this network, and no end of others."""
    batch = None if one.model.graph.batch else arguments.batch
    comparison = networks.bench(
        inputs.task(one.artifact, model=one.model, onnx=one.onnx, batch=batch),
        names=arguments.names,
        threads=(threads,),
        rounds=arguments.rounds,
    )
    return replace(comparison, model=one.name)


def feed_of(one: Compiled, arguments: argparse.Namespace) -> Mapping[str, Array]:
    """Random inputs of a run."""
    return inputs.random_inputs(one.artifact, inputs.batch_size(one.artifact, arguments.batch))


def grown(one: Compiled, arguments: argparse.Namespace) -> dict[str, Memory | str]:
    """What a process grows by to run a model, ours and the chosen peers."""
    feed = feed_of(one, arguments)
    return peer_memory.measure(one.artifact, one.onnx, feed, arguments.names)


def row(one: Compiled, comparison: Comparison) -> dict[str, Any]:
    """One network's medians: milliseconds of ours, and how many times that the others take."""
    (group,) = comparison.groups
    ours, *others = group.rows
    times = {peer.name: None if peer.times_ours is None else peer.times_ours[1] for peer in others}
    taken = ours.cpu if group.clock == "cpu" else ours.wall
    assert taken is not None
    return {
        "model": one.name,
        "batch": comparison.batch,
        "convert_seconds": round(one.convert_seconds, 1),
        "build_seconds": round(one.build_seconds, 1),
        "constant_bytes": one.constants,
        "int8_bytes": int8_bytes(one.model.graph),
        OURS: taken[1],
        "times_ours": times,
    }


def int8_bytes(graph: Graph) -> int:
    """What weights of a byte and biases of four take."""
    arrays = [(node.weight, 1) for node in graph.nodes] + [(node.bias, 4) for node in graph.nodes]
    return sum(size * array.size for array, size in arrays if array is not None)


def summary(rows: list[dict[str, Any]], threads: int, arguments: argparse.Namespace) -> Table:
    """All networks in one table."""
    names = [name for name in peers.PEERS if any(name in row["times_ours"] for row in rows)]
    clock = "processor time" if threads == 1 else "time on the clock"
    lines = []
    for one in rows:
        times = (one["times_ours"].get(name) for name in names)
        shown = (None if ratio is None else f"{ratio:.2f}" for ratio in times)
        seconds = (one["convert_seconds"], one["build_seconds"])
        lines.append((one["model"], one["batch"], one[OURS], *shown, *seconds))
    return Table(
        f"Threads: {threads}, terms: {arguments.terms}, kernels: {arguments.kernels}",
        ("network", "batch", "ours, ms", *names, "convert, s", "build, s"),
        tuple(lines),
        notes=(
            f"Ours: median of the {clock}. The others: how many times as long; why one did not run "
            "is in the network's own table. Convert and build: processor seconds, untuned.",
        ),
    )


def constants(rows: list[dict[str, Any]]) -> Table:
    """The constants of a run beside those of an int8 network."""
    lines = []
    for one in rows:
        int8, figures = one["int8_bytes"], []
        for size in one["constant_bytes"].values():
            figures += [size, f"{size / int8:.2f}"]
        lines.append((one["model"], int8, *figures))
    terms = rows[0]["constant_bytes"]
    columns = [name for count in terms for name in (f"terms: {count}", "of int8")]
    notes = (
        "Bytes: int8 as a byte a weight and four a bias; ours measured, all constants as the "
        "kernels read them.",
    )
    return Table("Constants of a run", ("network", "int8", *columns), tuple(lines), notes=notes)


def write(
    done: list[tuple[Compiled, Comparison]],
    described: machine.Machine,
    grown_by: dict[str, dict[str, Memory | str]],
    threads: int,
    arguments: argparse.Namespace,
) -> None:
    """One number of threads: the page of the networks that are done."""
    rows = [row(one, comparison) for one, comparison in done]
    tables = [summary(rows, threads, arguments), constants(rows)]
    tables += [peer_memory.table(grown_by)] if grown_by else []
    tables += [
        replace(table, title=one.name, notes=())
        for one, comparison in done
        for table in comparison.tables()
    ]
    report = {
        "machine": described.to_dict(),
        "summary": rows,
        "memory": {
            model: {n: s if isinstance(s, str) else asdict(s) for n, s in sizes.items()}
            for model, sizes in grown_by.items()
        },
        "networks": [comparison.to_dict() for _, comparison in done],
    }
    stem = f"networks_{threads}_threads_{arguments.kernels}"
    results.write(arguments.results / stem, "Whole networks", report, tables)


def write_layers(profiles: list[layers.Profile], threads: int, folder: Path) -> None:
    """One number of threads: the page of all networks' layers."""
    tables = [
        replace(table, title=f"{one.model}: {table.title.lower()}")
        for one in profiles
        for table in layer_tables.tables(one)
    ]
    report = {
        "machine": profiles[0].machine.to_dict(),
        "networks": [one.to_dict() for one in profiles],
    }
    results.write(folder / f"layers_{threads}_threads", "Layers", report, tables)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("models", type=Path, nargs="+")
    made.add_argument("--batch", type=int, default=1, help="where the model leaves it free")
    made.add_argument("--threads", type=int, nargs="+", default=[1])
    made.add_argument("--terms", type=int, default=2, choices=(1, 2, 3))
    made.add_argument("--kernels", default="auto", choices=("auto", "shift"))
    made.add_argument("--peers", help="as of tvm-shiftadd bench")
    made.add_argument("--rounds", type=int, default=11)
    made.add_argument("--layers", action="store_true", help="time the layers too")
    made.add_argument("--memory", action="store_true", help="measure processes' memory too")
    made.add_argument("--results", type=Path, help="folder for JSON and Markdown")
    return made


def check(arguments: argparse.Namespace) -> None:
    """What can be known to be wrong before the work. Raises ShiftAddError; sets ``names``."""
    for option in ("rounds", "batch", "threads"):
        given = getattr(arguments, option)
        least = min(given) if isinstance(given, list) else given
        if least < 1:
            raise InputError(f"expected --{option} to be at least 1, got {least}")
    missing = [str(path) for path in arguments.models if not path.exists()]
    if missing:
        raise InputError(f"{missing[0]} does not exist; give an ONNX file or a checkpoint")
    if arguments.memory and not memories.available():
        raise InputError("--memory needs Linux, whose kernel counts a process's resident pages")
    arguments.names, _ = peers.choose(arguments.peers)
    # In falling order: TVM cannot raise the number again.
    arguments.threads = sorted(set(arguments.threads), reverse=True)
    runtime.set_num_threads(arguments.threads[0])
    if arguments.results:
        try:
            arguments.results.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"expected --results to be a folder that can be made, got {arguments.results}: "
                f"{error.strerror}"
            ) from error


def measure_all(arguments: argparse.Namespace) -> None:
    """All models with each number of threads; what is known is written after each."""
    described, counts = machine.describe(), arguments.threads
    models = [compiled(path, counts[0], arguments) for path in arguments.models]
    grown_by = {one.name: grown(one, arguments) for one in models if arguments.memory}
    for threads in counts:
        done, profiles = [], []
        for one in models:
            done.append((one, measure(one, threads, arguments)))
            line = summary([row(*done[-1])], threads, arguments)
            figures = zip(line.columns, map(results.text, line.rows[0]), strict=True)
            print(*(f"{column}: {figure}" for column, figure in figures), sep="  ", flush=True)
            if arguments.results:
                write(done, described, grown_by, threads, arguments)
            if arguments.layers:
                feed = feed_of(one, arguments)
                profile = layers.profile(
                    one.artifact, feed, threads=threads, rounds=arguments.rounds
                )
                profiles.append(replace(profile, model=one.name))
                if arguments.results:
                    write_layers(profiles, threads, arguments.results)


def main() -> None:
    """Measure the models and print a line each; write JSON and Markdown if asked."""
    command = parser()
    arguments = command.parse_args()
    try:
        check(arguments)
        measure_all(arguments)
    except ShiftAddError as error:
        command.error(str(error))


if __name__ == "__main__":
    main()
