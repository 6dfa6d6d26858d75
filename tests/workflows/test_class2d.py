"""`halfmap class2d` as it is typed: what it leaves, and how it goes on when it is killed."""

from pathlib import Path

import numpy as np
import pytest

from halfmap.io import relion
from halfmap.io.relion_classes import read_class_run
from support.class_runs import classified_by_relion, relion_refine, some_classifiable_particles
from support.commands import halfmap, refusal, started, wait_until

CLASS2D = ("class2d", "particles.star", "--classes", "3", "--mask-diameter", "90")
ALONE = ("--workers", "1", "--threads", "1")
EM = ("--algorithm", "em", "--iterations", "4")
VDAM = ("--algorithm", "vdam", "--minibatches", "8")


@pytest.fixture
def project(tmp_path):
    some_classifiable_particles(tmp_path)
    return tmp_path


def newest_state(folder: Path) -> int:
    """Return the number of iterations and closing passes that a killed job can go on from; -1 before its start."""
    return max((int(path.stem.split("_")[1]) for path in folder.glob("state/class2d_*.safetensors")), default=-1)


def killed_after(project: Path, number: int, *words: str) -> None:
    """Run a command, and kill it as soon as it has saved the state of this number."""
    folder = project / "Class2D/job001"
    process = started(project, *words)
    wait_until(lambda: newest_state(folder) >= number, process)
    process.kill()
    process.communicate()
    assert not (folder / "SUCCESS").exists()


def assert_same_result(folder: Path, expected: Path) -> None:
    names = {path.name for path in expected.iterdir() if path.is_file()}
    assert {path.name for path in folder.iterdir() if path.is_file()} == names
    for name in names:
        if name.endswith((".star", ".mrcs", "job.json")):
            here, there = ((one / name).read_bytes() for one in (folder, expected))
            # an undisturbed run has the same number in a project of its own, so even paths are the same
            assert here == there, name


def undisturbed(root: Path, *words: str) -> Path:
    root.mkdir()
    some_classifiable_particles(root)
    answer = halfmap(root, *CLASS2D, *words, *ALONE)
    assert answer.returncode == 0, answer.stderr
    return root / "Class2D/job001"


def test_a_classification_killed_in_its_iterations_and_while_closing_ends_as_one_that_nothing_disturbed(
    project, tmp_path
):
    expected = undisturbed(tmp_path / "undisturbed", *EM)
    killed_after(project, 2, *CLASS2D, *EM, *ALONE)
    killed_after(project, 5, "class2d", "--continue", "1", *ALONE)  # four iterations and a closing pass
    answer = halfmap(project, "class2d", "--continue", "Class2D/job001", *ALONE)
    assert answer.returncode == 0, answer.stderr
    folder = project / "Class2D/job001"
    assert answer.stdout == f"{folder / 'run_it004_data.star'}\n"
    assert "Goes on after closing pass" in answer.stderr
    assert_same_result(folder, expected)
    assert len(list((folder / "state").iterdir())) == 1


@pytest.mark.slow  # starts the command again and again
@pytest.mark.parametrize("words", [EM, VDAM], ids=["em", "vdam"])
def test_a_classification_killed_after_every_state_ends_as_one_that_nothing_disturbed(project, tmp_path, words):
    expected = undisturbed(tmp_path / "undisturbed", *words)
    last = newest_state(expected)
    killed_after(project, 0, *CLASS2D, *words, *ALONE)
    folder = project / "Class2D/job001"
    while newest_state(folder) < last:
        killed_after(project, newest_state(folder) + 1, "class2d", "--continue", "1", *ALONE)
    answer = halfmap(project, "class2d", "--continue", "1", *ALONE)
    assert answer.returncode == 0, answer.stderr
    assert_same_result(folder, expected)


def test_the_options_are_typed_as_the_help_says_and_the_classes_can_be_selected(project):
    answer = halfmap(
        project,
        *("class2d", "particles.star", "--classes", "3", "--mask-diameter", "90Å", "--algorithm", "auto"),
        *("--iterations", "1", "--minibatches", "200", "--regularisation", "2", "--max-alignment-resolution", "12"),
        *("--psi-step", "12", "--offset-range", "3px", "--offset-step", "4", "--ctf-intact-first-peak", "--no-center"),
        *("--mask", "noise", "--closing-passes", "0", "--seed", "3", *ALONE),
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == f"{project / 'Class2D/job001/run_it001_data.star'}\n"
    assert "EM, because 60 particles are few" in answer.stderr
    largest = int(np.argmax(read_class_run(project / "Class2D/job001", project=project).averages["n_particles"])) + 1
    answer = halfmap(project, "select", "classes", "Class2D/job001", "--classes", str(largest))
    assert answer.returncode == 0, answer.stderr
    assert "of 60 particles from 1 of 3 classes" in answer.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--classes", "0"), "`--classes` must be"),
        (("--offset-range", "five"), "`--offset-range` must be a length in Å, or in pixels as 5px"),
        (("--mask-diameter", "500"), "must not exceed the box; got 500 Å"),
        (("--continue", "particles.star"), "a 2D classification"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(project, words, said):
    flag, value = words
    given = {"--mask-diameter": "90", flag: value}
    assert said in refusal(
        halfmap(project, "class2d", "particles.star", *(word for pair in given.items() for word in pair))
    )


@pytest.mark.oracle
def test_halfmap_goes_on_from_relion_and_relion_from_halfmap(tmp_path):
    classified_by_relion(tmp_path)
    answer = halfmap(
        tmp_path, "class2d", "--continue", "Class2D/job001", "--iterations", "2", "--closing-passes", "0", *ALONE
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == f"{tmp_path / 'Class2D/job002/run_it002_data.star'}\n"
    theirs = read_class_run(tmp_path / "Class2D/job001", project=tmp_path)
    first = read_class_run(tmp_path / "Class2D/job002/run_it000_optimiser.star", project=tmp_path)
    inner = (slice(None), slice(10, 23), slice(10, 23))  # where neither program's mask begins
    np.testing.assert_allclose(first.averages["average"][inner], theirs.averages["average"][inner], atol=1e-4)
    np.testing.assert_array_equal(first.particles["class_number"], theirs.particles["class_number"])
    last = read_class_run(tmp_path / "Class2D/job002", project=tmp_path)
    assert last.psi_step_degrees == pytest.approx(theirs.psi_step_degrees)
    assert (
        np.mean(last.particles["class_number"] == theirs.particles["class_number"]) > 0.6
    )  # a third by chance; two of three classes show one thing
    (tmp_path / "Class2D/job003").mkdir()
    optimiser = "Class2D/job002/run_it002_optimiser.star"
    relion_refine(tmp_path, "--continue", optimiser, "--o", "Class2D/job003/run", "--iter", "3", "--j", "1")
    after = relion.read_particles(tmp_path / "Class2D/job003/run_it003_data.star")
    assert (
        np.mean(after["class_number"] == last.particles["class_number"]) > 0.6
    )  # a third by chance; two of three classes show one thing
