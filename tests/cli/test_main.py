"""The command line: words in, exit codes out."""

import dataclasses
import json

import pytest

from halfmap.cli.main import main
from halfmap.jobs import registry
from support import counting_job
from support.halfmap_with_counting import add_counting


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "COMMANDS", registry.COMMANDS)
    add_counting()
    (tmp_path / "numbers.txt").write_text("7 8")
    (tmp_path / "more.txt").write_text("9")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def halfmap(project, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as end:
            main(words)
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


def parameters(project, number=1):
    return json.loads((project / "Count" / f"job{number:03d}" / "job.json").read_text())["parameters"]


def test_the_last_line_is_the_main_output(halfmap, project):
    code, out, _ = halfmap("count", "numbers.txt")
    assert code == 0
    assert out.splitlines()[-1] == str(project / "Count" / "job001" / "counted.txt")


def test_the_first_input_is_taken_by_position_and_by_name(halfmap, project):
    assert halfmap("count", "numbers.txt")[0] == 0
    assert halfmap("count", "--numbers", "numbers.txt")[0] == 0
    assert parameters(project, 1) == parameters(project, 2)


def test_an_input_given_twice_is_refused(halfmap):
    code, _, err = halfmap("count", "numbers.txt", "--numbers", "more.txt")
    assert code == 2
    assert "`--numbers` must be given once; got numbers.txt and more.txt" in err


def test_a_switch_given_both_ways_is_refused(halfmap):
    code, _, err = halfmap("count", "numbers.txt", "--invert", "--no-invert")
    assert code == 2
    assert "`--invert` must be given once; got no and yes" in err


def test_flags_of_every_kind_reach_the_parameters(halfmap, project):
    code, _, _ = halfmap(
        *("count", "numbers.txt", "--extra", "more.txt", "--extra", "numbers.txt", "--box", "64", "--no-invert"),
        *("--mask-diameter", "5px", "--recenter", "-1,2,3", "--shape", "disc", "--steps=2"),
    )
    assert code == 0
    assert parameters(project) == {
        "numbers": "numbers.txt",
        "extra": ["more.txt", "numbers.txt"],
        "recenter_angstrom": [-1.0, 2.0, 3.0],
        "steps": 2,
        "step_seconds": 0.0,
        "invert": False,
        "fail": "no",
        "seed": 1,
        "box_pixel": 64,
        "mask_diameter": "5.0px",
        "amplitude": 0.1,
        "shape": "disc",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["count", "numbers.txt", "--box", "97"], "`--box` must be an integer ≥ 2 px and even; got 97"),
        (["count"], "`--numbers` must be given"),
        (["count", "nothing.txt"], "`--numbers` must be an existing file; got nothing.txt"),
        (["count", "numbers.txt", "--fail", "user"], "Numbers must be positive; got -1 in line 3; mend the file."),
        (["count", "numbers.txt", "--fail", "disk"], "No space left on device"),
        (["count", "numbers.txt", "--devices", "gpu"], "`--devices` must be"),
        (["count", "numbers.txt", "--memory", "much"], "Memory must be"),
        (["count", "numbers.txt", "--fail", "limit", "--memory", "1GiB"], "at most the 1.0 GiB of --memory; got"),
        (["count", "--continue", "1"], "A job must be named by its number"),
        (["jobs", "show", "9"], "A job must be named by its number"),
        (["jobs", "rerun", "9"], "A job must be named by its number"),
    ],
)
def test_the_user_s_mistake_is_one_paragraph_and_code_2(halfmap, words, said):
    code, out, err = halfmap(*words)
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("halfmap: ")
    assert said in last
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["count", "numbers.txt", "--bax", "3"], "No such option: --bax (Possible options: --box). See `halfmap count"),
        (["count", "numbers.txt", "--box"], "See `halfmap count --help`."),
        (["count", "numbers.txt", "more.txt"], "See `halfmap count --help`."),
        (["cuont"], "Did you mean 'count'? See `halfmap --help`."),
        (["jobs", "lits"], "See `halfmap jobs --help`."),
    ],
)
def test_words_that_are_not_understood_are_one_line_and_code_2(halfmap, words, said):
    code, _, err = halfmap(*words)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("words", [[], ["jobs"]])
