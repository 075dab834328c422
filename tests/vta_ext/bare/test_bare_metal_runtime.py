"""The C runtime: numbers, whole networks on a simulated machine, and every error."""

from __future__ import annotations

import ctypes
import platform
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vta_ext.bare.networks import NAMES, expected, made
from tests.vta_ext.bare.runtime import (
    FOLDER,
    SOURCES,
    Board,
    CTensor,
    Runtime,
    compiled,
    library,
    name,
    opened,
    tool,
)
from tests.vta_ext.programs import TINY
from tvm_shiftadd.formats import reference
from vta_ext.bare.image import Image
from vta_ext.bare.layout import TYPES
from vta_ext.bare.make import c_header, make
from vta_ext.presets import SHIFT, SMALL
from vta_ext.rtl.map import Register

FLOATS = st.integers(0, (1 << 32) - 1).map(lambda bits: np.uint32(bits).view(np.float32))
#: A machine that takes two images at once.
PAIRS = replace(SMALL, log_batch=1)
NEAR = st.integers(-1100, 1100).map(lambda n: np.float32(n / 4))


@pytest.fixture(scope="module")
def image() -> Image:
    return make(made(SMALL), *NAMES).image


def images(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).normal(0, 4, (count, 3, 6, 5)).astype(np.float32)


