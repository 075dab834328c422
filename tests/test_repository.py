"""The repository itself: what is installed, what the documents promise, what must not slip in."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

import tvm_shiftadd

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")])


def tracked() -> list[Path]:
    """Files under version control that are in the work tree."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git work tree")
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy, so that nothing is left in the work tree."""
    builder = pytest.importorskip("hatchling.builders.wheel")
    source = tmp_path_factory.mktemp("source")
    for path in tracked():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    target = builder.WheelBuilder(str(source)).build(
        directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]
    )
    return zipfile.ZipFile(next(target))


def test_the_wheel_holds_the_three_packages_and_no_more(wheel: zipfile.ZipFile) -> None:
    roots = {name.split("/")[0] for name in wheel.namelist()}
    version = tvm_shiftadd.__version__
    info = f"tvm_shiftadd-{version}.dist-info"
    assert roots == {"tvm_shiftadd", "relay_passes", "vta_ext", info}


@pytest.mark.parametrize(
    "name",
    [
        "tvm_shiftadd/demo/digits.onnx",
        "tvm_shiftadd/py.typed",
        "relay_passes/py.typed",
        "vta_ext/py.typed",
    ],
)
def test_the_wheel_holds_the_data_files(wheel: zipfile.ZipFile, name: str) -> None:
    assert name in wheel.namelist()


def test_the_wheel_declares_command_and_plugin(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    points = wheel.read(name).decode()
    assert "tvm-shiftadd = tvm_shiftadd.cli:main" in points
    assert "[tvm.backends]\nshiftadd = tvm_shiftadd.plugin:_autoload" in points


def test_tvm_is_pinned_to_exact_releases(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("METADATA"))
    metadata = wheel.read(name).decode()
    assert "Requires-Dist: apache-tvm==0.27.0.post1\n" in metadata
    assert "Requires-Dist: apache-tvm-ffi==0.1.14.post1\n" in metadata


@pytest.mark.parametrize("name", ["dev", ".ci/run"])
def test_scripts_are_executable_and_parse(name: str) -> None:
    script = ROOT / name
    assert script.stat().st_mode & stat.S_IXUSR
    shell = "sh" if name == "dev" else "bash"
    subprocess.run([shell, "-n", str(script)], check=True)


def test_dev_refuses_an_unknown_verb_and_installs_nothing(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dev", tmp_path / "dev")
    done = subprocess.run([tmp_path / "dev", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "demo" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dev"]


def test_dev_says_what_is_missing(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dev", tmp_path / "dev")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("dirname", "cat", "cksum"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        [str(shutil.which("sh")), str(tmp_path / "dev"), "test"],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no Python 3.10 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_dev_installs_what_a_verb_needs_and_passes_arguments_on(tmp_path: Path) -> None:
    """With a Python that only notes what it is asked to do."""
    shutil.copy(ROOT / "dev", tmp_path / "dev")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$TVM_SHIFTADD_CACHE" "$@" >>{tmp_path}/noted\n')
    python.chmod(0o755)

    def noted(*arguments: str, **environment: str) -> list[str]:
        (tmp_path / "noted").write_text("")
        subprocess.run(
            [tmp_path / "dev", *arguments],
            env={"PATH": os.environ["PATH"], **environment},
            check=True,
            capture_output=True,
        )
        return (tmp_path / "noted").read_text().splitlines()

    _, install, run = noted("rtl", "-m", "rtl and slow", "tests/x.py")
    assert install.endswith(f"--editable {tmp_path}[dev,rtl,boards]")
    assert run == f"{tmp_path}/.venv/cache -m pytest -m rtl -m rtl and slow tests/x.py"
    assert noted("rtl", TVM_SHIFTADD_CACHE="/kept") == ["/kept -m pytest -m rtl"]
    _, install, run = noted("test", "-x")
    assert install.endswith(f"--editable {tmp_path}[dev]")
    assert run == f"{tmp_path}/.venv/cache -m pytest -x"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_hold_no_blanks(document: Path) -> None:
    assert "TODO" not in document.read_text()


def test_nothing_names_a_folder_of_one_machine() -> None:
    private = re.compile(rb"/(?:work|root|home|Users|tmp)/[a-z]")
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix in {".py", ".md", ".toml", ".json", ".cfg", ""}
        and path != Path(__file__).resolve()
        and private.search(path.read_bytes())
    ]
    assert found == []


def test_the_licence_is_the_whole_apache_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
