"""What every command in the table must satisfy."""

import re
from pathlib import Path

import pytest

from halfmap.errors import InputError
from halfmap.jobs import registry
from halfmap.project.job import ImmediateCommand, JobType
from halfmap.project.options import RunOptions
from halfmap.project.parameters import parameters_of

ENTRIES = pytest.mark.parametrize("entry", registry.COMMANDS, ids=lambda entry: entry.command)
OF_JOBS = {"--out", "--continue", "--settings", "--write-config", "--help"}
TAKEN = OF_JOBS | {parameter.flag for parameter in parameters_of(RunOptions)}


def test_commands_are_named_once():
    names = [entry.command for entry in registry.COMMANDS]
    assert len(set(names)) == len(names)


def test_groups_have_members_and_no_command_of_the_same_name():
    groups = {entry.command.split(" ")[0] for entry in registry.COMMANDS if " " in entry.command}
    assert groups <= set(registry.GROUPS)
    assert not groups & {entry.command for entry in registry.COMMANDS}


@ENTRIES
def test_the_table_leads_to_the_command_it_names(entry):
    loaded = entry.load()
    assert isinstance(loaded, JobType | ImmediateCommand)
    assert loaded.command == entry.command
    assert registry.find(entry.command) is entry


@ENTRIES
def test_summaries_are_one_line_without_a_full_stop(entry):
    for summary in (entry.summary, entry.load().summary):
        assert re.fullmatch(r"[A-Z][^\n]{5,90}[^.\n]", summary)


@ENTRIES
def test_every_parameter_has_help_and_a_flag_of_its_own(entry):
    loaded = entry.load()
    parameters = parameters_of(loaded.parameters)
    flags = [parameter.flag for parameter in parameters]
    assert [parameter.name for parameter in parameters if not parameter.help] == []
    assert len(set(flags)) == len(flags)
    assert not (set(flags) & TAKEN)


@ENTRIES
def test_inputs_are_fields(entry):
    loaded = entry.load()
    names = {parameter.name for parameter in parameters_of(loaded.parameters)}
    listed = loaded.inputs if isinstance(loaded, JobType) else loaded.positional
    assert set(listed) <= names


@ENTRIES
def test_every_path_that_a_job_takes_is_an_input(entry):
    loaded = entry.load()
    if isinstance(loaded, JobType):
        paths = {parameter.name for parameter in parameters_of(loaded.parameters) if parameter.type is Path}
        assert paths == set(loaded.inputs)


@ENTRIES
def test_a_job_s_folder_is_a_word_with_a_capital(entry):
    loaded = entry.load()
    if isinstance(loaded, JobType):
        assert re.fullmatch(r"[A-Z][A-Za-z0-9]+", loaded.folder)


def test_an_unknown_command_is_answered_with_those_there_are():
    with pytest.raises(InputError, match=r"must be one of .*doctor.*; got 'dance'"):
        registry.find("dance")
