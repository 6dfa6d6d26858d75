import numpy as np
import pytest
import torch

from halfmap.ctf_estimation.params import CtfEstimationParams
from halfmap.ctf_estimation.tilts import depth_gradients, estimate_tilts
from halfmap.data.image_series import SeriesOptics, TiltSeries
from halfmap.imaging.deformation import views
from support.thon_rings import TITAN, lens, tilted_film

SHAPE, PIXEL_SIZE = (800, 900), 2.0
ANGLES = (-50.0, 0.0, 50.0)
DEFOCUS = (21_000.0, 20_000.0, 20_500.0)
PARAMS = CtfEstimationParams(box_pixel=256, max_resolution_angstrom=6.0, min_defocus_angstrom=10_000.0)


def a_series(**changes):
    n = len(ANGLES)
    given = {
        "name": "TS_1",
        "image_size_angstrom": (SHAPE[1] * PIXEL_SIZE, SHAPE[0] * PIXEL_SIZE),
        "dose_e_per_angstrom2": np.arange(n) * 3.0,
        "is_used": np.ones(n, dtype=bool),
        "optics": SeriesOptics(pixel_size_angstrom=PIXEL_SIZE),
        "volume_size_angstrom": (1_800.0, 1_600.0, 500.0),
        "tilt_angle_degrees": np.array(ANGLES),
        "axis_angle_degrees": np.full(n, 85.0),
        "axis_offset_angstrom": np.zeros((n, 2)),
        **changes,
    }
    return TiltSeries(**given)


def films(series, depth=0.15):
    gradients = depth_gradients(series)
    return [
        tilted_film(
            lens(defocus, astigmatism=500, angle_degrees=30), tuple(gradient), shape=SHAPE, depth=depth, seed=seed
        )
        for seed, (defocus, gradient) in enumerate(zip(DEFOCUS, gradients, strict=True))
    ]


def estimated(series, images):
    return estimate_tilts(series, lambda tilt: torch.from_numpy(images[tilt]), TITAN, PARAMS)


@pytest.mark.parametrize("inverted", [False, True])
def test_gradient_is_what_particles_on_a_flat_sample_add_to_the_defocus(inverted):
    series = a_series(are_angles_inverted=inverted)
    flat = torch.tensor([[[400.0, 300.0, 250.0]], [[900.0, 800.0, 250.0]], [[1_500.0, 700.0, 250.0]]]).double()
    seen = views(series, flat, torch.eye(3, dtype=torch.float64).expand(3, 1, 3, 3))
    place = seen.position_angstrom.numpy() - np.array(series.image_size_angstrom) / 2
    added = np.einsum("ptc,tc->pt", place, depth_gradients(series))
    np.testing.assert_allclose(added, seen.depth_angstrom.numpy(), atol=1e-6)


@pytest.mark.slow
def test_defocus_of_every_tilt_is_found_and_the_hand_is_told():
    series = a_series()
    found = estimated(series, films(series))
    defocus = [one.defocus_angstrom for one in found.lenses]
    assert [one.failure for one in found.tilts] == ["", "", ""]
    # Å: images of 0.7 megapixels whose windows span up to 600 Å of height
    assert defocus == pytest.approx(DEFOCUS, abs=100)
    astigmatism = [2 * one.half_astigmatism_angstrom for one in found.lenses]
    assert len(set(astigmatism)) == 1
    assert astigmatism[0] == pytest.approx(500, abs=100)
    stated, opposite = found.hand_scores
    assert stated > 1.2 * opposite


@pytest.mark.slow
def test_the_other_hand_is_told_from_the_same_images():
    turned = estimated(a_series(are_angles_inverted=True), films(a_series()))
    assert turned.hand_scores[1] > 1.2 * turned.hand_scores[0]


@pytest.mark.slow
def test_a_tilt_without_rings_takes_the_defocus_of_its_neighbours():
    series = a_series()
    images = films(series)
    images[1] = films(series, depth=0.0)[1]
    found = estimated(series, images)
    assert found.tilts[1].failure
    between = (found.lenses[0].defocus_angstrom + found.lenses[2].defocus_angstrom) / 2
    assert found.lenses[1].defocus_angstrom == pytest.approx(between)
