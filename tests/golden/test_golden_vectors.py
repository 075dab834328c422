from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden import generate
from tvm_shiftadd.formats import adder, codes, packing, reference

FOLDER = Path(generate.__file__).resolve().parent


def _cases(*names: str) -> list[Any]:
    found = []
    for name in names:
        stored = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        found += [pytest.param(name, one, id=f"{name}-{one['name']}") for one in stored["cases"]]
    return found


def _arrays(stored: dict[str, Any]) -> dict[str, np.ndarray]:
    return {key: generate.unpack_array(value) for key, value in stored.items()}


def _same(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    # Bits, so that -0.0 is not 0.0.
    assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", sorted(generate.FILES))
def test_committed_vectors_are_current(name: str) -> None:
    committed = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert committed == generate.text(name), "run python tests/golden/generate.py"


def test_vectors_stay_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.json")) < 300_000


def test_check_reports_a_stale_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    monkeypatch.setattr(generate, "FILES", {"add": generate.FILES["add"]})
    assert generate.main(["--check"]) == 1
    assert not list(tmp_path.iterdir())
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / "add.json").write_text("{}")
    assert generate.main(["--check"]) == 1


@pytest.mark.parametrize(("name", "stored"), _cases("codes"))
def test_codes_and_packing(name: str, stored: dict[str, Any]) -> None:
    inputs, outputs = _arrays(stored["inputs"]), _arrays(stored["outputs"])
    if "values" in inputs:
        terms = stored["attributes"]["terms"]
        _same(codes.encode(inputs["values"], terms), outputs["codes"])
        _same(codes.decode(outputs["codes"]), inputs["values"])
        _same(codes.representable(terms), inputs["values"])
        return
    _same(packing.pack(inputs["codes"]), outputs["packed"])
    _same(packing.unpack(outputs["packed"], stored["attributes"]["reduction"]), inputs["codes"])
    _same(packing.decode_packed(outputs["packed"], outputs["weight"].shape), outputs["weight"])


@pytest.mark.parametrize(("name", "stored"), _cases("conv2d", "conv2d_transpose", "dense"))
def test_linear_operators(name: str, stored: dict[str, Any]) -> None:
    attributes = dict(stored["attributes"])
    inputs = _arrays(stored["inputs"])
    weight = packing.decode_packed(inputs["codes"], attributes.pop("weight_shape"))
    attributes = {key: _tuple(value) for key, value in attributes.items()}
    actual = getattr(reference, name)(inputs["x"], weight, inputs["bias"], **attributes)
    _same(actual, _arrays(stored["outputs"])["y"])


@pytest.mark.parametrize(("name", "stored"), _cases("fold_weight"))
def test_folded_weights(name: str, stored: dict[str, Any]) -> None:
    weight, offset = adder.fold_weight(**_arrays(stored["inputs"]))
    expected = _arrays(stored["outputs"])
    _same(weight, expected["weight"])
    _same(offset, expected["offset"])


@pytest.mark.parametrize(
    ("name", "stored"),
    _cases(
        "quantize",
        "dequantize",
        "requantize",
        "scale",
        "add",
        "max_pool2d",
        "adder_conv2d",
        "adder_dense",
    ),
)
def test_other_operators(name: str, stored: dict[str, Any]) -> None:
    attributes = {key: _tuple(value) for key, value in stored["attributes"].items()}
    actual = getattr(reference, name)(**_arrays(stored["inputs"]), **attributes)
    _same(actual, _arrays(stored["outputs"])["y"])


@pytest.mark.parametrize(("name", "stored"), _cases("avg_pool2d"))
def test_average_pooling(name: str, stored: dict[str, Any]) -> None:
    attributes = {key: _tuple(value) for key, value in stored["attributes"].items()}
    shift = attributes.pop("reciprocal_shift")
    x = _arrays(stored["inputs"])["x"]
    assert reference.avg_pool_reciprocal(x.shape[1:3], **attributes).shift == shift
    _same(reference.avg_pool2d(x, **attributes), _arrays(stored["outputs"])["y"])


@pytest.mark.parametrize(("name", "stored"), _cases("layout"))
def test_layout_operators(name: str, stored: dict[str, Any]) -> None:
    attributes = {key: _tuple(value) for key, value in stored["attributes"].items()}
    inputs = _arrays(stored["inputs"])
    expected = _arrays(stored["outputs"])["y"]
    operator = getattr(reference, stored["name"])
    if stored["name"] == "concat":
        _same(operator(list(inputs.values()), **attributes), expected)
    else:
        _same(operator(inputs["x"], **attributes), expected)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
