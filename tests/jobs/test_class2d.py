"""2D classification as a job: what it takes, what it says, what it leaves."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import halfmap
from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError, InconsistentDataError, InputError, JobFailed
from halfmap.fourier.resample import rescale
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.io import mrc, relion, star
from halfmap.io.relion_classes import read_class_run
from halfmap.jobs import class2d_run, page_pace
from halfmap.jobs.class2d import JOB
from halfmap.project.job import JobContext
from halfmap.project.record import read_record
from halfmap.project.runner import continue_from_values
from support.class_runs import PIXEL_SIZE, a_class_run, some_classifiable_particles, written
from support.model_images import particles_of

SMALL = {"classes": 2, "mask_diameter_angstrom": 90.0, "iterations": 2, "closing_passes": 0, "workers": 1, "threads": 1}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    some_classifiable_particles(tmp_path)
    return tmp_path


@pytest.fixture
def pages(monkeypatch):
    """Return the pages that jobs make, and leave out drawing them, which takes longer than a small classification."""
    made = []
    monkeypatch.setattr(JobContext, "report", lambda _, page: made.append(page))
    return made


def classified(**given):
    return halfmap.class2d(**{"particles": "particles.star", **SMALL, **given})


def text_of(folder):
    return (folder / "run.log").read_text()


def changed(project, **columns):
    """Write the particles anew with columns of theirs or their optics added, replaced or, where None, removed."""
    table = project / "particles.star"
    particles = relion.read_particles(table)
    gone = [name for name, values in columns.items() if values is None]
    optics = particles.optics.without_columns(*gone)
    particles = particles.without_columns(*gone)
    mine = {name: v for name, v in columns.items() if v is not None and name in ParticleSet.KNOWN}
    of_optics = {name: v for name, v in columns.items() if v is not None and name not in mine}
    optics = optics.with_columns(**of_optics)
    relion.write_particles(table, ParticleSet(columns={**particles.columns, **mine}, optics=optics))
    return table


# what it leaves


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return what one classification leaves, and its pages after every iteration."""
    root = tmp_path_factory.mktemp("class2d")
    some_classifiable_particles(root)
    pages = []
    draw = JobContext.report

    def drawn_in_the_end(context, page):
        pages.append(page)
        if not page.status:
            draw(context, page)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(page_pace, "PAGE_SHARE", 1e9)
        patch.setattr(JobContext, "report", drawn_in_the_end)
        result = classified(iterations=5, closing_passes=3, stop_early=False, algorithm="em")
    return result, pages


def test_the_files_are_those_of_relion_and_the_table_of_particles_is_the_main_output(run):
    result, _ = run
    names = {path.name for path in result.folder.iterdir()}
    for iteration in (0, 5):
        assert {f"run_it{iteration:03d}_{kind}.star" for kind in ("data", "model", "optimiser", "sampling")} <= names
        assert f"run_it{iteration:03d}_classes.mrcs" in names
    assert {"run_unmasked_classes.mrcs", "report.html", "SUCCESS"} <= names
    assert not any(name.startswith("run_it003") for name in names)
    assert result.main_output == result.folder / "run_it005_data.star"


def test_what_is_written_can_be_read_and_holds_every_particle_once(run):
    result, _ = run
    project = result.folder.parents[1]
    made = read_class_run(result.folder, project=project)
    given = relion.read_particles(project / "particles.star")
    np.testing.assert_array_equal(made.particles.uid, given.uid)
    assert made.averages["n_particles"].sum() == len(given)
    assert set(made.particles["class_number"]) <= {1, 2}
    assert made.particles["theirs"].tolist() == given["theirs"].tolist()
    assert np.isfinite(made.averages["frc"]).any()
    assert made.iteration == 5


def test_dumbbells_and_rings_go_apart(run):
    result, _ = run
    classes = relion.read_particles(result.main_output)["class_number"]
    kind = np.arange(len(classes)) % 2
    agreement = np.mean((classes == classes[kind == 1][0]) == (kind == 1))
    assert max(agreement, 1 - agreement) > 0.8


