"""Where the real data lies; tests that need it say so when it is absent."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2].parent / "shared" / "data"


def shared_data(name: str) -> Path:
    """Return the path of a file or folder of the real data, or skip the test with the reason."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"real data not present: ../shared/data/{name}")
    return path
