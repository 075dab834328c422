"""Altered images in the C runtime under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.vta_ext.bare.networks import NAMES, made
from tests.vta_ext.bare.runtime import SOURCES, compiled, compiling
from vta_ext.bare.make import make
from vta_ext.presets import SMALL


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
    empty = folder / "empty.c"
    empty.write_text("int main(void) { return 0; }\n")
    if compiling(folder / "empty", [empty], *checks).returncode:
        pytest.skip("needs the libraries of the address and undefined-behaviour sanitizers")
    # What the fuzzer does with numbers of any size is its own business.
    sources = (Path(__file__).with_name("fuzz.c"), *SOURCES)
    return compiled(folder / "fuzz", sources, *checks, "-Wno-conversion")


def statuses(fuzz: Path, image: Path, rounds: int, seed: int) -> dict[str, int]:
    """How often each status came; nothing may be read or written outside of its memory."""
    command = [str(fuzz), str(image), str(rounds), str(seed)]
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:max_allocation_size_mb=64"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows = (line.split() for line in done.stdout.splitlines())
    return {name: int(count) for name, count in rows}


@pytest.mark.parametrize("rounds", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_altered_images(fuzz: Path, tmp_path: Path, rounds: int) -> None:
    image = tmp_path / "image"
    image.write_bytes(make(made(SMALL), *NAMES).image.to_bytes())
    found = statuses(fuzz, image, rounds, seed=1)
    assert sum(found.values()) == rounds
    often = ("OK", "WRONG_CRC", "BAD_LAYOUT")
    assert min(found[name] for name in often) > rounds // 100
    rarely = ("TRUNCATED", "NOT_AN_IMAGE", "WRONG_VERSION", "BAD_ARENA")
    assert min(found[name] for name in rarely) > 0
    assert found["BAD_ARGUMENT"] == found["TIMEOUT"] == found["BUSY"] == 0
