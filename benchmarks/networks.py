"""Whole networks on the CPU, next to onnxruntime's float32 and int8.

All run in turns in one process; figures are medians with quartiles. The peers' int8 models are
made as onnxruntime's documentation recommends: shape inference and optimisation first, then static
quantisation, weights int8 a channel, activations uint8, once as QuantizeLinear/DequantizeLinear
pairs (QDQ) and once as quantised operators. Times do not depend on the images, so random ones are
used, for the conversion too, which leaves out what only serves accuracy.

    python benchmarks/networks.py MODEL.onnx ... [--batch 1] [--threads 1] [--terms 2]
        [--kernels auto|shift] [--results benchmarks/results]

With one thread, processor time is measured, which other programs disturb least; with more,
time on the clock. `python models/classifiers.py FOLDER` writes models of well-known shapes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from timing import in_blocks, machine

from tvm_shiftadd import api
from tvm_shiftadd.convert import ConvertOptions
from tvm_shiftadd.target import parse

Images = NDArray[np.float32]
FORMATS = {"onnxruntime int8 QDQ": QuantFormat.QDQ, "onnxruntime int8 ops": QuantFormat.QOperator}
PLAIN = {"compensation": False, "bias_correction": False, "equalize": False, "fold": False}


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """Four random batches."""

    def __init__(self, name: str, images: Images) -> None:
        rng = np.random.default_rng(1)
        shape = images.shape
        self._feeds = iter([{name: rng.standard_normal(shape, dtype=np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, Images] | None:
        return next(self._feeds, None)


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU with so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def peers(path: Path, images: Images, threads: int, folder: Path) -> dict[str, Callable[[], Any]]:
    """Runs of the model as it is and of its quantised forms, which are written to ``folder``."""
    sessions = {"onnxruntime float32": session(path, threads)}
    name = sessions["onnxruntime float32"].get_inputs()[0].name
    prepared = folder / "prepared.onnx"
    quant_pre_process(str(path), str(prepared))
    for label, form in FORMATS.items():
        quantized = folder / f"{form.name}.onnx"
        quantize_static(
            str(prepared),
            str(quantized),
            _Images(name, images),
            quant_format=form,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        sessions[label] = session(quantized, threads)
    return {
        label: (lambda made=made: made.run(None, {name: images}))
        for label, made in sessions.items()
    }


def measure(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: milliseconds of all, first quartile, median, third quartile, and ratios to ours."""
    model = api.load(path)
    name = model.graph.inputs[0]
    shape = (model.graph.batch or arguments.batch, *model.graph.shapes[name][1:])
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    conversion = api.convert(model, images, ConvertOptions(terms=arguments.terms, **PLAIN))
    fields = {"num_threads": arguments.threads, "kernels": arguments.kernels}
    start = time.process_time()
    artifact = api.build(model, conversion, target=parse({"kind": "llvm", **fields}))
    build_seconds = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        runs = {"shift-add": lambda: artifact.run(images)}
        runs |= peers(path, images, arguments.threads, Path(folder))
        times = in_blocks(runs, arguments.rounds, processor_time=arguments.threads == 1)
    ours = times["shift-add"][1]
    return {
        "model": path.stem,
        "batch": shape[0],
        "build_seconds": round(build_seconds, 1),
        "milliseconds": {k: [round(1e3 * s, 4) for s in v] for k, v in times.items()},
        "times_shift_add": {k: round(v[1] / ours, 3) for k, v in times.items() if v[1] != ours},
    }


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    names = list(report["networks"][0]["milliseconds"])
    clock = "processor time" if report["threads"] == 1 else "time on the clock"
    lines = [
        f"{report['machine']}; {report['threads']} thread(s), {clock}; "
        f"{report['terms']} terms a weight at most, kernels {report['kernels']}; "
        f"onnxruntime {report['onnxruntime']}.",
        "Milliseconds of a call, median (quartiles); in brackets, how many times ours.",
        "",
        "| network | batch | " + " | ".join(names) + " | build s |",
        "|---|---:|" + "---:|" * (len(names) + 1),
    ]
    for row in report["networks"]:
        cells = []
        for name in names:
            low, median, high = row["milliseconds"][name]
            ratio = row["times_shift_add"].get(name)
            times = "" if ratio is None else f" [{ratio:.2f}x]"
            cells.append(f"{median:.3f} ({low:.3f}-{high:.3f}){times}")
        cells.append(str(row["build_seconds"]))
        lines.append(f"| {row['model']} | {row['batch']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the models and print a table; write JSON and Markdown if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--batch", type=int, default=1, help="where the model leaves it free")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--terms", type=int, default=2, choices=(1, 2, 3))
    parser.add_argument("--kernels", default="auto", choices=("auto", "shift"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, help="folder for JSON and Markdown")
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "machine": machine(),
        "threads": arguments.threads,
        "terms": arguments.terms,
        "kernels": arguments.kernels,
        "onnxruntime": onnxruntime.__version__,
        "networks": [],
    }
    for path in arguments.models:
        report["networks"].append(measure(path, arguments))
        print(table(report).splitlines()[-1], flush=True)
    if arguments.results:
        arguments.results.mkdir(parents=True, exist_ok=True)
        stem = f"networks_{arguments.threads}_threads_{arguments.kernels}"
        content = json.dumps(report, indent=2) + "\n"
        (arguments.results / f"{stem}.json").write_text(content, encoding="utf-8")
        (arguments.results / f"{stem}.md").write_text(table(report), encoding="utf-8")


if __name__ == "__main__":
    main()
