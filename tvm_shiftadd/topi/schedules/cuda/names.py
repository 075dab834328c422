"""Names of parameters that CUDA C++ takes: TVM gives them the names of the network's layers."""

from __future__ import annotations

import json
import re

from tvm_shiftadd._compat import ir, tirx

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def with_plain_names(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The same function; names of its parameters have letters, digits and underscores only.

    Two may become one name: code generation numbers them.
    """
    names = {str(param.name) for param in func.params}
    wrong = {name for name in names if not _PLAIN.fullmatch(name)}
    if not wrong:
        return func
    # TVM 0.27 has no mutator of TensorIR for Python; a function's nodes as text are a list in
    # which a name is a node of its own.
    graph = json.loads(ir.save_json(func))
    for node in graph["nodes"]:
        if node["type"] == "ffi.String" and node["data"] in wrong:
            node["data"] = "p_" + re.sub(r"\W", "_", node["data"], flags=re.ASCII)
    return ir.load_json(json.dumps(graph))