def test_each_iteration_is_a_line_of_the_log_with_what_matters(run):
    result, _ = run
    log = text_of(result.folder)
    assert "The algorithm is EM, as asked for." in log
    for iteration in range(1, 6):
        assert re.search(
            rf"Iteration {iteration}: log-likelihood -?[\d.]+ a particle, (no shell above )?model SSNR.*, "
            r"Pmax 0\.\d\d, .*\d of 2 classes occupied, [\d.]+ s\.",
            log,
        )
    assert "Ended after 5 iterations: the 5 iterations asked for are done." in log
    assert "Closing pass 3 of 3: 60 to do" in log
    assert re.search(
        r"FRC resolution [\d.]+ Å at best, [\d.]+ Å in the median, of [12] of 2 classes|halves of no class agree", log
    )
    assert log.count("Needs at most") >= 2


def test_the_page_can_be_looked_at_while_the_job_runs(run):
    result, pages = run
    said = [page.status for page in pages]
    assert said[:2] == ["iteration 1 of 5", "iteration 2 of 5"]
    assert said[4:-2] == ["closing stage"] * (len(said) - 6)
    assert said[-1] == ""  # finished
    text = unescape((result.folder / "report.html").read_text())
    assert "the 5 iterations asked for are done" in text
    assert "as asked for" in text


@pytest.mark.usefixtures("pages")
def test_the_same_command_gives_the_same_averages_and_another_seed_others(project):
    first, second = classified(), classified()
    for name in ("run_it002_classes.mrcs", "run_unmasked_classes.mrcs"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()
    other = classified(seed=2)
    assert (first.folder / "run_it002_classes.mrcs").read_bytes() != (
        other.folder / "run_it002_classes.mrcs"
    ).read_bytes()


# what it is given


def refused(error, **given):
    """Return what a refusal says, which must come before any image is compared."""
    with pytest.raises(error) as caught:
        classified(**given)
    begun = sorted(Path.cwd().glob("Class2D/*/run.log"))
    assert not any("Iteration" in log.read_text() for log in begun)
    return str(caught.value)


def test_particles_without_ctf_are_refused_unless_it_is_left_uncorrected(project):
    changed(project, defocus_u_angstrom=None, defocus_v_angstrom=None)
    said = refused(InconsistentDataError)
    assert "_rlnDefocusU, _rlnDefocusV" in said
    assert "--no-ctf" in said


@pytest.mark.usefixtures("pages")
def test_without_ctf_the_optimiser_says_so(project):
    changed(project, defocus_u_angstrom=None, defocus_v_angstrom=None)
    made = read_class_run(classified(ctf=False).folder, project=project)
    assert made.settings["rlnDoCorrectCtf"] == "0"


def test_more_classes_than_particles_are_refused(project):
    said = refused(InputError, classes=61)
    assert "61 classes for 60 particles" in said


def test_a_mask_larger_than_the_box_is_refused(project):
    said = refused(InputError, mask_diameter_angstrom=200)
    assert "got 200 Å for images of 32 px of 4 Å" in said


def test_missing_stacks_are_refused(project):
    (project / "particles.mrcs").rename(project / "elsewhere.mrcs")
    assert "particles.mrcs" in refused(FormatError)


def test_one_or_two_closing_passes_are_refused(project):
    assert "at least 3" in refused(InputError, closing_passes=2)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"offset_range": "-3"}, "`--offset-range` must be a length in Å, or in pixels as 5px, ≥ 0; got -3"),
        ({"offset_step": "0px"}, "`--offset-step` must be a length in Å, or in pixels as 5px, > 0; got 0px"),
        ({"max_alignment_resolution_angstrom": 500}, "got --max-alignment-resolution 500; widen the limits"),
        ({"mask_diameter_angstrom": 9}, "at least 8 px; got 9 Å where a pixel is 4 Å"),
    ],
)
def test_values_that_leave_nothing_to_do_are_refused(project, given, told):
    assert told in refused(InputError, **given)


@pytest.mark.usefixtures("pages")
def test_copies_of_images_are_told(project):
    table = project / "particles.star"
    particles = relion.read_particles(table)
    relion.write_particles(table, particles.take(np.r_[0:50, 0:10]).with_columns(uid=np.arange(1, 61)))
    assert "got 10 of 60 that name one which an earlier row names" in text_of(classified().folder)


