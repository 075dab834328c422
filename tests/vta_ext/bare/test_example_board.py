"""The example of a board with several inputs, and a machine in its place that does nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.vta_ext.bare.runtime import FOLDER, SOURCES, compiled
from vta_ext.bare.image import Image, Input, Output, Port, Segment
from vta_ext.rtl.map import IDENTITY, Register

#: Two inputs of two numbers each; the output is the map of the second one.
IMAGE = Image(
    hash="0123456789abcdef",
    batch=1,
    block=4,
    arena_bytes=1024,
    instructions=512,
    count=1,
    segments=(Segment(512, bytes(16)),),
    inputs=(Input(2, 0, "int8"), Input(2, 0, "int8")),
    ports=(
        Port(0, 0, (1, 1), (1, 1, 2), (0, 0, 1)),
        Port(1, 256, (1, 1), (1, 1, 2), (0, 0, 1)),
    ),
    outputs=(Output(2, "int8", 256, (1, 1, 2), (0, 0, 1), (0, 0)),),
)
MACHINE = f"""
#include <stdint.h>
typedef struct simulation {{ int nothing; }} simulation;
static simulation only;
simulation *simulation_new(void);
void simulation_free(simulation *machine);
void simulation_memory(simulation *machine, uint8_t *memory, uint64_t size);
void simulation_write(simulation *machine, uint32_t number, uint32_t value);
uint32_t simulation_read(simulation *machine, uint32_t number);
int64_t simulation_run(simulation *machine, uint64_t most);
uint64_t simulation_outside(simulation *machine);
simulation *simulation_new(void) {{ return &only; }}
void simulation_free(simulation *machine) {{ (void)machine; }}
void simulation_memory(simulation *machine, uint8_t *memory, uint64_t size) {{
    (void)machine, (void)memory, (void)size;
}}
void simulation_write(simulation *machine, uint32_t number, uint32_t value) {{
    (void)machine, (void)number, (void)value;
}}
uint32_t simulation_read(simulation *machine, uint32_t number) {{
    (void)machine;
    if (number == {Register.IDENTITY:d}) return {IDENTITY}u;
    if (number == {Register.HASH_LOW:d}) return 0x89abcdefu;
    return number == {Register.HASH_HIGH:d} ? 0x01234567u : 0;
}}
int64_t simulation_run(simulation *machine, uint64_t most) {{
    (void)machine;
    return (int64_t)most;
}}
uint64_t simulation_outside(simulation *machine) {{ return !machine; }}
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    machine = folder / "machine.c"
    machine.write_text(MACHINE)
    return compiled(folder / "run", [FOLDER / "verilated.c", machine, *SOURCES])


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ((3, 3), ""),
        ((3, 2), "one file has fewer images than another"),
        ((2, 3), "one file has fewer images than another"),
        ((1, 1.5), "the file ends within an image"),
    ],
)
def test_inputs_of_different_lengths_are_refused(
    counts: tuple[float, float], says: str, board: Path, tmp_path: Path
) -> None:
    """An image would be computed with the input of the one before."""
    (tmp_path / "image").write_bytes(IMAGE.to_bytes())
    values = np.arange(6, dtype="<f4")
    for name, count in zip("ab", counts, strict=True):
        values[: int(2 * count)].tofile(tmp_path / name)
    command = [board, *(tmp_path / name for name in ("image", "a", "b", "y"))]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == ((1, f"input: {says}\n") if says else (0, ""))
    if not says:
        np.testing.assert_array_equal(np.fromfile(tmp_path / "y", "<f4"), values)
