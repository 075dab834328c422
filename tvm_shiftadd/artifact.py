"""A compiled network: a directory with native code, weights and a manifest, and how to run it.

The directory needs neither the model file nor the packages that import models. It holds native
code, so load only what you trust: the hashes find damage, not malice.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd import __version__, _contents, _directory, _json, _runtime, manifest
from tvm_shiftadd.errors import ArtifactError, CompileError, DependencyError, ProgramError
from tvm_shiftadd.manifest import (
    FileEntry,
    IntegerSpecification,
    Manifest,
    Source,
    TargetInfo,
    TensorInfo,
)
from tvm_shiftadd.target import DeviceChoice, accelerator, link, runtime
from tvm_shiftadd.target.gpu import CUDA

if TYPE_CHECKING:
    from tvm import relax

Array = NDArray[Any]

_MANIFEST_LIMIT = 64 << 20


class Artifact:
    """A compiled network that can be saved, loaded and run.

    ``executable`` is a compiled Relax module whose ``main`` takes the inputs and then the
    parameters. ``parameters`` holds the constant tensors by name, in the order ``main`` expects.
    ``programs`` are the files of an accelerator's part, by name.
    """

    def __init__(
        self,
        executable: relax.VMExecutable,
        parameters: Mapping[str, Array],
        *,
        source: Source,
        target: TargetInfo,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        specification: IntegerSpecification | None = None,
        report: Mapping[str, Any] | None = None,
        programs: Mapping[str, bytes] | None = None,
    ) -> None:
        self._manifest = Manifest(
            format=manifest.FORMAT,
            format_version=manifest.FORMAT_VERSION,
            project_version=__version__,
            tvm_version=manifest.installed_tvm(),
            source=source,
            target=_runtime.pinned(target),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            parameters=tuple(_contents.describe(name, array) for name, array in parameters.items()),
            integer_specification=specification or IntegerSpecification(),
            files={},
        )
        plain = {str(name): array for name, array in parameters.items()}
        self._setup(executable, plain, dict(report or {}), dict(programs or {}))

    def _setup(
        self,
        library: relax.VMExecutable | Path,
        parameters: dict[str, Array],
        report: dict[str, Any],
        programs: dict[str, bytes],
    ) -> None:
        self._library = library
        self._parameters = parameters
        self._report = report
        self._programs = programs
        target = self._manifest.target
        self._regions: accelerator.Regions | None = None
        if target.kind in accelerator.BACKENDS:
            package = accelerator.backend(target.kind)
            self._regions = package.read(programs, target.attributes)
        self._device = DeviceChoice()
        self._connected: accelerator.Connected | None = None
        self._machine: _runtime.Machine | None = None
        self._lock = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        """What the artifact is made of; ``files`` is filled in once it was saved or loaded."""
        return self._manifest

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Name, shape (-1: any batch size) and dtype of each input."""
        return self._manifest.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Name, shape (-1: any batch size) and dtype of each output."""
        return self._manifest.outputs

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The constant tensors by name: weight codes, biases, shifts."""
        return self._parameters

    @property
    def report(self) -> dict[str, Any]:
        """The conversion's report: errors by layer, operation and energy counts."""
        return self._report

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the artifact to ``directory``, whole or not at all.

        An artifact that is there already is replaced. Raises :class:`ArtifactError` if something
        else is there, or the file system refuses; then what was there is left as it was.
        """
        from safetensors.numpy import save

        files: dict[str, FileEntry] = {}

        def put(path: Path, content: bytes) -> None:
            path.write_bytes(content)
            files[path.name] = _contents.entry(content)

        def write(folder: Path) -> None:
            self._write_library(folder / manifest.LIBRARY)
            files[manifest.LIBRARY] = _contents.entry((folder / manifest.LIBRARY).read_bytes())
            contiguous = {k: np.ascontiguousarray(v) for k, v in self._parameters.items()}
            put(folder / manifest.WEIGHTS, save(contiguous))
            put(folder / manifest.REPORT, _json.encode_indented(self._report))
            for name, content in self._programs.items():
                put(folder / name, content)
            (folder / manifest.MANIFEST).write_bytes(manifest.encode(self._with_files(files)))

        _directory.write_directory(Path(directory), write, check_replaceable)
        self._manifest = self._with_files(files)

    def _with_files(self, files: dict[str, FileEntry]) -> Manifest:
        return manifest.seal(msgspec.structs.replace(self._manifest, files=files))

    def _write_library(self, path: Path) -> None:
        if isinstance(self._library, Path):
            path.write_bytes(self._read_library())
            return
        triple = str(self._manifest.target.attributes.get("mtriple", ""))
        try:
            link.export_library(self._library, str(path), triple)
        except (RuntimeError, CompileError) as error:
            # The linker reports a full disk in words of its own, or is killed by it.
            if "No space left" in str(error) or shutil.disk_usage(path.parent).free < (1 << 20):
                raise ArtifactError(
                    f"could not write {path.name}: No space left on device; "
                    "an existing output was left as it was"
                ) from error
            if isinstance(error, CompileError):
                raise
            first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
            raise DependencyError(
                "linking the library needs a C++ compiler (g++ or clang++ on the PATH) "
                f"but failed: {first}; see tvm-shiftadd doctor"
            ) from error

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Artifact:
        """Read an artifact and check all of it; nothing is run and TVM is not imported.

        Raises :class:`ArtifactError` for a missing, damaged, altered or foreign file, another
        format version, or a path that leads out of the folder.
        """
        folder = Path(directory)
        if not folder.is_dir():
            raise ArtifactError(
                f"{folder} is not an artifact directory; make one with tvm-shiftadd compile"
            )
        where = str(folder / manifest.MANIFEST)
        text = _directory.read_inside(folder, manifest.MANIFEST, _MANIFEST_LIMIT)
        described = manifest.decode(text, where)
        contents = {
            name: _contents.read_checked(folder, name, entry)
            for name, entry in described.files.items()
        }
        artifact = cls.__new__(cls)
        artifact._manifest = described
        try:
            artifact._setup(
                folder.resolve() / manifest.LIBRARY,
                _contents.read_weights(contents[manifest.WEIGHTS], described.parameters, folder),
                _contents.read_report(contents[manifest.REPORT], folder),
                {name: contents[name] for name in sorted(manifest.beside(described))},
            )
        except ProgramError as error:
            raise ArtifactError(f"{folder}: {error}") from error
        return artifact

    def connect(self, device: DeviceChoice | str) -> None:
        """Run the accelerator's part on this device from now on; else it is a simulator.

        Raises :class:`InputError` for an unknown device and for an artifact of the CPU alone,
        :class:`ProgramError` for programs that are not safe to run, and :class:`DeviceError` where
        the device cannot be reached.
        """
        choice = accelerator.device_of(self._manifest.target.kind, device)
        runtime.check_process()
        with self._lock:
            self._machine, self._connected = self._made(None, choice)
            self._device = choice

    @property
    def regions(self) -> Any:
        """The accelerator's programs, as its package reads them; None for the CPU alone."""
        return self._regions

    @property
    def counted(self) -> Mapping[str, int]:
        """Launches on the device since it was connected, and what it counts in them: cycles."""
        return {} if self._connected is None else self._connected.counted

    def run(self, x: Array | Mapping[str, Array]) -> Array | dict[str, Array]:
        """Run the network on one array, or on a mapping of input names to arrays.

        Returns the output array, or a mapping of output names to arrays where there are several.
        Raises :class:`DataError` for a wrong name, shape or dtype, :class:`ArtifactError` if the
        library cannot be used on this machine, :class:`DeviceError` where the accelerator's device
        does not answer or no GPU is there that can run the artifact, and :class:`InputError` in a
        process that was forked after TVM had run: start processes by multiprocessing's "spawn"
        method.
        """
        arrays = _runtime.check_inputs(self.inputs, x)
        # Before the locks: another thread may have held one at the time of the fork.
        runtime.check_process()
        with self._lock:
            if self._machine is None:
                self._machine, self._connected = self._made(None, self._device)
        values = self._machine(arrays)
        if len(values) == 1:
            return values[0]
        return dict(zip((output.name for output in self.outputs), values, strict=True))

    def machine(self, num_threads: int | None = None) -> _runtime.Machine:
        """The network ready to be called, apart from the one that ``run`` uses: for measuring.

        It takes arrays in the order of ``inputs``. ``num_threads``: None takes what the target
        says. Raises what :meth:`run` does of the library and the device.
        """
        return self._made(num_threads, self._device)[0]

    def _made(
        self, num_threads: int | None, device: DeviceChoice
    ) -> tuple[_runtime.Machine, accelerator.Connected | None]:
        """A new machine, and what it calls of an accelerator."""
        wanted = num_threads or self._manifest.target.attributes.get("num_threads")
        threads = wanted if isinstance(wanted, int) else None
        gpu = self._gpu()
        library = self._open()
        if self._regions is None:
            return _runtime.Machine(library, self._parameters, threads, gpu), None
        connected = self._regions.connect(device)
        with connected.bound():
            return _runtime.Machine(library, self._parameters, threads), connected

    def _gpu(self) -> Any:
        """The GPU that the artifact is to run on; None where it is for none."""
        target = self._manifest.target
        if target.kind != CUDA:
            return None
        from tvm_shiftadd.target import cuda_runtime

        return cuda_runtime.device(str(target.attributes.get("arch", "")))

    def _open(self) -> Any:
        if isinstance(self._library, Path):
            return _runtime.open_library(self._library, self._read_library(), self._manifest)
        _runtime.check_processor(self._manifest)
        return self._library

    def _read_library(self) -> bytes:
        path = cast(Path, self._library)
        return _contents.read_checked(path.parent, path.name, self._manifest.files[path.name])


def check_replaceable(directory: Path) -> None:
    """Raise :class:`ArtifactError` unless ``directory`` is absent, empty or an artifact.

    A directory with anything else in it is never replaced: that would delete a user's files. One
    that is absent must have a place where it can be made.
    """
    if not os.path.lexists(directory):
        parent = next(p for p in Path(directory).resolve().parents if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise ArtifactError(f"{directory} cannot be made in {parent}; choose another output")
        return
    if not directory.is_dir():
        raise ArtifactError(f"{directory} exists and is not a directory; choose another output")
    names = {entry.name for entry in directory.iterdir()}
    if not names:
        return
    foreign = sorted(name for name in names if not manifest.is_ours(name))
    if not foreign and manifest.MANIFEST in names:
        text = _directory.read_inside(directory, manifest.MANIFEST, _MANIFEST_LIMIT)
        if manifest.read_envelope(text) is not None:
            return
    found = foreign[0] if foreign else "a manifest that is not ours"
    raise ArtifactError(
        f"{directory} exists and is not an artifact (it holds {found}); choose another output"
    )
