"""Networks that make pictures or boxes: their shift-add output beside their float output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tvm_shiftadd import api
from tvm_shiftadd.convert import run_float

pytestmark = [pytest.mark.data, pytest.mark.slow]

Floats = NDArray[np.float32]


def both(real: Any, calibration: Floats, images: Floats, terms: int) -> Any:
    """Outputs in float and in shift-add form, in the order of the graph's outputs."""
    graph = real.model.graph
    artifact = api.compile(real.model, calibration=calibration, terms=terms)
    wanted, have = [], []
    for start in range(0, len(images), graph.batch or len(images)):
        x = images[start : start + (graph.batch or len(images))]
        floats = run_float(graph, {graph.inputs[0]: x})
        wanted.append([floats[name] for name in graph.outputs])
        result = artifact.run(x)
        have.append(list(result.values()) if isinstance(result, dict) else [result])
    return (
        [np.concatenate(parts) for parts in zip(*wanted, strict=True)],
        [np.concatenate(parts) for parts in zip(*have, strict=True)],
    )


def psnr(wanted: Floats, have: Floats) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1]."""
    error = np.clip(wanted, 0, 1) - np.clip(have, 0, 1)
    return float(-10 * np.log10(np.mean(error.astype(np.float64) ** 2)))


@pytest.mark.parametrize(("terms", "least"), [(1, 36.0), (2, 43.5)])
def test_super_resolution(real_model: Callable[[str], Any], terms: int, least: float) -> None:
    real = real_model("superres_espcn_x3_224")
    (wanted,), (have,) = both(real, real.images(0, 20), real.images(20, 28), terms)
    assert wanted.shape == (8, 1, 672, 672)
    assert psnr(wanted, have) >= least


def set5(folder: Path) -> list[tuple[Floats, Floats]]:
    """Luma of the five pictures, [0, 1]: (a third of the size, whole)."""
    image = pytest.importorskip("PIL.Image")
    pairs = []
    for path in sorted((folder / "data/set5_HR").glob("*.png")):
        luma = image.open(path).convert("YCbCr").getchannel(0)
        width, height = luma.width // 3, luma.height // 3
        whole = luma.crop((0, 0, 3 * width, 3 * height))
        small = whole.resize((width, height), image.Resampling.BICUBIC)
        scale = np.float32(1 / 255)
        pairs.append((np.float32(small) * scale, np.float32(whole) * scale))
    return pairs


def test_super_resolution_of_set5(real_model: Callable[[str], Any], data_dir: Path) -> None:
    pairs = set5(data_dir)
    assert len(pairs) == 5
    # The network takes 224 x 224; the pictures are smaller, and what is added is cut off again.
    padded = [
        np.pad(small, [(0, 224 - size) for size in small.shape], mode="edge") for small, _ in pairs
    ]
    real = real_model("superres_espcn_x3_224")
    images = np.stack(padded)[:, None]
    (wanted,), (have,) = both(real, real.images(0, 20), images, 2)
    quality = []
    for result in (wanted, have):
        own = []
        for picture, (_, whole) in zip(result[:, 0], pairs, strict=True):
            inner = tuple(slice(3, size - 3) for size in whole.shape)
            own.append(psnr(whole[inner], picture[: whole.shape[0], : whole.shape[1]][inner]))
        quality.append(np.mean(own))
    print(f"Set5 x3, PSNR of luma: float {quality[0]:.3f} dB, two terms {quality[1]:.3f} dB")
    assert quality[0] > 29
    assert quality[0] - quality[1] < 0.1


def test_style_transfer(real_model: Callable[[str], Any]) -> None:
    real = real_model("style_transfer_udnie_224")
    (wanted,), (have,) = both(real, real.images(0, 4), real.images(4, 6), 2)
    assert psnr(wanted, have) >= 35.5


def boxes_of(scores: Floats, boxes: Floats, threshold: float = 0.7) -> Floats:
    """Faces of one picture [n, 4]: confident boxes without those that overlap a better one."""
    order = np.argsort(-scores[:, 1])
    order = order[scores[order, 1] > threshold]
    kept: list[Floats] = []
    for index in order:
        if all(overlap(boxes[index], other) < 0.3 for other in kept):
            kept.append(boxes[index])
    return np.array(kept).reshape(-1, 4)


def overlap(a: Floats, b: Floats) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    size = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    common = float(size.prod())
    return common / (float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - common)


def test_face_detection(real_model: Callable[[str], Any]) -> None:
    real = real_model("ultraface_slim_320")
    images = real.images(0, 8)
    (scores, boxes), (shift_scores, shift_boxes) = both(real, images[:4], images[4:], 2)
    found, matched = 0, 0
    for i in range(4):
        faces = boxes_of(scores[i], boxes[i])
        others = boxes_of(shift_scores[i], shift_boxes[i])
        found += max(len(faces), len(others))
        matched += sum(max([overlap(f, o) for o in others], default=0.0) >= 0.7 for f in faces)
    assert found >= 10
    assert matched >= 0.95 * found