def test_particles_that_are_found_more_than_once_are_told():
    """A micrograph with particles 300 Å apart, of which some rows are found at the place of another."""
    n = 50
    given = particles_of(n, halfmap.ImageGrid.square(32, 4.0))
    particles = ParticleSet(
        columns={
            **given.columns,
            "position_pixel": np.stack([75.0 * np.arange(n), np.zeros(n)], axis=1),
            "micrograph_name": np.full(n, "mic.mrc", dtype=object),
        },
        optics=given.optics.with_columns(micrograph_pixel_size_angstrom=np.array([4.0])),
    )
    problem = SimpleNamespace(particles=particles, data=SimpleNamespace(index=np.arange(n)))
    params = SimpleNamespace(mask_diameter_angstrom=200.0)

    def told(rows):
        origin = np.zeros((n, 2))
        origin[rows, 0] = 300.0  # to the particle before
        state = SimpleNamespace(assignments=SimpleNamespace(origin_angstrom=origin))
        return class2d_run.repeats_told(problem, params, state)

    assert told([]) == ()
    assert told([20, 41, 45])[0].startswith("Each particle should be found once; got 3 of 50 within 50 Å of one before")


def test_why_a_run_ended_is_told():
    def reason(outcome, changed):
        state = SimpleNamespace(outcome=outcome, algorithm="em", history={"changed_share": np.array([0.5, changed])})
        return class2d_run.stop_reason(SimpleNamespace(iterations=25), state)

    assert reason("converged", 0.01) == "nothing changes any more"
    assert reason("converged", 0.312).endswith("31 % of particles fit several alike")
    assert reason("iteration limit", 0.3) == "the 25 iterations asked for are done"


@pytest.mark.usefixtures("pages")
def test_a_wrong_pixel_size_is_told(project):
    changed(project, pixel_size_angstrom=5.0)
    log = text_of(classified().folder)
    assert "got 5 Å in the table and 4 Å in the header" in log


def spoiled(project, rows, change):
    path = project / "particles.mrcs"
    images = np.array(mrc.map_data(path))
    images[rows] = change(images[rows])
    with mrc.StackWriter(path, halfmap.ImageGrid.square(images.shape[-1], PIXEL_SIZE), len(images)) as writer:
        writer.write(images)


def not_a_number(images):
    images[:, 3, 4] = np.nan
    return images


@pytest.mark.usefixtures("pages")
def test_single_bad_images_are_set_aside_with_their_reasons(project):
    spoiled(project, [7, 31], not_a_number)
    result = classified()
    aside = relion.read_particles(result.folder / "rejected.star")
    given = relion.read_particles(project / "particles.star")
    np.testing.assert_array_equal(aside.uid, given.uid[[7, 31]])
    assert "NaN" in aside["halfmapReason"][0]
    assert len(relion.read_particles(result.main_output)) == 58


def test_many_bad_images_end_the_job(project):
    spoiled(project, range(20), not_a_number)
    assert "got 20 bad ones among 60" in refused(JobFailed)


def test_unnormalised_stacks_are_told_on_the_page_and_change_nothing(project, pages):
    expected = classified()
    spoiled(project, range(60), lambda images: 30 * images + 500)
    result = classified()
    said = r"should have mean 0 and deviation 1; got mean 50\d.* and deviation 3\d"
    assert re.search(said, text_of(result.folder))
    assert re.search(said, pages[1].sections[0].blocks[0].text)
    assert "should have mean 0" not in text_of(expected.folder)
    averages = [read_class_run(one.folder, project=project).averages["average"] for one in (expected, result)]
    np.testing.assert_allclose(averages[0], averages[1], atol=1e-3)  # of deviation 1; float32 images of 500 ± 30


@pytest.mark.usefixtures("pages")
def test_stacks_of_half_precision_classify_alike(project):
    expected = classified()
    path = project / "particles.mrcs"
    images = np.array(mrc.map_data(path))
    grid = halfmap.ImageGrid.square(images.shape[-1], PIXEL_SIZE)
    with mrc.StackWriter(path, grid, len(images), float16=True) as writer:
        writer.write(images)
    assert_alike(project, expected, classified())


