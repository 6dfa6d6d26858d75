"""Simulated series, read from files, are refined towards the truth: each group of parameters, and all together.

Images come from a path of their own (`halfmap.simulation`), not from the model that is fitted to them.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

import halfmap
from halfmap.data.image_series import TiltSeries
from halfmap.data.image_source import ImageSource
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.refine import SeriesResult, refine_series
from halfmap.multiparticle.schedule import Schedule
from support.simulated_series import SimulatedFiles

NAME = "compact-c1-80"
KNOWN = {
    "position_error_angstrom": 0.0,
    "angle_error_degrees": 0.0,
    "defocus_error_angstrom": 0.0,
}
COMMON = {
    **KNOWN,
    "specimen": (NAME,),
    "particles_per_series": (14,),
    "reference_resolution_angstrom": 2.5,
    "margin_angstrom": 45.0,
    "workers": 1,
}
COARSE = {**COMMON, "pixel_size_angstrom": 4.0, "size_pixel": (144, 144)}
FINE = {**COMMON, "pixel_size_angstrom": 2.5, "size_pixel": (216, 216)}
TILTS = {"tilt_step_degrees": 15.0, "snr": 0.5, "image_warp_angstrom": 0.0}
FRAMES = {"frames": 8, "snr": 1.0, "ice_thickness_angstrom": 300.0}
POSES = {"positions": True, "angles": True}


@dataclass(frozen=True)
class Case:
    """Errors that are simulated, what is fitted, and what may be left of them.

    Bounds, rms in the units of the columns of `SeriesAgreement`, are about one and a half times what was reached.
    """

    errors: dict
    fitted: dict
    left: dict = field(default_factory=dict)


TILT_CASES = {
    "image warp": Case(
        {"image_warp_nodes": (2, 2), "image_warp_angstrom": 3.0}, {"image_warp": "2x2"}, {"position_angstrom": 0.3}
    ),
    "volume warp": Case(
        {"volume_warp_nodes": (2, 2, 2, 3), "volume_warp_angstrom": 8.0},
        {"volume_warp": "2x2x2x3"},
        {"position_angstrom": 0.25},
    ),
    "positions": Case({"position_error_angstrom": 3.0}, {"positions": True}, {"position_angstrom": 0.3}),
    "angles": Case({"angle_error_degrees": 3.0}, {"angles": True}, {"angle_degrees": 1.2}),
    "paths": Case(
        {"temporal_samples": 3, "drift_angstrom": 6.0, "turning_degrees": 5.0},
        POSES,
        {"position_angstrom": 0.5, "angle_degrees": 2.3},
    ),
    "stage angles": Case({"stage_angle_error_degrees": 2.0}, {"stage_angles": True}, {"angle_degrees": 1.8}),
}
TILT_OPTICS_CASES = {
    "defocus": Case({"defocus_error_angstrom": 1000.0}, {"defocus": True}, {"defocus_angstrom": 45.0}),
    "astigmatism": Case({"astigmatism_error_angstrom": 500.0}, {"astigmatism": True}, {"astigmatism_angstrom": 100.0}),
    "phase shift": Case({"phase_shift_error_degrees": 20.0}, {"phase_shift": True}, {"phase_shift_degrees": 1.5}),
    "spherical aberration": Case(
        {"spherical_aberration_error_mm": 1.0}, {"spherical_aberration": True}, {"spherical_aberration_mm": 0.2}
    ),
    # a wider field: neighbours that overlap are no noise that error bars know of
    "magnification": Case(
        {"magnification_error_percent": 2.0, "size_pixel": (320, 320)},
        {"magnification": True},
        {"magnification_percent": 0.12},
    ),
    "odd aberrations": Case(
        {"odd_aberration_rad": 1.0, "odd_aberration_order": 5}, {"odd_zernike_order": 5}, {"odd_phase_rad": 0.1}
    ),
    "even aberrations": Case({"even_aberration_rad": 1.0}, {"even_zernike_order": 4}, {"ctf_phase_rad": 0.18}),
}
FRAME_CASES = {
    "motion": Case(
        {"motion_error_nodes": (2, 2), "motion_error_angstrom": 3.0}, {"image_warp": "2x2"}, {"position_angstrom": 0.7}
    ),
    "positions": Case({"position_error_angstrom": 3.0}, {"positions": True}, {"position_angstrom": 0.45}),
    "angles": Case({"angle_error_degrees": 3.0}, {"angles": True}, {"angle_degrees": 2.6}),
    "defocus": Case({"defocus_error_angstrom": 1500.0}, {"defocus": True}, {"defocus_angstrom": 290.0}),
    "phase shift": Case({"phase_shift_error_degrees": 20.0}, {"phase_shift": True}, {"phase_shift_degrees": 1.5}),
    "magnification": Case(
        {"magnification_error_percent": 2.0}, {"magnification": True}, {"magnification_percent": 0.6}
    ),
}

WIDE = {"size_pixel": (400, 400), "particles_per_series": (48,)}
FRAME_OPTICS_CASES = {
    # an error well below the astigmatism itself: files interpolate size and angle, steps the vector
    "astigmatism": Case(
        {"astigmatism_error_angstrom": 300.0, "astigmatism_angstrom": 5000.0},
        {"astigmatism": True},
        {"astigmatism_angstrom": 130.0},
    ),
    "doming": Case({"doming_angstrom": 400.0}, {"doming": True}, {"defocus_angstrom": 65.0}),
    "spherical aberration": Case(
        {"spherical_aberration_error_mm": 1.0, "snr": 3.0},
        {"spherical_aberration": True},
        {"spherical_aberration_mm": 0.6},
    ),
    "odd aberrations": Case(
        {"odd_aberration_rad": 1.0, "odd_aberration_order": 5}, {"odd_zernike_order": 5}, {"odd_phase_rad": 0.1}
    ),
    "even aberrations": Case({"even_aberration_rad": 1.0}, {"even_zernike_order": 4}, {"ctf_phase_rad": 0.05}),
}


def simulated(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, **settings) -> SimulatedFiles:
    monkeypatch.chdir(folder)
    (folder / ".halfmap").mkdir()
    make = halfmap.simulate_tilt_series if kind == "tilts" else halfmap.simulate_frame_series
    return SimulatedFiles(make(**settings).folder)


def refined(files: SimulatedFiles, fitted: dict, resolution: dict[str, float], item: str | None = None) -> SeriesResult:
    item = item or files.items[0]
    schedule = Schedule(ctf_resolution_angstrom=20.0, sub_iterations=2)
    return refine_series(files.problem(item, resolution), ParameterChoice(**fitted), schedule=schedule)


def check(files: SimulatedFiles, case: Case, resolution_angstrom: float) -> None:
    result = refined(files, case.fitted, {NAME: resolution_angstrom})
    assert result.is_changed
    item = files.items[0]
    start = files.agreement(item, NAME, resolution_angstrom=resolution_angstrom)
    end = files.agreement_of(item, NAME, result, resolution_angstrom=resolution_angstrom)
    for column, bound in case.left.items():
        assert getattr(start, column) > 1.5 * bound  # there was something to be found
        assert getattr(end, column) <= bound


def test_poses_and_image_warp_are_recovered_from_files(tmp_path, monkeypatch):
    small = {**COARSE, **TILTS, "size_pixel": (112, 112), "particles_per_series": (8,), "tilt_step_degrees": 30.0}
    errors = {"position_error_angstrom": 3.0, "angle_error_degrees": 3.0, "image_warp_angstrom": 3.0}
    files = simulated(tmp_path, monkeypatch, "tilts", **{**small, **errors, "image_warp_nodes": (1, 1), "snr": 1.0})
    fitted = {**POSES, "image_warp": "1x1"}
    check(files, Case(errors, fitted, {"position_angstrom": 0.5, "angle_degrees": 2.0}), 9.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", TILT_CASES)
def test_geometry_of_a_tilt_series_is_recovered(name, tmp_path, monkeypatch):
    case = TILT_CASES[name]
    check(simulated(tmp_path, monkeypatch, "tilts", **{**COARSE, **TILTS, **case.errors}), case, 8.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TILT_OPTICS_CASES)
def test_optics_of_a_tilt_series_are_recovered(name, tmp_path, monkeypatch):
    case = TILT_OPTICS_CASES[name]
    check(simulated(tmp_path, monkeypatch, "tilts", **{**FINE, **TILTS, **case.errors}), case, 5.6)


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAME_CASES)
def test_parameters_of_a_frame_series_are_recovered(name, tmp_path, monkeypatch):
    case = FRAME_CASES[name]
    settings = {**COARSE, **FRAMES, "size_pixel": (160, 160), **case.errors}
    check(simulated(tmp_path, monkeypatch, "frames", **settings), case, 8.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAME_OPTICS_CASES)
def test_optics_of_a_frame_series_are_recovered(name, tmp_path, monkeypatch):
    case = FRAME_OPTICS_CASES[name]
    check(simulated(tmp_path, monkeypatch, "frames", **{**FINE, **FRAMES, **WIDE, **case.errors}), case, 5.6)


@pytest.mark.slow
def test_everything_in_a_tilt_series_is_recovered_together(tmp_path, monkeypatch):
    errors = {
        "position_error_angstrom": 3.0,
        "angle_error_degrees": 3.0,
        "image_warp_nodes": (2, 2),
        "image_warp_angstrom": 3.0,
        "stage_angle_error_degrees": 0.5,
        "defocus_error_angstrom": 800.0,
        "magnification_error_percent": 1.0,
        "odd_aberration_rad": 0.5,
    }
    fitted = {
        **POSES,
        "image_warp": "2x2",
        "stage_angles": True,
        "defocus": True,
        "magnification": True,
        "odd_zernike_order": 3,
    }
    left = {
        "position_angstrom": 0.6,
        "angle_degrees": 2.0,
        "defocus_angstrom": 150.0,
        "magnification_percent": 0.3,
    }
    files = simulated(tmp_path, monkeypatch, "tilts", **{**FINE, **TILTS, **errors})
    check(files, Case(errors, fitted, left), 5.6)


@pytest.mark.slow
def test_everything_in_a_frame_series_is_recovered_together(tmp_path, monkeypatch):
    errors = {
        "position_error_angstrom": 3.0,
        "angle_error_degrees": 3.0,
        "motion_error_nodes": (1, 1),
        "motion_error_angstrom": 4.0,
        "defocus_error_angstrom": 1000.0,
    }
    fitted = {**POSES, "image_warp": "1x1", "defocus": True}
    left = {"position_angstrom": 0.5, "angle_degrees": 2.7, "defocus_angstrom": 320.0}
    files = simulated(tmp_path, monkeypatch, "frames", **{**COARSE, **FRAMES, "size_pixel": (160, 160), **errors})
    check(files, Case(errors, fitted, left), 8.5)


@pytest.mark.slow
def test_a_second_species_sharpens_the_warp_of_the_first(tmp_path, monkeypatch):
    errors = {"image_warp_nodes": (2, 2), "image_warp_angstrom": 3.0, "position_error_angstrom": 1.0}
    two = {"specimen": (NAME, "compact-d2-120"), "particles_per_series": (4, 12), "size_pixel": (192, 192)}
    files = simulated(tmp_path, monkeypatch, "tilts", **{**COARSE, **TILTS, **errors, **two, "snr": 0.1})
    fitted = {"image_warp": "2x2", "positions": True}
    alone = refined(files, fitted, {NAME: 9.0})
    both = refined(files, fitted, {NAME: 9.0, "compact-d2-120": 9.0})
    item = files.items[0]
    without, helped = (files.agreement_of(item, NAME, result).position_angstrom for result in (alone, both))
    assert helped < 0.8 * without < files.agreement(item, NAME).position_angstrom


@dataclass(frozen=True)
class Superposed:
    """An image source: the sums of the images of two."""

    first: ImageSource
    second: ImageSource

    @property
    def grid(self) -> ImageGrid:
        return self.first.grid

    def __len__(self) -> int:
        return len(self.first)

    def read(self, indices):
        return self.first.read(indices) + self.second.read(indices)


@pytest.mark.slow
def test_a_second_species_helps_only_where_it_moves_with_the_first(tmp_path, monkeypatch):
    other = "compact-d2-120"
    errors = {"image_warp_nodes": (2, 2), "image_warp_angstrom": 3.0, "position_error_angstrom": 1.0}
    settings = {**COARSE, **TILTS, **errors, "specimen": (NAME, other), "size_pixel": (192, 192), "snr": 0.1}
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".halfmap").mkdir()

    def made(name: str, numbers: tuple[int, int], seed: int) -> SimulatedFiles:
        halfmap.simulate_tilt_series(**{**settings, "particles_per_series": numbers}, seed=seed, out=tmp_path / name)
        return SimulatedFiles(tmp_path / name)

    small = made("small", (4, 0), 1)
    item = small.items[0]
    left = {}
    # the warp is the seed's: the large species moves as the small one, or on its own
    for name, seed in (("with it", 1), ("scrambled", 2)):
        large = made(name, (0, 12), seed)
        images = Superposed(small.images(item), large.images(item))
        one, two = small.problem(item, {NAME: 9.0}), large.problem(item, {other: 9.0})
        for label, species in ((f"alone, {name}", one.species), (name, one.species + two.species)):
            problem = replace(one, images=images, species=species)
            result = refine_series(
                problem,
                ParameterChoice(image_warp="2x2", positions=True),
                schedule=Schedule(ctf_resolution_angstrom=20.0, sub_iterations=2),
            )
            left[label] = small.agreement_of(item, NAME, result).position_angstrom
    assert left["with it"] < 0.8 * left["alone, with it"]
    assert left["scrambled"] > left["alone, scrambled"]


@pytest.mark.slow
def test_series_without_one_of_the_species_is_refined_by_the_other(tmp_path, monkeypatch):
    errors = {"image_warp_nodes": (1, 1), "image_warp_angstrom": 3.0}
    two = {"specimen": (NAME, "compact-d2-120"), "particles_per_series": (8, 0)}
    files = simulated(tmp_path, monkeypatch, "tilts", **{**COARSE, **TILTS, **errors, **two})
    result = refined(files, {"image_warp": "1x1"}, {NAME: 9.0, "compact-d2-120": 9.0})
    assert result.species[1] is None
    assert files.agreement_of(files.items[0], NAME, result).position_angstrom < 0.4


@pytest.mark.slow
def test_one_tilt_alone_is_refined(tmp_path, monkeypatch):
    one = {"min_tilt_degrees": 0.0, "max_tilt_degrees": 0.0, "snr": 2.0}
    errors = {"image_warp_nodes": (1, 1), "image_warp_angstrom": 4.0, "defocus_error_angstrom": 500.0}
    files = simulated(tmp_path, monkeypatch, "tilts", **{**COARSE, **TILTS, **errors, **one})
    result = refined(files, {"image_warp": "1x1", "defocus": True}, {NAME: 9.0})
    item = files.items[0]
    assert len(result.series) == 1
    assert files.agreement_of(item, NAME, result).position_angstrom < 0.5
    assert files.agreement_of(item, NAME, result).position_angstrom < files.agreement(item, NAME).position_angstrom


@pytest.mark.slow
def test_tilts_that_are_excluded_leave_the_others_alone(tmp_path, monkeypatch):
    errors = {"image_warp_nodes": (1, 1), "image_warp_angstrom": 3.0, "position_error_angstrom": 3.0}
    files = simulated(tmp_path, monkeypatch, "tilts", **{**COARSE, **TILTS, **errors, "bad_images": (0, 5)})
    result = refined(files, {"image_warp": "1x1", "positions": True}, {NAME: 9.0})
    assert isinstance(result.series, TiltSeries)
    assert np.flatnonzero(~result.series.is_used).tolist() == [0, 5]
    assert files.agreement_of(files.items[0], NAME, result).position_angstrom < 0.5


@pytest.mark.slow
def test_particles_on_the_border_do_not_spoil_those_inside(tmp_path, monkeypatch):
    errors = {"image_warp_nodes": (1, 1), "image_warp_angstrom": 3.0, "position_error_angstrom": 3.0}
    settings = {**COARSE, **TILTS, **errors, "margin_angstrom": -30.0, "particles_per_series": (20,)}
    files = simulated(tmp_path, monkeypatch, "tilts", **settings)
    result = refined(files, {"image_warp": "1x1", "positions": True}, {NAME: 9.0})
    fitted = result.species[0]
    assert fitted is not None
    assert fitted.n_images.min() < len(result.series)
    assert files.agreement_of(files.items[0], NAME, result).position_angstrom < 0.5


@pytest.mark.slow
def test_series_without_particles_is_refused(tmp_path, monkeypatch):
    files = simulated(tmp_path, monkeypatch, "tilts", **{**COARSE, **TILTS, "tilt_step_degrees": 60.0})
    problem = files.problem(
        "TS_1", {NAME: 9.0}, particles={NAME: files.particles(NAME, "TS_1").take(np.array([], int))}
    )
    with pytest.raises(InputError, match="hold particles"):
        refine_series(problem, ParameterChoice(positions=True))
