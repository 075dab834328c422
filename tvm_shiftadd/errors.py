"""The exception tree: every error a user can cause derives from :class:`ShiftAddError`.

A message names what was expected, what came and what to do. The command line turns an
:class:`InputError` into exit code 2 and any other :class:`ShiftAddError` into exit code 1.
"""

from __future__ import annotations


class ShiftAddError(Exception):
    """Base of all errors raised on purpose by this project."""


class InputError(ShiftAddError):
    """Something the user handed in is unusable: a file, an option, a value, a shape."""


class ModelError(InputError):
    """A model file is missing, truncated, malformed, too large or holds NaN or infinity."""


class UnsupportedOperatorError(ModelError):
    """An operator that neither a shift-add region nor the host can run."""


class DataError(InputError):
    """Calibration, evaluation or run data of the wrong shape, type, range, or none at all."""


class ArtifactError(InputError):
    """An artifact directory is incomplete, altered, from another version, or leaves its folder."""


class ProgramError(InputError):
    """A program of the accelerator is malformed, damaged, for another machine, or unsafe to run."""


class ConversionError(ShiftAddError):
    """A network could not be brought to shift-add form."""


class RangeError(ConversionError):
    """An integer computation could not be proved free of overflow."""


class VerificationError(ShiftAddError):
    """An invariant of the compiler does not hold, for instance a multiply in a region."""


class CompileError(ShiftAddError):
    """A target could not be built for, or is not known."""


class DeviceError(ShiftAddError):
    """A device did not finish in time, cannot be reached, or broke off."""


class DependencyError(ShiftAddError):
    """An optional package or tool is missing; the message names the command that installs it."""
