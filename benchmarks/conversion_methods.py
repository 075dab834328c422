"""Post-training conversions side by side: accuracy of the same networks on the same images.

Every method rounds the weights of all layers, none uses labels, and all get the same 8-bit
activations with power-of-two scales. The methods of others are written here from their
descriptions:

- ``int8``, ``int4``: uniform, symmetric, one real scale a channel with the least squared error;
- ``DeepShift``: each weight to the nearest power of two in the logarithm, exponents -14 to 0, no
  scale (Elhoushi et al., DeepShift, 2019, without its training);
- ``ShiftCNN``: weights normalised by the layer's largest, N = 2 terms of B = 4 bits, each the
  residual's nearest power of two (Gudovskiy and Rigazio, ShiftCNN, 2017);
- ``nearest``: our codes and per-channel power-of-two scales, each weight rounded by itself;
- ``ours``: what ``tvm-shiftadd compile`` does, executed in integers by the reference.

    python benchmarks/conversion_methods.py DATA_FOLDER [--models resnet20 resnet8]
        [--calibration 1024] [--skip N] [--limit N] [--only-ours] [--json FILE] [--markdown FILE]

With --skip, other images of the calibration file: how much the choice of images changes.
DATA_FOLDER holds models.json, models/ and data/ as the tests use them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd import api
from tvm_shiftadd.convert import ConvertOptions, Graph, Storage, run_float, run_integer, stored
from tvm_shiftadd.convert.calibrate import calibrate
from tvm_shiftadd.convert.operators import run_node
from tvm_shiftadd.data import Dataset, Preprocess, open_dataset
from tvm_shiftadd.formats import codes
from tvm_shiftadd.formats.ranges import activation_range

Floats = NDArray[np.float32]
Rounding = Callable[[Floats], Floats]

MODELS = {
    "resnet20": "cifar10_akamaster_resnet20",
    "resnet8": "mlperftiny_ic_resnet8",
    "lenet": "mnist_lenet_germanov",
    "mobilenet_v1": "imagenet_mobilenet_v1_0.25_224",
    "mobilenet_v2": "imagenet_mobilenet_v2_1.0_224_qat_dequant",
}
#: Where the calibration images are, if not in front of the measured ones of the same file.
CALIBRATION = {"data/cifar10_test_A.npz": "data/cifar10_train_calib_5k.npz"}
#: Images in front that are for calibration only. MNIST's are measured too: it has no other file.
SKIPPED = {"data/imagenet224_A.zip": 100}
#: Of a normal distribution, for intervals of 95 %.
Z = 1.96


def uniform(bits: int) -> Rounding:
    """Symmetric integers with the scale of least squared error among 80, one an output channel."""
    top = 2 ** (bits - 1) - 1

    def rounded(weight: Floats) -> Floats:
        flat = weight.reshape(-1, weight.shape[-1])
        largest = np.maximum(np.abs(flat).max(axis=0), 1e-30)
        best, error = np.zeros_like(flat), np.full(flat.shape[1], np.inf)
        for part in np.linspace(0.2, 1, 80, dtype=np.float32):
            scale = part * largest / top
            tried = np.clip(np.rint(flat / scale), -top, top) * scale
            missed = np.square(tried - flat).sum(axis=0)
            best = np.where(missed < error, tried, best)
            error = np.minimum(missed, error)
        return best.reshape(weight.shape)

    return rounded


def deepshift(weight: Floats) -> Floats:
    """sign * 2^round(log2 |w|), exponents -14 to 0; what is exactly zero stays zero."""
    with np.errstate(divide="ignore"):
        exponent = np.clip(np.rint(np.log2(np.abs(weight))), -14, 0)
    return np.where(weight == 0, 0, np.copysign(np.exp2(exponent), weight)).astype(np.float32)


def shiftcnn(weight: Floats, terms: int = 2, bits: int = 4) -> Floats:
    """Greedy: each term is the power of two nearest to what the terms before left over."""
    largest = float(np.abs(weight).max()) or 1.0
    left = weight / largest
    total = np.zeros_like(left)
    for term in range(1, terms + 1):
        # Code word n of term t is 2^(1 - n - t), and zero is a code word.
        powers = [0.0, *(2.0 ** (1 - n - term) for n in range(1, 2 ** (bits - 1)))]
        words = np.array(sorted({s * p for p in powers for s in (1, -1)}), dtype=np.float32)
        borders = (words[1:] + words[:-1]) / 2
        nearest = words[np.searchsorted(borders, left)]
        total += nearest
        left = left - nearest
    return (total * largest).astype(np.float32)


def nearest(terms: int) -> Rounding:
    """The project's codes without compensation: least squared error over power-of-two scales."""
    levels = codes.representable(terms).astype(np.float32)
    borders = (levels[1:] + levels[:-1]) / 2

    def rounded(weight: Floats) -> Floats:
        flat = weight.reshape(-1, weight.shape[-1])
        largest = np.maximum(np.abs(flat).max(axis=0), 1e-30)
        covering = np.floor(np.log2(levels[-1] / largest))
        best, error = np.zeros_like(flat), np.full(flat.shape[1], np.inf)
        for finer in range(-1, 4):
            scale = np.exp2(covering + finer).astype(np.float32)
            tried = levels[np.searchsorted(borders, flat * scale)] / scale
            missed = np.square(tried - flat).sum(axis=0)
            best = np.where(missed < error, tried, best)
            error = np.minimum(missed, error)
        return best.reshape(weight.shape)

    return rounded


