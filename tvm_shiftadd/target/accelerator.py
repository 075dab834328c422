"""Accelerators beside the processor: packages of their own behind one small interface.

The package of an accelerator is looked up by the target's kind and imported when it is first asked
for; nothing below imports it, so that it may build on everything here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final, Protocol, cast

from tvm_shiftadd.errors import InputError
from tvm_shiftadd.target.gpu import CUDA
from tvm_shiftadd.target.processor import CPUTarget

#: The module that brings each kind of accelerator; it has what :class:`Backend` lists.
BACKENDS: Final[Mapping[str, str]] = {"vta": "vta_ext.backend"}

#: Told how much is done, and of how much.
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class AcceleratorTarget:
    """An accelerator, and the host processor beside it.

    ``machine`` is the name of one of its configurations or a JSON file that holds one; "" takes
    the usual one.
    """

    kind: str = "vta"
    machine: str = ""
    host: CPUTarget = field(default_factory=CPUTarget)

    def as_dict(self) -> dict[str, Any]:
        """The mapping that ``parse`` reads back."""
        return {"kind": self.kind, "machine": self.machine, "host": self.host.as_dict()}


@dataclass(frozen=True)
class DeviceChoice:
    """Where an accelerator's part of a network runs.

    ``name``: a simulator or a board; "" takes the usual one. ``limit``: the most seconds of one
    run of one program. ``rpc``: HOST:PORT of a server whose device it is instead, with its
    ``key``.
    """

    name: str = ""
    limit: float | None = None
    rpc: str | None = None
    key: str | None = None


class Partition(Protocol):
    """A module split between host and accelerator."""

    @property
    def module(self) -> Any:
        """What is left for the host, with calls of what is not."""

    @property
    def marked(self) -> Any:
        """The same with functions of operators where the calls are: for people to read."""

    @property
    def files(self) -> Mapping[str, bytes]:
        """The accelerator's programs, by the names of an artifact's files."""

    @property
    def placed(self) -> Sequence[str]:
        """Names of the operators on the accelerator."""

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why operators of integers are not on the accelerator, by their names."""

    @property
    def kernels(self) -> list[dict[str, Any]]:
        """What can be tuned: "result", "workload", "parameters" and whether they were "tuned"."""

    @property
    def attributes(self) -> dict[str, str | int | bool | list[str]]:
        """What a manifest says about the machine."""


class Connected(Protocol):
    """Programs loaded onto a device."""

    def bound(self) -> AbstractContextManager[None]:
        """Within it, virtual machines that are made call this device."""

    @property
    def counted(self) -> Mapping[str, int]:
        """What the device has counted since it was connected, cycles for one."""


class Regions(Protocol):
    """The accelerator's part of an artifact, read and checked."""

    def connect(self, choice: DeviceChoice) -> Connected:
        """Load the programs onto a device, once they are proved safe to run."""


class Backend(Protocol):
    """What the module of an accelerator holds."""

    def check(self, machine: str) -> None:
        """Raise InputError where there is no such machine."""

    def check_device(self, choice: DeviceChoice) -> None:
        """Raise InputError where there can be no such device; nothing is opened."""

    def machine_of(self, attributes: Mapping[str, Any]) -> str:
        """The machine of an artifact as a target names it; InputError where none has that name.

        ``attributes``: what the manifest says about the machine.
        """

    def partition(
        self, module: Any, machine: str, tell: Told, tuned: Mapping[str, Mapping[str, Any]]
    ) -> Partition:
        """Split a module of the dialect and compile the accelerator's part of it.

        ``tuned``: parameters by workload, as text of compact JSON with its keys in order.
        """

    def identity(self, machine: str) -> dict[str, Any]:
        """What a tuning database of a machine must be for."""

    def trials(self, machine: str) -> tuple[Any, str, dict[str, Any]]:
        """A ``tune.task.Space``, and what ``tune.worker`` is started with for trials."""

    def read(self, files: Mapping[str, bytes], attributes: Mapping[str, Any]) -> Regions:
        """The programs in an artifact's files; ProgramError for damaged or foreign ones.

        ``attributes``: what the manifest says about the machine.
        """


def device_of(kind: str, device: DeviceChoice | str) -> DeviceChoice:
    """The device for a network compiled for such a target; a text is a device's name.

    Raises InputError where it cannot be used, as far as that can be said without it.
    """
    if kind not in BACKENDS:
        raise InputError(
            f"the network is for the {kind_name(kind)} alone, which needs no device; compile the "
            "model with --target vta"
        )
    choice = DeviceChoice(device) if isinstance(device, str) else device
    backend(kind).check_device(choice)
    return choice


def kind_name(kind: str) -> str:
    """What people call a target of a kind that is no accelerator's."""
    return "GPU" if kind == CUDA else "CPU"


def backend(kind: str) -> Backend:
    """The module of an accelerator."""
    return cast(Backend, import_module(BACKENDS[kind]))
