"""Images of real particles whose exact posterior is known: what reduced searches are judged by."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap import keyed_random
from halfmap.classification import decisions
from halfmap.data.particles import ParticleSet
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import crop_or_pad, phase_factors
from halfmap.fourier.shells import n_shells
from halfmap.geometry.rotations import matrix_from_rotation_vector, random_rotations
from halfmap.geometry.shapes import soft_disc, soft_sphere
from halfmap.grid import ImageGrid
from halfmap.imaging.image_model import contrast_transfer
from halfmap.inference.expectation import Model
from halfmap.inference.image_data import ImageData
from halfmap.inference.images import to_band, weighted_images
from halfmap.inference.posterior import Search, WeightedImages, posteriors
from halfmap.inference.priors import Priors
from halfmap.inference.references import References
from halfmap.inference.sampling import in_plane_grid, local_grid, orientation_grid
from halfmap.io.mrc import read_volume
from halfmap.refinement import decisions as refinement_decisions
from halfmap.refinement.search import MOST_KEPT
from halfmap.simulation.references import Reference, reference_of_atoms, reference_of_map
from halfmap.simulation.specimens import specimen
from support.model_images import Poses, a_model, drawn_images, image_data, particles_of
from support.shared_data import shared_data
from support.volume_images import PADDING as PADDING_OF_VOLUMES
from support.volume_images import Views, drawn_views_images

PARTICLES = {"100 kDa": (2.5, 120.0), "ribosome": (5.25, 300.0)}
"""Pixel size and mask diameter in Å."""

SIDE = 64
SIDE_OF_VOLUMES = 48
_SCORES_AT_ONCE = 1 << 24


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


def volume_problem(
    particle: str, power: float, *, n: int, is_local: bool = False, seed: int = 1, fine_shell: int = 19
) -> SearchProblem:
    """Return images of true projections of a particle at any pose, and a search as that of a refinement of its map.

    ``power``: mean Σ |C P|²/σ² of an image over the shells up to ``fine_shell``. All orientations are searched at 15°
    and 7.5°; or those around a pose that is a few degrees wrong at 3.75° and 1.9°, where poses settle when steps of
    7.5° have given what they can.
    """
    pixel, mask_diameter = PARTICLES[particle]
    side = SIDE_OF_VOLUMES
    pixel *= SIDE / side
    grid, cubic = ImageGrid.square(side, pixel), ImageGrid.cubic(side, pixel)
    potential = _reference(particle, pixel, of_map=pixel).potential
    volume, _ = crop_or_pad(potential.values, potential.grid, side)
    volume = (volume * soft_sphere(cubic, mask_diameter / 2, 3 * pixel)).float()
    particles = particles_of(n, grid, seed=seed, defocus_angstrom=(10000.0, 25000.0))
    uid = np.arange(n)
    views = Views(
        class_index=np.zeros(n, dtype=np.int64),
        rotation=random_rotations(seed, "views of volume problems", uid),
        origin_angstrom=pixel * 1.5 * keyed_random.normal(seed, "offsets of volume problems", uid, size=2),
    )
    band = FourierBand(grid).head(fine_shell)
    clean = band.gather(grid.rfft(drawn_views_images(volume[None], particles, views, grid, None)))
    variance = float(clean.abs().square().sum(-1).mean()) / power
    spectrum = torch.full((n_shells(grid),), variance, dtype=torch.float64)
    images = drawn_views_images(volume[None], particles, views, grid, spectrum, seed=seed)
    offsets = {"offset_range_angstrom": 5 * pixel, "offset_step_angstrom": 2 * pixel, "perturbation": 0.2}
    rotation, coarse_step = None, 15.0
    if is_local:
        coarse_step = 3.75
        poses = local_grid(rotation_step_degrees=coarse_step, sigma_degrees=coarse_step, **offsets)
        wrong = keyed_random.normal(seed, "errors of poses of volume problems", uid, size=3)
        turn = matrix_from_rotation_vector(torch.from_numpy(np.radians(coarse_step) * wrong))
        rotation = (turn.mT @ views.rotation).numpy()
    else:
        poses = orientation_grid(healpix_order=2, symmetry="C1", **offsets)
    search = Search(
        poses=poses,
        coarse_shell=refinement_decisions.coarse_shell(coarse_step, mask_diameter, side * pixel, fine_shell),
        fine_shell=fine_shell,
        shell=fine_shell,
        max_kept=MOST_KEPT,
    )
    model = a_model(
        volume[None],
        image_data(images, particles, grid, mask_diameter_angstrom=mask_diameter),
        spectrum,
        search,
        padding=PADDING_OF_VOLUMES,
        priors=Priors(
            fractions=torch.ones(1, dtype=torch.float64),
            offset_sigma_angstrom=2 * pixel,
            prior_offset_angstrom=torch.zeros((1, 2), dtype=torch.float64),
        ),
        rotation=rotation,
    )
    data = image_data(images, particles, grid, mask_diameter_angstrom=mask_diameter)
    return SearchProblem(particles=particles, data=data, model=model)


def _reference(particle: str, pixel: float, of_map: float = 3.5) -> Reference:
    if particle == "ribosome":
        volume = read_volume(shared_data("maps/ribosome70s_4v5a_96.mrc"))
        return reference_of_map(volume, pixel_size_angstrom=of_map, b_factor_angstrom2=0, name=particle)
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
        rotation=None if model.rotation is None else torch.from_numpy(model.rotation),
    )


def references_of(problem: SearchProblem) -> References:
    grid = problem.data.grid
    power = contrast_transfer(problem.particles, FourierBand(grid).frequencies).square().mean(0)
    return References.of(problem.model.references, grid, problem.model.padding, transfer_power=power)


def found_posterior(problem: SearchProblem, search: Search) -> tuple[Tensor, Tensor, Tensor]:
    """Return image, row and shift of the fine poses that a search hands to the sums."""
    images, references = weighted(problem), references_of(problem)
    image, row, shift = [], [], []
    for part, found in posteriors(images, references, problem.model.priors, search):
        image.append(found.poses.image + part.start)
        R = len(search.poses.fine_rotations)
        n = part.stop - part.start if search.poses.around_each else 1
        row.append(found.poses.row // (R * n) * R + found.poses.row % R)
        shift.append(found.poses.shift)
    return torch.cat(image), torch.cat(row), torch.cat(shift)


def exact_posterior(problem: SearchProblem) -> Iterator[tuple[slice, Tensor]]:
    """Yield images and their posterior on the whole fine grid, float64, shape (images, rows, shifts).

    Rows of a search around each image's own rotation are those of its own rotations.
    """
    images, references, search = weighted(problem), references_of(problem), problem.search
    grid, priors = search.poses, problem.model.priors
    band = references.band.head(search.fine_shell)
    every = slice(0, references.n_classes)
    factors = phase_factors(band.frequencies, grid.fine_shifts_angstrom).to(torch.complex64)
    offsets = priors.log_offset(grid.fine_shifts_angstrom, grid.shift_area_angstrom2) + priors.log_class()
    prior = offsets.T.repeat_interleave(len(grid.fine_rotations), dim=0)
    if grid.fine_log_prior is not None:
        prior = prior + grid.fine_log_prior.repeat(references.n_classes)[:, None]
    at_once = 1 if grid.around_each else max(1, _SCORES_AT_ONCE // prior.numel())
    rows = None
    for start in range(0, len(images.power), at_once):
        part = slice(start, min(start + at_once, len(images.power)))
        if rows is None or images.rotation is not None:
            turns = grid.fine_rotations if images.rotation is None else grid.fine_rotations @ images.rotation[start]
            rows = references.take(every, turns, search.fine_shell)
            paired, square = torch.view_as_real(rows).flatten(1), rows.abs().square()
        shifted = torch.view_as_complex(images.masked[part])[:, None] * factors
        cross = torch.view_as_real(shifted).flatten(2) @ paired.T
        norm = images.power[part] @ square.T
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
