"""3D refinement as a job: what it takes, what it says, what it leaves."""

import shutil

import numpy as np
import pytest
import torch

import halfmap
from halfmap.data.volumes import Volume
from halfmap.errors import HalfmapError, InconsistentDataError, InputError
from halfmap.fourier.shells import fsc
from halfmap.geometry.shapes import soft_sphere
from halfmap.geometry.symmetry import distance_degrees
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion, star
from halfmap.io.relion_refinement import read_refinement_run
from halfmap.jobs import refine3d_run
from halfmap.jobs.refine3d import JOB
from halfmap.project.job import JobContext
from halfmap.project.options import RunOptions
from halfmap.project.record import read_record
from halfmap.project.runner import continue_from_values, continue_job
from support.refinement_runs import a_refinement_run, written

PIXEL_ANGSTROM, SIDE, N = 6.0, 32, 80
SMALL = {
    "particles": "made/particles.star",
    "reference": "made/reference_class001.mrc",
    "symmetry": "D2",
    "mask_diameter_angstrom": 170.0,
    "initial_low_pass_angstrom": 40.0,
    "max_iterations": 3,
    "offset_range": "2px",
    "local_resolution": False,
    "workers": 1,
    "threads": 1,
    "devices": "cpu",
}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refine3d")
    (folder / ".halfmap").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        halfmap.simulate_particles(
            specimen=("betagal-like-d2-180",),
            number=N,
            box_pixel=SIDE,
            pixel_size_angstrom=PIXEL_ANGSTROM,
            snr=1.0,
            shift_sigma_angstrom=6.0,
            out="made",
            workers=1,
        )
    (reference,) = (folder / "made").glob("reference*.mrc")
    if reference.name != "reference_class001.mrc":
        shutil.copy(reference, folder / "made" / "reference_class001.mrc")
    return folder


@pytest.fixture
def project(simulated, tmp_path, monkeypatch):
    shutil.copytree(simulated / "made", tmp_path / "made")
    (tmp_path / ".halfmap").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pages(monkeypatch):
    """Return the pages that jobs make, and leave out drawing them."""
    made = []
    monkeypatch.setattr(JobContext, "report", lambda _, page: made.append(page))
    return made


def refined(**given):
    return halfmap.refine3d(**{**SMALL, **given})


def test_a_refinement_leaves_maps_tables_and_a_page(project):
    job = refined()
    folder = job.folder
    assert folder.parent.name == "Refine3D"
    assert job.main_output.name == "postprocess.mrc"
    for name in (
        "run_class001.mrc",
        "run_half1_class001_unfil.mrc",
        "run_half2_class001_unfil.mrc",
        "run_it001_half1_class001.mrc",
        "run_data.star",
        "run_model.star",
        "postprocess.star",
        "postprocess_masked.mrc",
        "mask.mrc",
        "report.html",
    ):
        assert (folder / name).is_file(), name
    log = (folder / "run.log").read_text()
    assert log.count("Auto: iteration ") == 3
    assert "Needs at most" in log
    run = read_refinement_run(folder)
    assert run.is_final
    curve = star.read(folder / "postprocess.star")["fsc"].numbers("rlnFourierShellCorrelationMaskedMaps")
    assert np.flatnonzero(curve)[-1] == run.current_size_pixel // 2  # beyond the last band there are no data
    assert 0 < abs(run.perturbation) <= run.perturbation_factor == 0.5
    assert sorted(np.unique(run.particles["random_subset"])) == [1, 2]
    truth = relion.read_particles("made/ground_truth.star")
    assert set(run.particles.uid) == set(truth.uid)
    volume = mrc.read_volume(folder / "run_class001.mrc")
    assert volume.grid == ImageGrid.cubic(SIDE, PIXEL_ANGSTROM)


def test_detail_that_both_halves_began_with_is_no_resolution(project, pages):
    job = refined(initial_low_pass_angstrom=12.5, max_iterations=1)
    field, begun = SIDE * PIXEL_ANGSTROM, 16  # ceil(192 / 12.5) shells, Nyquist
    told = star.read(job.folder / "postprocess.star")["general"]
    assert float(told["rlnFinalResolution"][0]) == pytest.approx(field / begun, abs=1e-4)
    log = (job.folder / "run.log").read_text()
    assert "Nothing beyond the join." in log
    assert "has not converged within 1 iterations" in log
    assert "--start-from run_itNNN_optimiser.star" in log  # what has ended is no start


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"offset_range": "500"}, "--offset-range must be at most 48 Å"),
        ({"offset_step": "3px"}, "--offset-step must be at most --offset-range"),
    ],
)
def test_offsets_that_cannot_be_searched_are_refused(project, given, said):
    with pytest.raises(InputError, match=said):
        refined(**given)


