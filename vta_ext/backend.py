"""The accelerator as a target of the tool: what :mod:`tvm_shiftadd.target.accelerator` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tvm_shiftadd.errors import InputError, ProgramError, VerificationError
from vta_ext import checker, presets, tuning
from vta_ext.presets import Preset
from vta_ext.runtime import regions, stored
from vta_ext.runtime.regions import Regions
from vta_ext.tuning.space import Space

if TYPE_CHECKING:
    from vta_ext.external import Told
    from vta_ext.offload import Offloaded

#: The machine where the target names none.
DEFAULT: Final = "shift-16x16"


@dataclass(frozen=True, eq=False)
class Partition:
    """A module split between the host and one machine; programs are proved safe."""

    machine: Preset
    found: Offloaded
    tilings: tuning.Tilings

    @property
    def module(self) -> Any:
        """What is left for the host, with calls of packed functions."""
        return self.found.module

    @property
    def marked(self) -> Any:
        """The same with functions of the dialect where the calls are."""
        return self.found.marked

    @property
    def files(self) -> dict[str, bytes]:
        """Programs and table, by file name."""
        from vta_ext.compiler import frontend

        regions = [one.stored() for one in self.found.regions]
        host = frontend.host(self.found.marked["main"])
        return stored.encode(regions, self.machine.config, host)

    @property
    def placed(self) -> tuple[str, ...]:
        """Names of the operators in programs."""
        return tuple(o.name for region in self.found.regions for o in region.network.operators)

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why operators of integers stay on the host, by name."""
        return self.found.reasons

    @property
    def kernels(self) -> list[dict[str, Any]]:
        """What can be tuned, and what it was compiled with, as plain values."""
        return [chosen.plain() for chosen in self.tilings.made.values()]

    @property
    def attributes(self) -> dict[str, str | int | bool | list[str]]:
        """What the manifest says: the machine's name, its hash, and its memory port."""
        return {
            "machine": self.machine.name,
            "configuration": self.machine.config.hash,
            "memory_bits": self.machine.memory_bits,
        }


def check(machine: str) -> None:
    """Raise InputError where there is no such machine."""
    presets.machine(machine or DEFAULT)


def check_device(choice: regions.Choice) -> None:
    """Raise InputError where there can be no such device."""
    regions.check(choice)


def machine_of(attributes: Mapping[str, Any]) -> str:
    """The machine of an artifact as a target names it, from what :class:`Partition` wrote.

    Raises InputError for a machine of one's own: the artifact knows its file no more, and a preset
    that happens to have its name is another machine.
    """
    name = str(attributes.get("machine", ""))
    known = presets.PRESETS.get(name)
    said = attributes.get("configuration"), attributes.get("memory_bits", presets.MEMORY_BITS)
    if known is None or said != (known.config.hash, known.memory_bits):
        raise InputError(
            f"the artifact is for {name!r:.80}, a machine of one's own and no preset; give the "
            "model instead, with --target vta:FILE.json"
        )
    return name


def identity(machine: str) -> dict[str, Any]:
    """What a tuning database of a machine must be for."""
    return tuning.identity(presets.machine(machine or DEFAULT))


def trials(machine: str) -> tuple[Space, str, dict[str, Any]]:
    """What there is to try on a machine, and what processes for it are started with."""
    chosen = presets.machine(machine or DEFAULT)
    return Space(chosen.config), tuning.FACTORY, {"machine": machine or DEFAULT}


def partition(
    module: Any, machine: str, tell: Told, tuned: Mapping[str, Mapping[str, Any]]
) -> Partition:
    """Compile what the machine can run, and prove each program safe for any input.

    ``tuned``: parameters by workload as text. Raises InputError where there is no such machine, or
    for parameters that do not fit it, and VerificationError for a program that the
    checker finds wrong.
    """
    from vta_ext.offload import offload

    chosen = presets.machine(machine or DEFAULT)
    tilings = tuning.Tilings(chosen.config, tuned)
    found = offload(module, chosen.config, tell, tilings)
    for region in found.regions:
        try:
            checker.require(region.compiled.program, ranges={})
        except ProgramError as error:
            raise VerificationError(
                f"the compiler made a program that may not run, {region.function}: {error}; "
                "report it, and compile for the CPU meanwhile"
            ) from error
    return Partition(chosen, found, tilings)


def read(files: Mapping[str, bytes], attributes: Mapping[str, Any]) -> Regions:
    """The programs in an artifact's files; ProgramError for damaged or foreign ones.

    ``attributes``: what the manifest says about the machine, as :class:`Partition` wrote it.
    """
    said = attributes.get("memory_bits")
    port = said if isinstance(said, int) else presets.MEMORY_BITS
    config, regions, host = stored.decode(files)
    return Regions(config, regions, port, host)