def assert_alike(project, expected, result, *, share=0.95):
    """Compare the classes of particles; a particle between two of them may go to either."""
    here, there = (relion.read_particles(one.main_output)["class_number"] for one in (result, expected))
    assert np.mean(here == there) >= share


@pytest.mark.usefixtures("pages")
def test_tables_of_relion_3_0_classify_alike(project):
    expected = classified()
    particles = relion.read_particles(project / "particles.star")
    labels = {
        "rlnImageName": particles["image_name"],
        "rlnMicrographName": particles["micrograph_name"],
        **{
            f"rlnDefocus{end}": particles[f"defocus_{name}"]
            for end, name in (("U", "u_angstrom"), ("V", "v_angstrom"), ("Angle", "angle_degrees"))
        },
        "rlnVoltage": np.full(60, 300.0),
        "rlnSphericalAberration": np.full(60, 2.7),
        "rlnAmplitudeContrast": np.full(60, 0.1),
        "rlnMagnification": np.full(60, 10000.0),
        "rlnDetectorPixelSize": np.full(60, PIXEL_SIZE),
    }
    columns = {label: np.array([str(value) for value in values], dtype=object) for label, values in labels.items()}
    star.write(project / "old.star", [star.StarTable(name="", columns=columns)])
    assert_alike(project, expected, classified(particles="old.star"))


@pytest.mark.usefixtures("pages")
def test_premultiplied_images_classify(project):
    changed(project, ctf_premultiplied=True)
    result = classified()
    assert "multiplied by their CTF already" in text_of(result.folder)
    assert relion.read_particles(result.main_output).optics["ctf_premultiplied"].all()


@pytest.mark.usefixtures("pages")
def test_optics_groups_of_other_pixel_size_classify_alike_on_the_grid_of_most_particles(project):
    expected = classified()
    table = project / "particles.star"
    particles = relion.read_particles(table)
    rows = np.arange(60) % 3 == 0
    images = torch.from_numpy(np.array(mrc.map_data(project / "particles.mrcs"))[rows])
    finer, grid = rescale(images, halfmap.ImageGrid.square(32, PIXEL_SIZE), 48)
    with mrc.StackWriter(project / "finer.mrcs", grid, int(rows.sum())) as writer:
        writer.write(finer.numpy())
    names = particles["image_name"].copy()
    names[rows] = [f"{number:06d}@finer.mrcs" for number in range(1, rows.sum() + 1)]
    optics = type(particles.optics)(
        columns={name: np.repeat(values, 2, axis=0) for name, values in particles.optics.columns.items()}
        | {
            "optics_group": np.array([1, 2]),
            "name": np.array(["a", "b"], dtype=object),
            "pixel_size_angstrom": np.array([PIXEL_SIZE, grid.pixel_size_angstrom]),
            "image_size_pixel": np.array([32, 48]),
        }
    )
    columns = {**particles.columns, "image_name": names, "optics_group": 1 + rows}
    columns.pop("uid")
    relion.write_particles(table, ParticleSet(columns={**columns, "uid": particles.uid}, optics=optics))
    result = classified()
    made = read_class_run(result.folder, project=project)
    assert made.averages.grid == halfmap.ImageGrid.square(32, PIXEL_SIZE)
    assert "All images are compared on one grid, 32 px of 4 Å" in text_of(result.folder)
    assert_alike(project, expected, result, share=0.9)


