"""The code that a compiled module holds, as text."""

from __future__ import annotations

from typing import Any


def code_of(module: Any, kind: str, form: str = "") -> str:
    """The code of a runtime module and of all that it imports, where they are of a kind.

    ``kind`` is "llvm" or "cuda"; ``form`` what is wanted of it, for LLVM "asm", else the usual one.
    """
    modules, found = [module], []
    while modules:
        one = modules.pop()
        modules.extend(one.imports)
        if one.kind == kind:
            found.append(str(one.inspect_source(form)))
    return "\n".join(found)
