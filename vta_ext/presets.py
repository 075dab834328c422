"""Machines with a name: VTA's own, its shift-add relatives, and those that fit known boards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tvm_shiftadd.errors import InputError
from vta_ext.config import Config, load
from vta_ext.isa.table import ALU_OPERATIONS, EXTENSIONS

#: Bits of the memory port of a machine that does not say: as the first presets.
MEMORY_BITS: Final = 64


@dataclass(frozen=True)
class Preset:
    """A configuration and where it is meant to run.

    ``clock_mhz`` and ``memory_bits`` (width of the memory port) are the board's; they do not
    change what a program computes and are not part of the configuration's hash.
    """

    name: str
    description: str
    config: Config
    clock_mhz: int
    memory_bits: int
    #: Address of the first group of control registers, and the distance to the next; boards only.
    register_base: int | None = None
    register_step: int = 0x1000


#: VTA with 16 x 16 int8 multipliers.
BASE: Final = Config()

# All there is, but no multiplication.
_EXTENDED = tuple(operation.name for operation in ALU_OPERATIONS if operation.name != "mul")
_FEATURES = tuple(extension.name for extension in EXTENSIONS)

#: 16 x 16 shift units. A weight buffer of half the bytes holds as many weights as VTA's.
SHIFT: Final = Config(
    log_wgt_buff_size=17,
    wgt_code_width=4,
    gemm_modes=("shift",),
    alu_ops=_EXTENDED,
    extensions=_FEATURES,
)
SHIFT_ADDER: Final = replace(SHIFT, log_wgt_buff_size=18, gemm_modes=("shift", "adder"))

#: 8 x 8 shift units and 84 KiB of buffers: an ECP5 of 25,000 look-up tables has 126 KiB.
SMALL: Final = replace(
    SHIFT,
    log_block=3,
    log_uop_buff_size=12,
    log_inp_buff_size=13,
    log_wgt_buff_size=15,
    log_acc_buff_size=15,
)
#: 32 x 32 shift units; buffers of as many entries as with 16 x 16, each as much wider.
LARGE: Final = replace(
    SHIFT,
    log_block=5,
    log_inp_buff_size=16,
    log_wgt_buff_size=19,
    log_acc_buff_size=18,
)
#: For an ECP5 of 208 block memories: 62 for buffers, 144 as 288 KiB of DRAM, one for the link.
#: Queues of 16 instructions are small enough for look-up tables.
ULX3S: Final = replace(
    SHIFT,
    log_uop_buff_size=12,
    log_inp_buff_size=14,
    log_wgt_buff_size=15,
    log_acc_buff_size=15,
    log_queue_depth=4,
)
#: Without DRAM on chip; words of twice as many weights take no more block memories.
ULX3S_SDRAM: Final = replace(ULX3S, log_wgt_buff_size=16)
#: The same as ULX3S for 8 x 8, with 320 KiB.
ULX3S_SMALL: Final = replace(SMALL, log_queue_depth=4)

_PRESETS: Final = (
    Preset("vta", "VTA's base configuration: int8 multiply, 16 x 16", BASE, 100, 64),
    Preset("shift-16x16", "one-term shift units, 16 x 16", SHIFT, 100, 64),
    Preset("shift-adder-16x16", "shift and adder (L1), 16 x 16", SHIFT_ADDER, 100, 64),
    Preset("ecp5-small", "shift, 8 x 8, for a small ECP5", SMALL, 100, 32),
    Preset("ulx3s-85f", "ULX3S with an ECP5-85: shift, 16 x 16", ULX3S, 70, 64),
    Preset("ulx3s-85f-sdram", "ULX3S's ECP5-85 and SDRAM: shift, 16 x 16", ULX3S_SDRAM, 80, 16),
    Preset("ulx3s-85f-small", "ULX3S with an ECP5-85: shift, 8 x 8", ULX3S_SMALL, 80, 32),
    Preset("pynq", "Pynq-Z1 and Pynq-Z2 (XC7Z020): shift, 16 x 16", SHIFT, 100, 64, 0x43C0_0000),
    Preset(
        "ultra96",
        "Ultra96 (ZU3EG): shift and adder, 16 x 16",
        SHIFT_ADDER,
        333,
        128,
        0xA000_0000,
    ),
    Preset("shift-32x32", "one-term shift units, 32 x 32", LARGE, 100, 128),
)

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType({p.name: p for p in _PRESETS})


def preset(name: str) -> Preset:
    """The preset of that name. Raises InputError that lists the names."""
    try:
        return PRESETS[name]
    except KeyError:
        raise InputError(
            f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}"
        ) from None


def machine(name: str) -> Preset:
    """The preset of that name, or a machine of one's own from a JSON file.

    The latter gets the memory port of the first presets. Raises InputError.
    """
    if name in PRESETS:
        return PRESETS[name]
    if Path(name).suffix == ".json":
        return Preset(Path(name).stem, f"the parameters in {name}", load(name), 100, MEMORY_BITS)
    raise InputError(
        f"there is no machine {name!r}; give a JSON file of parameters or one of "
        f"{', '.join(PRESETS)}"
    )
