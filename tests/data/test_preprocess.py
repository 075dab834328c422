from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_shiftadd.data import Preprocess
from tvm_shiftadd.errors import DataError, InputError


def by_definition(spec: dict[str, Any], images: np.ndarray) -> np.ndarray:
    """(x * scale - mean) / std, channels first, as the models' baselines were measured."""
    if spec.get("bgr"):
        images = images[..., ::-1]
    x = images.astype(np.float32) * np.float32(spec.get("scale", 1.0))
    mean = np.array(spec.get("mean", [0]), np.float32)
    std = np.array(spec.get("std", [1]), np.float32)
    return ((x - mean) / std).transpose(0, 3, 1, 2)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 3]),
    st.fixed_dictionaries(
        {},
        optional={
            "scale": st.floats(-2, 2, width=32),
            "mean": st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=1),
            "std": st.lists(st.floats(0.125, 200, width=32), min_size=1, max_size=1),
            "bgr": st.booleans(),
        },
    ),
)
def test_is_the_definition_bit_by_bit(seed: int, channels: int, spec: dict[str, Any]) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (2, 5, 4, channels), np.uint8)
    result = Preprocess(**spec).apply(images)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, by_definition(spec, images))


def test_one_mean_for_each_channel() -> None:
    images = np.full((1, 2, 2, 3), 255, np.uint8)
    spec = {"scale": 1 / 255, "mean": (0.5, 0.25, 0.0), "std": (0.5, 0.5, 2.0)}
    result = Preprocess(**spec).apply(images)
    np.testing.assert_allclose(result[0, :, 0, 0], [1.0, 1.5, 0.5], rtol=1e-6)


def test_bgr_reverses_the_channels() -> None:
    images = np.array([[[[1, 2, 3]]]], np.uint8)
    assert Preprocess(bgr=True).apply(images).ravel().tolist() == [3, 2, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_is_pillows(channels: int) -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (9, 7, channels), np.uint8)
    plane = image[..., 0] if channels == 1 else image
    expected = np.asarray(Image.fromarray(plane).resize((4, 4), Image.Resampling.BILINEAR))
    result = Preprocess(resize=4).apply(image[None])
    np.testing.assert_array_equal(result[0].transpose(1, 2, 0), expected.reshape(4, 4, channels))


def test_resize_takes_height_and_width() -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((5, 4), Image.Resampling.BILINEAR))
    result = Preprocess.parse('{"resize": [4, 5]}').apply(image[None])
    np.testing.assert_array_equal(result[0].transpose(1, 2, 0), expected)


def test_grey_is_the_luminance() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 6, 5, 3), np.uint8)
    result = Preprocess(grey=True).apply(image)
    assert result.shape == (1, 1, 6, 5)
    expected = image[0] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(result[0, 0], expected, atol=0.51)
    assert np.array_equal(Preprocess(grey=True).apply(image[..., :1]), image[..., 0][:, None])


def test_grey_leaves_nothing_to_reverse() -> None:
    with pytest.raises(InputError, match="grey"):
        Preprocess(grey=True, bgr=True)


def test_reshape_follows_the_channels_first_order() -> None:
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    result = Preprocess(reshape=(12,)).apply(images)
    assert result.shape == (1, 12)
    assert result[0, :4].tolist() == [0, 3, 6, 9]


def test_features_are_scaled_by_channel() -> None:
    x = np.ones((2, 3, 2, 2), np.float32)
    result = Preprocess(mean=(1.0, 2.0, 3.0)).apply(x)
    assert result.shape == x.shape
    assert result[0, :, 0, 0].tolist() == [0, -1, -2]


def test_parse_takes_text_file_or_nothing(tmp_path: Path) -> None:
    expected = Preprocess(scale=0.5, mean=(1.0, 2.0, 3.0), label_offset=1)
    text = '{"scale": 0.5, "mean": [1, 2, 3], "label_offset": 1}'
    file = tmp_path / "spec.json"
    file.write_text(text)
    assert Preprocess.parse(text) == Preprocess.parse(file) == expected
    assert Preprocess.parse(None) == Preprocess()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"scales": 1}', "the keys are scale, mean, std, bgr"),
        ('{"scale": "big"}', "scale"),
        ('{"scale": 1', "not usable"),
        ('{"std": [0]}', "std must not be zero"),
        ('{"mean": []}', "not be empty"),
        ('{"batch": 0}', "batch"),
        ('{"resize": 100000}', "resize"),
        ('{"label_offset": -1}', "label_offset"),
        ("{" * 100_000, "not usable"),
        ("no-such-file.json", r"no-such-file\.json"),
    ],
)
def test_bad_specification(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Preprocess.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"mean": (1.0, 2.0)}, "mean has 2 numbers, the data 3 channels"),
        ({"reshape": (5,)}, "cannot reshape"),
    ],
)
def test_specification_that_does_not_fit(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        Preprocess(**spec).apply(np.zeros((1, 2, 2, 3), np.uint8))


def test_features_are_no_images() -> None:
    with pytest.raises(DataError, match="uint8 images"):
        Preprocess(bgr=True).apply(np.zeros((1, 3, 2, 2), np.float32))
