"""An SDRAM that keeps its data sheet's rules, and says so when its board does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from vta_ext.boards.sdram import PIN_CYCLES, Chip

#: Commands by the pins ras, cas and we.
NAMES: Final = {
    (0, 0, 0): "nop",
    (1, 0, 0): "activate",
    (0, 1, 0): "read",
    (0, 1, 1): "write",
    (1, 0, 1): "precharge",
    (1, 1, 0): "refresh",
    (1, 1, 1): "mode",
}
BANKS: Final = 4
#: Least times between commands, in nanoseconds; those of one bank first.
ROW_TO_COLUMN: Final = 20
PRECHARGE: Final = 20
ACTIVE: Final = 45
ROW_CYCLE: Final = 65
WRITE_RECOVERY: Final = 15
OTHER_BANK: Final = 14
REFRESH: Final = 70
#: 8192 rows are refreshed in 64 milliseconds; so many refreshes may be put off.
REFRESH_EVERY: Final = 64e6 / 8192
LATE: Final = 8


@dataclass
class Bank:
    """The open row, and when what happened last, in nanoseconds."""

    row: int | None = None
    activated: float = -1e9
    precharged: float = -1e9
    written: float = -1e9


@dataclass
class SdramChip:
    """The chip of a board that runs at ``mhz``: told its pins once a cycle."""

    chip: Chip
    mhz: float
    words: dict[int, int] = field(default_factory=dict)
    cycle: int = 0
    ready: bool = False
    refreshes: int = 0
    commands: dict[str, int] = field(default_factory=dict)
    #: Reads that follow a write, and writes that follow a read.
    turns: int = 0

    def __post_init__(self) -> None:
        self._banks = [Bank() for _ in range(BANKS)]
        self._activated = self._refreshed = -1e9
        self._last = "read"
        #: Words on their way to the board, by cycle.
        self._coming: dict[int, int] = {}

    @property
    def now(self) -> float:
        return self.cycle * 1000 / self.mhz

    def word(self, number: int) -> int:
        return self.words.get(number, 0)

    def step(self, pins: dict[str, int]) -> int:
        """One cycle with these ``pins``; what the board sees on its own in this cycle."""
        name = NAMES[pins["ras"], pins["cas"], pins["we"]]
        self.commands[name] = self.commands.get(name, 0) + 1
        if name != "nop":
            assert self.now >= self.chip.power_up, f"{name} before the chip is awake"
            assert self.ready or name in ("precharge", "refresh", "mode"), f"{name} before the mode"
            assert self.now - self._refreshed >= REFRESH, f"{name} during a refresh"
            getattr(self, f"_{name}")(pins)
            if name in ("read", "write"):
                self.turns += name != self._last
                self._last = name
        if pins["dq_oe"]:
            # The chip's own words are on the pins in the cycles before they are seen.
            clash = [c for c in self._coming if abs(c - (PIN_CYCLES - 2) - self.cycle) <= 1]
            assert not clash, "both sides drive the pins"
        assert name == "write" or not pins["dq_oe"]
        found = self._coming.pop(self.cycle, 0xDEAD)
        self.cycle += 1
        return found

    def _bank(self, pins: dict[str, int]) -> Bank:
        return self._banks[pins["ba"]]

    def _activate(self, pins: dict[str, int]) -> None:
        bank = self._bank(pins)
        assert bank.row is None, "a row is open"
        assert self.now - bank.precharged >= PRECHARGE, "tRP"
        assert self.now - bank.activated >= ROW_CYCLE, "tRC"
        assert self.now - self._activated >= OTHER_BANK, "tRRD"
        bank.row, bank.activated, self._activated = pins["a"], self.now, self.now

    def _column(self, pins: dict[str, int]) -> int:
        bank = self._bank(pins)
        assert bank.row is not None, "no row is open"
        assert self.now - bank.activated >= ROW_TO_COLUMN, "tRCD"
        assert not pins["a"] >> 10 & 1, "precharges by itself"
        column = pins["a"] & ((1 << self.chip.column_bits) - 1)
        return (bank.row * BANKS + pins["ba"]) << self.chip.column_bits | column

    def _read(self, pins: dict[str, int]) -> None:
        assert not pins["dqm"], "what is read is masked"
        self._coming[self.cycle + PIN_CYCLES] = self.word(self._column(pins))

    def _write(self, pins: dict[str, int]) -> None:
        number = self._column(pins)
        assert pins["dq_oe"], "nobody drives the pins"
        keep = sum(0xFF << 8 * lane for lane in range(2) if pins["dqm"] >> lane & 1)
        self.words[number] = self.word(number) & keep | pins["dq_o"] & ~keep
        self._bank(pins).written = self.now

    def _precharge(self, pins: dict[str, int]) -> None:
        banks = self._banks if pins["a"] >> 10 & 1 else [self._bank(pins)]
        for bank in banks:
            if bank.row is None:
                continue
            assert self.now - bank.activated >= ACTIVE, "tRAS"
            assert self.now - bank.written >= WRITE_RECOVERY, "tWR"
            bank.row, bank.precharged = None, self.now

    def _refresh(self, pins: dict[str, int]) -> None:
        for bank in self._banks:
            assert bank.row is None and self.now - bank.precharged >= PRECHARGE, "tRP"
            assert self.now - bank.activated >= ROW_CYCLE, "tRC"
        self._refreshed = self.now
        self.refreshes += 1
        if self.ready:
            due = (self.now - self._began) / REFRESH_EVERY
            assert self.refreshes - self._first + LATE >= due, "refreshes are late"

    def _mode(self, pins: dict[str, int]) -> None:
        assert self.refreshes >= 8 and not self.ready
        assert pins["ba"] == 0 and pins["a"] == 2 << 4, "not one word a command, CAS latency 2"
        self.ready, self._began, self._first = True, self.now, self.refreshes
