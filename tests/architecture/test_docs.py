"""What the pages say can be typed and followed."""

import pkgutil
import re
import shlex
from pathlib import Path

import pytest

from halfmap.cli.main import LIVE
from halfmap.jobs.registry import COMMANDS
from halfmap.project.job import JobType
from halfmap.project.options import RunOptions
from halfmap.project.parameters import parameters_of

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = {entry.command: entry for entry in (*COMMANDS, LIVE)}
OF_EVERY_JOB = {"--out", "--continue", "--settings", *(option.flag for option in parameters_of(RunOptions))}
ROOMS = sorted(path.name for path in (ROOT / "src/halfmap").iterdir() if (path / "__init__.py").exists())
ANY = {"jobs rerun"}  # takes the flags of the job that it repeats


def typed_commands(page: Path) -> list[str]:
    """Return what a page shows to be typed: indented lines and code spans that begin with halfmap."""
    text = page.read_text().replace("\\|", "|")
    found = re.findall(r"^    (?:\w+=\$\()?(halfmap .*)$", text, re.MULTILINE) + re.findall(r"`(halfmap [^`]*)`", text)
    return [re.sub(r"\s+#.*|\)$", "", command) for command in found]


def unknown_flags(command: str) -> set[str]:
    """Return the flags of a typed command that it does not have."""
    words = shlex.split(command)[1:]
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in NAMES), None)
    given = {word.split("=")[0] for word in words if word.startswith("--")}
    if name is None or name in ANY:
        return given if name is None else set()
    loaded = NAMES[name].load()
    flags = {parameter.flag for parameter in parameters_of(loaded.parameters)}
    flags |= {flag.replace("--", "--no-", 1) for flag in flags} | {"--help"}
    if not isinstance(loaded, JobType):
        return given - flags
    return given - flags - OF_EVERY_JOB - ({"--write-config"} if loaded.config is not None else set())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_on_a_page_has_the_flags_that_it_shows(page):
    wrong = {command: flags for command in typed_commands(page) if (flags := unknown_flags(command))}
    assert not wrong


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("halfmap extract a.star --box 128 --no-ramp --workers 2", set()),
        ("halfmap extract a.star --boxes 128", {"--boxes"}),
        ("halfmap jobs list --workers 2", {"--workers"}),
        ("halfmap fly --high", {"--high"}),
    ],
)
def test_unknown_flags_are_found(command, flags):
    assert unknown_flags(command) == flags


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]


def missing_names(text: str) -> list[str]:
    """Return the code spans of the form room.module.name that name nothing in the package."""
    missing = []
    for name in re.findall(rf"`((?:{'|'.join(ROOMS)})(?:\.\w+)+)`", text):
        try:
            pkgutil.resolve_name(f"halfmap.{name}")
        except (ImportError, AttributeError):
            missing.append(name)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_function_named_on_a_page_exists(page):
    assert not missing_names(page.read_text())


def test_names_of_nothing_are_found():
    assert missing_names("`geometry.shapes.soft_disc`, `geometry.shapes.square`") == ["geometry.shapes.square"]
