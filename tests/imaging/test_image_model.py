import mrcfile
import numpy as np
import pytest
import torch

from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError
from halfmap.fourier.band import FourierBand
from halfmap.fourier.slices import prepare
from halfmap.geometry.rotations import random_rotations
from halfmap.grid import ImageGrid
from halfmap.imaging.image_model import contrast_transfer, predict, predict_images
from halfmap.imaging.projection import project_images
from halfmap.io.relion import read_particles
from halfmap.optics.aberrations import odd_phase
from halfmap.optics.ctf import ctf
from support.shared_data import shared_data


def some_particles(**optics_columns) -> ParticleSet:
    """Four particles of two optics groups."""
    optics = OpticsGroups(
        columns={
            "optics_group": np.array([1, 2]),
            "voltage_kv": np.array([300.0, 200.0]),
            "spherical_aberration_mm": np.array([2.7, 1.4]),
            "amplitude_contrast": np.array([0.1, 0.07]),
            "pixel_size_angstrom": np.array([3.0, 3.0]),
            **optics_columns,
        }
    )
    return ParticleSet(
        columns={
            "uid": np.arange(1, 5),
            "optics_group": np.array([2, 1, 2, 1]),
            "defocus_u_angstrom": np.array([10_000.0, 12_000.0, 14_000.0, 16_000.0]),
            "defocus_v_angstrom": np.array([9_000.0, 12_000.0, 14_500.0, 15_000.0]),
            "defocus_angle_degrees": np.array([10.0, 20.0, 30.0, 40.0]),
            "rotation": random_rotations(1, "poses", range(4)).numpy(),
            "origin_angstrom": np.array([[1.0, 2.0], [0.0, 0.0], [-3.0, 4.0], [5.0, -6.0]]),
        },
        optics=optics,
    )


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return ((a * b).sum() / (a.norm() * b.norm())).item()


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "least"), [("noctf", 0.9995), ("ctf", 0.997)])
def test_predicted_images_agree_with_relion_5(name, least):
    particles = read_particles(shared_data(f"oracles/relion5_project/{name}.star"))
    theirs = torch.from_numpy(mrcfile.read(shared_data(f"oracles/relion5_project/{name}.mrcs")))
    volume = torch.from_numpy(np.array(mrcfile.read(shared_data("maps/ribosome70s_4v5a_96.mrc"))))
    grid = ImageGrid.cubic(96, 3.5)
    padded = prepare(volume, grid)
    if name == "noctf":
        rotations, origins = (torch.from_numpy(np.array(particles[c])) for c in ("rotation", "origin_angstrom"))
        ours = project_images(padded, rotations, ImageGrid.square(96, 3.5), origin_angstrom=origins)
    else:
        ours = predict_images(particles, padded, ImageGrid.square(96, 3.5))
    correlations = [correlation(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert min(correlations) > least


def test_each_particle_has_the_ctf_of_its_own_optics_group():
    particles = some_particles()
    frequencies = FourierBand(ImageGrid.square(16, 3.0)).frequencies
    values = contrast_transfer(particles, frequencies)
    assert values.dtype == torch.float32
    expected = ctf(
        frequencies,
        defocus_u_angstrom=14_000.0,
        defocus_v_angstrom=14_500.0,
        defocus_angle_degrees=30.0,
        voltage_kv=200.0,
        spherical_aberration_mm=1.4,
        amplitude_contrast=0.07,
    )
    torch.testing.assert_close(values[2], expected)


def test_beam_tilt_makes_the_transfer_complex_for_its_group_alone():
    particles = some_particles(beam_tilt_mrad=np.array([[0.0, 0.0], [1.0, -0.5]]))
    frequencies = FourierBand(ImageGrid.square(16, 3.0)).frequencies
    values = contrast_transfer(particles, frequencies)
    plain = contrast_transfer(some_particles(), frequencies)
    phase = odd_phase(frequencies, beam_tilt_mrad=(1.0, -0.5), voltage_kv=200.0, spherical_aberration_mm=1.4)
    torch.testing.assert_close(values[1], plain[1].to(torch.complex64))
    torch.testing.assert_close(values[0], plain[0] * torch.exp(1j * phase).to(torch.complex64))


def test_images_and_band_values_are_the_same_prediction():
    grid, image_grid = ImageGrid.cubic(16, 3.0), ImageGrid.square(16, 3.0)
    volume = torch.exp(-(grid.positions() - torch.tensor([5.0, 2.0, -3.0])).square().sum(-1) / 60).float()
    padded, particles = prepare(volume, grid), some_particles(even_zernike=np.ones((2, 9)))
    band = FourierBand(image_grid)
    in_band = band.gather(image_grid.rfft(predict_images(particles, padded, image_grid)))
    torch.testing.assert_close(predict(particles, padded, band), in_band, atol=1e-6, rtol=1e-4)


def test_premultiplied_groups_carry_the_transfer_twice():
    grid = ImageGrid.cubic(16, 3.0)
    volume = torch.exp(-grid.radii().square() / 60).float()
    band, padded = FourierBand(ImageGrid.square(16, 3.0)), prepare(volume, grid)
    once = predict(some_particles(), padded, band)
    twice = predict(some_particles(ctf_premultiplied=np.array([True, False])), padded, band)
    transfer = contrast_transfer(some_particles(), band.frequencies)
    torch.testing.assert_close(twice[0], once[0])
    torch.testing.assert_close(twice[1], once[1] * transfer[1], atol=1e-6, rtol=1e-4)


def test_premultiplied_images_keep_their_odd_phase_once():
    # The CTF is real: multiplying images by it leaves the phase of a beam tilt in them as it was.
    grid = ImageGrid.cubic(16, 3.0)
    volume = torch.exp(-grid.radii().square() / 60).float()
    band, padded = FourierBand(ImageGrid.square(16, 3.0)), prepare(volume, grid)
    tilt = np.array([[0.0, 0.0], [20.0, -15.0]])
    once = predict(some_particles(beam_tilt_mrad=tilt), padded, band)
    twice = predict(some_particles(beam_tilt_mrad=tilt, ctf_premultiplied=np.array([True, True])), padded, band)
    plain = contrast_transfer(some_particles(), band.frequencies)
    assert once[0].imag.abs().max() > 0.1 * once[0].abs().max()
    torch.testing.assert_close(twice, once * plain, atol=1e-6, rtol=1e-4)


def test_magnification_stretches_slices_and_ctf_alike():
    grid = ImageGrid.cubic(32, 3.0)
    volume = torch.exp(-grid.radii().square() / 100).float()
    band, padded = FourierBand(ImageGrid.square(32, 3.0), max_shell=8), prepare(volume, grid)
    matrix = np.array([[1.1, 0.0], [0.0, 1.1]])
    stretched = predict(some_particles(magnification_matrix=np.stack([matrix, matrix])), padded, band)
    squared = (1.1**2) * band.frequencies.square().sum(-1)
    transfer = contrast_transfer(some_particles(), 1.1 * band.frequencies)
    # The Gaussian's transform is a Gaussian: exp(−2π² · 50 · s²).
    shape = torch.exp(-2 * np.pi**2 * 50 * squared).float() * transfer[1]
    assert correlation(stretched[1].real, shape) > 0.9995


def test_particles_without_defocus_or_of_another_pixel_size_are_refused():
    particles = some_particles()
    bare = ParticleSet(
        columns={"uid": particles["uid"], "optics_group": particles["optics_group"]}, optics=particles.optics
    )
    with pytest.raises(InconsistentDataError, match="must have the column defocus_u_angstrom"):
        contrast_transfer(bare, torch.zeros(3, 2))
    grid = ImageGrid.cubic(16, 2.0)
    with pytest.raises(InconsistentDataError, match="images' pixel size of 2 Å; got 3 Å"):
        predict_images(particles, prepare(torch.zeros(16, 16, 16), grid), ImageGrid.square(16, 2.0))