@given(st.one_of(FLOATS, NEAR), st.integers(-64, 64), st.sampled_from(("int8", "uint8")))
def test_floats_to_integers(value: np.float32, exponent: int, dtype: str) -> None:
    """Of any bits, and of values around a half of the last place."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.ldexp(value, -exponent)
    for one in (value, scaled):
        wanted = reference.quantize(np.array([one], np.float32), exponent, dtype)
        bits = int(np.float32(one).view(np.uint32))
        found = library().shiftadd_quantize(bits, exponent, TYPES[dtype])
        assert found == wanted[0]


@given(
    st.one_of(st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-(1 << 26), 1 << 26)),
    st.integers(-64, 64),
)
def test_integers_to_floats(value: int, exponent: int) -> None:
    wanted = reference.dequantize(np.array([value], np.int32), np.array([exponent], np.int32))
    found = library().shiftadd_dequantize(value, exponent)
    assert found == wanted[0].view(np.uint32)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("config", [SHIFT, SMALL, PAIRS], ids=["shift", "small", "pairs"])
def test_a_network(config: Any, dtype: str) -> None:
    """Arranged and permuted inputs, outputs of 8 and 32 bits, several images: bit for bit."""
    regions = made(config, dtype)
    found = make(regions, *NAMES).image
    board = Board(config)
    runtime = opened(found, board)
    x = images(2 * config.batch)
    wanted = expected(regions, x)
    for start in range(0, len(x), config.batch):
        for number in range(config.batch):
            assert runtime.write(0, x[start + number], number) == "OK"
        assert runtime.run() == "OK"
        for number in range(config.batch):
            for output, result in enumerate(wanted):
                got = runtime.read(output, result.shape[1], number)
                np.testing.assert_array_equal(
                    got.view(np.uint32), result[start + number].view(np.uint32)
                )
    assert (board.arena[found.arena_bytes :] == 0xEE).all()


def test_integers_in_and_out(image: Image) -> None:
    """What is quantised already gives the same, and integers are those before scaling."""
    board = Board(SMALL)
    runtime = opened(image, board)
    x = images(1)[0]
    runtime.write(0, x)
    arena = board.arena.copy()
    stored = reference.quantize(x, image.inputs[0].exponent)
    runtime.write(0, np.zeros_like(x))
    assert not np.array_equal(board.arena, arena)
    assert runtime.write_stored(0, stored) == "OK"
    np.testing.assert_array_equal(board.arena, arena)
    runtime.run()
    for number, output in enumerate(image.outputs):
        integers = runtime.read_stored(number, output.elements)
        exponents = np.zeros(output.elements, np.int32)
        height, width, channels = output.shape
        for c in range(channels):
            rows = np.arange(height)[:, None] * output.strides[0]
            places = rows + np.arange(width) * output.strides[1] + c * output.strides[2]
            exponents[places] = output.exponents[c]
        wanted = reference.dequantize(integers, exponents)
        np.testing.assert_array_equal(runtime.read(number, output.elements), wanted)


def test_what_a_network_is(image: Image) -> None:
    runtime = opened(image, Board(SMALL))
    lib, network = library(), ctypes.byref(runtime.network)
    assert (lib.shiftadd_inputs(network), lib.shiftadd_outputs(network)) == (1, 2)
    assert lib.shiftadd_batch(network) == SMALL.batch
    tensor = CTensor()
    assert runtime.call("input", 0, ctypes.byref(tensor)) == "OK"
    assert (tensor.elements, tensor.type, tensor.exponent) == (90, TYPES["int8"], 4)
    assert runtime.call("output", 0, ctypes.byref(tensor)) == "OK"
    assert (tensor.elements, tensor.type, tensor.exponent) == (150, TYPES["int32"], 3)
    assert runtime.call("input", 1, ctypes.byref(tensor)) == "BAD_ARGUMENT"
    assert runtime.call("output", 2, ctypes.byref(tensor)) == "BAD_ARGUMENT"
    runtime.board.registers[Register.CYCLES] = 1234
    assert lib.shiftadd_cycles(network) == 1234


def test_barriers_cover_what_changes(image: Image) -> None:
    """The whole arena once, then the maps that are written and read."""
    board = Board(SMALL)
    runtime = opened(image, board)
    assert board.barriers == [(0, image.arena_bytes, 1)]
    before = board.arena.copy()
    runtime.write(0, images(1)[0])
    _, (start, size, to_machine) = board.barriers
    changed = np.flatnonzero(board.arena != before)
    assert start == image.ports[0].offset
    assert start <= changed.min() and changed.max() < start + size
    assert to_machine == 1
    runtime.run()
    runtime.read(0, 150)
    lanes = -(-5 // SMALL.block) * SMALL.block
    assert board.barriers[2:] == [(image.outputs[0].offset, 30 * lanes * 4, 0)]


def altered(image: Image, number: int, value: int) -> bytes:
    """The image with a word of its header replaced; the CRC stays."""
    data = bytearray(image.to_bytes())
    data[4 * number : 4 * number + 4] = value.to_bytes(4, "little")
    return bytes(data)


def test_images_that_are_refused(image: Image) -> None:
    whole = image.to_bytes()
    cases = {
        b"": "TRUNCATED",
        whole[:67]: "TRUNCATED",
        whole[:-1]: "TRUNCATED",
        altered(image, 0, 0): "NOT_AN_IMAGE",
        altered(image, 1, 0): "NOT_AN_IMAGE",
        altered(image, 2, 2): "WRONG_VERSION",
        altered(image, 3, 67): "BAD_LAYOUT",
        altered(image, 4, 0): "WRONG_CRC",
        whole[:-1] + bytes([whole[-1] ^ 1]): "WRONG_CRC",
    }
    for data, status in cases.items():
        board = Board(SMALL)
        assert Runtime(data, board).status == status
        assert (board.arena == 0xEE).all()
    # Flash is longer than the image.
    assert Runtime(whole + bytes(100), Board(SMALL)).status == "OK"


def test_machines_that_are_refused(image: Image) -> None:
    data = image.to_bytes()
    for register, value, status in (
        (Register.IDENTITY, 0, "NO_MACHINE"),
        (Register.HASH_LOW, 0, "WRONG_MACHINE"),
        (Register.HASH_HIGH, 0, "WRONG_MACHINE"),
        (Register.CONTROL, 1, "BUSY"),
    ):
        board = Board(SMALL)
        board.registers[register] = value
        assert Runtime(data, board).status == status
        assert (board.arena == 0xEE).all()


def test_arenas_that_are_refused(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    data = image.to_bytes()
    assert Runtime(data, Board(SMALL, image.arena_bytes)).status == "OK"
    assert Runtime(data, Board(SMALL, image.arena_bytes - 1)).status == "BAD_ARENA"
    last = (1 << 32) - image.arena_bytes
    for address, status in ((128, "BAD_ARENA"), (last, "OK"), (last + 256, "BAD_ARENA")):
        monkeypatch.setattr(Board, "ADDRESS", address)
        assert Runtime(data, Board(SMALL)).status == status


def test_wrong_arguments(image: Image) -> None:
    runtime = opened(image, Board(SMALL))
    x = images(1)[0]
    before = runtime.board.arena.copy()
    assert runtime.write(1, x) == "BAD_ARGUMENT"
    assert runtime.write(0, x, image=1) == "BAD_ARGUMENT"
    assert runtime.write(0, x[:2]) == "BAD_ARGUMENT"
    assert runtime.call("write", 0, 0, None, ctypes.c_size_t(90)) == "BAD_ARGUMENT"
    assert runtime.call("read", 0, 0, None, ctypes.c_size_t(150)) == "BAD_ARGUMENT"
    values = (ctypes.c_float * 150)()
    for output, number, size in ((2, 0, 150), (0, 1, 150), (0, 0, 149)):
        found = runtime.call("read", output, number, values, ctypes.c_size_t(size))
        assert found == "BAD_ARGUMENT"
    np.testing.assert_array_equal(runtime.board.arena, before)
    closed = Runtime(b"", Board(SMALL))
    assert closed.run() == "BAD_ARGUMENT"
    assert closed.write(0, x) == "BAD_ARGUMENT"
    assert library().shiftadd_cycles(ctypes.byref(closed.network)) == 0


def test_a_time_limit(image: Image) -> None:
    """Also where the clock wraps meanwhile; a machine that still runs is not started again."""
    board = Board(SMALL)
    runtime = opened(image, board)
    runtime.write(0, images(1)[0])
    board.ticks, board.stuck = (1 << 31) - 50, True
    assert runtime.run(limit=(1 << 31)) == "TIMEOUT"
    assert runtime.run() == "BUSY"
    board.registers[Register.CONTROL], board.stuck = 0, False
    assert runtime.run() == "OK"


def test_memory_that_refuses_an_access(image: Image) -> None:
    board = Board(SMALL)
    runtime = opened(image, board)
    runtime.write(0, images(1)[0])
    board.refused = True
    assert runtime.run() == "MEMORY_REFUSED"
    board.refused = False
    assert runtime.run() == "OK"


def test_statuses_are_documented() -> None:
    page = (FOLDER.parents[1] / "docs" / "bare-metal.md").read_text()
    count = 13
    names = [name(number) for number in range(count)]
    assert name(count) == "UNKNOWN" and len(set(names)) == count
    documented = re.findall(r"^\| `SHIFTADD_([A-Z_]+)` \|", page, re.MULTILINE)
    assert documented == names


@pytest.mark.parametrize("standard", ["c99", "c11"])
def test_it_compiles_for_bare_metal(standard: str, tmp_path: Path) -> None:
    """Freestanding, strictly; it needs nothing but memcpy and memset, and keeps no state.

    Nor does it touch a register of floats, which a processor may lack or not have switched on.
    """
    linker, lister = tool("ld"), tool("nm")
    # Distributions may have switched on what calls functions of theirs.
    flags = ["-ffreestanding", "-Os", "-c", f"-std={standard}"]
    flags += ["-U_FORTIFY_SOURCE", "-fno-stack-protector"]
    if platform.machine() in ("x86_64", "aarch64"):
        flags.append("-mgeneral-regs-only")
    for source in SOURCES:
        compiled(tmp_path / f"{source.stem}.o", [source], *flags)
    linked = tmp_path / "all.o"
    parts = sorted(tmp_path.glob("shiftadd*.o"))
    subprocess.run([linker, "-r", *map(str, parts), "-o", str(linked)], check=True)
    symbols = subprocess.run([lister, str(linked)], capture_output=True, text=True, check=True)
    kinds = [line.split()[-2:] for line in symbols.stdout.splitlines()]
    assert {symbol for kind, symbol in kinds if kind == "U"} <= {"memcpy", "memset"}
    assert "shiftadd_open" in {symbol for kind, symbol in kinds if kind == "T"}
    assert not [symbol for kind, symbol in kinds if kind in "bBC" or kind == "D"]


def test_the_pages_program_compiles(tmp_path: Path) -> None:
    """With the header of an image whose input and output are called as the page says."""
    page = (FOLDER.parents[1] / "docs" / "bare-metal.md").read_text()
    (program,) = re.findall(r"^```c\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    named = make(made(SMALL), ["input"], ["logits", "more"])
    (tmp_path / "resnet20.h").write_text(c_header(named, "resnet20"))
    (tmp_path / "page.c").write_text(program)
    compiled(tmp_path / "page.o", [tmp_path / "page.c"], "-ffreestanding", "-c")


def test_a_program_in_cpp_may_use_it(tmp_path: Path) -> None:
    source = tmp_path / "user.cpp"
    source.write_text('#include "shiftadd.h"\nint main() { return shiftadd_inputs(nullptr); }\n')
    command = [
        tool("g++", "clang++"),
        "-std=c++11",
        "-Wall",
        "-Werror",
        "-I",
        str(FOLDER),
        "-c",
        str(source),
    ]
    subprocess.run([*command, "-o", str(tmp_path / "user.o")], check=True)


def test_the_machine_of_these_tests_is_another_one(image: Image) -> None:
    """An image for one machine does not open on another."""
    assert Runtime(image.to_bytes(), Board(TINY)).status == "WRONG_MACHINE"
