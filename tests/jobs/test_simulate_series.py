from pathlib import Path

import numpy as np
import pytest

import halfmap
from halfmap.errors import InputError
from halfmap.fourier import shells
from halfmap.io import mrc, relion, star
from halfmap.io.data_hash import data_hash
from halfmap.io.detector import Detector
from halfmap.io.frames import open_movie
from halfmap.io.species_particles import read_species_particles_of_m
from halfmap.io.tomostar import average_path, raw_movie_path, read_tomostar
from halfmap.io.warp_series import SeriesSizes, read_series
from halfmap.io.warp_settings import read_settings
from halfmap.jobs import simulate_one_series
from halfmap.jobs.simulate_tilt_series import JOB
from halfmap.project.options import RunOptions
from halfmap.project.runner import continue_job
from halfmap.sessions.raw_movies import MoviePlan
from halfmap.simulation.series_params import TiltSeriesSimulationParams
from halfmap.simulation.tilt_series_truth import draw_tilt_series

COMMON = {
    "specimen": ("compact-c1-80",),
    "size_pixel": (96, 88),
    "pixel_size_angstrom": 4.0,
    "particles_per_series": (4,),
    "workers": 1,
}
TILTS = {
    **COMMON,
    "number": 2,
    "tilt_step_degrees": 30.0,
    "image_warp_nodes": (2, 3),
    "volume_warp_angstrom": 2.0,
    "stage_angle_error_degrees": 0.5,
    "temporal_samples": 2,
    "drift_angstrom": 2.0,
    "frames_per_tilt": 2,
    "motion_error_angstrom": 1.0,
    "magnification_error_percent": 0.5,
    "odd_aberration_rad": 0.5,
    "even_aberration_rad": 0.5,
    "inverted_angles": True,
}


@pytest.fixture(scope="module")
def tilts(tmp_path_factory):
    root = tmp_path_factory.mktemp("tilts")
    (root / ".halfmap").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return halfmap.simulate_tilt_series(**TILTS).folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    root = tmp_path_factory.mktemp("frames")
    (root / ".halfmap").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return halfmap.simulate_frame_series(
            **COMMON, frames=4, frame_format="tif", motion_error_angstrom=2.0, doming_angstrom=200.0, bad_images=(3,)
        ).folder


def test_lists_of_tilts_lead_to_movies_averages_and_their_hash(tilts):
    path = tilts / "tomostar" / "TS_2.tomostar"
    tomostar = read_tomostar(path)
    assert tomostar.tilt_angle_degrees.tolist() == [-60.0, -30.0, 0.0, 30.0, 60.0]
    assert tomostar.dose_e_per_angstrom2.tolist() == [12.0, 6.0, 0.0, 3.0, 9.0]
    for name in tomostar.movie_names:
        assert mrc.read_image(average_path(path, name)).shape == (88, 96)
    particles = read_species_particles_of_m(tilts / "species" / "compact-c1-80_particles.star")
    hashes = set(particles.source_hash[particles.source_name == "TS_2.tomostar"])
    assert hashes == {data_hash("TS_2", raw_movie_path(path, tomostar.movie_names[0]))}


def test_movies_with_their_gain_add_up_to_the_average(tilts):
    path = tilts / "tomostar" / "TS_1.tomostar"
    name = read_tomostar(path).movie_names[2]
    average = mrc.read_image(average_path(path, name))
    movie = open_movie(raw_movie_path(path, name), detector=Detector(gain_path=tilts / "gain.mrc"))
    assert len(movie) == 2
    assert np.corrcoef(movie.total().ravel(), average.ravel())[0, 1] > 0.3  # frames move by a pixel
    still = open_movie(raw_movie_path(path, name)).total()
    # without the gain every pixel is off by 5 %, a third of the noise
    assert still.std() > 1.02 * movie.total().std()


def test_settings_lead_to_the_data(tilts):
    settings = read_settings(tilts / "warp_tiltseries.settings")
    assert settings.tomo_dimensions_pixel == (96, 88, 175)
    assert settings.data_path(tilts / "warp_tiltseries.settings") == tilts / "tomostar"
    assert (settings.processing_path(tilts / "warp_tiltseries.settings") / "TS_1.xml").exists()
    movies = read_settings(tilts / "warp_frameseries.settings")
    assert (tilts / movies.gain_path).exists()


def test_metadata_hold_the_starting_values_and_the_truth_lies_apart(tilts):
    settings = {name: value for name, value in TILTS.items() if name not in ("specimen", "workers")}
    reference = TiltSeriesSimulationParams(**settings)
    diameter = _diameter(tilts)
    drawn = draw_tilt_series(1, reference, [diameter])
    for folder, series in (("warp_tiltseries", drawn.starting), ("truth/warp_tiltseries", drawn.true)):
        found = read_series(tilts / folder / "TS_2.xml")
        for grid in ("movement_x_angstrom", "volume_warp_z_angstrom", "stage_angle_y_degrees", "defocus_angstrom"):
            np.testing.assert_allclose(getattr(found, grid).values, getattr(series, grid).values, atol=1e-6)
        np.testing.assert_allclose(found.optics.magnification, series.optics.magnification, atol=1e-9)
        np.testing.assert_allclose(found.optics.odd_zernike, series.optics.odd_zernike, rtol=1e-9)
        np.testing.assert_allclose(found.optics.even_zernike, series.optics.even_zernike, rtol=1e-9)
        assert found.are_angles_inverted
    start = read_species_particles_of_m(tilts / "species" / "compact-c1-80_particles.star")
    true = read_species_particles_of_m(tilts / "truth" / "compact-c1-80_particles.star")
    assert start.n_samples == true.n_samples == 2
    np.testing.assert_array_equal(start.uid, true.uid)
    np.testing.assert_allclose(true.position_angstrom[4:], drawn.species[0].position_angstrom, atol=1e-5)
    np.testing.assert_allclose(start.rotation[4:], drawn.species[0].starting_rotation, atol=1e-7)


