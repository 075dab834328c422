"""Configurations: validation, files, hashes, presets."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from tvm_shiftadd.errors import InputError
from vta_ext import config as configuration
from vta_ext import presets
from vta_ext.config import Config

VTA_JSON = {
    "TARGET": "sim",
    "HW_VER": "0.0.2",
    "LOG_INP_WIDTH": 3,
    "LOG_WGT_WIDTH": 3,
    "LOG_ACC_WIDTH": 5,
    "LOG_BATCH": 0,
    "LOG_BLOCK": 4,
    "LOG_UOP_BUFF_SIZE": 15,
    "LOG_INP_BUFF_SIZE": 15,
    "LOG_WGT_BUFF_SIZE": 18,
    "LOG_ACC_BUFF_SIZE": 17,
}


def test_the_file_of_vta_loads_as_the_base_configuration(tmp_path: Path) -> None:
    path = tmp_path / "vta_config.json"
    path.write_text(json.dumps(VTA_JSON))
    config = configuration.load(path)
    assert config == presets.BASE == Config()
    depths = (config.uop_depth, config.inp_depth, config.wgt_depth, config.acc_depth)
    assert depths == (8192, 2048, 1024, 2048)
    sizes = (config.uop_bytes, config.inp_bytes, config.wgt_bytes, config.acc_bytes)
    assert sizes == (4, 16, 256, 64)
    assert config.macs_per_cycle == 256


def test_the_shift_machine_holds_as_many_weights_in_half_the_bytes() -> None:
    base, shift = presets.BASE, presets.SHIFT
    assert shift.wgt_depth == base.wgt_depth
    assert shift.wgt_slot_bytes * 2 == base.wgt_slot_bytes == 256
    assert presets.SHIFT_ADDER.wgt_slot_bytes == 256


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_survive_a_file(name: str, tmp_path: Path) -> None:
    config = presets.preset(name).config
    configuration.save(config, tmp_path / "c.json")
    again = configuration.load(tmp_path / "c.json")
    assert again == config
    assert again.hash == config.hash


def test_the_hash_is_stable_and_tells_machines_apart() -> None:
    # Programs and hardware carry it: it may only change together with ISA_VERSION.
    assert presets.BASE.hash == "b2e3cf94ec5630a3"
    hashes = {p.config.hash for p in presets.PRESETS.values()}
    assert len(hashes) == len({p.config for p in presets.PRESETS.values()}) == 8
    assert replace(presets.BASE, acc_latency=2).hash != presets.BASE.hash


def test_the_order_of_names_does_not_matter() -> None:
    one = Config.from_dict({"ALU_OPS": ["add", "min"]})
    other = Config.from_dict({"ALU_OPS": ["min", "add"]})
    assert one == other
    assert one.hash == other.hash


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        presets.BASE.log_block = 5  # type: ignore[misc]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"LOG_BLOCKS": 4}, "no 'LOG_BLOCKS'; the keys are LOG_INP_WIDTH"),
    ({"LOG_BLOCK": "4"}, "LOG_BLOCK must be a whole number from 0 to 32, not '4'"),
    ({"LOG_BLOCK": True}, "LOG_BLOCK must be a whole number"),
    ({"LOG_BLOCK": 4.0}, "LOG_BLOCK must be a whole number"),
    ({"LOG_BLOCK": -1}, "LOG_BLOCK must be a whole number"),
    ({"LOG_BLOCK": 0}, "LOG_BLOCK must be 1 to 6"),
    ({"LOG_INP_WIDTH": 2}, "must be 3, 3, 5"),
    ({"LOG_INP_BUFF_SIZE": 4}, "LOG_INP_BUFF_SIZE must make a buffer of 2 to 65536 entries"),
    ({"LOG_WGT_BUFF_SIZE": 32}, "LOG_WGT_BUFF_SIZE must make a buffer"),
    ({"LOG_ACC_BUFF_SIZE": 18}, "a micro-op needs 34 bits of 32"),
    ({"LOG_UOP_BUFF_SIZE": 16}, "word 0 of GEMM needs 65 bits of 64"),
    ({"LOG_WGT_BUFF_SIZE": 19}, "a micro-op needs 33 bits of 32"),
    ({"GEMM_MODES": []}, "GEMM_MODES must name one of multiply, shift, adder"),
    ({"GEMM_MODES": ["xor"]}, "GEMM_MODES has unknown xor; the names are multiply"),
    ({"GEMM_MODES": "multiply"}, "GEMM_MODES must be a list of names"),
    ({"GEMM_MODES": ["multiply", "multiply"]}, "GEMM_MODES has a repeated name"),
    ({"ALU_OPS": [1]}, "ALU_OPS must be a list of names"),
    ({"GEMM_MODES": ["shift"]}, "WGT_CODE_WIDTH must be 4 with mode shift"),
    ({"WGT_CODE_WIDTH": 4}, "and 0 without, not 4"),
    ({"ACC_LATENCY": 0}, "ACC_LATENCY must be 1 to 16"),
    ({"EXTENSIONS": ["fresh", "warp"]}, "EXTENSIONS has unknown warp"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_bad_values_are_refused_in_one_sentence(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        Config.from_dict(values)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"bad\.json: "):
        configuration.load(path)


def test_too_many_rows_of_codes_are_refused() -> None:
    with pytest.raises(InputError, match="reaches 32768 rows of codes"):
        replace(presets.SHIFT, log_wgt_buff_size=19, log_inp_buff_size=14, log_acc_buff_size=16)


@pytest.mark.parametrize("text", ["{", "[1]", "3", "\x00", "[" * 100_000])
def test_files_that_hold_no_configuration_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.json"):
        configuration.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the configuration .*none.json"):
        configuration.load(tmp_path / "none.json")


def test_an_unknown_preset_lists_the_presets() -> None:
    with pytest.raises(InputError, match="the presets are vta, shift-16x16"):
        presets.preset("nonsense")