def test_images_of_nothing_give_the_resolution_of_the_join_and_a_warning(project, pages):
    noise = halfmap.simulate_particles(
        map=(project / "made/reference_class001.mrc",),
        number=N,
        box_pixel=SIDE,
        pixel_size_angstrom=PIXEL_ANGSTROM,
        snr=1e-6,
        out="noise",
        workers=1,
    )
    job = refined(particles=noise.main_output)
    field, join = SIDE * PIXEL_ANGSTROM, 5  # ceil(192 / 40) shells
    told = star.read(job.folder / "postprocess.star")["general"]
    assert float(told["rlnFinalResolution"][0]) == pytest.approx(field / join, abs=1e-4)
    said = (job.folder / "run.log").read_text()
    assert "Nothing beyond the join." in said
    assert "The map has left its reference" in said


def test_a_refinement_that_was_interrupted_goes_on_to_the_same_maps(project, pages, monkeypatch):
    whole = refined(out="whole")
    advance = refine3d_run.refine3d.advance

    def interrupted(problem, params, state, executor, progress):
        if state.iteration == 1:
            raise KeyboardInterrupt
        return advance(problem, params, state, executor, progress)

    with monkeypatch.context() as patch:
        patch.setattr(refine3d_run.refine3d, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refined(out="parted")
    continue_job("parted", JOB, options=RunOptions(workers=1, threads=1, devices="cpu"))
    for name in ("run_class001.mrc", "run_half1_class001_unfil.mrc", "postprocess.mrc"):
        one, two = (mrc.read_volume(folder / name).values for folder in (whole.folder, project / "parted"))
        assert torch.equal(one, two), name


def test_continue_with_a_file_of_an_iteration_begins_a_new_job_where_that_was(project, pages):
    first = refined(out="first", regularisation=2.0, seed=5)
    result = continue_from_values(
        JOB,
        first.folder / "run_it002_optimiser.star",
        {"max_iterations": "3"},
        options={"workers": 1, "threads": 1, "devices": "cpu"},
    )
    asked = read_record(result.folder)["parameters"]
    assert asked["start_from"].endswith("run_it002_optimiser.star")
    assert asked["particles"].endswith("run_it002_data.star")
    assert (asked["reference"], asked["symmetry"], asked["mask_diameter_angstrom"]) == (None, "D2", 170.0)
    assert (asked["regularisation"], asked["seed"], asked["offset_range"]) == (2.0, 5, "2.0px")
    before, after = read_refinement_run(first.folder), read_refinement_run(result.folder)
    assert (after.iteration, after.history["iteration"].tolist()) == (3, [3.0])
    rows = before.particles.rows_of_uids(after.particles.uid)
    np.testing.assert_array_equal(after.particles["random_subset"], before.particles["random_subset"][rows])
    # the same iteration from the same maps and poses, but for noise spectra and grey scales, which begin anew
    one, two = (torch.from_numpy(run.particles["rotation"].copy()) for run in (before, after))
    away = distance_degrees(one[rows], two, "D2")
    assert float(away.median()) < 7.5  # degrees: the fine step
    n_shells = 8
    grid = before.grid
    maps = [grid.rfft(run.halves[0].unregularised.values.double()) for run in (before, after)]
    assert float(fsc(*maps, grid)[1:n_shells].min()) > 0.9


def test_a_refinement_that_has_ended_or_only_begun_is_nothing_to_go_on_from(project, pages):
    asked = {"reference": None, "start_from": "ended"}
    for ended, said in ((True, "must not have ended"), (False, "must have done an iteration")):
        run = a_refinement_run(is_final=ended, iteration=12 if ended else 0)
        written(project, run, folder="ended")
        with pytest.raises(InputError, match=said):
            refined(**asked)
        shutil.rmtree("ended")


def test_particles_that_an_earlier_refinement_does_not_know_are_refused(project, pages):
    written(project, a_refinement_run(side=SIDE, symmetry="D2"), folder="other")
    with pytest.raises(InconsistentDataError, match=f"got {N} of {N} that it does not know"):
        refined(reference=None, start_from="other")


@pytest.mark.parametrize("given", [{"reference": None}, {"reference": None, "symmetry": "T"}, {"start_from": "made"}])
def test_a_refinement_begins_with_a_reference_or_an_earlier_one(project, given):
    with pytest.raises(InputError, match="Either --reference or --start-from"):
        refined(**given)


def test_optics_groups_of_two_pixel_sizes_give_the_map_of_one(project, pages):
    halfmap.simulate_particles(
        specimen=("betagal-like-d2-180",),
        number=N,
        box_pixel=SIDE,
        optics_groups=2,
        group_pixel_sizes_angstrom=(PIXEL_ANGSTROM, 1.15 * PIXEL_ANGSTROM),
        snr=1.0,
        shift_sigma_angstrom=6.0,
        out="two",
        workers=1,
    )
    errors, maps = [], []
    for folder in ("made", "two"):
        run = read_refinement_run(refined(particles=f"{folder}/particles.star").folder)
        truth = relion.read_particles(f"{folder}/ground_truth.star")
        true = torch.from_numpy(truth["rotation"][truth.rows_of_uids(run.particles.uid)])
        found = torch.from_numpy(run.particles["rotation"].copy())
        errors.append(float(distance_degrees(found, true, "D2").median()))
        maps.append(run.joined.grid.rfft(run.joined.values.double()))
        assert run.grid == ImageGrid.cubic(SIDE, PIXEL_ANGSTROM)
    assert errors[1] < errors[0] + 3.75  # degrees: half a fine step
    # noise differs between the two sets; a wrong scale of half the images would cost all beyond 35 Å, shell 5
    assert float(fsc(*maps, run.grid)[1:7].min()) > 0.9


def test_halves_of_the_input_are_kept(project, pages):
    particles = relion.read_particles("made/particles.star")
    given = np.where(np.arange(N) < N // 2, 1, 2)
    relion.write_particles("made/halved.star", particles.with_columns(random_subset=given))
    run = read_refinement_run(refined(particles="made/halved.star", max_iterations=1).folder)
    rows = particles.rows_of_uids(run.particles.uid)
    np.testing.assert_array_equal(run.particles["random_subset"], given[rows])


def other_mask(values, pixel=PIXEL_ANGSTROM):
    tensor = torch.as_tensor(values, dtype=torch.float32)
    mrc.write_volume("mask.mrc", Volume(values=tensor, grid=ImageGrid.cubic(tensor.shape[0], pixel)))
    return "mask.mrc"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"symmetry": "D2h"}, "symmetry must be one of"),
        ({"symmetry": "D 2"}, "give D2"),
        ({"relax_symmetry": "oct"}, "give O"),
        ({"sigma_angles_degrees": 5.0, "particles": "made/no_angles.star"}, "--sigma-angles must be around known"),
        ({"reference": "made/dark.mrc"}, "--invert-reference"),
        ({"particles": "made/no_ctf.star"}, "CTF"),
        ({"reference": "made/particles.star"}, "MRC file"),
        ({"mask_diameter_angstrom": 400.0}, "--mask-diameter must not exceed the box"),
        ({"solvent_flattened_fsc": True}, "--mask"),
        ({"max_resolution_angstrom": 50.0}, "finer than"),
        ({"offset_step": "0px"}, "--offset-step"),
        ({"healpix_order": 5}, "known angles"),
        ({"reference": None, "symmetry": "O", "sigma_angles_degrees": 5.0}, "map that the angles hold for"),
    ],
)
def test_what_cannot_be_refined_is_said_before_work_begins(project, pages, given, said):
    if given == {"healpix_order": 5}:
        particles = relion.read_particles("made/particles.star").without_columns("rotation")
        relion.write_particles("made/particles.star", particles)
    particles = relion.read_particles("made/particles.star")
    bare = particles.without_columns(*(name for name in ("rotation", "prior_rotation") if name in particles))
    relion.write_particles("made/no_angles.star", bare)
    defocus = [name for name in particles.columns if name.startswith("defocus")]
    relion.write_particles("made/no_ctf.star", particles.without_columns(*defocus))
    volume = mrc.read_volume("made/reference_class001.mrc")
    mrc.write_volume("made/dark.mrc", Volume(values=-volume.values, grid=volume.grid))
    with pytest.raises(HalfmapError, match=said):
        refined(**given)


def test_a_mask_of_another_box_names_the_remedy(project, pages):
    with pytest.raises(InputError, match="volume resample"):
        refined(mask=other_mask(np.ones((24, 24, 24))))


def test_a_mask_that_cuts_the_particle_is_told(project, pages):
    for radius, is_cut in ((90.0, False), (35.0, True)):
        mask = other_mask(soft_sphere(ImageGrid.cubic(SIDE, PIXEL_ANGSTROM), radius, 20.0))
        log = (refined(mask=mask, max_iterations=1).folder / "run.log").read_text()
        assert ("% of the particle in the reference" in log) == is_cut


def test_a_mask_that_is_none_is_refused(project, pages):
    with pytest.raises(HalfmapError, match="0 to 1"):
        refined(mask=other_mask(3 * np.ones((SIDE, SIDE, SIDE))))


def test_too_few_particles_for_two_halves_are_refused(project, pages):
    particles = relion.read_particles("made/particles.star").take(np.arange(12))
    relion.write_particles("made/few.star", particles)
    with pytest.raises(InputError, match="at least 10 particles"):
        refined(particles="made/few.star")