def _diameter(folder):
    from support.simulations import a_reference

    reference = a_reference("compact-c1-80", 4.0)
    assert mrc.read_volume(folder / "truth" / "compact-c1-80_map.mrc").grid.pixel_size_angstrom == 4.0
    return reference.diameter_angstrom


def test_species_files_belong_together(tilts):
    halves = [mrc.read_volume(tilts / "species" / f"compact-c1-80_half{half}.mrc") for half in (1, 2)]
    mask = mrc.read_volume(tilts / "species" / "compact-c1-80_mask.mrc")
    assert halves[0].grid == halves[1].grid == mask.grid
    curve = shells.fsc(*(half.grid.rfft(half.values) for half in halves), mask.grid)
    assert shells.resolution_at_threshold(curve, mask.grid) == pytest.approx(12.0, rel=0.1)
    assert set(mask.values.unique().tolist()) == {0.0, 1.0}


def test_relion_has_the_same_particles_in_pixels(tilts):
    table = star.read(tilts / "species" / "compact-c1-80_relion.star").tables[0]
    particles = read_species_particles_of_m(tilts / "species" / "compact-c1-80_particles.star")
    np.testing.assert_allclose(4.0 * table.numbers("rlnCoordinateZ"), particles.position_angstrom[:, 0, 2], atol=1e-5)
    assert table.text("rlnMicrographName").tolist() == particles.source_name.tolist()


def test_a_live_session_can_begin_with_the_movies_of_frame_series(frames):
    plan = MoviePlan.read(frames / "movies.toml")
    assert [path.name for path in frames.glob(plan.pattern)] == ["FS_1.tif"]
    assert Path(plan.motion["gain"]).is_file()
    # 40 e/Å² in four frames
    assert plan.motion["dose_per_frame_e_per_angstrom2"] == 10.0
    assert plan.ctf["max_resolution_angstrom"] == 8.4  # of pixels of 4 Å


def test_frame_series_leave_a_movie_with_its_metadata(frames):
    settings = read_settings(frames / "warp_frameseries.settings")
    path = settings.data_path(frames / "warp_frameseries.settings") / "FS_1.tif"
    movie = open_movie(path, pixel_size_angstrom=4.0)
    assert len(movie) == 4
    assert movie.read([3]).mean() < 0.1 * movie.read([0]).mean()
    sizes = SeriesSizes(n_frames=len(movie), dose_per_frame_e_per_angstrom2=10.0)
    start = read_series(frames / "warp_frameseries" / "FS_1.xml", sizes)
    true = read_series(frames / "truth" / "warp_frameseries" / "FS_1.xml", sizes)
    assert len(start) == 4
    assert start.weights.scale.values.flatten().tolist() == [1.0, 1.0, 1.0, 0.0]
    assert not start.pyramid_x_angstrom
    assert len(true.pyramid_x_angstrom) == 1
    assert float(true.doming_angstrom.values[-1, 1, 1]) < -150.0
    particles = relion.read_particles(frames / "species" / "compact-c1-80_relion.star")
    poses = read_species_particles_of_m(frames / "species" / "compact-c1-80_particles.star")
    assert set(poses.source_name) == {"FS_1.tif"}
    assert set(poses.source_hash) == {data_hash("FS_1", path)}
    mean = (particles["defocus_u_angstrom"] + particles["defocus_v_angstrom"]) / 2
    at_zero = float(start.defocus_angstrom.values[0, 0, 0])
    np.testing.assert_allclose(mean, at_zero + poses.position_angstrom[:, 0, 2], atol=0.1)


def test_an_interrupted_job_goes_on_with_the_series_that_lack(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".halfmap").mkdir()
    draw, made = simulate_one_series.draw_tilt_series, []

    def fails_at_the_second(number, params, diameters):
        made.append(number)
        if len(made) == 2:
            raise KeyboardInterrupt
        return draw(number, params, diameters)

    monkeypatch.setattr(simulate_one_series, "draw_tilt_series", fails_at_the_second)
    small = {**COMMON, "number": 2, "min_tilt_degrees": 0.0, "max_tilt_degrees": 0.0}
    with pytest.raises(KeyboardInterrupt):
        halfmap.simulate_tilt_series(**small)
    result = continue_job("1", JOB, options=RunOptions(workers=1))
    assert made == [0, 1, 1]
    assert len(list((result.folder / "tomostar").iterdir())) == 2


def test_numbers_of_particles_must_belong_to_the_species(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="each of 1 species"):
        halfmap.simulate_tilt_series(**{**COMMON, "particles_per_series": (4, 4)})
