"""Tables whose host part was altered: read and refused, or made an image; never another error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vta_ext.bare.networks import NAMES, made
from tvm_shiftadd.errors import ProgramError
from vta_ext.bare.make import Named, make
from vta_ext.presets import SMALL
from vta_ext.runtime.regions import Regions
from vta_ext.runtime.stored import TABLE, decode, encode

Table = dict[str, Any]


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    regions = made(SMALL)
    return encode(regions.regions, SMALL, regions.host)


def image(files: dict[str, bytes], table: bytes) -> Named:
    """What ``tvm-shiftadd image`` makes of an artifact's files."""
    config, regions, host = decode({**files, TABLE: table})
    return make(Regions(config, regions, host=host), *NAMES)


def test_the_table_as_it_is(files: dict[str, bytes]) -> None:
    regions = made(SMALL)
    assert decode(files)[2] == regions.host
    assert image(files, files[TABLE]).image == make(regions, *NAMES).image


def step(host: Table, number: int, **changes: Any) -> None:
    """Replace fields of a step; those of its output begin with ``to_``."""
    for name, value in changes.items():
        place = host["steps"][number]
        if name.startswith("to_"):
            place, name = place["output"], name.removeprefix("to_")
        place[name] = value


#: Steps: permute, quantize, dequantize, permute, reshape, dequantize, alias.
CHANGES: dict[str, tuple[Callable[[Table], object], str]] = {
    "unknown source": (lambda h: step(h, 0, source="x"), "'x', which nothing has made"),
    "later source": (lambda h: step(h, 0, source="sums"), "'sums', which nothing has made"),
    "unknown output": (lambda h: h.update(outputs=["nchw", "x"]), "'x', which nothing has made"),
    "no steps": (lambda h: h.update(steps=[]), "which nothing has made"),
    "unread": (lambda h: step(h, 1, to_name="y"), "which nothing has made"),
    "axes beyond": (lambda h: step(h, 0, numbers=[0, 2, 3, 9]), r"\[0, 2, 3, 9\] does not make"),
    "axes missing": (lambda h: step(h, 0, numbers=[0, 2, 1]), "does not make"),
    "axes twice": (lambda h: step(h, 0, numbers=[0, 2, 2, 1]), "does not make"),
    "fewer axes": (
        lambda h: step(h, 0, numbers=[0, 2, 1], to_shape=[18, 5]),
        r"permute of 2 axes makes nhwc of \[3, 6, 5\]",
    ),
    "no exponent": (lambda h: step(h, 1, numbers=[]), "quantize with the numbers"),
    "exponents": (lambda h: step(h, 1, numbers=[4, 4, 4]), "quantize with the numbers"),
    "large exponent": (lambda h: step(h, 1, numbers=[1 << 63]), "quantize with the numbers"),
    "no exponents": (lambda h: step(h, 2, numbers=[]), "dequantize with the numbers"),
    "too few": (lambda h: step(h, 2, numbers=[1, 2, 3]), "dequantize with the numbers"),
    "others": (
        lambda h: step(h, 2, numbers=[1, 2, 3], to_shape=[6, 5, 3]),
        r"dequantize makes sums \[6, 5, 3\] of \[6, 5, 5\]",
    ),
    "numbers": (lambda h: step(h, 4, numbers=[1]), "reshape with the numbers"),
    "negative": (lambda h: step(h, 4, to_shape=[-30, -5]), r"has the shape \[-30, -5\]"),
    "open": (lambda h: step(h, 4, to_shape=[-1, -1, 150]), "of several images"),
    "deep": (lambda h: step(h, 4, to_shape=[1] * 70 + [150]), "has the shape"),
    "no outputs": (lambda h: h.update(outputs=[]), "1 inputs and 0 outputs"),
    "more outputs": (lambda h: h["outputs"].append("gv"), "1 inputs and 3 outputs"),
    "same input": (lambda h: h["inputs"].append(h["inputs"][0]), "two inputs of one name"),
    "more inputs": (
        lambda h: h["inputs"].append({**h["inputs"][0], "name": "more"}),
        "2 inputs and 2 outputs",
    ),
    "huge": (lambda h: h["inputs"][0].update(shape=[1 << 20, 1 << 20]), "150 elements at most"),
    "too huge": (lambda h: h["inputs"][0].update(shape=[1 << 40]), "has the shape"),
    "input's shape": (lambda h: h["inputs"][0].update(shape=[3, 5, 6]), r"of \[5, 6, 3\]"),
    "type": (lambda h: step(h, 1, to_dtype="uint8"), r"uint8\[6, 5, 3\], the program reads int8"),
    "no integers": (lambda h: step(h, 1, to_dtype="float32"), "quantize with the numbers"),
    "no floats": (lambda h: step(h, 2, to_dtype="int8"), "dequantize with the numbers"),
    "quantised": (
        lambda h: step(h, 5, kind="quantize", to_dtype="int8"),
        "gv is not the whole result of the program, dequantised",
    ),
    "same name": (
        lambda h: (step(h, 5, to_name="sums"), step(h, 6, source="sums")),
        "two tensors sums",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_altered_host_parts_are_refused(name: str, files: dict[str, bytes]) -> None:
    change, words = CHANGES[name]
    table = json.loads(files[TABLE])
    change(table["host"])
    with pytest.raises(ProgramError, match=words):
        image(files, json.dumps(table).encode())


def test_operators_of_the_host_may_make_what_is_not_listed(files: dict[str, bytes]) -> None:
    """The items of a tuple, for one: the artifact runs, and is only no image."""
    table = json.loads(files[TABLE])
    split = {"kind": "relax.split", "source": "", "output": {"name": "t", "shape": [], "dtype": ""}}
    table["host"]["steps"].insert(0, split)
    step(table["host"], 1, source="item")
    with pytest.raises(ProgramError, match=r"than the runtime can: relax\.split \(t\)"):
        image(files, json.dumps(table).encode())


def test_any_host_part_is_made_an_image_or_refused(files: dict[str, bytes]) -> None:
    """A few bytes of it replaced."""
    start = files[TABLE].index(b'"host"')

    @given(st.data())
    def alter(data: st.DataObject) -> None:
        table = bytearray(files[TABLE])
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(start, len(table) - 1))
            table[place] = data.draw(st.sampled_from(b'0123456789-,.:[]{}"ax'))
        try:
            found = image(files, bytes(table))
        except ProgramError:
            return
        assert [one.elements for one in found.image.outputs] == [150, 150]

    alter()
