"""Worker processes: started when needed, ended when they take too long, started again."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import IO, Any

import msgspec

from tvm_shiftadd.errors import ShiftAddError

#: Seconds in which a process must have loaded what it needs.
_START = 180.0
#: Characters of what a process wrote before it died, and seconds in which it must be dead then.
_LAST_WORDS, _LAST_BREATH = 300, 5.0
#: Signals that nothing sends itself: somebody ended the process, or the system did to get memory.
_FROM_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
_NOT_STARTED = "no process to try candidates in could be started"


class _Worker:
    """One process. Asking it starts it; an answer that does not come ends it.

    One thread at a time asks or closes. ``kill`` may come from any other, also while a process is
    started or ends, both of which are done under a lock.
    """

    def __init__(self, factory: str, config: Mapping[str, Any], timeout: float) -> None:
        self._factory, self._config, self._timeout = factory, config, timeout
        self._busy, self._lock = threading.Lock(), threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        #: Requests, answers and complaints.
        self._streams: tuple[IO[bytes], ...] = ()
        self._rest = b""

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer, or {"error": cause} where that lies in what is tried.

        Raises ShiftAddError where it lies in the machine: no process can be started, somebody
        else ended it, or it has found a tool missing or a disk full.
        """
        with self._busy:
            if self._process is None:
                self._start()
            answer = self._exchange(request, self._timeout)
        if "stop" in answer:
            raise ShiftAddError(f"candidates cannot be tried: {answer['stop']}")
        return answer

    def _start(self) -> None:
        try:
            with self._lock:
                self._open()
        except OSError as error:
            raise ShiftAddError(f"{_NOT_STARTED}: {error.strerror or error}") from error
        answer = self._exchange(self._config, _START)
        if "ready" not in answer:
            self._close()
            raise ShiftAddError(f"{_NOT_STARTED}: {answer.get('stop') or answer.get('error')}")

    def _open(self) -> None:
        """Start a process with a pipe for its answers and a file for its complaints."""
        if self._killed:
            raise ShiftAddError(f"{_NOT_STARTED}: the run has ended")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "tvm_shiftadd.tune.worker", self._factory]
        with contextlib.ExitStack() as undo:
            errors = undo.enter_context(tempfile.TemporaryFile())
            reading, writing = os.pipe()
            answers = undo.enter_context(os.fdopen(reading, "rb", buffering=0))
            try:
                self._process = subprocess.Popen(
                    [*command, str(writing)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    env=environment,
                    pass_fds=(writing,),
                    start_new_session=True,
                )
            finally:
                os.close(writing)
            undo.pop_all()
        assert self._process.stdin is not None
        self._streams, self._rest = (self._process.stdin, answers, errors), b""

    def _exchange(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        requests, answers, _ = self._streams
        try:
            requests.write(msgspec.json.encode(request) + b"\n")
            requests.flush()
        except BrokenPipeError:
            return self._died()
        end = time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([answers], [], [], left)[0]:
                self._close()
                return {"error": f"took longer than {timeout:g} s"}
            piece = answers.read(1 << 16)
            if not piece:
                return self._died()
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(msgspec.json.decode(line))

    def _died(self) -> dict[str, Any]:
        """What the process has died of. Raises ShiftAddError where somebody else ended it."""
        code = self._end(_LAST_BREATH)
        errors = self._streams[2]
        errors.seek(0)
        text = errors.read().decode(errors="replace").strip()[-_LAST_WORDS:]
        last = (text.splitlines() or ["no message"])[-1]
        self._release()
        if code is None:
            return {"error": f"the process stopped answering: {last}"}
        if code >= 0:
            return {"error": f"the process ended with code {code}: {last}"}
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-code, f"signal {-code}")
        if name in _FROM_OUTSIDE:
            raise ShiftAddError(
                f"a process that tries candidates was ended from outside by {name}; the machine "
                "may be out of memory"
            )
        return {"error": f"the process was ended by {name}"}

    def kill(self) -> None:
        """End the process and start no other; whoever asks is told that it has died."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                _signal(self._process)

    def close(self) -> None:
        """End the process and all that it started, once nobody waits for its answer."""
        with self._busy:
            self._close()

    def _close(self) -> None:
        self._end(0.0)
        self._release()

    def _end(self, patience: float) -> int | None:
        """End the process; the code with which it ended by itself in so many seconds, or None."""
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            code: int | None = process.returncode
            _signal(process)
            process.wait()
            return code

    def _release(self) -> None:
        """Close what a process was talked to through."""
        for stream in self._streams:
            with contextlib.suppress(OSError):
                stream.close()
        self._streams = ()


def _signal(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


class Workers:
    """``count`` processes that answer requests; see ``worker`` for ``factory`` and ``config``."""

    def __init__(
        self, factory: str, config: Mapping[str, Any], *, count: int = 1, timeout: float = 30.0
    ) -> None:
        self.count = count
        self._all = [_Worker(factory, config, timeout) for _ in range(count)]
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._all:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(count)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._all:
            worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.close()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of whichever process is free, or {"error": cause}; see ``_Worker.ask``."""
        worker = self._free.get()
        try:
            return worker.ask(request)
        finally:
            self._free.put(worker)

    def ask_all(
        self, requests: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The answers as they come, each with its request's position."""
        if self.count == 1:
            for index, request in enumerate(requests):
                yield index, self.ask(request)
            return
        futures = {self._threads.submit(self.ask, r): index for index, r in enumerate(requests)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()
