"""The accelerator as TVM sees it: external code generation for functions marked ``vta``.

TVM's pass RunCodegen hands such functions to ``relax.ext.vta`` and makes calls of packed functions
of their calls. Programs are no native code, so they do not go into the library: a compilation
collects them, and whoever runs the library says which device stands behind each name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import tvm_ffi

from tvm_shiftadd._compat import register_error, relax
from tvm_shiftadd.errors import CompileError, DataError, DeviceError, InputError, ProgramError
from vta_ext.compiler import frontend
from vta_ext.compiler.compile import Choose, CompiledRegion, compile_network, estimated
from vta_ext.compiler.operators import Network
from vta_ext.config import Config

#: The value of the attribute "Codegen", and the end of this code generator's name.
NAME: Final = "vta"

#: Told the regions compiled and how many there are.
Told = Callable[[int, int], None]


@dataclass
class Compilation:
    """One run of RunCodegen: the machine, and what became of each function by its symbol."""

    config: Config
    tell: Told
    tiling: Choose
    compiled: dict[str, tuple[Network, CompiledRegion]] = field(default_factory=dict)
    #: What a function raised; TVM would hand it on as another exception.
    error: Exception | None = None


_current: ContextVar[Compilation | None] = ContextVar("vta_compilation", default=None)


def generate(
    module: Any, config: Config, tell: Told, tiling: Choose = estimated
) -> tuple[Any, Compilation]:
    """Compile all functions of ``module`` that are marked for the accelerator.

    Returns the module with calls of packed functions, and the compilation. Raises what
    :func:`vta_ext.compiler.compile.compile_network` raises.
    """
    compilation = Compilation(config, tell, tiling)
    token = _current.set(compilation)
    try:
        return relax.transform.RunCodegen()(module), compilation
    except Exception as error:
        raise compilation.error or error from None
    finally:
        _current.reset(token)


def _compile(functions: Sequence[Any], _options: Any, _constants: Any) -> list[Any]:
    """What RunCodegen calls. No runtime modules come of it."""
    compilation = _current.get()
    if compilation is None:
        raise CompileError(
            "functions of the accelerator are compiled for one machine, and none was named; call "
            "vta_ext.offload.offload instead of RunCodegen"
        )
    try:
        for number, function in enumerate(functions):
            compilation.tell(number, len(functions))
            network = _network(function)
            symbol = str(function.attrs["global_symbol"])
            region = compile_network(network, compilation.config, compilation.tiling)
            compilation.compiled[symbol] = network, region
        compilation.tell(len(functions), len(functions))
    except Exception as error:
        compilation.error = error
        raise
    return []


tvm_ffi.register_global_func(f"relax.ext.{NAME}", _compile, override=True)


def _network(function: Any) -> Network:
    """The operators of a region's function; its parameters and results in their order."""
    steps = frontend.read(function)
    result = function.body.body
    results = list(result.fields) if isinstance(result, relax.Tuple) else [result]
    found = frontend.network(
        [step.operator for step in steps if step.operator is not None],
        [str(var.name) for var in results],
    )
    given = {value.name: value for value in found.inputs}
    return Network(
        found.operators, tuple(given[str(var.name)] for var in function.params), found.outputs
    )


#: Names are looked up in one table of the process.
_names = threading.Lock()


@contextmanager
def functions_bound(functions: Mapping[str, Callable[..., None]]) -> Iterator[None]:
    """Within it, a ``relax.VirtualMachine`` that is made finds packed functions by these names.

    It looks them up once, when it is made.
    """
    for error in (DataError, DeviceError, InputError, ProgramError):
        register_error(error)
    with _names:
        for name, function in functions.items():
            tvm_ffi.register_global_func(name, function, override=True)
        try:
            yield
        finally:
            for name in functions:
                tvm_ffi.registry.remove_global_func(name)
