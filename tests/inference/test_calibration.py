"""Whether the posterior means what it says, of images drawn from the model: the best single test of the engine."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.data.particles import ParticleSet
from halfmap.fourier.band import FourierBand
from halfmap.geometry.rotations import random_rotations
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.imaging.image_model import contrast_transfer
from halfmap.inference.image_data import ImageData
from halfmap.inference.images import to_band, weighted_images
from halfmap.inference.posterior import Priors, Search, WeightedImages, posteriors
from halfmap.inference.references import References
from halfmap.inference.sampling import local_grid, orientation_grid
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
from support.volume_images import PADDING as PADDING_OF_VOLUMES
from support.volume_images import drawn_views, drawn_views_images, volumes, whole_search

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
    references = References.of(true, GRID, PADDING)
    weighted = weighted_by(images, particles, data, believed * spectrum)
    return counted(weighted, references, priors, search, row, shift)


def weighted_by(images: Tensor, particles: ParticleSet, data: ImageData, spectrum: Tensor) -> WeightedImages:
    """Return images as posteriors take them, of a noise spectrum."""
    n, band = len(particles), FourierBand(GRID)
    seen = to_band(
        images,
        band,
        background=np.zeros(n),
        factor=np.ones(n),
        shifts_pixel=np.zeros((n, 2), dtype=np.int64),
        mask=data.mask,
    )
    transfer = contrast_transfer(particles, band.frequencies)
    sigma2 = spectrum.float()[band.shell_of].expand(n, -1)
    return WeightedImages(
        masked=weighted_images(seen.masked, transfer, sigma2),
        whole=weighted_images(seen.whole, transfer, sigma2),
        power=transfer.square() / sigma2,
        constant=torch.zeros(n, dtype=torch.float64),
        centre_angstrom=torch.zeros((n, 2), dtype=torch.float64),
    )


def counted(
    weighted: WeightedImages,
    references: References,
    priors: Priors,
    search: Search,
    row: np.ndarray,
    shift: np.ndarray,
) -> Calibration:
    """Compare posteriors with the true row, class · R + rotation, and shift of each image."""
    n, R = len(weighted.power), len(search.poses.fine_rotations)
    contains = {q: np.zeros(n, dtype=bool) for q in (0.5, 0.9)}
    holds = {q: np.zeros(n) for q in (0.5, 0.9)}
    at_truth, squares, largest = np.zeros(n), np.zeros(n), np.zeros(n)
    for part, found in posteriors(weighted, references, priors, search):
        weights = found.poses.weight.double().numpy()
        image = found.poses.image.numpy()
        rows = found.poses.row.numpy()
        if search.poses.around_each:
            rows = rows // (R * (part.stop - part.start)) * R + rows % R
        largest[part] = found.max_probability.numpy()
        for i in range(part.stop - part.start):
            mine = np.flatnonzero(image == i)
            order = mine[np.argsort(-weights[mine], kind="stable")]
            mass = weights[order].cumsum()
            is_true = (rows[order] == row[part.start + i]) & (found.poses.shift.numpy()[order] == shift[part.start + i])
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


def of_volumes(
    n: int, kind: str, *, mask: float | None = 116.0, seed: int = 1, believed: float = 1.0, n_volumes: int = 1
) -> Calibration:
    """Return it of n images of maps; ``kind``: a point group, of all orientations, or ``local``."""
    particles = particles_of(n, GRID, seed=seed, n_micrographs=5)
    is_local = kind == "local"
    true = volumes(
        n_volumes, GRID.side, 4.0, radius_angstrom=38, symmetry="C1" if is_local else kind, blob_angstrom=5.0
    )
    offsets = {"offset_range_angstrom": 8.0, "offset_step_angstrom": 8.0, "perturbation": 0.2}
    own = None
    if is_local:
        poses = local_grid(rotation_step_degrees=20.0, sigma_degrees=14.0, **offsets)
        own = random_rotations(seed, "own rotations", np.arange(n))
    else:
        poses = orientation_grid(healpix_order=1, symmetry=kind, **offsets)
    search = whole_search(GRID, poses, kept_mass=0.999, coarse_shell=8)
    priors = Priors(
        fractions=torch.tensor([1.0] if n_volumes == 1 else [0.7, 0.3], dtype=torch.float64),
        offset_sigma_angstrom=5.0,
        prior_offset_angstrom=torch.tensor([[2.0, 0.0], [0.0, -3.0]], dtype=torch.float64)[:n_volumes],
    )
    views, row, shift = drawn_views(n, poses, priors, own=own, seed=seed)
    clean = drawn_views_images(true, particles, views, GRID, None)
    spectrum = coloured_spectrum(GRID, 1.0)
    power = (FourierBand(GRID).gather(GRID.rfft(clean)).abs().square() / spectrum[FourierBand(GRID).shell_of]).sum(-1)
    spectrum = spectrum * float(power.mean()) / SIGNAL[kind]
    images = drawn_views_images(true, particles, views, GRID, spectrum, seed=seed)
    data = image_data(images, particles, GRID, mask_diameter_angstrom=mask)
    weighted = replace(weighted_by(images, particles, data, believed * spectrum), rotation=own)
    references = References.of(true, GRID, PADDING_OF_VOLUMES)
    return counted(weighted, references, priors, search, row, shift)


SIGNAL = {"D2": 45.0, "C1": 40.0, "local": 35.0}
"""Mean Σ |C P|²/σ² of an image, such that posteriors are neither certain nor hopeless."""

kinds = pytest.mark.parametrize("kind", ["D2", "local"])


@pytest.mark.slow
@pytest.mark.parametrize("mask", [None, 116.0])
@pytest.mark.parametrize(("kind", "n_volumes"), [("C1", 1), ("D2", 2), ("local", 1), ("local", 2)])
def test_sets_of_poses_of_volumes_hold_the_truth_as_often_as_they_say(
    kind: str, n_volumes: int, mask: float | None
) -> None:
    # of 2,000 images: the standard error of a share of one half is 0.011, that of p(true) 0.006
    check(of_volumes(2000, kind, mask=mask, n_volumes=n_volumes), share=0.03, probability=0.02)


@kinds
def test_few_sets_of_poses_of_volumes_hold_the_truth_about_as_often_as_they_say(kind: str) -> None:
    # of 200 images, three standard errors
    check(of_volumes(200, kind, seed=2), share=0.11, probability=0.06)


@kinds
def test_wrong_noise_of_views_is_seen(kind: str) -> None:
    found = of_volumes(200, kind, seed=2, believed=0.4)
    assert found.contains[0.9].mean() < found.holds[0.9].mean() - 0.11
    assert found.true.mean() < found.squares.mean() - 0.06
