"""Running a library in TVM's virtual machine: opening it, checking inputs, calling ``main``."""

from __future__ import annotations

import math
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_shiftadd._processor import machine, vector_features, vector_names
from tvm_shiftadd.errors import ArtifactError, DataError
from tvm_shiftadd.manifest import FEATURES, LIBRARY, TRIPLE, Manifest, TargetInfo, TensorInfo

Array = NDArray[Any]

#: Libraries this process has opened: path -> SHA-256. The dynamic loader gives the old library
#: back when a path is opened twice, even if the file was replaced in between.
_opened: dict[str, str] = {}


class Machine:
    """A library with its parameters, ready to be called; one caller at a time.

    ``library`` is a compiled Relax module or an opened library. ``parameters`` are handed to
    ``main`` after the inputs, in their order. ``num_threads``: None takes one a core, and where
    there are fewer processors it takes those. ``device`` is what the library was compiled for, None
    the CPU; inputs are copied there, and outputs back. With one, setting up and calling raise
    :class:`DeviceError` where it fails.
    """

    def __init__(
        self,
        library: Any,
        parameters: Mapping[str, Array],
        num_threads: int | None = None,
        device: Any = None,
    ) -> None:
        import tvm
        from tvm import relax

        from tvm_shiftadd.target import runtime
        from tvm_shiftadd.target.batch import SINGLE

        runtime.prefer_num_threads(num_threads)
        self._num_threads = num_threads
        self._device = device or tvm.cpu()
        self._beside = device is not None
        with self._reported():
            self._machine = relax.VirtualMachine(library, self._device)
            constants = [
                tvm.runtime.tensor(np.ascontiguousarray(array), self._device)
                for array in parameters.values()
            ]
            self._constants = runtime.prepare_parameters(self._machine, constants)
        self._main, self._single = self._machine["main"], None
        if self._machine.module.implements_function(SINGLE):
            self._single = self._machine[SINGLE]
        #: The inputs of the run before, whose memory the next one of the same shapes takes.
        self._inputs: dict[tuple[int, tuple[int, ...]], Any] = {}
        # A virtual machine keeps its call frames in itself.
        self._lock = threading.Lock()

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs of ``main``, in its order."""
        from tvm_shiftadd.target import runtime

        with self._lock, self._reported():
            # The machine that was set up in one thread may be called in another.
            runtime.prefer_num_threads(self._num_threads)
            self._inputs = {
                (index, array.shape): self._input(index, array)
                for index, array in enumerate(arrays)
            }
            main = self._single if self._single and len(arrays[0]) == 1 else self._main
            result = main(*self._inputs.values(), *self._constants)
            outputs = [result] if hasattr(result, "numpy") else list(result)
            if self._beside:
                return [output.numpy() for output in outputs]
            # TVM's own copy takes ten times as long: a twentieth of a small network's run.
            return [np.from_dlpack(output).copy() for output in outputs]

    def _reported(self) -> AbstractContextManager[None]:
        """What a device beside the processor is used within."""
        if not self._beside:
            return nullcontext()
        from tvm_shiftadd.target import cuda_runtime

        return cuda_runtime.reported()

    def _input(self, index: int, array: Array) -> Any:
        """An array as a tensor; small networks run hardly longer than new memory takes."""
        import tvm

        held = self._inputs.get((index, array.shape))
        if held is None:
            return tvm.runtime.tensor(array, self._device)
        if self._beside:
            return held.copyfrom(array)
        view = np.from_dlpack(held)
        if not view.flags.writeable:  # before NumPy 2
            return held.copyfrom(array)
        np.copyto(view, array)
        return held

    def seconds(self, arrays: Sequence[Array], runs: int) -> float:
        """The mean time of a run on the device, its inputs there and its results left there."""
        from tvm_shiftadd.target.batch import SINGLE

        with self._lock, self._reported():
            given = [self._input(index, array) for index, array in enumerate(arrays)]
            name = SINGLE if self._single and len(arrays[0]) == 1 else "main"
            timed = self._machine.time_evaluator(name, self._device, number=runs)
            return float(timed(*given, *self._constants).mean)

    @property
    def constant_bytes(self) -> int:
        """Bytes of the weights and other constants, in the form that the kernels read."""
        return sum(tensor_bytes(constant) for constant in self._constants)

    def watch(self, instrument: Callable[..., int] | None) -> None:
        """Have ``instrument`` called before and after each call of a kernel or a built-in.

        Its arguments are the function, its name, whether it is before the call, what was returned,
        and the call's arguments; it returns 0, or 1 before a call to have it left out. None ends
        it.
        """
        self._machine.set_instrument(instrument)


def tensor_bytes(tensor: Any) -> int:
    """Bytes of a TVM tensor's elements."""
    return math.prod(map(int, tensor.shape)) * np.dtype(str(tensor.dtype)).itemsize


