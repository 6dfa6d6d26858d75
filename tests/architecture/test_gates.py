"""Each gate of `make check` can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def gate(name: str, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    program = BIN / name
    if not program.exists():
        pytest.skip(f"{name} is not installed beside this interpreter")
    return subprocess.run([program, *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def house(tmp_path):
    """A package of the same rooms, all empty, under the same rules."""
    package = tmp_path / "src" / "halfmap"
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path in (ROOT / "src" / "halfmap").rglob("*.py"):
        copy = package / path.relative_to(ROOT / "src" / "halfmap")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text('"""A room."""\n')
    return tmp_path


def lint_imports(house: Path) -> subprocess.CompletedProcess:
    code = "import sys; sys.path.insert(0, 'src'); from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=house, capture_output=True, text=True, check=False, timeout=300
    )


def test_the_import_contracts_hold():
    answer = gate("lint-imports", cwd=ROOT)
    assert answer.returncode == 0, answer.stdout


def test_an_empty_house_keeps_the_import_contracts(house):
    assert lint_imports(house).returncode == 0


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("fourier/shells.py", "import halfmap.data.particles"),
        ("picking/params.py", "import halfmap.extraction.params"),
        ("picking/params.py", "import halfmap.io.star"),
        ("jobs/registry.py", "import typer"),
        ("cli/main.py", "import pydantic"),
        ("jobs/registry.py", "import matplotlib"),
        ("jobs/registry.py", "import distributed"),
        ("unlisted/__init__.py", "UNLISTED = 1"),
    ],
)
def test_an_import_against_the_house_is_caught(house, module, line):
    path = house / "src" / "halfmap" / module
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'"""A room."""\n\n{line}\n')
    answer = lint_imports(house)
    assert answer.returncode != 0
    assert "BROKEN" in answer.stdout or "not listed" in answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("import torch\n\nNOISE = torch.randn(3)\n", "TID251"),
        ("import numpy as np\n\nNOISE = np.random.rand(3)\n", "NPY002"),
        ("from . import grid\n\nGRID = grid\n", "TID252"),
        ("def public():\n    return 1\n", "D103"),
        ("try:\n    X = 1\nexcept Exception:\n    X = 2\n", "BLE001"),
    ],
)
def test_the_linter_catches(house, code, rule):
    path = house / "src" / "halfmap" / "sample.py"
    path.write_text(f'"""A module."""\n\n{code}')
    answer = gate("ruff", "check", "--no-cache", "--output-format", "concise", str(path), cwd=house)
    assert answer.returncode == 1
    assert rule in answer.stdout


def test_the_formatter_catches_a_line_out_of_form(house):
    path = house / "src" / "halfmap" / "sample.py"
    path.write_text("x = {'a':1}\n")
    assert gate("ruff", "format", "--check", "--no-cache", str(path), cwd=house).returncode == 1


def test_the_type_checker_catches_an_untyped_function(house):
    path = house / "src" / "halfmap" / "sample.py"
    path.write_text("def double(x):\n    return 2 * x\n")
    answer = gate("mypy", "--no-incremental", str(path), cwd=house)
    assert answer.returncode == 1
    assert "no-untyped-def" in answer.stdout


def test_a_warning_of_our_own_modules_is_an_error(house):
    tests = house / "tests"
    tests.mkdir()
    (house / "src" / "halfmap" / "sample.py").write_text("import warnings\n\n\ndef warn():\n    warnings.warn('x')\n")
    (tests / "test_sample.py").write_text("def test_x():\n    from halfmap import sample\n\n    sample.warn()\n")
    code = (
        "import sys; sys.path.insert(0, 'src'); import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=house, capture_output=True, text=True, check=False, timeout=300
    )
    assert answer.returncode == 1
    assert "UserWarning: x" in answer.stdout
