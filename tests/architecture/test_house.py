"""The house: its rooms, its doors, its manners."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "halfmap"
MODULES = sorted(PACKAGE.rglob("*.py"))
CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "core", "misc", "base", "manager", "v2", "new"}
OWNERS = {
    "typer": {"cli"},
    "rich": {"cli"},
    "fastapi": {"web"},
    "starlette": {"web"},
    "uvicorn": {"web"},
    "websockets": {"web"},
    "pydantic": {"project", "web"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "dask": {"compute"},
    "distributed": {"compute"},
    "dask_jobqueue": {"compute"},
}


def rooms() -> set[str]:
    return {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}


def imported(path: Path) -> set[str]:
    """Return all module names that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_the_page_shows_every_room_and_module_of_the_house():
    shown = set(re.findall(r"^      (\w+(?:/|\.py)) ", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE))
    modules = {path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"}
    assert shown == {f"{room}/" for room in rooms()} | modules


def test_the_page_lists_rooms_in_the_order_of_the_contract():
    page = re.findall(r"^      (\w+)(?:/|\.py) ", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    layer_of = {
        name: number for number, layer in enumerate(CONTRACTS["house"]["layers"]) for name in re.findall(r"\w+", layer)
    }
    assert [layer_of[name] for name in page] == sorted(layer_of[name] for name in page)


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_a_shell_library_is_imported_by_its_owner_alone(library):
    users = {room_of(path) for path in MODULES if any(name.split(".")[0] == library for name in imported(path))}
    assert users <= OWNERS[library]


def test_only_jobs_and_project_open_files():
    users = {room_of(path) for path in MODULES if any(name.startswith("halfmap.io") for name in imported(path))}
    assert users <= {"io", "jobs", "project", "sessions"}


def test_dask_is_met_only_when_a_cluster_is_asked_for():
    users = {path.stem for path in MODULES if any(name.split(".")[0] == "distributed" for name in imported(path))}
    assert all("dask" in name for name in users)


def test_packages_hold_a_docstring_and_nothing_else():
    for path in PACKAGE.glob("*/**/__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == 1, path
        assert isinstance(body[0], ast.Expr), path


def test_no_module_has_a_name_that_says_nothing():
    assert [path for path in MODULES if FORBIDDEN_NAMES & set(path.with_suffix("").relative_to(PACKAGE).parts)] == []


def test_every_error_is_raised_somewhere():
    defined = {
        node.name for node in ast.parse((PACKAGE / "errors.py").read_text()).body if isinstance(node, ast.ClassDef)
    } - {"HalfmapError"}
    raised = set()
    for path in MODULES:
        if path.name == "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                raised.add(node.func.id)
    assert defined - raised == set()


def test_public_errors_are_defined_in_one_place():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and path.name != "errors.py" and not node.name.startswith("_"):
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                assert not [base for base in bases if base.endswith(("Error", "Exception"))], path


def test_folders_of_tests_mirror_the_house():
    folders = {
        path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and not path.name.startswith(("_", "."))
    }
    assert folders - rooms() <= {"architecture", "contracts", "oracles", "recovery", "workflows", "support"}


def test_test_files_in_rooms_are_named_after_modules():
    for room in rooms():
        for path in (ROOT / "tests" / room).glob("*.py"):
            assert re.fullmatch(r"test_\w+\.py|conftest\.py", path.name), path


IMPORTING = """
import os, pkgutil, random, signal, sys, threading, warnings, logging, locale, multiprocessing
import importlib
import numpy, scipy, scipy.spatial, torch, numba, matplotlib, PIL.Image, pydantic, typer, rich.markup
import distributed, tifffile
import astropy_healpix, gemmi, imagecodecs, jinja2, mrcfile, safetensors.torch, yaml

def state():
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "files": sorted(os.listdir(".")),
        "handlers": {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)},
        "threads": (torch.get_num_threads(), threading.active_count(), numba.get_num_threads()),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "torch generator": torch.get_rng_state().sum().item(),
        "generators": (random.getstate(), str(numpy.random.get_state())),
        "errors of numpy": numpy.geterr(),
        "print options": str(numpy.get_printoptions()),
        "backend": matplotlib.rcParams._get_backend_or_none(),
        "style": {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"},
        "start method": multiprocessing.get_start_method(allow_none=True),
        "logging": (len(logging.getLogger().handlers), logging.getLogger().level),
        "recursion": sys.getrecursionlimit(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.get_float32_matmul_precision(),
        "excepthook": sys.excepthook,
        "gpu": torch.cuda.is_initialized(),
        "filters": [f for f in warnings.filters if f[1] is None or "halfmap" in str(f[1])],
    }

numba.get_num_threads()  # its first answer starts threads, which torch then counts
before = state()
import halfmap
for module in pkgutil.walk_packages(halfmap.__path__, "halfmap."):
    importlib.import_module(module.name)
after = state()
for name in before:
    if before[name] != after[name]:
        print(name, before[name], "→", after[name])
"""


def test_imports_have_no_effects(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-c", IMPORTING], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == ""


HELPING = """
import contextlib, io, sys
from halfmap.cli.main import main
from halfmap.jobs import registry

heavy = {"torch", "numba", "scipy", "pandas", "matplotlib"}
groups = sorted({entry.command.split(" ")[0] for entry in registry.COMMANDS})
for words in [[], *([group] for group in groups), *(entry.command.split(" ") for entry in registry.COMMANDS)]:
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            main([*words, "--help"])
    except SystemExit as end:
        assert end.code == 0, words
    assert "Usage: halfmap" in shown.getvalue(), words
    loaded = heavy & set(sys.modules)
    assert not loaded, f"halfmap {' '.join(words)} --help loads {loaded}"
"""


def test_help_of_any_command_loads_nothing_heavy(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-c", HELPING], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    assert list(tmp_path.iterdir()) == []


def compiled_functions() -> list[tuple[str, ast.FunctionDef]]:
    """Return decorators and bodies of all functions that are compiled."""
    return [
        (ast.unparse(decorator), node)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if "njit" in ast.unparse(decorator)
    ]


def test_compiled_functions_that_others_call_are_inlined():
    # a call between two compiled functions may run other code when it was just compiled than when it comes from the
    # cache, with other last bits, and results are to be the same in every process
    compiled = compiled_functions()
    assert len(compiled) > 20
    called = {
        call.func.id
        for _, body in compiled
        for call in ast.walk(body)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }
    alone = {body.name for decorator, body in compiled if "inline='always'" not in decorator}
    assert called & alone == set()