ROUNDINGS: Mapping[str, tuple[str, Rounding]] = {
    "float weights": ("32 bits", lambda weight: weight),
    "int8": ("8 bits", uniform(8)),
    "int4": ("4 bits", uniform(4)),
    "DeepShift": ("1 term", deepshift),
    "ShiftCNN": ("2 terms", shiftcnn),
    "nearest, 1 term": ("1 term", nearest(1)),
    "nearest, 2 terms": ("2 terms", nearest(2)),
}
OURS = {"ours, 1 term": 1, "ours, 2 terms": 2}


@dataclass(frozen=True)
class Row:
    """One method on one network; percent, with half the width of the interval of 95 %."""

    model: str
    method: str
    weights: str
    images: int
    top1: float
    top1_interval: float
    agreement: float
    agreement_interval: float


def interval(percent: float, images: int) -> float:
    """Half the width of Wilson's interval of 95 %, in percent."""
    p = percent / 100
    spread = Z * math.sqrt(p * (1 - p) / images + Z**2 / (4 * images**2))
    return 100 * spread / (1 + Z**2 / images)


def classes(
    run: Callable[[dict[str, Floats]], Mapping[str, Any]], graph: Graph, data: Dataset
) -> NDArray[np.int64]:
    """The class named for each image."""
    found = []
    for x in data.batches():
        scores = np.asarray(run({graph.inputs[0]: x})[graph.outputs[0]]).reshape(len(x), -1)
        found.append(scores[:, data.preprocess.label_offset :].argmax(axis=1))
    return np.concatenate(found)


def run_with_stored_tensors(
    graph: Graph, storage: Storage, exponents: Mapping[str, int], feeds: dict[str, Floats]
) -> dict[str, Floats]:
    """The float network with its stored tensors rounded to 8 bits on their power-of-two scales."""

    def kept(tensor: str, values: Floats) -> Floats:
        if tensor not in exponents:
            return values
        scale = np.float32(2.0 ** exponents[tensor])
        ends = activation_range(storage.dtype(tensor))
        return np.asarray(np.clip(np.rint(values * scale), *ends) / scale)

    live = {tensor: kept(tensor, values) for tensor, values in feeds.items()}
    readers = {tensor: len(nodes) for tensor, nodes in graph.consumers().items()}
    for node in graph.nodes:
        inputs = [live[tensor] for tensor in node.inputs]
        live[node.output] = kept(node.output, run_node(node, inputs, graph))
        for tensor in node.inputs:
            readers[tensor] -= 1
            if not readers[tensor] and tensor not in graph.outputs:
                live.pop(tensor, None)
    return {tensor: live[tensor] for tensor in graph.outputs}


