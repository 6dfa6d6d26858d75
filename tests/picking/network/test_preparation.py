import numpy as np
import pytest
import torch

from halfmap.errors import InputError
from halfmap.picking.network.preparation import DIAMETER_PIXEL, prepare
from support.blob_micrographs import PIXEL_SIZE, micrograph, noise, spread_positions

SHAPE = (300, 340)


def blobs(n=20, contrast=1.5, seed=1):
    return micrograph(SHAPE, spread_positions(SHAPE, n, 34.0, seed=seed), 26.0, contrast=contrast, seed=seed)


def prepared(image, diameter=130.0, **more):
    return prepare(image, pixel_size_angstrom=PIXEL_SIZE, diameter_angstrom=diameter, **more)


@pytest.mark.parametrize("diameter", [100.0, 130.0, 171.0])
def test_a_particle_has_one_diameter_in_pixels_of_the_network(diameter):
    made = prepared(blobs(), diameter)
    assert made.work.grid.pixel_size_angstrom == pytest.approx(diameter / DIAMETER_PIXEL)


def test_gain_offset_and_slope_of_a_micrograph_do_not_matter():
    image = blobs().astype(np.float64)
    first = prepared(image).values
    tilted = prepared(40 * image + np.linspace(0, 150, SHAPE[1])).values
    # the slope of 4 deviations over the field is flat within a window of local means
    assert float((first - tilted)[20:-20, 20:-20].abs().mean()) < 0.05


def test_local_mean_is_0_and_deviation_1():
    values = prepared(blobs()).values[20:-20, 20:-20]
    assert abs(float(values.mean())) < 0.05
    assert float(values.std()) == pytest.approx(1.0, abs=0.1)


def test_white_particles_become_dark():
    image = blobs()
    torch.testing.assert_close(
        prepared(200 - image, white_particles=True).values, prepared(image).values, atol=1e-3, rtol=0
    )


def test_few_strong_particles_are_not_left_out():
    positions = spread_positions(SHAPE, 6, 80.0)
    made = prepared(micrograph(SHAPE, positions, 26.0, contrast=8.0))
    x, y = np.rint(positions / made.work.step_pixel).astype(int).T
    assert bool(made.usable[y, x].all())


def test_an_empty_area_is_left_out():
    image = blobs()
    image[:, 250:] = 100 + 0.01 * noise(SHAPE)[:, 250:]
    made = prepared(image)
    assert not made.usable[:, -15:].any()
    assert float(made.values[:, -15:].abs().max()) == 0.0


def test_a_particle_too_small_or_too_large_is_refused():
    with pytest.raises(InputError, match="at least 16 pixels"):
        prepared(blobs(), 70.0)
    with pytest.raises(InputError, match="less than a third"):
        prepared(blobs(), 600.0)


def test_a_blank_micrograph_is_refused():
    with pytest.raises(InputError, match="must vary"):
        prepared(np.ones(SHAPE))
