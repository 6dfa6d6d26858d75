"""A population refined from files: nearer to the truth, the same however it is run, and never half-written."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import halfmap
from halfmap.errors import HalfmapError, InconsistentDataError, InputError, ProjectError
from halfmap.io.species_particles import read_species_particles_of_m, write_species_particles_of_m
from halfmap.jobs import population_refine, population_refine_run
from halfmap.jobs.population_edit import ResampleParams, resample_trajectories
from halfmap.jobs.population_files import changing, open_population
from halfmap.project.runner import continue_job
from support.simulated_series import SimulatedFiles, make_population

SPECIMEN = "compact-c1-100"
CHOICE = {
    "positions": True,
    "angles": True,
    "image_warp": "1x1",
    "sub_iterations": 2,
    "steps": 2,
}


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """Make a population of two tilt series of ten particles each, whose poses and images are off."""
    return make_population(
        tmp_path_factory.mktemp("refined"),
        SPECIMEN,
        number=2,
        size_pixel=(128, 128),
        particles_per_series=(10,),
        min_tilt_degrees=-40.0,
        max_tilt_degrees=40.0,
        snr=0.5,
        image_warp_nodes=(1, 1),
        reference_resolution_angstrom=14.0,
    )


@pytest.fixture(scope="module")
def refined_once(tmp_path_factory, made_once):
    """Return the folder of a refined copy of that population, and its job, which was stopped near its end."""
    folder = tmp_path_factory.mktemp("done") / "copy"
    shutil.copytree(made_once, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with patch.context() as stopped:
            stopped.setattr(population_refine, "_cleared_up", interrupted)
            with pytest.raises(KeyboardInterrupt):
                refine(out="job")
        return folder, continue_job("job", population_refine.JOB).folder


@pytest.fixture
def project(tmp_path, monkeypatch, made_once):
    """Work in a copy of a population that was made once."""
    shutil.copytree(made_once, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def refine(**options):
    return halfmap.population_refine(population="m", **{**CHOICE, "workers": 1, **options})


def state_of(project: Path) -> dict[str, bytes]:
    """Return what a population is: metadata of items, maps and particles, without identities and dates."""
    opened = open_population(project / "m")
    paths = [source.metadata_path(item) for source in opened.sources for item in source.source.items]
    paths += [one.file(kind) for one in opened.species for kind in ("half1.mrc", "half2.mrc", "particles.star")]
    return {path.name: path.read_bytes() for path in paths}


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def agreement(project: Path, item: str):
    files = SimulatedFiles(project / "sim")
    found = open_population(project / "m").species[0].particles()
    mine = found.take(np.array([name == f"{item}.tomostar" for name in found.source_name]))
    return files.agreement(item, SPECIMEN, poses=(mine.position_angstrom, mine.rotation))


def test_refined_particles_and_series_are_nearer_to_the_truth(made_once, refined_once):
    folder, job = refined_once
    before, after = agreement(made_once, "TS_1"), agreement(folder, "TS_1")
    # starts at about 3 Å and 5°; the images' information leaves a fraction of that
    assert after.position_angstrom < 0.5 * before.position_angstrom
    assert after.angle_degrees < 0.7 * before.angle_degrees
    page = (job / "report.html").read_text()
    assert "Image warp x" in page
    assert "log-likelihood gained" in page


def test_the_population_tells_m_what_was_fitted(refined_once):
    options = open_population(refined_once[0] / "m").population.refinement_options
    fitted = {"DoImageWarp": "True", "ImageWarpWidth": "1", "DoParticlePoses": "True", "NIterations": "2"}
    assert {name: options[name] for name in fitted} == fitted
    assert options["DoDefocus"] == "False"
    assert "VolumeWarpWidth" not in options


def test_a_refinement_stopped_once_the_population_was_written_knows_its_own_result(refined_once):
    _, job = refined_once
    said = (job / "run.log").read_text()
    assert "Continues" in said
    assert said.count("items with") == 1  # what is to be done was found once
    assert (job / "SUCCESS").is_file()
    assert not (job / "refined").exists()


def test_items_of_a_source_share_their_optics(project):
    job = refine(image_warp=None, magnification=True, share_optics=True, min_particles=10)
    source = open_population(project / "m").sources[0]
    one, other = (source.read_item(item).optics.magnification for item in source.source.items)
    assert np.array_equal(one, other)
    assert not np.array_equal(one, np.eye(2))
    assert np.abs(one - np.eye(2)).max() < 0.02  # there is none to be found, and the prior is 0.02
    page = (job.folder / "report.html").read_text()
    assert "what a single one would have told" in page
    assert not (job.folder / "refined").exists()


def test_shared_optics_must_be_fitted(project):
    with pytest.raises(InputError, match="must come with optics"):
        refine(share_optics=True)


def test_the_score_of_m_is_refused_for_what_it_cannot_fit():
    with pytest.raises(InputError, match="got --magnification, --odd-zernike-order"):
        refine(objective="m_ncc", magnification=True, odd_zernike_order=3)


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(project, refined_once):
    refine(workers=2)
    assert state_of(project) == state_of(refined_once[0])


@pytest.mark.slow
def test_an_interrupted_refinement_goes_on_to_the_same_result(project, refined_once, monkeypatch):
    before = state_of(project)
    with monkeypatch.context() as patch:
        patch.setattr(population_refine_run, "commit_species", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refine(out="job")
    now = state_of(project)
    of_species = [name for name in before if not name.endswith(".xml")]
    assert [now[name] for name in of_species] == [before[name] for name in of_species]  # of one version, whole
    continue_job("job", population_refine.JOB)
    assert state_of(project) == state_of(refined_once[0])


def test_where_nothing_is_fitted_everything_stays_and_is_no_new_version(tmp_path, monkeypatch, refined_once):
    shutil.copytree(refined_once[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    before = open_population(Path("m"))
    refine(positions=False, angles=False, image_warp=None)
    after = open_population(Path("m"))
    assert [one.version for one in (after.sources[0].source, after.species[0].species)] == [
        one.version for one in (before.sources[0].source, before.species[0].species)
    ]
    assert state_of(Path()) == state_of(refined_once[0])
    assert after.population.refinement_options == before.population.refinement_options


def without_an_image(project: Path) -> None:
    next((project / "sim/warp_frameseries/average").glob("TS_2_*")).unlink()


def cut_short(project: Path) -> None:
    path = project / "sim/warp_tiltseries/TS_2.xml"
    path.write_text(path.read_text()[:700])


def of_fewer_angles(project: Path) -> None:
    path = project / "sim/warp_tiltseries/TS_2.xml"
    path.write_text(re.sub(r"(<Angles>[^<]*?)\n[^<\n]+(</Angles>)", r"\1\2", path.read_text()))


def of_an_image_that_is_no_image(project: Path) -> None:
    next((project / "sim/warp_frameseries/average").glob("TS_2_*")).write_bytes(b"x" * 2000)


@pytest.mark.parametrize("damage", [without_an_image, cut_short, of_fewer_angles, of_an_image_that_is_no_image])
def test_an_item_that_is_broken_is_told_and_can_be_excluded(project, damage):
    assert not any("cannot be used" in line for line in halfmap.population_status(population="m"))
    damage(project)
    assert [line for line in halfmap.population_status(population="m") if "cannot be used: TS_2.tomostar" in line]
    halfmap.population_items(population="m", action="exclude", source="tilts", names="TS_2")
    assert not any("cannot be used" in line for line in halfmap.population_status(population="m"))


def test_a_series_with_broken_metadata_is_set_aside_and_stays_as_it_was(project):
    cut_short(project)
    before = state_of(project)
    job = refine(sub_iterations=1, steps=1)
    after = state_of(project)
    assert after["TS_2.xml"] == before["TS_2.xml"]
    assert after["TS_1.xml"] != before["TS_1.xml"]
    particles = [one["one_particles.star"].decode().splitlines() for one in (before, after)]
    of_item = [[line for line in lines if "TS_2.tomostar" in line] for lines in particles]
    assert of_item[0] == of_item[1]
    assert "TS_2.tomostar" in (job.folder / "report.html").read_text()
    assert "`halfmap population items m exclude tilts TS_2`" in (job.folder / "run.log").read_text()
    halfmap.population_estimate_weights(population="m", reset=True, workers=1)
    assert state_of(project)["TS_2.xml"] == before["TS_2.xml"]


def test_memory_is_told_from_shapes_and_too_little_is_refused_before_the_start(project, refined_once):
    said = re.search(r"Needs at most ([\d.]+) MiB of memory", (refined_once[1] / "run.log").read_text())
    # about 64 for a batch of models; windows, references and sums of this little population are a few
    assert 64 < float(said[1]) < 120
    with pytest.raises(InputError, match="raise --memory"):
        refine(memory="60MiB")
    with pytest.raises(InputError, match="maps of a species"):
        refine(memory="120MiB")
    assert not list(project.glob("*/job*/refined"))


def test_a_species_without_one_of_its_half_sets_is_refused_before_the_start(project):
    path = open_population(project / "m").species[0].file("particles.star")
    found = read_species_particles_of_m(path)
    write_species_particles_of_m(path, found.take(found.random_subset == 1))
    with pytest.raises(InconsistentDataError, match="none of 2"):
        refine()
    assert not list(project.glob("*/job*/refined"))


def test_what_no_series_has_is_said_to_have_no_effect(project):
    with pytest.raises(InputError, match="raise --memory"):
        refine(memory="60MiB", doming=True)
    log = max(project.glob("*/job*/run.log")).read_text()
    assert "--doming has no effect" in log
    assert "--positions has" not in log


def test_items_with_few_particles_are_not_refined_but_count_in_the_maps(project):
    before = state_of(project)
    job = refine(min_particles=11)
    assert "2 items hold fewer than 11 particles" in (job.folder / "run.log").read_text()
    after = state_of(project)
    assert after["TS_1.xml"] == before["TS_1.xml"]
    assert after["one_half1.mrc"] != before["one_half1.mrc"]


def test_two_refinements_of_one_population_exclude_each_other(project):
    with changing(Path("m"), print), pytest.raises(ProjectError, match="population"):
        refine()


def test_a_population_without_species_is_told_so(project):
    halfmap.population_create(folder="empty", name="empty")
    with pytest.raises(InputError, match="has no species"):
        halfmap.population_refine(population="empty", **CHOICE)


def test_a_continued_refinement_refuses_a_population_that_was_changed_meanwhile(project, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(population_refine_run, "combine", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refine(out="job")
    for n_samples in (2, 3):
        list(resample_trajectories(ResampleParams(population=Path("m"), species="one", samples=n_samples)))
    with pytest.raises(InconsistentDataError, match="must go on from the version"):
        continue_job("job", population_refine.JOB)


@pytest.mark.parametrize("resolve", ["items", "images", "items and images"])
def test_weights_are_estimated_written_and_forgotten(project, resolve):
    def weights():
        (source,) = open_population(project / "m").sources
        return [source.read_item(item).weights for item in source.source.items]

    before = state_of(project)
    with pytest.raises(InputError, match="an item's windows must be at most"):
        halfmap.population_estimate_weights(population="m", memory="1MiB", workers=1)
    halfmap.population_estimate_weights(population="m", resolve=resolve, weight_coarsest_angstrom=40, workers=1)
    found = weights()
    assert {one.scale.values.numel() for one in found} == {1 if resolve == "items" else 5}
    scales = [one.series_scale if resolve == "items" else float(one.scale.values.max()) for one in found]
    assert max(scales) == 1
    assert min(scales) > 0.2
    if resolve == "images":
        assert np.array_equal(*(one.scale.values for one in found))
    halfmap.population_estimate_weights(population="m", reset=True, workers=1)
    assert all(one.series_scale == 1 and one.scale.values.numel() == 1 for one in weights())
    assert state_of(project).keys() == before.keys()


def test_a_disk_that_fills_while_maps_are_written_leaves_all_members_as_they_were(project, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before, source = state_of(project), open_population(project / "m").sources[0].source.version
    with monkeypatch.context() as patch:
        patch.setattr(population_refine_run, "stage_particles", full)
        with pytest.raises((OSError, ProjectError, HalfmapError)):
            refine(out="job")
    assert state_of(project) == before
    assert open_population(project / "m").sources[0].source.version == source
