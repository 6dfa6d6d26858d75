"""The list of what Live2D did names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
LIST = TESTS.parent / "docs/decisions/0053-what-live2d-did.md"


def test_every_test_of_the_list_exists_and_every_function_has_one():
    content = LIST.read_text()
    named = re.findall(r"`(\w+/\w+\.py)::(\w+)`", content)
    assert len(named) > 35
    missing = [name for file, name in named if f"def {name}(" not in (TESTS / file).read_text()]
    assert missing == []
    rows = [row for row in content.splitlines() if row.startswith("| ")][1:]
    assert [row for row in rows if "::test_" not in row] == []
