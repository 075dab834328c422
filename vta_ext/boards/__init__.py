"""Boards that carry the machine: what is known of each of them, without any tool.

:mod:`vta_ext.boards.flow` makes reports and bitstreams; designs are modules that need Amaranth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from tvm_shiftadd.errors import InputError
from vta_ext import presets
from vta_ext.config import Config

#: Families of FPGA: what synthesis is called in yosys, and whether open tools place and route.
ECP5, XC7, XCUP = "ecp5", "xc7", "xcup"
#: Of what a baseline's multipliers are made.
BOOTH, DSP = "booth", "dsp"


@dataclass(frozen=True)
class Board:
    """A board, and the machine that is built for it: the preset of the same name.

    memory_bits: width of the machine's memory port. clock_mhz: what the design is made for.
    block_memory, sdram: bytes of block memory, or of an SDRAM chip, that serve as DRAM; both 0 on a
    board whose processor brings memory.
    baud: of the serial link to the host, 0 where the host reaches the machine otherwise.
    multipliers: BOOTH or DSP for the baseline of a board, see :meth:`multiplying`.
    """

    name: str
    description: str
    family: str
    part: str
    config: Config
    memory_bits: int
    clock_mhz: int
    block_memory: int = 0
    sdram: int = 0
    baud: int = 0
    multipliers: str = ""

    @property
    def memory(self) -> int:
        """Bytes that serve as DRAM, 0 where a processor brings them."""
        return self.block_memory or self.sdram

    @property
    def routed(self) -> bool:
        """Whether this project's tools place and route it and make its bitstream."""
        return self.family == ECP5

    def multiplying(self, multipliers: str) -> Board:
        """The baseline: this board with multipliers in place of its processing elements.

        Nothing else differs but what multipliers ask for: weights of 8 bits, as many of them. Its
        ``multipliers`` are made of look-up tables in Booth's encoding (BOOTH) or of DSPs (DSP).
        """
        config = self.config
        narrow = not config.has("wide-weights")
        return replace(
            self,
            name=f"{self.name}-{multipliers}",
            config=replace(
                config,
                gemm_modes=("multiply",),
                log_wgt_buff_size=config.log_wgt_buff_size + narrow,
            ),
            multipliers=multipliers,
        )


def _board(
    name: str, family: str, part: str, *, block_memory: int = 0, sdram: int = 0, baud: int = 0
) -> Board:
    """The board of the preset ``name``."""
    preset = presets.preset(name)
    return Board(
        name,
        preset.description,
        family,
        part,
        preset.config,
        preset.memory_bits,
        preset.clock_mhz,
        block_memory,
        sdram,
        baud,
    )


_ECP5_85: Final = "LFE5U-85F-6BG381C"
_BOARDS: Final = (
    _board("ulx3s-85f", ECP5, _ECP5_85, block_memory=288 << 10, baud=3_000_000),
    _board("ulx3s-85f-sdram", ECP5, _ECP5_85, sdram=32 << 20, baud=3_000_000),
    _board("ulx3s-85f-small", ECP5, _ECP5_85, block_memory=320 << 10, baud=3_000_000),
    _board("pynq", XC7, "xc7z020clg400-1"),
    _board("ultra96", XCUP, "xczu3eg-sbva484-1-i"),
)

BOARDS: Final[Mapping[str, Board]] = MappingProxyType({board.name: board for board in _BOARDS})


def board(name: str) -> Board:
    """The board of that name. Raises InputError that lists the names."""
    try:
        return BOARDS[name]
    except KeyError:
        raise InputError(
            f"there is no board {name!r}; the boards are {', '.join(BOARDS)}"
        ) from None
