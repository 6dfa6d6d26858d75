"""Simulated particles, extracted again about their refined centre: what is left of their offset."""

import numpy as np
import pytest

import halfmap
from halfmap.fourier.resample import crop_or_pad
from halfmap.fourier.slices import prepare
from halfmap.grid import ImageGrid
from halfmap.imaging.image_model import predict_images
from halfmap.io import relion
from halfmap.io.mrc import StackSource, read_volume

PIXEL_SIZE = 2.0


def displacement(images, predicted):
    """Return the mean displacement (x, y) of images from their prediction, in pixels."""
    product = np.fft.rfft2(images) * np.fft.rfft2(predicted).conj()
    correlation = np.fft.irfft2(product.sum(axis=0))
    shift = []
    for line in (correlation[0, [-1, 0, 1]], correlation[[-1, 0, 1], 0]):
        low, middle, high = line
        assert middle > max(low, high)
        shift.append(0.5 * (low - high) / (low - 2 * middle + high))
    return np.array(shift)


@pytest.mark.parametrize("point", [(0.0, 0.0, 0.0), (30.0, -20.0, 10.0)])
def test_mean_offset_after_recentring_is_below_a_twentieth_of_a_pixel(point, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    simulated = halfmap.simulate_micrographs(
        specimen=("compact-c1-100",),
        number=1,
        size_pixel=(1000, 1000),
        particles_per_micrograph=60,
        dirt=False,
        dose_e_per_angstrom2=400.0,
        overlap_fraction=0.0,
        pixel_size_angstrom=PIXEL_SIZE,
        workers=1,
    )
    truth = relion.read_particles(simulated.folder / "ground_truth.star")
    # As after a refinement: whole windows some pixels off the particles, and offsets that say so.
    position = np.floor(truth["position_pixel"]) + np.array([4.0, -3.0])
    refined = truth.with_columns(
        position_pixel=position, origin_angstrom=PIXEL_SIZE * (position - truth["position_pixel"])
    )
    relion.write_particles("refined.star", refined)
    again = halfmap.extract(
        reextract="refined.star",
        micrographs=simulated.main_output,
        recenter_angstrom=point,
        box_pixel=96,
        float16=False,
        workers=1,
    )
    particles = relion.read_particles(again.main_output)
    assert np.abs(particles["origin_angstrom"]).max() <= 0.5 * PIXEL_SIZE + 1e-5

    volume = read_volume(simulated.folder / "reference_class001.mrc")
    density, grid = crop_or_pad(volume.values, volume.grid, (96, 96, 96))
    moved = (particles["rotation"] @ np.array(point))[:, :2]
    predicted = predict_images(
        particles.with_columns(origin_angstrom=particles["origin_angstrom"] + moved),
        prepare(density, grid),
        ImageGrid.square(96, PIXEL_SIZE),
    )
    images = StackSource(particles["image_name"], tmp_path).read(np.arange(len(particles)))
    assert np.abs(displacement(images, predicted.numpy())).max() <= 0.05