def check_inputs(infos: Sequence[TensorInfo], x: Array | Mapping[str, Array]) -> list[Array]:
    """The arrays in the order of ``infos``, contiguous.

    Raises :class:`DataError` for a wrong name, shape or dtype, or batch sizes that differ.
    """
    if isinstance(x, Mapping):
        feeds = dict(x)
    elif len(infos) == 1:
        feeds = {infos[0].name: x}
    else:
        names = ", ".join(info.name for info in infos)
        raise DataError(f"expected a mapping with the inputs {names}, got one array")
    expected = {info.name for info in infos}
    if set(feeds) != expected:
        raise DataError(
            f"expected the inputs {', '.join(sorted(expected))}, "
            f"got {', '.join(sorted(map(str, feeds))) or 'none'}"
        )
    arrays = [_check_input(info, feeds[info.name]) for info in infos]
    free = [a for a, info in zip(arrays, infos, strict=True) if info.shape[:1] == (-1,)]
    sizes = {array.shape[0] for array in free}
    if len(sizes) > 1:
        raise DataError(f"expected one batch size for all inputs, got {sorted(sizes)}")
    return arrays


def _check_input(info: TensorInfo, array: Any) -> Array:
    if not isinstance(array, np.ndarray):
        raise DataError(f"input {info.name}: expected a NumPy array, got {type(array).__name__}")
    shape = ", ".join("any" if d < 0 else str(d) for d in info.shape)
    if array.dtype != np.dtype(info.dtype):
        raise DataError(
            f"input {info.name}: expected {info.dtype} [{shape}], got dtype {array.dtype}; "
            f"convert it with .astype({info.dtype!r})"
        )
    fits = array.ndim == len(info.shape) and all(
        have == want or (want < 0 and have > 0)
        for have, want in zip(array.shape, info.shape, strict=True)
    )
    if not fits:
        raise DataError(
            f"input {info.name}: expected {info.dtype} [{shape}], got shape {list(array.shape)}"
        )
    return np.ascontiguousarray(array)


def pinned(target: TargetInfo) -> TargetInfo:
    """With the machine and the vector features that the code is for, as Linux names these."""
    from tvm_shiftadd.target import CPUTarget, cpu

    attributes = target.attributes
    mcpu, mattr = str(attributes.get("mcpu", "host")), attributes.get("mattr")
    listed = tuple(map(str, mattr)) if isinstance(mattr, (list, tuple)) else ()
    chosen = CPUTarget(mcpu=mcpu, mattr=listed, mtriple=str(attributes.get("mtriple", "")))
    used = sorted(vector_names(cpu.features(chosen)))
    return TargetInfo(target.kind, {**attributes, TRIPLE: cpu.triple(chosen), FEATURES: used})


def open_library(path: Path, content: bytes, described: Manifest) -> Any:
    """Open the library at ``path``, whose ``content`` was just checked against ``described``.

    Raises :class:`ArtifactError` for another TVM, a processor that lacks instructions, or a file
    that the dynamic loader refuses.
    """
    import tvm

    _check_tvm(described, tvm.__version__)
    check_processor(described)
    digest = described.files[LIBRARY].sha256
    try:
        if _opened.setdefault(str(path), digest) == digest:
            return tvm.runtime.load_module(str(path))
        with tempfile.TemporaryDirectory(prefix="tvm-shiftadd-") as folder:
            copy = Path(folder) / LIBRARY
            copy.write_bytes(content)
            return tvm.runtime.load_module(str(copy))
    except (OSError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ArtifactError(
            f"{path} cannot be opened on this machine ({lines[-1]}); "
            f"compile the model here (this is {sys.platform})"
        ) from error


def _check_tvm(described: Manifest, running: str) -> None:
    made_with = described.tvm_version
    if _release(made_with) != _release(running):
        raise ArtifactError(
            f"the artifact was compiled by TVM {made_with} but TVM {running} is installed; "
            f"compile the model again or install apache-tvm=={made_with}"
        )


def _release(version: str) -> list[str]:
    return version.split(".")[:2]


def check_processor(described: Manifest) -> None:
    """Refuse code with instructions that this processor lacks: it would end the process.

    Raises :class:`ArtifactError`.
    """
    attributes = described.target.attributes
    triple = str(attributes.get(TRIPLE, ""))
    family = triple.split("-", 1)[0].replace("arm64", "aarch64")
    if triple and family != machine():
        raise ArtifactError(
            f"the artifact is for machines of {triple}, this one is {machine()}; run it there, or "
            "compile the model for this machine"
        )
    needed, present = attributes.get(FEATURES), vector_features()
    if not isinstance(needed, list) or present is None:
        return
    missing = sorted(vector_names(map(str, needed)) - vector_names(present))
    if missing:
        raise ArtifactError(
            f"the artifact needs a processor with {', '.join(missing)}, which this one lacks; "
            "compile the model here or with --target cpu:generic"
        )
