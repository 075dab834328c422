"""The code of the tutorials runs, and prints what the pages say it prints."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = (
    "tutorials/vector-add.md",
    "tutorials/matrix-multiply.md",
    "tutorials/convolution.md",
    "how-a-weight-travels.md",
    "accelerator-operators.md",
)
#: A block of Python, and the block of text right after it, if there is one.
BLOCK = re.compile(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", re.DOTALL)


def printed(code: str, names: dict[str, object], page: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, page, "exec"), names)
    return out.getvalue()


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs_and_prints_what_it_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TVM_SHIFTADD_WRITE_PAGES=1 the pages are brought up to date instead."""
    path = DOCS / page
    text = path.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page}
    found = text
    for match in BLOCK.finditer(text):
        shown = printed(match[1], names, page)
        if match[2] is None:
            assert not shown, f"{page} does not show what this prints: {match[1]}"
        found = found.replace(match[0], match[0].replace(match[2], shown) if match[2] else match[0])
    if os.environ.get("TVM_SHIFTADD_WRITE_PAGES") == "1":
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")
