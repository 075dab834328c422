"""The numbers printed in docs/integer-specification.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tvm_shiftadd.formats import adder, codes, packing, reference
from tvm_shiftadd.formats.reciprocal import reciprocal

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "integer-specification.md"


def _table(first_header: str, columns: int, second: str = "") -> list[list[str]]:
    """The rows of the table whose header starts with ``first_header`` and has ``columns``.

    ``second`` is the second header, where two tables start alike.
    """
    rows: list[list[str]] = []
    inside = False
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.replace("\\|", "").strip("|").split("|")]
        start = f"| {first_header} | {second}" if second else f"| {first_header} |"
        if line.startswith(start) and len(cells) == columns:
            inside = True
        elif inside and not line.startswith("|"):
            return rows
        elif inside and not set(line) <= set("|-: "):
            rows.append(cells)
    pytest.fail(f"no table headed {first_header} in {DOCUMENT.name}")


def test_code_table() -> None:
    printed = {}
    for row in _table("code", 4):
        printed[int(row[0])] = row[1]
        printed[int(row[2])] = row[3]
    assert printed.pop(codes.MINUS_ZERO) == "refused"
    assert {code: int(value) for code, value in printed.items()} == {
        code: int(value)
        for code, value in enumerate(codes.DECODE_TABLE)
        if code != codes.MINUS_ZERO
    }


def test_counts_of_representable_values() -> None:
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    sizes = [len(codes.representable(terms)) for terms in (1, 2, 3)]
    limits = [int(codes.representable(terms).max()) for terms in (1, 2, 3)]
    assert "There are {}, {} and {} values.".format(*sizes) in text
    assert "at most {}, {} or {} in magnitude".format(*limits) in text


def test_worked_byte() -> None:
    pair = codes.encode(np.array([[-4], [32]]), 1)
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"the byte is `0x{int(packing.pack(pair)[0, 0, 0]):02X}`" in text


def test_rounding_examples() -> None:
    rows = _table("acc", 4, second="n")
    assert len(rows) >= 5
    for acc, shift, exact, result in rows:
        assert float(exact) == int(acc) / 2 ** int(shift)
        made = reference.requantize(np.array([int(acc)], dtype=np.int32), np.array([int(shift)]))
        assert made.tolist() == [int(result)]


def test_adder_examples() -> None:
    rows = _table("x", 6)
    assert len(rows) >= 5
    for row in rows:
        x, rounded, distance, clipped, left, offset = map(int, row)
        weight, gain = adder.fold_weight(np.array([[rounded]]))
        assert (weight[0, 0], gain[0]) == (clipped, offset)
        assert (abs(x - rounded), abs(x - clipped)) == (distance, left)
        bias = gain.astype(np.int32)
        made = reference.adder_dense(np.array([[x]], dtype=np.int8), weight, bias)
        assert made.tolist() == [[-distance]]


def test_scale_examples() -> None:
    rows = _table("acc", 4, second="f")
    assert len(rows) >= 3
    for acc, printed, factor, result in rows:
        plain = np.array([[int(code)] for code in printed.split(",")], dtype=np.uint8)
        assert codes.decode(plain).tolist() == [int(factor)]
        made = reference.scale(np.array([int(acc)], dtype=np.int32), plain)
        assert made.tolist() == [int(result)]


def test_reciprocals() -> None:
    rows = _table("count", 4)
    assert len(rows) >= 8
    for count, shift, terms, error in rows:
        scale = reciprocal([int(count)])
        printed = tuple(
            (1 if sign == "+" else -1, int(left))
            for sign, left in re.findall(r"([+-])2\^(\d+)", terms)
        )
        assert (scale.shift, scale.terms[int(count)]) == (int(shift), printed)
        exact = float(scale.value(int(count)) * int(count) - 1) * 100
        assert error == (f"{exact:+.3f} %" if exact else "0")
