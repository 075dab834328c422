"""Whole networks on the CPU, next to onnxruntime's float32: time of a set of images.

The two are run in turns in one process; figures are medians with quartiles. Times do not depend on
the images, so random ones are used, for the conversion too.

    python benchmarks/networks.py MODEL.onnx ... [--images 100] [--threads 2] [--terms 2]
        [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from timing import interleaved

from tvm_shiftadd import api
from tvm_shiftadd.convert import ConvertOptions
from tvm_shiftadd.target import parse


def measure(path: Path, images: int, threads: int, terms: int, rounds: int) -> dict[str, Any]:
    """One row: milliseconds of both for all images, first quartile, median, third quartile."""
    model = api.load(path)
    name = model.graph.inputs[0]
    batch = model.graph.batch or images
    shape = (batch, *model.graph.shapes[name][1:])
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    conversion = api.convert(model, x[:16], ConvertOptions(terms=terms))
    target = parse({"kind": "llvm", "num_threads": threads})
    artifact = api.build(model, conversion, target=target)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    ours, peer = interleaved([lambda: artifact.run(x), lambda: session.run(None, feed)], rounds)
    return {
        "model": path.stem,
        "images": batch,
        "shift_add_milliseconds": [round(1e3 * seconds, 4) for seconds in ours],
        "onnxruntime_float_milliseconds": [round(1e3 * seconds, 4) for seconds in peer],
        "times_onnxruntime_float": round(ours[1] / peer[1], 3),
    }


def main() -> None:
    """Measure the models and print a table; write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=100, help="a call, where the model is free")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--terms", type=int, default=2, choices=(1, 2, 3))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    print(f"{'model':44}{'images':>8}{'shift-add ms':>14}{'ort f32 ms':>14}{'ratio':>8}")
    rows = []
    for path in arguments.models:
        row = measure(path, arguments.images, arguments.threads, arguments.terms, arguments.rounds)
        rows.append(row)
        ours, peer = row["shift_add_milliseconds"][1], row["onnxruntime_float_milliseconds"][1]
        ratio = row["times_onnxruntime_float"]
        print(f"{row['model']:44}{row['images']:8}{ours:14.2f}{peer:14.2f}{ratio:8.2f}", flush=True)
    if arguments.json:
        report = {"threads": arguments.threads, "terms": arguments.terms, "networks": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
