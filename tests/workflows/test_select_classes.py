"""`halfmap select classes` as it is typed, on a classification of ours and on one of Debian's RELION (3.1.3)."""

from pathlib import Path

import pytest

from halfmap.io import relion, star
from support.class_runs import a_class_run, classified_by_relion, relion_refine, written
from support.commands import halfmap, refusal


@pytest.fixture
def project(tmp_path):
    (tmp_path / ".halfmap").mkdir()
    return tmp_path


def test_classes_of_ours_are_selected_by_number_and_score(project):
    written(project, a_class_run())
    answer = halfmap(project, "select", "classes", "Class2D/job007", "--classes", "1,2,4", "--min-score", "0.5")
    assert answer.returncode == 0, answer.stderr
    output = Path(answer.stdout.splitlines()[-1])
    assert output == project / "Select/job008/particles.star"
    assert set(relion.read_particles(output)["class_number"]) == {1, 2}
    assert "24 of 60 particles from 2 of 5 classes." in answer.stderr
    assert {path.name for path in output.parent.iterdir()} >= {
        *("class_averages.star", "class_averages.mrcs", "backup_selection.star", "report.html", "SUCCESS"),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "must be told which classes to keep"),
        (("--classes", "9"), "must name classes of the run, 1 to 5; got 9"),
        (("--classes", "0"), "`--classes` must be"),
        (("--min-score", "1.5"), "`--min-score` must be"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(project, words, message):
    written(project, a_class_run())
    assert message in refusal(halfmap(project, "select", "classes", "Class2D/job007", *words))


@pytest.mark.oracle
def test_classes_of_relion_are_selected_and_relion_goes_on_with_their_particles(tmp_path):
    folder = classified_by_relion(tmp_path)
    answer = halfmap(tmp_path, "select", "classes", str(folder), "--min-resolution", "60", "--recenter")
    assert answer.returncode == 0, answer.stderr
    output = tmp_path / answer.stdout.splitlines()[-1]
    selected = relion.read_particles(output)
    chosen = star.read(output.with_name("class_averages.star")).tables[0].integers("rlnClassNumber")
    data = star.read(folder / "run_it003_data.star")["particles"]
    expected = data.text("rlnImageName")[[number in chosen for number in data.integers("rlnClassNumber")]]
    assert selected["image_name"].tolist() == expected.tolist()
    assert selected["theirs"][0].startswith("text")
    (tmp_path / "Class2D/job009").mkdir()
    relion_refine(
        tmp_path,
        *("--i", str(output.relative_to(tmp_path)), "--o", "Class2D/job009/run", "--iter", "1", "--K", "1", "--ctf"),
        *("--particle_diameter", "90", "--ref", str(output.with_name("class_averages.star").relative_to(tmp_path))),
        *("--psi_step", "24", "--offset_range", "3", "--offset_step", "2", "--pad", "2", "--j", "1"),
    )
    assert (tmp_path / "Class2D/job009/run_it001_data.star").exists()
