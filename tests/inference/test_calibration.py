"""Whether the posterior means what it says, of images drawn from the model: the best single test of the engine."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.imaging.image_model import contrast_transfer
from halfmap.inference.images import to_band, weighted_images
from halfmap.inference.posterior import Priors, WeightedImages, posteriors
from halfmap.inference.references import References
from support.model_images import (
    PADDING,
    a_search,
    coloured_spectrum,
    drawn_images,
    drawn_poses,
    image_data,
    particles_of,
    shapes,
)

GRID = ImageGrid.square(32, 4.0)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Of n images: whether the set of mass q holds the truth, what it really holds, and p(true), Σp², largest p."""

    contains: dict[float, np.ndarray]
    holds: dict[float, np.ndarray]
    true: np.ndarray
    squares: np.ndarray
    largest: np.ndarray


def calibration(
    n: int, *, mask: float | None, coloured: bool, seed: int = 1, believed: float = 1.0, **settings
) -> Calibration:
    """Return it of n images; ``believed`` is the engine's idea of the noise's power, of the true one."""
    particles = particles_of(n, GRID, seed=seed, n_micrographs=5)
    true = shapes(3, GRID, radius_angstrom=34)
    # pruned as by default, with a first pass that sees less
    steps = {"psi_step": 24.0, "offset_range": 10.0, "offset_step": 8.0, "perturbation": 0.2}
    search = a_search(GRID, **steps, kept_mass=0.999, coarse_shell=9, **settings)
    priors = Priors(
        fractions=torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
        offset_sigma_angstrom=5.0,
        prior_offset_angstrom=torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, -3.0]], dtype=torch.float64),
    )
    poses, row, shift = drawn_poses(n, search.poses, priors, seed=seed)
    spectrum = coloured_spectrum(GRID, 0.4) if coloured else noise.white_spectrum(GRID, 0.5)
    images = drawn_images(true, particles, poses, GRID, spectrum, seed=seed)
    data = image_data(images, particles, GRID, mask_diameter_angstrom=mask)
    band = FourierBand(GRID)
    seen = to_band(
        images,
        band,
        background=np.zeros(n),
        factor=np.ones(n),
        shifts_pixel=np.zeros((n, 2), dtype=np.int64),
        mask=data.mask,
    )
    transfer = contrast_transfer(particles, band.frequencies)
    sigma2 = believed * spectrum.float()[band.shell_of].expand(n, -1)
    weighted = WeightedImages(
        masked=weighted_images(seen.masked, transfer, sigma2),
        whole=weighted_images(seen.whole, transfer, sigma2),
        power=transfer.square() / sigma2,
        constant=torch.zeros(n, dtype=torch.float64),
        centre_angstrom=torch.zeros((n, 2), dtype=torch.float64),
    )
    references = References(transforms=(slices.prepare(true, GRID, padding=PADDING),), band=band)
    contains = {q: np.zeros(n, dtype=bool) for q in (0.5, 0.9)}
    holds = {q: np.zeros(n) for q in (0.5, 0.9)}
    at_truth, squares, largest = np.zeros(n), np.zeros(n), np.zeros(n)
    for part, found in posteriors(weighted, references, priors, search):
        weights = found.poses.weight.double().numpy()
        image = found.poses.image.numpy()
        largest[part] = found.max_probability.numpy()
        for i in range(part.stop - part.start):
            mine = np.flatnonzero(image == i)
            order = mine[np.argsort(-weights[mine], kind="stable")]
            mass = weights[order].cumsum()
            is_true = (found.poses.row.numpy()[order] == row[part.start + i]) & (
                found.poses.shift.numpy()[order] == shift[part.start + i]
            )
            at_truth[part.start + i] = weights[order][is_true].sum()
            squares[part.start + i] = np.square(weights[mine]).sum()
            for q in (0.5, 0.9):
                last = min(int(np.searchsorted(mass, q)), len(mass) - 1)
                contains[q][part.start + i] = is_true[: last + 1].any()
                holds[q][part.start + i] = mass[last]
    return Calibration(contains=contains, holds=holds, true=at_truth, squares=squares, largest=largest)


def check(found: Calibration, *, share: float, probability: float) -> None:
    assert 0.2 <= found.largest.mean() <= 0.6
    for q in (0.5, 0.9):
        assert found.contains[q].mean() == pytest.approx(found.holds[q].mean(), abs=share), q
    assert found.true.mean() == pytest.approx(found.squares.mean(), abs=probability)


with_masks_and_noise = pytest.mark.parametrize(
    ("mask", "coloured"), [(None, False), (None, True), (92.0, False), (92.0, True)]
)


@pytest.mark.slow
@with_masks_and_noise
def test_sets_of_poses_hold_the_truth_as_often_as_they_say(mask: float | None, coloured: bool) -> None:
    # of 2,000 images: the standard error of a share of one half is 0.011, that of p(true) 0.006
    check(calibration(2000, mask=mask, coloured=coloured), share=0.03, probability=0.02)


@with_masks_and_noise
def test_few_sets_of_poses_hold_the_truth_about_as_often_as_they_say(mask: float | None, coloured: bool) -> None:
    # of 200 images, three standard errors
    check(calibration(200, mask=mask, coloured=coloured, seed=2), share=0.11, probability=0.06)


def test_wrong_noise_is_seen() -> None:
    """As much noise again as is believed makes posteriors too sure: the tests above can fail."""
    found = calibration(200, mask=None, coloured=False, seed=2, believed=0.5)
    assert found.contains[0.9].mean() < found.holds[0.9].mean() - 0.11
    assert found.true.mean() < found.squares.mean() - 0.06
