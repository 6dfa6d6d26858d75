import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.shared_data import shared_data

TUTORIALS = sorted((Path(__file__).parents[2] / "docs/tutorials").glob("*.md"))
HALFMAP = Path(sys.executable).with_name("halfmap")

MINUTES = (
    "micrographs-to-particles",
    "particles-to-map",
    "picking-by-a-taught-network",
    "real-micrographs-to-selected-particles",
)
"""Take minutes: run by `pytest -m slow`. The demonstration goes the same way in the quick tests."""

N_MICROGRAPHS = 2
"""Of those that a tutorial works on."""

ONE_WORKER = ["--workers", "1"]
SHORTER = {
    "simulate": [*ONE_WORKER, "--number", "2"],
    "pick": ONE_WORKER,
    "pick train": [*ONE_WORKER, "--epochs", "1"],
    "pick bootstrap": [*ONE_WORKER, "--epochs", "1"],
    "extract": ONE_WORKER,
    "class2d": [*ONE_WORKER, "--iterations", "8", "--classes", "6"],
    "initial-model": [*ONE_WORKER, "--minibatches", "10", "--resolution", "40"],
    "refine3d": [*ONE_WORKER, "--max-iterations", "1"],
}
"""What is added to commands so that they take seconds; the last of two like flags counts."""


def commands_of(page: Path) -> list[str]:
    """Return the commands of a page: its indented lines that begin with halfmap."""
    return [line.strip() for line in page.read_text().splitlines() if line.startswith("    halfmap ")]


def bring_real_data(page: Path, folder: Path) -> None:
    """Put the first few micrographs of apoferritin, and a table of them, where the page has them."""
    if "apoferritin/" not in page.read_text():
        return
    there, here = shared_data("apoferritin"), folder / "apoferritin"
    here.mkdir()
    (here / "micrographs").symlink_to(there / "micrographs")
    lines = (there / "micrographs_ctf.star").read_text().splitlines(keepends=True)
    rows = [number for number, line in enumerate(lines) if line.startswith("micrographs/")]
    late = set(rows[N_MICROGRAPHS:])
    (here / "micrographs_ctf.star").write_text("".join(line for i, line in enumerate(lines) if i not in late))


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.stem, marks=pytest.mark.slow if page.stem in MINUTES else ()) for page in TUTORIALS],
)
def test_every_command_of_a_tutorial_does_what_it_says(page, tmp_path):
    commands = commands_of(page)
    assert commands
    bring_real_data(page, tmp_path)
    for command in commands:
        _, *words = shlex.split(command)
        words += SHORTER.get(" ".join(words[:2]), SHORTER.get(words[0], []))
        result = subprocess.run([HALFMAP, *words], cwd=tmp_path, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, f"{command}\n{result.stderr}"
