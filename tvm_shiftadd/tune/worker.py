"""A process that builds, runs and checks candidates: what crashes or hangs in it harms nobody else.

Started as ``python -m tvm_shiftadd.tune.worker FACTORY DESCRIPTOR``. ``FACTORY`` is
``package.module:function``, called with the first line of standard input, a JSON object; what it
returns is then called with each further line. Answers go to ``DESCRIPTOR``, since libraries may
print: what was returned, {"error": cause} where that lies in the candidate, or {"stop": cause}
where it lies in the machine and no other candidate would do better.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tvm_shiftadd.errors import DependencyError, DeviceError

Handler = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, even in the middle of an endless kernel."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _answer(function: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        return function()
    except (DependencyError, DeviceError) as error:
        return {"stop": str(error)}
    except MemoryError:
        return {"stop": "not enough memory"}
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        return {"stop": f"{error.strerror or error}{place}"}
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # TVM's messages end with what went wrong.
        return {"error": f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"}


def main(factory: str, descriptor: int) -> None:
    """Serve until standard input ends."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    module, _, name = factory.partition(":")
    handlers: list[Handler] = []

    def prepare(values: Mapping[str, Any]) -> Mapping[str, Any]:
        handlers.append(getattr(importlib.import_module(module), name)(values))
        return {"ready": True}

    with os.fdopen(descriptor, "wb") as answers:
        for line in sys.stdin.buffer:
            values = msgspec.json.decode(line)
            answer = _answer(lambda: (handlers[0] if handlers else prepare)(values))  # noqa: B023
            answers.write(msgspec.json.encode(answer) + b"\n")
            answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
