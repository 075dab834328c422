"""What runs a compiled module: its parameters, and how many threads it uses."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm_shiftadd.errors import InputError

_PREPARE = "main_transform_params"
_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
#: TVM's thread pool: all threads may run on any of the listed processors.
_SHARE_ALL_CORES = -3

#: The process whose Python threads have thread pools of TVM's; None before the first.
_process: int | None = None
#: In each Python thread: what ``prefer_num_threads`` was last told.
_preferred = threading.local()


def prepare_parameters(machine: Any, parameters: Sequence[Any]) -> list[Any]:
    """The arrays that ``main`` takes after its data inputs, as ``build`` lists them.

    ``machine`` is the ``relax.VirtualMachine`` of the executable, ``parameters`` the weights as
    TVM tensors in the order of the module's parameters. To be called once: it sorts the weight
    codes into the form the kernels read. Returns the parameters as they are where the module was
    built without ``data_inputs``.
    """
    if not machine.module.implements_function(_PREPARE):
        return list(parameters)
    return list(machine[_PREPARE](list(parameters)))


def available_cores() -> int:
    """Processor cores this process may use; two hardware threads of a core count once."""
    siblings = set()
    for cpu in _processors():
        try:
            siblings.add(Path(_TOPOLOGY.format(cpu)).read_text(encoding="ascii"))
        except OSError:
            return len(_processors())
    return len(siblings)


def set_num_threads(count: int | None = None) -> None:
    """Let the runs started by the calling Python thread use ``count`` threads from now on.

    None takes one a core, unless the environment variable TVM_NUM_THREADS says otherwise or an
    earlier run has started fewer. TVM by itself takes half of the processors it sees, which is
    half of the cores where each has one hardware thread, and ties the caller to them. To be called
    before the first run, and again in every Python thread that runs a network; later it can only
    lower the count. Raises InputError for a count it cannot set, and in a process that was forked
    after TVM had run.
    """
    processors = _processors()
    if count is not None and not 1 <= count <= len(processors):
        raise InputError(f"expected 1 to {len(processors)} threads, got {count}")
    _configure(count, processors)
    if count is not None and num_threads() != count:
        raise InputError(
            f"expected {count} threads, got {num_threads()}, which an earlier run started; set the "
            "number before the first run or with TVM_NUM_THREADS"
        )


def prefer_num_threads(count: int | None) -> None:
    """What ``set_num_threads`` does, as far as this machine and earlier runs allow it.

    Done once in a Python thread for the same ``count``, so to be called before each run.
    """
    if getattr(_preferred, "count", ()) == count:
        return
    processors = _processors()
    _configure(None if count is None else max(1, min(count, len(processors))), processors)
    _preferred.count = count


def check_process() -> None:
    """Raise InputError in a process forked after TVM ran: a run there would never end."""
    if _process not in (None, os.getpid()):
        raise InputError(
            "expected a process of its own, got one forked after TVM had run, without TVM's "
            'threads; start it by multiprocessing\'s "spawn" method, or fork before the first run'
        )


def _configure(count: int | None, processors: Sequence[int]) -> None:
    import tvm

    global _process
    check_process()
    if count is None:
        asked = os.environ.get("TVM_NUM_THREADS", "")
        count = int(asked) if asked.isdigit() and int(asked) else available_cores()
        count = min(count, len(processors))
    # Tying this thread to some processors would also tie every thread it starts later.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    _process = os.getpid()
    # What ``prefer_num_threads`` was told no longer holds.
    _preferred.__dict__.clear()
    configure = tvm.get_global_func("runtime.config_threadpool")
    configure(_SHARE_ALL_CORES, count, [str(cpu) for cpu in processors[:count]])


def num_threads() -> int:
    """The threads that a run of the calling Python thread uses."""
    import tvm

    return int(tvm.get_global_func("runtime.NumThreads")())


def _processors() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
