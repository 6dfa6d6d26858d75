import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[2] / "docs/tutorials").glob("*.md"))
HALFMAP = Path(sys.executable).with_name("halfmap")


def commands_of(page: Path) -> list[str]:
    """Return the commands of a page: its indented lines that begin with halfmap."""
    return [line.strip() for line in page.read_text().splitlines() if line.startswith("    halfmap ")]


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_command_of_a_tutorial_does_what_it_says(page, tmp_path):
    commands = commands_of(page)
    assert commands
    for command in commands:
        _, *words = shlex.split(command)
        result = subprocess.run([HALFMAP, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{command}\n{result.stderr}"