def measure(
    name: str, model: api.Model, calibration: Dataset, data: Dataset, only_ours: bool = False
) -> Iterator[Row]:
    """All methods on one network, or ours alone."""
    graph = model.graph
    wanted = classes(lambda feeds: run_float(graph, feeds), graph, data)
    assert data.labels is not None
    labels = data.labels

    def row(method: str, weights: str, found: NDArray[np.int64]) -> Row:
        top1 = 100 * float(np.mean(found == labels))
        same = 100 * float(np.mean(found == wanted))
        size = len(labels)
        return Row(
            name, method, weights, size, top1, interval(top1, size), same, interval(same, size)
        )

    yield row("float", "32 bits", wanted)

    def batches() -> Iterator[dict[str, Floats]]:
        return ({graph.inputs[0]: x} for x in calibration.batches(graph.batch))

    storage = stored(graph)
    exponents = calibrate(graph, storage, batches)
    for method, (weights, rounding) in () if only_ours else ROUNDINGS.items():
        changed = replace(graph, nodes=tuple(_rounded(node, rounding) for node in graph.nodes))
        found = classes(
            lambda feeds, g=changed: run_with_stored_tensors(g, storage, exponents, feeds),
            graph,
            data,
        )
        yield row(method, weights, found)
    for method, terms in OURS.items():
        plan = api.convert(model, calibration, ConvertOptions(terms=terms)).plan
        found = classes(lambda feeds, p=plan: run_integer(graph, p, feeds)[0], graph, data)
        yield row(method, f"{terms} term{'s' * (terms > 1)}", found)


def _rounded(node: Any, rounding: Rounding) -> Any:
    return node if node.weight is None else replace(node, weight=rounding(node.weight))


def table(rows: Sequence[Row]) -> str:
    """Markdown, a block for each network."""
    lines = ["| network | method | weights | top-1, % | agreement, % |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.model} | {row.method} | {row.weights} | {row.top1:.2f} ± {row.top1_interval:.2f} "
        f"| {row.agreement:.2f} ± {row.agreement_interval:.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print; write JSON and Markdown if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of models and data")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--calibration", type=int, default=1024, help="images, at most")
    parser.add_argument("--skip", type=int, default=0, help="calibration images left out in front")
    parser.add_argument("--limit", type=int, help="images measured, at most")
    parser.add_argument("--only-ours", action="store_true", help="without the other methods")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    entries = {e["file"]: e for e in json.loads((arguments.data / "models.json").read_text())}
    rows: list[Row] = []
    for name in arguments.models:
        entry = entries[f"models/{MODELS[name]}.onnx"]
        keys = {key: entry[key] for key in Preprocess.__struct_fields__ if key in entry}
        preprocess = Preprocess.parse(json.dumps(keys))
        skipped = SKIPPED.get(entry["data"], 0)
        source = CALIBRATION.get(entry["data"], entry["data"])
        most = min(arguments.calibration, skipped or arguments.calibration)
        calibration = open_dataset(arguments.data / source, preprocess).subset(arguments.skip, most)
        data = open_dataset(arguments.data / entry["data"], preprocess)
        data = data.subset(skipped, arguments.limit)
        model = api.load(arguments.data / entry["file"])
        for row in measure(name, model, calibration, data, arguments.only_ours):
            rows.append(row)
            print(table([row]).splitlines()[-1], flush=True)
    if arguments.json:
        report = {"calibration": arguments.calibration, "rows": [vars(row) for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
