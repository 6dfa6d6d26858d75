"""Images of real particles whose exact posterior is known: what reduced searches are judged by."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap import keyed_random
from halfmap.classification import decisions
from halfmap.data.particles import ParticleSet
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import phase_factors
from halfmap.fourier.shells import n_shells
from halfmap.geometry.rotations import random_rotations
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid
from halfmap.imaging.image_model import contrast_transfer
from halfmap.inference.expectation import Model
from halfmap.inference.image_data import ImageData
from halfmap.inference.images import to_band, weighted_images
from halfmap.inference.posterior import Search, WeightedImages, posteriors
from halfmap.inference.priors import Priors
from halfmap.inference.references import References
from halfmap.inference.sampling import in_plane_grid
from halfmap.io.mrc import read_volume
from halfmap.simulation.references import Reference, reference_of_atoms, reference_of_map
from halfmap.simulation.specimens import specimen
from support.model_images import PADDING, Poses, a_model, drawn_images, image_data, particles_of
from support.shared_data import shared_data

PARTICLES = {"100 kDa": (2.5, 120.0), "ribosome": (5.25, 300.0)}
"""Pixel size and mask diameter in Å."""

SIDE = 64
_AT_ONCE = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchProblem:
    """Images, the truth of the model that drew them, and the search of a classification with 6° and 1 px."""

    particles: ParticleSet
    data: ImageData
    model: Model

    @property
    def search(self) -> Search:
        return self.model.search


def search_problem(
    particle: str, power: float, *, n: int, n_classes: int = 20, seed: int = 1, fine_shell: int = 26
) -> SearchProblem:
    """Return images of true projections of a particle, with CTF, white noise, any angle and offset.

    ``power``: mean Σ |C P|²/σ² of an image over the shells up to ``fine_shell``.
    """
    pixel, mask_diameter = PARTICLES[particle]
    grid = ImageGrid.square(SIDE, pixel)
    views = random_rotations(seed, "views of search problems", np.arange(n_classes))
    mask = soft_disc(grid, mask_diameter / 2, 3 * pixel)
    references = grid.irfft(_reference(particle, pixel).views_rfft(views, grid)) * mask
    particles = particles_of(n, grid, seed=seed, defocus_angstrom=(10000.0, 25000.0))
    draws = keyed_random.uniform(seed, "poses of search problems", np.arange(n), size=2)
    poses = Poses(
        class_index=(draws[:, 0] * n_classes).astype(np.int64),
        psi_degrees=360 * draws[:, 1],
        origin_angstrom=pixel * 1.5 * keyed_random.normal(seed, "offsets of search problems", np.arange(n), size=2),
    )
    band = FourierBand(grid).head(fine_shell)
    clean = band.gather(grid.rfft(drawn_images(references, particles, poses, grid, None)))
    variance = float(clean.abs().square().sum(-1).mean()) / power
    spectrum = torch.full((n_shells(grid),), variance, dtype=torch.float64)
    images = drawn_images(references, particles, poses, grid, spectrum, seed=seed)
    data = image_data(images, particles, grid, mask_diameter_angstrom=mask_diameter)
    field = SIDE * pixel
    search = Search(
        poses=in_plane_grid(
            psi_step_degrees=12, offset_range_angstrom=5 * pixel, offset_step_angstrom=2 * pixel, perturbation=0.2
        ),
        coarse_shell=decisions.coarse_shell(12, mask_diameter, field, fine_shell),
        fine_shell=fine_shell,
        shell=fine_shell,
        max_kept=decisions.most_samples(n_classes, is_minibatch=False),
    )
    priors = Priors(
        fractions=torch.full((n_classes,), 1 / n_classes, dtype=torch.float64),
        offset_sigma_angstrom=2 * pixel,
        prior_offset_angstrom=torch.zeros((n_classes, 2), dtype=torch.float64),
    )
    return SearchProblem(
        particles=particles, data=data, model=a_model(references, data, spectrum, search, priors=priors)
    )


def _reference(particle: str, pixel: float) -> Reference:
    if particle == "ribosome":
        volume = read_volume(shared_data("maps/ribosome70s_4v5a_96.mrc"))
        return reference_of_map(volume, pixel_size_angstrom=3.5, b_factor_angstrom2=0, name=particle)
    model = specimen("compact-c1-100")
    return reference_of_atoms(model, pixel_size_angstrom=pixel, b_factor_angstrom2=100, name=particle)


def weighted(problem: SearchProblem) -> WeightedImages:
    """Return the images as posteriors are computed from them."""
    data, model = problem.data, problem.model
    n, band = len(problem.particles), FourierBand(data.grid)
    values = to_band(
        torch.from_numpy(data.source.read(np.arange(n))),
        band,
        background=np.zeros(n),
        factor=np.ones(n),
        shifts_pixel=np.zeros((n, 2), dtype=np.int64),
        mask=data.mask,
    )
    head = band.head(model.search.shell)
    transfer = contrast_transfer(problem.particles, head.frequencies)
    variance = model.noise_variance[0].float()[head.shell_of].expand(n, -1)
    return WeightedImages(
        masked=weighted_images(values.masked[:, : len(head)], transfer, variance),
        whole=weighted_images(values.whole[:, : len(head)], transfer, variance),
        power=transfer.square() / variance,
        constant=torch.zeros(n, dtype=torch.float64),
        centre_angstrom=torch.zeros((n, 2), dtype=torch.float64),
    )


def references_of(problem: SearchProblem) -> References:
    grid = problem.data.grid
    transform = slices.prepare(problem.model.references, grid, padding=PADDING)
    power = contrast_transfer(problem.particles, FourierBand(grid).frequencies).square().mean(0)
    return References(transforms=(transform,), band=FourierBand(grid), transfer_power=power)


def found_posterior(problem: SearchProblem, search: Search) -> tuple[Tensor, Tensor, Tensor]:
    """Return image, row and shift of the fine poses that a search hands to the sums."""
    images, references = weighted(problem), references_of(problem)
    image, row, shift = [], [], []
    for part, found in posteriors(images, references, problem.model.priors, search):
        image.append(found.poses.image + part.start)
        row.append(found.poses.row)
        shift.append(found.poses.shift)
    return torch.cat(image), torch.cat(row), torch.cat(shift)


def exact_posterior(problem: SearchProblem) -> Iterator[tuple[slice, Tensor]]:
    """Yield images and their posterior on the whole fine grid, float64, shape (images, rows, shifts)."""
    images, references, search = weighted(problem), references_of(problem), problem.search
    grid, priors = search.poses, problem.model.priors
    band = references.band.head(search.fine_shell)
    rows = references.take(slice(0, references.n_classes), grid.fine_rotations, search.fine_shell)
    paired = torch.view_as_real(rows).flatten(1)
    factors = phase_factors(band.frequencies, grid.fine_shifts_angstrom).to(torch.complex64)
    offsets = priors.log_offset(grid.fine_shifts_angstrom, grid.shift_area_angstrom2) + priors.log_class()
    prior = offsets.T.repeat_interleave(len(grid.fine_rotations), dim=0)
    for start in range(0, len(images.power), _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, len(images.power)))
        shifted = torch.view_as_complex(images.masked[part])[:, None] * factors
        cross = torch.view_as_real(shifted).flatten(2) @ paired.T
        norm = images.power[part] @ rows.abs().square().T
        joint = (cross.transpose(1, 2) - 0.5 * norm[..., None]).double() + prior
        yield part, torch.softmax(joint.flatten(1), dim=1).view(joint.shape)


def lost_mass(
    exact: Iterator[tuple[slice, Tensor]], n: int, *found: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, ...]:
    """Return the exact posterior that the poses found by each search leave out, float64, shape (n,) each."""
    lost = [torch.ones(n, dtype=torch.float64) for _ in found]
    for part, posterior in exact:
        for one, (image, row, shift) in zip(lost, found, strict=True):
            mine = (image >= part.start) & (image < part.stop)
            held = posterior[image[mine] - part.start, row[mine], shift[mine]]
            one.index_add_(0, image[mine], -held)
    return tuple(lost)


def pruned_mass(exact: Iterator[tuple[slice, Tensor]], kept_mass: float) -> Tensor:
    """Return the posterior outside the fewest poses that hold a share of it, float64, shape (n,)."""
    lost = []
    for _, posterior in exact:
        held = posterior.flatten(1).sort(dim=1, descending=True).values.cumsum(1)
        enough = (held < kept_mass).sum(1, keepdim=True).clamp(max=held.shape[1] - 1)
        lost.append(1 - held.gather(1, enough)[:, 0])
    return torch.cat(lost)
