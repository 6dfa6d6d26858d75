import numpy as np
import pytest
import torch

from halfmap.errors import InputError
from halfmap.fourier.resample import crop_or_pad
from halfmap.fourier.slices import prepare
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.imaging.image_model import predict_images
from halfmap.simulation import particles as simulation
from halfmap.simulation.params import ParticleSimulationParams
from support.simulations import a_particle_problem


def scale_of(problem):
    return (problem.params.snr / simulation.signal_variance(problem)) ** 0.5


def correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize("snr", [0.02, 0.5])
def test_signal_to_noise_ratio_is_the_one_asked_for(snr):
    problem = a_particle_problem(snr=snr, number=80)
    rows, scale = np.arange(80), scale_of(problem)
    clean = simulation.clean_images(problem, rows) * scale
    drawn = simulation.images(problem, rows, scale) - clean
    circle = problem.grid(0).radii() <= problem.references[0][0].diameter_angstrom / 2
    signal = clean[:, circle].double().var(dim=1, correction=0).mean()
    # 80 images of 64² pixels tell the variance to 0.5 %
    assert float(signal / drawn.double().var()) == pytest.approx(snr, rel=0.03)


def test_snr_counts_whole_particles_only():
    clean, dirty = (a_particle_problem(junk_fraction=f, number=80) for f in (0.0, 0.4))
    # the same particles, but for those that became junk
    assert simulation.signal_variance(dirty) == pytest.approx(simulation.signal_variance(clean), rel=0.1)


def test_images_agree_with_the_forward_model_of_refinement():
    problem = a_particle_problem(number=6, box_pixel=96, defocus_spread_angstrom=300.0)
    potential = problem.references[0][0].potential
    values, grid = crop_or_pad(potential.values, potential.grid, (96, 96, 96))
    expected = predict_images(problem.truth, prepare(values, grid), ImageGrid.square(96, 3.0))
    found = simulation.clean_images(problem, np.arange(6))
    middle = ImageGrid.square(96, 3.0).radii() < 100
    for one, other in zip(found, expected, strict=True):
        # what wraps around the box of the model is missing here, and slices of two paddings differ by a per cent
        assert correlation(one[middle], other[middle]) > 0.995


def test_particles_are_white():
    problem = a_particle_problem(min_defocus_angstrom=15e3)
    images = simulation.clean_images(problem, np.arange(20))
    radii = problem.grid(0).radii()
    assert images[:, radii < 30].mean() > 5 * images[:, (radii > 80) & (radii < 95)].mean().abs()


def test_an_image_depends_on_its_uid_alone():
    problem = a_particle_problem(junk_fraction=0.5, number=30)
    together = simulation.images(problem, np.arange(30), 0.01)
    parts = [simulation.images(problem, np.array(rows), 0.01) for rows in ([17, 3], [28])]
    # transforms of batches of other sizes may differ in the last bit
    torch.testing.assert_close(parts[0], together[[17, 3]], atol=2e-5, rtol=0)
    torch.testing.assert_close(parts[1], together[[28]], atol=2e-5, rtol=0)


def test_noise_has_the_spectrum_stated_for_each_optics_group():
    problem = a_particle_problem(number=160, optics_groups=2, particles_per_micrograph=10)
    spectra = []
    for group, rows in enumerate(problem.group_rows):
        grid = problem.grid(group)
        stated = simulation.noise_spectrum(problem.params.seed, group, grid)
        measured = noise.measure(simulation.images(problem, rows, 0.0), grid)
        # 80 images: shells of a few coefficients are known to some 10 %, wide ones to 1 %
        np.testing.assert_allclose(measured[1:4], stated[1:4], rtol=0.25)
        np.testing.assert_allclose(measured[8:], stated[8:], rtol=0.08)
        assert float(noise.pixel_variance(stated, grid)) == pytest.approx(1.0)
        spectra.append(stated)
    assert (spectra[0] / spectra[1] - 1).abs().max() > 0.2


def test_groups_have_their_own_voltage_and_pixel_size():
    problem = a_particle_problem(
        optics_groups=2,
        group_voltages_kv=(300.0, 200.0),
        group_pixel_sizes_angstrom=(3.0, 4.0),
        particles_per_micrograph=10,
    )
    widths = []
    for rows in problem.group_rows:
        image = simulation.clean_images(problem, rows).square().mean(dim=0)
        widths.append(float((image > 0.2 * image.max()).double().sum().sqrt()))
    assert widths[0] / widths[1] == pytest.approx(4 / 3, rel=0.08)
    assert problem.truth.optics["voltage_kv"].tolist() == [300.0, 200.0]


def test_offsets_have_the_width_asked_for_and_centre_the_images():
    problem = a_particle_problem(number=400, shift_sigma_angstrom=6.0)
    assert problem.truth["origin_angstrom"].std() == pytest.approx(6.0, rel=0.1)
    rows = np.arange(5)
    away = np.abs(problem.truth["origin_angstrom"][rows]).max()
    assert away > 3
    moved = problem.truth["origin_angstrom"][rows]
    images = simulation.clean_images(problem, rows).double()
    weights = images.clamp(min=0) * (problem.grid(0).radii() < 85)
    found = (weights[..., None] * problem.grid(0).positions()).sum((1, 2)) / weights.sum((1, 2))[:, None]
    # the centroid of positive values is rough, but it has the sign: content lies at −origin
    assert float((found.numpy() * -moved).sum() / (moved**2).sum()) == pytest.approx(1.0, abs=0.3)


def test_every_kind_of_junk_is_made():
    problem = a_particle_problem(junk_fraction=0.9, number=60)
    kind = problem.truth[simulation.KIND_COLUMN]
    assert set(simulation.JUNK_KINDS) <= set(kind)
    images = simulation.clean_images(problem, np.arange(60))
    assert torch.equal(images[kind == "empty"], torch.zeros_like(images[kind == "empty"]))
    assert (images[kind != "empty"].abs().amax(dim=(1, 2)) > 0).all()


def test_micrographs_share_their_defocus_but_for_height():
    truth = a_particle_problem(number=40, particles_per_micrograph=20, defocus_spread_angstrom=0.0).truth
    first, second = truth["defocus_u_angstrom"][:20], truth["defocus_u_angstrom"][20:]
    assert np.ptp(first) == 0
    assert np.ptp(second) == 0
    assert first[0] != second[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"box_pixel": 65}, "must be even"),
        ({"min_defocus_angstrom": 3e4}, "must not exceed --max-defocus"),
        ({"optics_groups": 2, "group_voltages_kv": (300.0,)}, "for each of the 2 optics groups"),
        ({"class_fractions": (-1.0, 2.0)}, "must not be negative"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ParticleSimulationParams(**settings)