def test_a_command_that_stops_half_way_shows_what_may_follow(halfmap, words):
    code, out, _ = halfmap(*words)
    assert code == 0
    assert "Usage: halfmap" in out


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        ("bug", "Unexpected ZeroDivisionError: division by zero"),
        ("memory", "fit into memory"),
        ("output", "main output"),
    ],
)
def test_anything_else_is_code_1_without_traceback(halfmap, project, fail, said):
    code, _, err = halfmap("count", "numbers.txt", "--fail", fail)
    assert code == 1
    assert said in err
    assert "Traceback" not in err
    assert "Traceback" in (project / "Count" / "job001" / "run.log").read_text()
    if fail == "bug":
        assert f"The traceback is in {project / 'Count' / 'job001' / 'run.log'}." in err


def test_continue_goes_on_with_run_options_alone(halfmap, project):
    assert halfmap("count", "numbers.txt", "--fail", "user", "--steps", "6")[0] == 2
    assert halfmap("count", "--continue", "1", "--steps", "7")[0] == 2
    assert halfmap("count", "numbers.txt", "--continue", "1")[0] == 2
    code, out, _ = halfmap("count", "--continue", "1", "--threads", "1")
    assert code == 0
    assert (project / "Count" / "job001" / "counted.txt").read_text() == "0 1 2 3 4 5 7 8"
    assert out.splitlines()[-1].endswith("counted.txt")


def test_settings_of_a_job_are_taken_and_flags_override_them(halfmap, project):
    halfmap("count", "numbers.txt", "--steps", "5", "--box", "64")
    assert halfmap("count", "--settings", "Count/job001/job.json", "--steps", "2")[0] == 0
    assert (parameters(project, 2)["steps"], parameters(project, 2)["box_pixel"]) == (2, 64)


def test_rerun_makes_a_new_job_with_changed_values(halfmap, project):
    halfmap("count", "numbers.txt", "--steps", "5", "--box", "64")
    code, out, _ = halfmap("jobs", "rerun", "1", "--steps", "2", "--out", "again")
    assert code == 0
    assert out.strip() == str(project / "again" / "counted.txt")
    assert (project / "again" / "counted.txt").read_text() == "0 1 7 8"
    assert halfmap("jobs", "rerun", "--job", "Count/job001")[0] == 0
    assert parameters(project, 2) == parameters(project, 1)


def test_the_version_is_told(halfmap):
    code, out, _ = halfmap("--version")
    assert code == 0
    assert out.startswith("halfmap 0.")


def test_help_groups_commands_under_their_headings(halfmap):
    code, out, _ = halfmap("--help")
    assert code == 0
    for entry in registry.COMMANDS:
        words = entry.command.split(" ")
        assert words[0] in out
        assert (entry.summary if len(words) == 1 else registry.GROUPS[words[0]]) in out
    for panel in {entry.panel for entry in registry.COMMANDS}:
        assert panel in out


def test_help_of_a_job_shows_panels_units_bounds_and_defaults(halfmap):
    code, out, _ = halfmap("count", "--help")
    assert code == 0
    for text in ("Inputs", "Parameters", "Run options", "Side of the box. (px; ≥ 2 and even; default 256)"):
        assert text in out
    assert "Count down. (default yes; --no-invert for no)" in out
    assert "one of disc, square; default disc" in out
    assert "File of numbers. (also without its name; must be given)" in out
    assert out.index("--numbers") < out.index("--box") < out.index("--out")


def test_an_interrupt_is_code_130(halfmap, monkeypatch):
    def interrupted(context, params):
        raise KeyboardInterrupt

    monkeypatch.setattr(counting_job, "JOB", dataclasses.replace(counting_job.JOB, run=interrupted))
    code, _, err = halfmap("count", "numbers.txt")
    assert code == 130
    assert "Interrupted. The state is kept: go on with `halfmap count --continue " in err
