"""The exact releases of TVM are written down twice: both places must agree."""

from __future__ import annotations

import re
from pathlib import Path

from tvm_shiftadd.doctor import PINNED


def test_the_doctor_looks_for_the_releases_that_are_installed_with_the_package() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    (dependencies,) = re.findall(r"^dependencies = \[(.*?)^\]", text, re.M | re.S)
    exact = dict(re.findall(r'^\s*"([\w.-]+)==([^"]+)",?$', dependencies, re.M))
    assert exact
    assert exact == PINNED
