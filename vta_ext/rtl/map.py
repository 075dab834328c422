"""The registers of the machine, for hardware and drivers alike; imports nothing of either."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

#: What the first register holds: "VTAX".
IDENTITY: Final = 0x56544158


class Register(IntEnum):
    """Numbers of the registers; a byte address is four times that."""

    IDENTITY = 0
    #: The configuration's hash, low and high half.
    HASH_LOW = 1
    HASH_HIGH = 2
    #: Write 1: run. Reads 1 while it runs.
    CONTROL = 3
    #: Byte addresses of the arena and of the instructions, multiples of 256; and their number.
    ARENA = 4
    INSTRUCTIONS = 5
    COUNT = 6
    #: Counters of the last run, from its start to its end; see COUNTERS.
    CYCLES = 8


#: Counters from CYCLES on: name, and what is counted.
COUNTERS: Final = (
    ("cycles", "cycles from the first fetch to the end of FINISH"),
    ("gemm_micro_ops", "micro-ops of GEMM that add up products"),
    ("alu_micro_ops", "micro-ops of the ALU"),
    ("read_beats", "beats read from memory"),
    ("write_beats", "beats written to memory"),
    ("compute_idle", "cycles in which compute had no instruction"),
    ("compute_waits", "cycles in which compute waited for a token"),
    ("load_waits", "cycles in which load waited for a token"),
    ("store_waits", "cycles in which store waited for a token"),
)
#: What the addresses of arena and instructions are multiples of, in bytes.
ALIGNMENT: Final = 256
#: Cycles from a module's request to its first beat that pass in the machine's own registers: of
#: the request in its module and at the port, and of the beat.
READ_REGISTERS: Final = 4
#: Bits of a register's number.
NUMBER_BITS: Final = 5
#: Of the control register, behind AXI: an access to memory was refused in the last run.
FAILED_BIT: Final = 1
