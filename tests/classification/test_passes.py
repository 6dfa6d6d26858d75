from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap.classification import passes
from halfmap.classification.state import Assignments
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid
from halfmap.inference import maximisation
from halfmap.inference.expectation import Model
from halfmap.inference.image_data import ImageData
from support.model_images import (
    a_model,
    a_search,
    coloured_spectrum,
    drawn_images,
    drawn_poses,
    e_step,
    even_priors,
    image_data,
    particles_of,
    shapes,
)

GRID = ImageGrid.square(24, 4.0)


def a_stack(
    n: int,
    *,
    n_groups: int = 1,
    n_micrographs: int = 2,
    scale: np.ndarray | None = None,
    norm: np.ndarray | None = None,
    spectrum: torch.Tensor | None = None,
    signal: float = 1.0,
) -> tuple[ImageData, Model]:
    """Images of two classes, and a model that believes in noise of one strength, and in scales and norms of 1."""
    particles = particles_of(n, GRID, n_groups=n_groups, n_micrographs=n_micrographs)
    true = signal * shapes(2, GRID, radius_angstrom=32)
    search = a_search(GRID, psi_step=60, offset_range=0, offset_step=4, oversampling=0)
    poses, _, _ = drawn_poses(n, search.poses, even_priors(2))
    believed = coloured_spectrum(GRID, 0.3)
    spectrum = believed.expand(n_groups, -1) if spectrum is None else spectrum
    micrograph = np.arange(n) % n_micrographs
    images = drawn_images(
        true,
        particles,
        poses,
        GRID,
        spectrum[np.asarray(particles["optics_group"]) - 1],
        scale=1.0 if scale is None else scale[micrograph],
        norm=1.0 if norm is None else norm,
    )
    data = image_data(images, particles, GRID, mask_diameter_angstrom=84.0)
    return data, a_model(true, data, believed, search, scale_shell=11)


def assignments_of(model: Model) -> Assignments:
    n = len(model.norm)
    return Assignments(
        class_index=np.full(n, -1),
        psi_degrees=np.zeros(n),
        origin_angstrom=np.zeros((n, 2)),
        norm=model.norm,
        max_probability=np.zeros(n),
        log_likelihood=np.zeros(n),
        lost_mass=np.zeros(n),
        n_significant=np.zeros(n, dtype=np.int64),
    )


def test_noise_of_each_group_scales_and_norms_are_found_together() -> None:
    """From a belief in the noise that is 4 times too weak for one group."""
    n, n_micrographs = 240, 4
    true_scale = np.array([0.7, 1.2, 0.9, 1.2])
    true_norm = np.exp(0.2 * np.sin(np.arange(n)))
    spectrum = torch.stack([coloured_spectrum(GRID, 0.3), 4 * coloured_spectrum(GRID, 0.3, rise=1.0)])
    data, model = a_stack(
        n, n_groups=2, n_micrographs=n_micrographs, scale=true_scale, norm=true_norm, spectrum=spectrum, signal=4.0
    )
    assignments = assignments_of(model)
    norms = []
    for _ in range(6):
        sums = e_step(data, model)
        variance = maximisation.noise_variance(
            sums.residual_power, sums.residual_count, model.noise_variance, mask_power=data.mask_power
        )
        scale = maximisation.micrograph_scale(
            sums.scale_cross, sums.scale_square, torch.from_numpy(np.bincount(data.micrograph))
        )
        assignments = passes.updated_assignments(assignments, sums.estimates, groups=data.group)
        model = replace(model, noise_variance=variance, scale=scale.numpy(), norm=assignments.norm)
        norms.append(assignments.norm)
    np.testing.assert_allclose(norms[-1], norms[-2], rtol=0.01)  # settled, and does not swing between two values
    group_mean = np.array([true_norm[data.group == g].mean() for g in (0, 1)])
    # the power of some 300 free coefficients tells a norm to 3 %
    np.testing.assert_allclose(norms[-1], true_norm / group_mean[data.group], rtol=0.15)
    assert np.std(np.log(norms[-1] * group_mean[data.group] / true_norm)) < 0.05
    np.testing.assert_allclose(model.scale, true_scale / true_scale.mean(), atol=0.1)
    inside = slice(3, FourierBand(GRID).max_shell + 1)
    found = (model.noise_variance / (spectrum * torch.from_numpy(group_mean)[:, None] ** 2))[:, inside]
    np.testing.assert_allclose(found, 1, atol=0.25)
    np.testing.assert_allclose(found.mean(1), 1, atol=0.05)


def test_a_micrograph_of_three_particles_is_drawn_to_the_others() -> None:
    cross, square = torch.full((20,), 100.0).double(), torch.full((20,), 100.0).double()
    cross *= 1 + 0.02 * torch.sin(torch.arange(20.0)).double()
    square[0], cross[0] = 3.0, 3.0 * 1.5  # an error of 1/√3, half of it below what is seen
    counts = torch.full((20,), 100.0)
    counts[0] = 3
    scale = maximisation.micrograph_scale(cross, square, counts)
    assert float(scale[0]) == pytest.approx(1.0, abs=0.1)
    # with as much evidence as the others it is believed
    square[0], cross[0] = 1000.0, 1500.0
    assert float(maximisation.micrograph_scale(cross, square, counts)[0]) > 1.3


def test_scales_have_mean_one_over_particles() -> None:
    cross, counts = torch.tensor([50.0, 200.0, 90.0]).double(), torch.tensor([1.0, 5.0, 2.0])
    scale = maximisation.micrograph_scale(cross, torch.full((3,), 100.0).double(), counts)
    assert float((scale * counts).sum() / counts.sum()) == pytest.approx(1, abs=1e-9)
    assert float(scale[1]) > float(scale[2]) > float(scale[0])


def test_without_evidence_scales_stay_one() -> None:
    nothing = torch.zeros(4).double()
    assert (maximisation.micrograph_scale(nothing, nothing, torch.ones(4)) == 1).all()


def test_a_mini_batch_moves_norms_by_a_tenth_of_the_way() -> None:
    data, model = a_stack(12, norm=np.linspace(0.5, 1.5, 12))
    sums = e_step(data, model, np.arange(6))
    whole = passes.updated_assignments(assignments_of(model), sums.estimates, groups=data.group)
    some = passes.updated_assignments(assignments_of(model), sums.estimates, groups=data.group, kept=0.9)
    np.testing.assert_allclose(some.norm[:6] - 1, 0.1 * (whole.norm[:6] - 1), atol=1e-12)
    np.testing.assert_array_equal(some.norm[6:], 1)
    np.testing.assert_array_equal(some.class_index[6:], -1)
    without = passes.updated_assignments(assignments_of(model), sums.estimates)
    np.testing.assert_array_equal(without.norm, 1)