# how


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "vdam", "minibatches": 4},
        {
            "first_minibatch_size": 8,
            "last_minibatch_size": 20,
            "minibatch_memory": 0.5,
            "algorithm": "vdam",
            "first_minibatch_step": 0.6,
            "last_minibatch_step": 0.2,
            "minibatches": 4,
        },
        {"skip_alignment": True},
        {"skip_rotation": True},
        {"center": False, "mask": "noise", "ctf_intact_first_peak": True, "max_alignment_resolution_angstrom": 20},
        {"min_alignment_resolution_angstrom": 60, "psi_step_degrees": 20, "offset_range": "2px", "offset_step": 4},
        {"norm_correction": False, "scale_correction": False, "perturbation": 0, "allow_coarser_sampling": True},
        {"max_kept_samples": 50, "kept_mass": 0.99, "resolution_increment_shells": 5, "mask_edge_pixel": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_way_of_classifying_ends_with_a_classification(project, options):
    made = read_class_run(classified(**options).folder, project=project)
    assert np.isfinite(made.averages["average"]).all()
    assert made.averages["n_particles"].sum() == 60


@pytest.mark.usefixtures("pages")
def test_what_is_kept_of_the_input_stays(project):
    particles = relion.read_particles(project / "particles.star")
    rotation = matrix_from_euler(np.zeros(60), np.zeros(60), np.linspace(-170, 170, 60)).numpy()
    origin = np.linspace(-8, 8, 120).reshape(60, 2)
    changed(project, rotation=rotation, origin_angstrom=origin)
    found = relion.read_particles(classified(skip_alignment=True, center=False).main_output)
    np.testing.assert_allclose(found["rotation"], rotation, atol=1e-5)  # angles have six digits
    np.testing.assert_allclose(found["origin_angstrom"], origin, atol=1e-5)
    assert len(particles) == len(found)


@pytest.mark.usefixtures("pages")
def test_too_little_memory_is_told_before_the_work(project):
    with pytest.raises(InputError, match="raise --memory"):
        classified(memory="1MB")
    assert "Iteration" not in text_of(project / "Class2D/job001")


# where others ended


@pytest.mark.usefixtures("pages")
def test_a_run_starts_from_the_averages_and_poses_of_another(project):
    first = classified(iterations=4)
    again = classified(start_from=first.folder, iterations=1)
    before = read_class_run(first.folder, project=project)
    start = read_class_run(again.folder / "run_it000_optimiser.star", project=project)
    np.testing.assert_allclose(start.averages["average"], before.averages["average"], atol=1e-5)
    np.testing.assert_array_equal(start.particles["class_number"], before.particles["class_number"])
    np.testing.assert_allclose(start.particles["origin_angstrom"], before.particles["origin_angstrom"], atol=1e-4)
    assert_alike(project, first, again, share=0.7)  # half by chance


@pytest.mark.usefixtures("pages")
def test_continue_with_a_file_of_an_iteration_begins_a_new_job_with_its_parameters(project):
    first = classified(iterations=5, stop_early=False, psi_step_degrees=12, regularisation=3, center=False, seed=7)
    result = continue_from_values(
        JOB,
        first.folder / "run_it005_optimiser.star",
        {"iterations": "1", "particles": "particles.star", "closing_passes": "0"},
        options={"workers": 1, "threads": 1},
    )
    assert result.folder == project / "Class2D/job002"
    made = read_class_run(result.folder, project=project)
    assert (made.psi_step_degrees, made.regularisation, len(made.averages)) == (12, 3, 2)
    assert made.mask_diameter_angstrom == 90
    # and what RELION's files have no place for
    asked = read_record(result.folder)["parameters"]
    assert (asked["center"], asked["seed"], asked["stop_early"]) == (False, 7, False)
    assert asked["start_from"].endswith("run_it005_optimiser.star")


@pytest.mark.parametrize("factor", [0.0, 0.3])
def test_a_run_of_another_program_hands_on_how_far_the_sampling_moves(project, factor):
    written(project, replace(a_class_run(), perturbation_factor=factor))
    asked = JOB.parameters_of_run(project, project / "Class2D/job007")
    assert asked["perturbation"] == pytest.approx(factor)


def test_another_number_of_classes_is_refused(project):
    written(project, a_class_run(n_classes=5))
    said = refused(InputError, start_from=project / "Class2D/job007", classes=4)
    assert "got 4 where that has 5; give --classes 5" in said


def test_what_is_no_classification_is_refused(project):
    assert "a 2D classification" in refused(FormatError, start_from=project / "particles.star")
    with pytest.raises(FormatError, match="a 2D classification"):
        continue_from_values(JOB, "particles.star", {})
