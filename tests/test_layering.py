"""Imports point one way: every file's import statements are read and held against the layers."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tvm_shiftadd", "relay_passes", "vta_ext")

# Lower may not import higher. Modules of one layer may import each other.
LAYERS = (
    ("tvm_shiftadd.errors", "tvm_shiftadd"),
    ("tvm_shiftadd.formats",),
    ("tvm_shiftadd.convert",),
    ("tvm_shiftadd._compat", "tvm_shiftadd._processor"),
    ("tvm_shiftadd.dialect", "tvm_shiftadd.topi", "tvm_shiftadd.target", "tvm_shiftadd.plugin"),
    ("tvm_shiftadd.importers", "tvm_shiftadd.torch", "relay_passes"),
    (
        "tvm_shiftadd._contents",
        "tvm_shiftadd._directory",
        "tvm_shiftadd._json",
        "tvm_shiftadd._runtime",
        "tvm_shiftadd.manifest",
        "tvm_shiftadd.artifact",
        "tvm_shiftadd.data",
        "tvm_shiftadd.costs",
    ),
    (
        "tvm_shiftadd.api",
        "tvm_shiftadd.bench",
        "tvm_shiftadd.doctor",
        "tvm_shiftadd.evaluation",
        "tvm_shiftadd.explanation",
        "tvm_shiftadd.tune",
    ),
    ("tvm_shiftadd.demo",),
    ("tvm_shiftadd.cli",),
)
_CPU, _CUDA = (f"tvm_shiftadd.topi.schedules.{kind}" for kind in ("cpu", "cuda"))
#: Within a layer: what a part may not import. Kernels of two kinds of target share ``fusion``.
APART = {
    _CPU: (_CUDA,),
    _CUDA: (_CPU,),
    "tvm_shiftadd.topi.schedules.fusion": (_CPU, _CUDA),
    "tvm_shiftadd.topi.schedules.shapes": (_CPU, _CUDA),
    "tvm_shiftadd.target.calls": (_CPU, _CUDA),
    "tvm_shiftadd.target.lowering": (_CPU, _CUDA),
    "tvm_shiftadd.target.cuda": (_CPU,),
    "tvm_shiftadd.tune.cuda": (_CPU,),
    "tvm_shiftadd.tune.cuda_space": (_CPU,),
    "tvm_shiftadd.tune.cuda_worker": (_CPU,),
    "tvm_shiftadd.tune.random_layer": (_CPU, _CUDA),
}
#: Packages that may be used without TVM, and must not load it.
WITHOUT_TVM = (
    "tvm_shiftadd.errors",
    "tvm_shiftadd.formats",
    "tvm_shiftadd.convert",
    "vta_ext.config",
    "vta_ext.presets",
    "vta_ext.isa",
    "vta_ext.program",
    "vta_ext.listing",
    "vta_ext.builder",
    "vta_ext.checker",
    "vta_ext.checks",
    "vta_ext.jit",
    "vta_ext.link",
    "vta_ext.sim",
)
TVM = ("tvm", "tvm_ffi")


def module_name(path: Path) -> str:
    """tvm_shiftadd/formats/codes.py -> tvm_shiftadd.formats.codes"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer(module: str) -> int | None:
    """Index of the layer that lists the longest prefix of ``module``; None for no layer."""
    found = [
        (len(package), index)
        for index, packages in enumerate(LAYERS)
        for package in packages
        if module == package or (package != "tvm_shiftadd" and within(module, package))
    ]
    return max(found)[1] if found else None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def import_nodes(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that can run, those inside functions included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif not is_type_checking(node):
            yield from import_nodes(node)
        elif isinstance(node, ast.If):
            for other in node.orelse:
                yield from import_nodes(other)


def imports_of(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Absolute names of all modules that ``source`` imports."""
    names: set[str] = set()
    for node in import_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            kept = parts[: len(parts) - node.level + is_package]
            base = ".".join([*kept, base] if base else kept)
        for alias in node.names:
            name = f"{base}.{alias.name}"
            path = ROOT / name.replace(".", "/")
            is_module = path.with_suffix(".py").is_file() or path.is_dir()
            names.add(name if is_module else base)
    return names


def complaints(module: str, imported: set[str]) -> list[str]:
    """What is wrong with the imports of ``module``."""
    wrong = []
    mine = layer(module)
    for name in sorted(imported):
        if name.split(".")[0] in TVM and any(within(module, part) for part in WITHOUT_TVM):
            wrong.append(f"{module} imports {name}, but that part uses NumPy only")
        if name.split(".")[0] in ("tests", "models", "benchmarks"):
            wrong.append(f"{module} imports {name}, which is not installed")
        if name.split(".")[0] not in PACKAGES:
            continue
        for part, others in APART.items():
            if within(module, part) and any(within(name, other) for other in others):
                wrong.append(f"{module} imports {name}; {part} is to know nothing of it")
        if within(module, "vta_ext"):
            allowed = ("errors", "formats", "dialect", "topi", "_compat")
            if name != "tvm_shiftadd" and not any(
                within(name, package)
                for package in ("vta_ext", *(f"tvm_shiftadd.{part}" for part in allowed))
            ):
                wrong.append(f"{module} imports {name}; vta_ext may use formats, dialect, topi")
            continue
        theirs = layer(name)
        if within(name, "vta_ext"):
            if not within(module, "tvm_shiftadd.cli"):
                wrong.append(f"{module} imports {name}; only the command line may import vta_ext")
        elif theirs is None or mine is None:
            wrong.append(f"{module} imports {name}: list both in LAYERS of {Path(__file__).name}")
        elif theirs > mine:
            wrong.append(f"{module} imports {name}, a layer above it")
    return wrong


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    module = module_name(path)
    imported = imports_of(path.read_text(), module, is_package=path.stem == "__init__")
    assert complaints(module, imported) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("tvm_shiftadd.formats.codes", "import tvm.relax", "NumPy only"),
        ("tvm_shiftadd.convert.terms", "def f():\n    from tvm import te", "NumPy only"),
        ("tvm_shiftadd.formats.codes", "from tvm_shiftadd.convert import plan", "a layer above"),
        ("tvm_shiftadd.formats.codes", "from ..convert import plan", "a layer above"),
        ("tvm_shiftadd.convert.terms", "from tvm_shiftadd import _compat", "a layer above"),
        ("tvm_shiftadd.dialect.ops", "import relay_passes", "a layer above"),
        ("relay_passes.base", "import tvm_shiftadd.cli", "a layer above"),
        ("relay_passes.base", "from vta_ext import isa", "only the command line may"),
        ("vta_ext.isa.table", "import tvm", "NumPy only"),
        ("vta_ext.isa", "import relay_passes.base", "formats, dialect, topi"),
        ("vta_ext.isa", "from tvm_shiftadd import convert", "formats, dialect, topi"),
        ("tvm_shiftadd.errors", "import tests.conftest", "not installed"),
        (f"{_CUDA}.graph", "from ..cpu.dot import weights", "know nothing of it"),
        (f"{_CPU}.legalize", f"from {_CUDA} import graph", "know nothing of it"),
        ("tvm_shiftadd.target.calls", f"import {_CPU}.geometry", "know nothing of it"),
        ("tvm_shiftadd.surprise", "import tvm_shiftadd.errors", "list both in LAYERS"),
    ],
)
def test_wrong_imports_are_found(module: str, source: str, complaint: str) -> None:
    found = complaints(module, imports_of(source, module))
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tvm_shiftadd.convert.terms", "from tvm_shiftadd.formats import codes\nimport numpy"),
        ("tvm_shiftadd.formats.codes", "if TYPE_CHECKING:\n    from tvm import relax"),
        ("tvm_shiftadd.cli", "from tvm_shiftadd import __version__, api"),
        ("vta_ext.isa", "from tvm_shiftadd.formats import codes\nfrom vta_ext import config"),
        ("tvm_shiftadd.cli.isa", "from vta_ext import config"),
        (f"{_CUDA}.graph", "from ..fusion import chains\nfrom ..shapes import ConvShape"),
        ("tvm_shiftadd.target.cuda", f"from tvm_shiftadd.target import cpu\nimport {_CUDA}.graph"),
    ],
)
def test_right_imports_pass(module: str, source: str) -> None:
    assert complaints(module, imports_of(source, module)) == []


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter; fails with its standard error."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_formats_and_convert_do_not_load_tvm() -> None:
    loaded = run_python(
        "import sys, pkgutil, importlib, tvm_shiftadd, tvm_shiftadd.formats, tvm_shiftadd.convert\n"
        "for package in (tvm_shiftadd.formats, tvm_shiftadd.convert):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(found.name)\n"
        "print([name for name in ('tvm', 'tvm_ffi', 'onnx', 'torch') if name in sys.modules])"
    )
    assert loaded == "[]"


def test_the_machine_of_the_accelerator_does_not_load_tvm() -> None:
    loaded = run_python(
        "import sys, pkgutil, importlib, vta_ext.isa, vta_ext.sim, vta_ext.checks\n"
        "for package in (vta_ext.isa, vta_ext.sim, vta_ext.checks):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(found.name)\n"
        "import vta_ext.presets, vta_ext.checker, vta_ext.listing, vta_ext.builder\n"
        "print([name for name in ('tvm', 'tvm_ffi', 'amaranth') if name in sys.modules])"
    )
    assert loaded == "[]"


def test_the_package_itself_is_light() -> None:
    loaded = run_python(
        "import sys, tvm_shiftadd\n"
        "print([name for name in ('tvm', 'numpy', 'onnx', 'rich') if name in sys.modules])"
    )
    assert loaded == "[]"


def test_doctor_diagnoses_without_tvm() -> None:
    # It is asked where TVM crashes, and looks at it in a process of its own.
    loaded = run_python(
        "import sys, tvm_shiftadd.target.link, tvm_shiftadd.doctor as doctor\n"
        "doctor._tvm = lambda: ()\n"
        "doctor.diagnose()\n"
        "print([name for name in ('tvm', 'tvm_ffi', 'onnx', 'torch') if name in sys.modules])"
    )
    assert loaded == "[]"


def test_public_names_are_there() -> None:
    count = run_python(
        "import tvm_shiftadd as tsa\n"
        "assert set(tsa.__all__) <= set(dir(tsa))\n"
        "print(sum(getattr(tsa, name) is not None for name in tsa.__all__) == len(tsa.__all__))"
    )
    assert count == "True"


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import tvm_shiftadd

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tvm_shiftadd.nonsense  # noqa: B018
