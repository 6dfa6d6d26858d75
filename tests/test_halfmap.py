"""The names of the package itself."""

import inspect
import subprocess
import sys

import pytest

import halfmap
from halfmap.jobs import registry
from halfmap.project.job import function_name


@pytest.mark.parametrize("name", halfmap.__all__)
def test_every_listed_name_is_there_and_documented(name):
    assert inspect.getdoc(getattr(halfmap, name))


def test_every_command_is_a_function():
    assert {function_name(entry.command) for entry in registry.COMMANDS} <= set(halfmap.__all__)
    assert set(halfmap.__all__) <= set(dir(halfmap))


def test_a_function_answers_as_its_command_does():
    assert any(line.startswith("ok python") for line in halfmap.doctor())


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'halfmap' has no attribute 'dance'"):
        halfmap.dance  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, halfmap; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numba", "scipy", "pandas", "matplotlib", "pydantic"} & set(loaded)
