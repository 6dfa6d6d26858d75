"""Raw frames of tilts aligned by the particles of a population: nearer to the truth, and nothing lost."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import halfmap
from halfmap.errors import InputError, ProjectError
from halfmap.imaging.deformation import movement
from halfmap.imaging.frame_average import frame_average
from halfmap.io import mrc
from halfmap.io.detector import Detector
from halfmap.io.frames import open_movie
from halfmap.io.warp_series import SeriesSizes, read_series
from halfmap.jobs.population_files import open_population
from halfmap.multiparticle.tilt_movies import align_tilt_movie, movie_of_tilt, seen_in_tilt
from support.simulated_series import SimulatedFiles, make_population

SPECIMEN = "compact-c1-100"
CHOICE = {"population": "m", "positions": True, "sub_iterations": 1, "steps": 1, "workers": 1}


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """Make a population of one series of three tilts, whose four frames have moved by 4 Å rms more than is known."""
    return make_population(
        tmp_path_factory.mktemp("movies"),
        SPECIMEN,
        number=1,
        size_pixel=(160, 160),
        particles_per_series=(16,),
        min_tilt_degrees=-20.0,
        max_tilt_degrees=20.0,
        snr=2.0,
        image_warp_angstrom=0.0,
        frames_per_tilt=4,
        motion_error_angstrom=4.0,
        reference_resolution_angstrom=10.0,
    )


@pytest.fixture
def project(tmp_path, monkeypatch, made_once):
    shutil.copytree(made_once, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def movies(sim: Path) -> list[str]:
    return sorted(path.stem for path in (sim / "frames").glob("*.mrc"))


def metadata(sim: Path, movie: str):
    return read_series(sim / "warp_frameseries" / f"{movie}.xml", SeriesSizes())


def frames_of(sim: Path, movie: str):
    path = sim / "frames" / f"{movie}.mrc"
    return open_movie(path, pixel_size_angstrom=4.0, detector=Detector(gain_path=sim / "gain.mrc"))


def average(sim: Path, movie: str) -> np.ndarray:
    return mrc.read_image(sim / "warp_frameseries/average" / f"{movie}.mrc")


def blur(series, true, place) -> float:
    """Return by how many Å rms frames lie apart in an average; where they lie as a whole is the tilt's."""
    places = place.expand(-1, len(true), 2)
    error = movement(series, places) - movement(true, places)
    return float((error - error.mean(dim=1, keepdim=True)).square().mean().sqrt())


def test_the_movement_of_frames_is_found_where_particles_are(made_once):
    sim = made_once / "sim"
    files = SimulatedFiles(sim)
    series = files.series("TS_1", true=True)
    problem = files.problem("TS_1", {SPECIMEN: 10.0}, series=series,
                            particles={SPECIMEN: files.particles(SPECIMEN, "TS_1", true=True)})  # fmt: skip
    for tilt, name in enumerate(Path(one).stem for one in series.movie_names):
        result, _ = align_tilt_movie(series, tilt, metadata(sim, name), frames_of(sim, name), problem.species)
        seen = seen_in_tilt(series, tilt, movie_of_tilt(series, tilt, metadata(sim, name)), problem.species[0])
        place = torch.from_numpy(seen.particles.position_angstrom[:, :, :2])
        true = metadata(sim / "truth", name)
        before, after = (blur(one, true, place) for one in (metadata(sim, name), result.series))
        assert before > 1.5
        assert after < 0.6 * before, (tilt, before, after)
        assert result.n_effective > 8


def test_averages_are_made_anew_and_earlier_ones_kept(project):
    sim = project / "sim"
    names = movies(sim)
    before = [average(sim, name) for name in names]
    job = halfmap.population_refine(**CHOICE, tilt_movies=True)
    log = (job.folder / "run.log").read_text()
    assert log.count("aligned, log-likelihood +") == 3
    assert "frames of 3 tilts aligned" in (job.folder / "report.html").read_text()
    corners = torch.tensor([[[x, y]] for x in (100.0, 540.0) for y in (100.0, 540.0)], dtype=torch.float64)
    for name, earlier in zip(names, before, strict=True):
        kept = {path.suffix: path for path in (sim / "warp_frameseries/average/versions").glob(f"*/{name}.*")}
        start, true = read_series(kept[".xml"], SeriesSizes()), metadata(sim / "truth", name)
        assert blur(metadata(sim, name), true, corners) < 0.8 * blur(start, true, corners), name
        expected = frame_average(frames_of(sim, name), metadata(sim, name))
        np.testing.assert_allclose(average(sim, name), expected, atol=1e-4 * float(expected.std()))
        np.testing.assert_array_equal(mrc.read_image(kept[".mrc"]), earlier)
        assert metadata(sim, name).pyramid_x_angstrom[0].shape == (3, 3, 3)
        assert not start.pyramid_x_angstrom
    options = open_population(project / "m").population.refinement_options
    assert options["DoTiltMovies"] == "True"

    # versions of the source bring averages and metadata of movies back, and forth
    def contents() -> dict[str, bytes]:
        folder = sim / "warp_frameseries"
        return {path.name: path.read_bytes() for path in (*folder.glob("*.xml"), *folder.glob("average/*.mrc"))}

    first, second = (one for one, _, _ in open_population(project / "m").sources[0].versions.history())
    anew = contents()
    halfmap.population_versions(population="m", action="checkout", member="tilts", version=first)
    for name, earlier in zip(names, before, strict=True):
        np.testing.assert_array_equal(average(sim, name), earlier)
    assert all(contents()[name] != anew[name] for name in anew)
    (sim / f"warp_frameseries/average/{names[0]}.mrc").write_bytes(b"processed again")
    halfmap.population_versions(population="m", action="checkout", member="tilts", version=second)
    assert contents() == anew
    shutil.rmtree(sim / "warp_frameseries/average/versions")
    with pytest.raises(ProjectError, match="must be kept to be used again"):
        halfmap.population_versions(population="m", action="checkout", member="tilts", version=first)
    assert contents() == anew


def test_without_raw_frames_averages_stay_and_that_is_said(project):
    sim = project / "sim"
    name = movies(sim)[0]
    before = average(sim, name)
    (sim / "frames" / f"{name}.mrc").unlink()
    job = halfmap.population_refine(**CHOICE, tilt_movies=True)
    assert "--tilt-movies is not for 1 of 1 items" in (job.folder / "run.log").read_text()
    np.testing.assert_array_equal(average(sim, name), before)
    assert not (sim / "warp_frameseries/average/versions").exists()


def test_movies_are_aligned_only_by_geometry_that_is_fitted(project):
    with pytest.raises(InputError, match="must come with geometry"):
        halfmap.population_refine(population="m", tilt_movies=True, defocus=True, workers=1)
