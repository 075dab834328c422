"""The accelerator's part of an artifact, and its programs on a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol

from tvm_shiftadd.errors import InputError, ProgramError
from vta_ext import checker
from vta_ext.config import Config
from vta_ext.host import HostPart
from vta_ext.presets import MEMORY_BITS
from vta_ext.runtime import rpc
from vta_ext.runtime.device import Device
from vta_ext.runtime.drivers import check_limit, named, open_device
from vta_ext.runtime.executor import RegionFunction
from vta_ext.runtime.stored import StoredRegion

#: The device where none is named.
DEFAULT: Final = "sim"


class Choice(Protocol):
    """Which device: see ``tvm_shiftadd.target.DeviceChoice``."""

    @property
    def name(self) -> str:
        """A driver's name."""

    @property
    def limit(self) -> float | None:
        """Seconds that a launch may take."""

    @property
    def rpc(self) -> str | None:
        """HOST:PORT of a server whose device it is."""

    @property
    def key(self) -> str | None:
        """The server's key."""


def check(choice: Choice) -> None:
    """Raise InputError where there can be no such device; nothing is opened."""
    check_limit(choice.limit)
    if choice.rpc is None:
        named(choice.name or DEFAULT)
        return
    if choice.name:
        raise InputError(
            f"the server at {choice.rpc} has its own device; leave out --device {choice.name}"
        )
    rpc.address_of(choice.rpc)
    rpc.check_key(choice.key or "")


class Connected:
    """Programs loaded onto a device."""

    def __init__(self, regions: tuple[StoredRegion, ...], device: Device) -> None:
        self._functions = {one.function: RegionFunction(one, device) for one in regions}

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Within it, virtual machines that are made call this device."""
        from vta_ext.external import functions_bound

        with functions_bound(self._functions):
            yield

    @property
    def counted(self) -> Mapping[str, int]:
        """What the device has counted since, over all programs."""
        total: dict[str, int] = {}
        for function in self._functions.values():
            for name, count in function.counted.items():
                total[name] = total.get(name, 0) + count
        return total


class Regions:
    """Programs of one machine, read and checked; not yet proved safe to run.

    ``memory_bits``: width of the machine's memory port, which is no part of its configuration.
    ``host``: what is done around the programs; None where the artifact does not say.
    """

    def __init__(
        self,
        config: Config,
        regions: tuple[StoredRegion, ...],
        memory_bits: int = MEMORY_BITS,
        host: HostPart | None = None,
    ) -> None:
        self.config, self.regions, self.memory_bits = config, regions, memory_bits
        self.host = host
        self._safe = False

    def require_safe(self) -> None:
        """Prove that the programs are safe to run, once; ProgramError for one that is not."""
        if not self._safe:
            for region in self.regions:
                try:
                    checker.require(region.program)
                except ProgramError as error:
                    raise ProgramError(f"{region.function}: {error}; compile it again") from error
            self._safe = True

    def connect(self, choice: Choice) -> Connected:
        """Load the programs onto a device, once they are proved safe to run.

        Raises ProgramError for a program that is not, InputError for an unknown device, and
        DeviceError where it cannot be reached.
        """
        self.require_safe()
        return Connected(self.regions, self._device(choice))

    def _device(self, choice: Choice) -> Device:
        check(choice)
        if choice.rpc is None:
            name = choice.name or DEFAULT
            return open_device(name, self.config, choice.limit, self.memory_bits)
        return rpc.connect(choice.rpc, choice.key or "", self.config, choice.limit)
