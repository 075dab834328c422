"""What all tests share: where the real models and data are, and Hypothesis' settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    deadline=None,
    max_examples=50,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def find_data() -> Path | None:
    """Folder of real models and data: TVM_SHIFTADD_DATA (empty means none), or ../shared/data."""
    named = os.environ.get("TVM_SHIFTADD_DATA")
    if named is not None:
        folder = Path(named)
        return folder if named and (folder / "models.json").is_file() else None
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if (folder / "models.json").is_file() else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with models.json, models/ and data/; the test is skipped where there is none."""
    folder = find_data()
    if folder is None:
        pytest.skip("no real models and data: set TVM_SHIFTADD_DATA to their folder")
    return folder
