"""Tensors of the emulated GPU behind which nothing may be touched."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import ExitStack
from typing import Any

import numpy as np

_CUDA, _ALIGNMENT = 2, 64
_KINDS = {"i": 0, "u": 1, "f": 2}


class _Managed(ctypes.Structure):
    """DLPack's ``DLManagedTensor``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("kind", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.c_void_p),
        ("offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class GuardedTensor:
    """A copy of an array whose end is the end of its memory, for ``from_dlpack``.

    Tensors begin at multiples of 64 bytes, so up to 63 bytes behind it are its own.

    ``array`` is that copy; it is there until ``stack`` is left.
    """

    def __init__(self, array: np.ndarray, stack: ExitStack) -> None:
        memory = (ctypes.c_char * array.nbytes).from_address(_allocate(array.nbytes, stack))
        self.array = np.frombuffer(memory, array.dtype).reshape(array.shape)
        self.array[...] = array
        self._shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self._managed = _Managed(
            data=self.array.ctypes.data,
            device=(_CUDA, 0),
            ndim=array.ndim,
            kind=_KINDS[array.dtype.kind],
            bits=array.itemsize * 8,
            lanes=1,
            shape=self._shape,
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        """The emulated GPU."""
        return (_CUDA, 0)

    def __dlpack__(self, **_options: Any) -> Any:
        """A capsule without an owner: this object is."""
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self._managed), b"dltensor", None)


def _allocate(size: int, stack: ExitStack) -> int:
    """The address of ``size`` bytes, or a few more, behind which is a page no one may touch."""
    size = -(-size // _ALIGNMENT) * _ALIGNMENT
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    whole = pages + mmap.PAGESIZE
    usage = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = libc.mmap(None, whole, *usage, -1, 0)
    assert start != ctypes.c_void_p(-1).value
    stack.callback(libc.munmap, start, whole)
    assert libc.mprotect(start + pages, mmap.PAGESIZE, 0) == 0
    return int(start + pages - size)
