"""The devices that can be named: one line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

from tvm_shiftadd.errors import InputError
from vta_ext.config import Config
from vta_ext.presets import MEMORY_BITS
from vta_ext.runtime.device import Device


@dataclass(frozen=True)
class Driver:
    """A kind of device. ``home``: module and name of what makes one.

    It is called with a configuration, the seconds that a launch may take (None for any number) and
    the bits of the machine's memory port; and imported when it is first asked for, so that it may
    need packages of its own. ``address``: the form of what says which board, after a colon, and is
    handed over as well; empty where there is but one.
    """

    name: str
    description: str
    home: str
    address: str = ""

    @property
    def form(self) -> str:
        """How it is named."""
        return f"{self.name}:{self.address}" if self.address else self.name

    def open(
        self,
        config: Config,
        limit: float | None = None,
        memory_bits: int = MEMORY_BITS,
        address: str = "",
    ) -> Device:
        """A device of that configuration. Raises DependencyError where a package is missing."""
        module, _, name = self.home.partition(":")
        make: Any = getattr(import_module(module), name)
        more = {"address": address} if address else {}
        device: Device = make(config, limit, memory_bits, **more)
        return device


#: Seconds that any clock can wait: a timer of many more fails, and then ends nothing.
_LONGEST: Final = 1e9
_DEVICE: Final = "vta_ext.runtime.device"
_DRIVERS: Final = (
    Driver("sim", "functional simulator: results, no time", f"{_DEVICE}:SimulatorDevice"),
    Driver("timing", "results and the timing model's cycles", f"{_DEVICE}:TimingDevice"),
    Driver(
        "rtl", "the hardware itself, simulated cycle by cycle", "vta_ext.rtl.verilated:RtlDevice"
    ),
    Driver("serial", "a board on a serial line", "vta_ext.link.device:open_serial", "PORT[,BAUD]"),
    Driver(
        "pynq", "this Zynq board, under PYNQ", "vta_ext.boards.pynq_driver:open_pynq", "OVERLAY.bit"
    ),
)

DRIVERS: Final[Mapping[str, Driver]] = MappingProxyType({d.name: d for d in _DRIVERS})


def named(text: str) -> tuple[Driver, str]:
    """The driver and the address of "KIND" or "KIND:ADDRESS".

    Raises InputError that lists the kinds, or for an address where none is expected, or none where
    one is.
    """
    kind, colon, address = text.partition(":")
    found = DRIVERS.get(kind)
    if found is None:
        raise InputError(
            f"there is no device {kind!r:.80}; the devices are "
            f"{', '.join(d.form for d in _DRIVERS)}"
        )
    if bool(address) != bool(found.address) or (colon and not address):
        raise InputError(f"expected the device {found.form}, got {text:.80}")
    return found, address


def check_limit(limit: float | None) -> None:
    """Raise InputError unless a launch may be given so many seconds; None: any number."""
    if limit is not None and not 0 < limit <= _LONGEST:
        raise InputError(
            f"expected a time limit of more than 0 seconds and at most {_LONGEST:g}, got {limit:g}"
        )


def open_device(
    name: str, config: Config, limit: float | None = None, memory_bits: int = MEMORY_BITS
) -> Device:
    """The device of that name, "KIND" or "KIND:ADDRESS", for programs of ``config``.

    ``limit``: seconds that a launch may take. ``memory_bits``: width of the machine's memory port,
    which changes times and no result. Raises InputError for an unknown name, a limit that is not
    positive or has no end, or a port that the device cannot have.
    """
    check_limit(limit)
    driver, address = named(name)
    return driver.open(config, limit, memory_bits, address)
