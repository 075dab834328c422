"""Accuracy of the integer reference on real models, with the figures the project promises."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.convert.onnx_graph import read_graph
from tvm_shiftadd.convert import ConvertOptions, convert, run_float, run_integer

pytestmark = pytest.mark.data


@dataclass(frozen=True)
class Images:
    """uint8 images and the labels of some of them."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def part(self, places: slice) -> Images:
        return Images(self.pixels[places], self.labels[places])


def cifar(data_dir: Path) -> tuple[Images, Images]:
    with np.load(data_dir / "data/cifar10_train_calib_5k.npz") as file:
        calibration = Images(file["images"], file["labels"])
    with np.load(data_dir / "data/cifar10_test_A.npz") as file:
        return calibration, Images(file["images"], file["labels"].astype(np.int64))


def digits(data_dir: Path) -> tuple[Images, Images]:
    folder = data_dir / "data"
    pixels = gzip.decompress((folder / "mnist_t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / "mnist_t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    images = Images(
        np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28, 1),
        np.frombuffer(labels, np.uint8).astype(np.int64),
    )
    return images.part(slice(0, 1000)), images


def imagenet(data_dir: Path) -> tuple[Images, Images]:
    pytest.importorskip("PIL")
    from PIL import Image

    with zipfile.ZipFile(data_dir / "data/imagenet224_A.zip") as file:
        rows = list(csv.DictReader(io.StringIO(file.read("labels.csv").decode())))
        pixels = [np.asarray(Image.open(io.BytesIO(file.read(row["file"])))) for row in rows]
    labels = np.array([int(row["class_index"]) for row in rows])
    images = Images(np.stack(pixels), labels)
    return images.part(slice(0, 100)), images.part(slice(100, None))


SETS = {"cifar10": cifar, "mlperftiny": cifar, "mnist": digits, "imagenet": imagenet}


@dataclass(frozen=True)
class Measured:
    """Percentages of the images."""

    float_top1: float
    top1: float
    agreement: float
    terms_per_weight: float


def measure(data_dir: Path, model: str, terms: int, limit: int | None = None) -> Measured:
    entries = json.loads((data_dir / "models.json").read_text())
    entry = next(e for e in entries if e["file"] == f"models/{model}.onnx")
    graph = read_graph(data_dir / entry["file"])
    calibration, test = SETS[model.split("_")[0]](data_dir)
    test = test.part(slice(0, limit))
    name, output = graph.inputs[0], graph.outputs[0]

    def batches(pixels: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[np.float32]]]:
        size = max(1, 3_000_000 // pixels[0].size)
        for start in range(0, len(pixels), size):
            yield {name: prepared(entry, pixels[start : start + size])}

    converted = convert(graph, lambda: batches(calibration.pixels), ConvertOptions(terms=terms))
    skipped = entry.get("label_offset", 0)
    wanted, have = [], []
    for feeds in batches(test.pixels):
        size = len(feeds[name])
        scores = run_float(graph, feeds)[output].reshape(size, -1)
        wanted.append(scores[:, skipped:].argmax(1))
        scores = run_integer(graph, converted.plan, feeds)[0][output].reshape(size, -1)
        have.append(scores[:, skipped:].argmax(1))
    original, result = np.concatenate(wanted), np.concatenate(have)
    return Measured(
        100 * float(np.mean(original == test.labels)),
        100 * float(np.mean(result == test.labels)),
        100 * float(np.mean(result == original)),
        converted.report.terms_per_weight,
    )


def prepared(entry: dict[str, Any], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    x = pixels.astype(np.float32) * np.float32(entry.get("scale", 1.0))
    mean, std = entry.get("mean", [0]), entry.get("std", [1])
    return np.asarray((x - np.float32(mean)) / np.float32(std), dtype=np.float32)


def test_lenet_within_three_tenths(data_dir: Path):
    result = measure(data_dir, "mnist_lenet_germanov", 2)
    assert result.float_top1 == pytest.approx(98.26, abs=0.011)
    assert result.top1 >= 98.26 - 0.3
    assert 1 <= result.terms_per_weight <= 2


def test_resnet8_with_one_term_on_a_thousand_images(data_dir: Path):
    result = measure(data_dir, "mlperftiny_ic_resnet8", 1, limit=1000)
    assert result.top1 >= result.float_top1 - 4
    assert result.agreement >= 90
    assert result.terms_per_weight <= 1


@pytest.mark.slow
def test_resnet20_within_one_point(data_dir: Path):
    result = measure(data_dir, "cifar10_akamaster_resnet20", 2)
    assert result.float_top1 == pytest.approx(91.72, abs=0.05)
    assert result.top1 >= 91.72 - 1.0


@pytest.mark.slow
def test_resnet8_within_one_and_a_half_points(data_dir: Path):
    result = measure(data_dir, "mlperftiny_ic_resnet8", 2)
    assert result.float_top1 == pytest.approx(87.08, abs=0.05)
    assert result.top1 >= 87.08 - 1.5


@pytest.mark.slow
def test_mobilenet_v1_agrees_with_float(data_dir: Path):
    assert measure(data_dir, "imagenet_mobilenet_v1_0.25_224", 2).agreement >= 80


@pytest.mark.slow
def test_mobilenet_v2_agrees_with_float(data_dir: Path):
    assert measure(data_dir, "imagenet_mobilenet_v2_1.0_224_qat_dequant", 2).agreement >= 85
