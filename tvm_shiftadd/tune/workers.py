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
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import msgspec

from tvm_shiftadd.errors import ShiftAddError

#: Seconds in which a process must have loaded what it needs.
_START = 180.0
#: Characters of what a process wrote before it died.
_LAST_WORDS = 300


class _Worker:
    """One process. Asking it starts it; an answer that does not come ends it."""

    def __init__(self, factory: str, config: Mapping[str, Any], timeout: float) -> None:
        self._factory, self._config, self._timeout = factory, config, timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1
        self._rest = b""
        self._errors: Any = None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer, or {"error": cause}. Raises ShiftAddError if no process can be started."""
        if self._process is None:
            self._start()
        return self._exchange(request, self._timeout)

    def _start(self) -> None:
        reading, writing = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "tvm_shiftadd.tune.worker", self._factory, str(writing)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env=environment,
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        self._answers, self._rest = reading, b""
        answer = self._exchange(self._config, _START)
        if "ready" not in answer:
            self.close()
            raise ShiftAddError(f"no process to try candidates in could be started: {answer}")

    def _exchange(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return self._died()
        end = time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                self.close()
                return {"error": f"took longer than {timeout:g} s"}
            piece = os.read(self._answers, 1 << 16)
            if not piece:
                return self._died()
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(msgspec.json.decode(line))

    def _died(self) -> dict[str, Any]:
        assert self._process is not None
        code = self._process.wait()
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()[-_LAST_WORDS:]
        last = (text.splitlines() or ["no message"])[-1]
        self.close()
        if code < 0:
            with contextlib.suppress(ValueError):
                return {"error": f"the process was ended by {signal.Signals(-code).name}"}
        return {"error": f"the process ended with code {code}: {last}"}

    def close(self) -> None:
        """End the process and all that it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._errors):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        os.close(self._answers)
        self._process = None


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
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._all:
            worker.close()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of whichever process is free, or {"error": cause}."""
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
