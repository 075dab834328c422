"""Whole networks on the CPU, next to onnxruntime and OpenVINO, float and int8.

What `tvm-shiftadd bench` does, for several models and with one page of results; how it is measured
is in docs/benchmarking.md. Times do not depend on the images, so random ones are used, for the
conversion too, which leaves out what only serves accuracy.

    python benchmarks/networks.py MODEL.onnx ... [--batch 1] [--threads 1] [--terms 2]
        [--kernels auto|shift] [--peers NAMES] [--results benchmarks/results]

`python models/classifiers.py FOLDER` writes models of well-known shapes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from tvm_shiftadd import api
from tvm_shiftadd.bench import inputs, machine, networks, peers, results
from tvm_shiftadd.bench.networks import OURS, Comparison
from tvm_shiftadd.bench.results import Table
from tvm_shiftadd.target import parse, runtime


def measure(path: Path, arguments: argparse.Namespace) -> tuple[Comparison, float]:
    """A model's comparison, and the processor seconds that building it took."""
    model = api.load(path)
    conversion = api.convert(
        model, inputs.random_calibration(model.graph), inputs.plain_options(arguments.terms)
    )
    start = time.process_time()
    target = parse({"kind": "llvm", "kernels": arguments.kernels})
    artifact = api.build(model, conversion, target=target)
    seconds = time.process_time() - start
    batch = None if model.graph.batch else arguments.batch
    names, asked = peers.choose(arguments.peers)
    comparison = networks.bench(
        inputs.task(artifact, model=model, onnx=path, batch=batch),
        names=names,
        asked=asked,
        threads=(arguments.threads,),
        rounds=arguments.rounds,
    )
    return comparison, seconds


def row(comparison: Comparison, seconds: float) -> dict[str, Any]:
    """One network's medians: milliseconds of ours, and how many times that the others take."""
    (group,) = comparison.groups
    ours, *others = group.rows
    times = {peer.name: None if peer.times_ours is None else peer.times_ours[1] for peer in others}
    taken = ours.cpu if group.clock == "cpu" else ours.wall
    assert taken is not None
    return {
        "model": Path(comparison.model).stem,
        "batch": comparison.batch,
        "build_seconds": round(seconds, 1),
        OURS: taken[1],
        "times_ours": times,
    }


def summary(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> Table:
    """All networks in one table."""
    names = list(rows[0]["times_ours"])
    clock = "processor time" if arguments.threads == 1 else "time on the clock"
    return Table(
        f"Threads: {arguments.threads}, terms: {arguments.terms}, kernels: {arguments.kernels}",
        ("network", "batch", "ours, ms", *names, "build, s"),
        tuple(
            (
                row["model"],
                row["batch"],
                row[OURS],
                *row["times_ours"].values(),
                row["build_seconds"],
            )
            for row in rows
        ),
        notes=(f"Ours: median of the {clock}. The others: how many times as long.",),
    )


def main() -> None:
    """Measure the models and print a table; write JSON and Markdown if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--batch", type=int, default=1, help="where the model leaves it free")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--terms", type=int, default=2, choices=(1, 2, 3))
    parser.add_argument("--kernels", default="auto", choices=("auto", "shift"))
    parser.add_argument("--peers", help="separated by commas; default: all that are installed")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--results", type=Path, help="folder for JSON and Markdown")
    arguments = parser.parse_args()
    runtime.set_num_threads(arguments.threads)
    described = machine.describe()
    rows, comparisons = [], []
    for path in arguments.models:
        comparison, seconds = measure(path, arguments)
        comparisons.append(comparison)
        rows.append(row(comparison, seconds))
        table = summary(rows, arguments)
        print(*("  ".join(map(results.text, line)) for line in table.rows[-1:]), flush=True)
    if arguments.results:
        arguments.results.mkdir(parents=True, exist_ok=True)
        tables = [summary(rows, arguments)]
        for one in comparisons:
            for table in one.tables():
                tables.append(Table(one.model, table.columns, table.rows, table.right))
        report = {
            "machine": described.to_dict(),
            "summary": rows,
            "networks": [one.to_dict() for one in comparisons],
        }
        stem = f"networks_{arguments.threads}_threads_{arguments.kernels}"
        results.write(arguments.results / stem, "Whole networks", report, tables)


if __name__ == "__main__":
    main()
