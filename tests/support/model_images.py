"""Images drawn exactly from the engine's model, everything an E-step needs to look at them, and that by brute force."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.compute.in_process import InProcessExecutor
from halfmap.data.image_source import ArraySource
from halfmap.data.particles import ParticleSet
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import phase_factors
from halfmap.fourier.shells import n_shells
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.imaging.image_model import contrast_transfer, ctf_of_rows
from halfmap.inference import expectation
from halfmap.inference.expectation import Model
from halfmap.inference.image_data import ImageData
from halfmap.inference.posterior import Priors, Search
from halfmap.inference.sampling import PoseGrid, in_plane_grid
from halfmap.inference.sums import Sums
from support.particle_sets import some_optics

PADDING = 3


def shapes(n: int, grid: ImageGrid, *, radius_angstrom: float, seed: int = 1, blob_angstrom: float = 6.0) -> Tensor:
    """Return images of a few round blobs without symmetry, all different, within a circle; shape (n, side, side)."""
    draws = keyed_random.uniform(seed, "blobs of test shapes", np.arange(n), size=(7, 3))
    length = (radius_angstrom - 2 * blob_angstrom) * np.sqrt(draws[..., 0])
    angle = 2 * math.pi * draws[..., 1]
    places = torch.from_numpy(np.stack([length * np.cos(angle), length * np.sin(angle)], axis=-1))
    heights = torch.from_numpy(0.4 + draws[..., 2])
    distance = (grid.positions()[None, None] - places[:, :, None, None]).square().sum(-1)
    return (heights[..., None, None] * torch.exp(-distance / (2 * blob_angstrom**2))).sum(1).float()


def particles_of(
    n: int,
    grid: ImageGrid,
    *,
    seed: int = 1,
    n_groups: int = 1,
    n_micrographs: int = 2,
    premultiplied: bool = False,
    defocus_angstrom: tuple[float, float] = (8000.0, 16000.0),
) -> ParticleSet:
    """Return particles with astigmatic CTFs; those of a micrograph share their optics group."""
    uid = np.arange(1, n + 1)
    low, high = defocus_angstrom
    defocus = low + (high - low) * keyed_random.uniform(seed, "defocus", uid)
    micrograph = np.arange(n) % n_micrographs
    return ParticleSet(
        columns={
            "uid": uid,
            "optics_group": 1 + micrograph % n_groups,
            "micrograph_name": np.array([f"mic{m:03d}.mrc" for m in micrograph], dtype=object),
            "defocus_u_angstrom": defocus,
            "defocus_v_angstrom": defocus - 1500.0,
            "defocus_angle_degrees": 180 * keyed_random.uniform(seed, "astigmatism", uid),
            "phase_shift_degrees": np.zeros(n),
        },
        optics=some_optics(
            n_groups,
            pixel_size_angstrom=grid.pixel_size_angstrom,
            image_size_pixel=grid.side,
            ctf_premultiplied=np.full(n_groups, premultiplied),
        ),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Poses:
    """Class, in-plane angle and origin of each of n images."""

    class_index: NDArray[np.int64]
    psi_degrees: NDArray[np.float64]
    origin_angstrom: NDArray[np.float64]


def drawn_poses(n: int, poses: PoseGrid, priors: Priors, *, seed: int = 1) -> tuple[Poses, NDArray, NDArray]:
    """Draw poses of the fine grid from the priors; also their rows and numbers of shifts."""
    uid = np.arange(1, n + 1)
    draws = keyed_random.uniform(seed, "true poses", uid, size=3)
    shares = priors.fractions.numpy().cumsum()
    class_index = np.minimum(np.searchsorted(shares, draws[:, 0], side="right"), len(shares) - 1)
    rotation = (draws[:, 1] * len(poses.fine_rotations)).astype(np.int64)
    density = priors.log_offset(poses.fine_shifts_angstrom, poses.shift_area_angstrom2).exp().numpy()
    cumulated = (density / density.sum(0)).cumsum(0)[:, class_index]
    shift = (cumulated < draws[:, 2]).sum(0)
    turns = poses.fine_rotations[rotation]
    psi = torch.rad2deg(torch.atan2(turns[:, 0, 1], turns[:, 0, 0])).numpy()
    found = Poses(class_index=class_index, psi_degrees=psi, origin_angstrom=poses.fine_shifts_angstrom[shift].numpy())
    return found, class_index * len(poses.fine_rotations) + rotation, shift


def drawn_images(
    references: Tensor,
    particles: ParticleSet,
    poses: Poses,
    grid: ImageGrid,
    spectrum: Tensor | None,
    *,
    seed: int = 1,
    scale: NDArray | float = 1.0,
    norm: NDArray | float = 1.0,
) -> Tensor:
    """Return norm · (scale · CTF · turned reference, moved by minus the origin, and noise), float32.

    ``spectrum`` is σ² of one real component, shape (n_shells,) or one for each particle; None: no noise.
    """
    n = len(particles)
    zero = np.zeros(n)
    rotations = matrix_from_euler(zero, zero, poses.psi_degrees)
    band = FourierBand(grid)
    padded = slices.prepare(references.double(), grid, padding=PADDING)
    views = torch.stack(
        [
            slices.extract(slices.PaddedTransform(values=padded.values[c], grid=padded.grid), turn, band)
            for c, turn in zip(poses.class_index.tolist(), rotations, strict=True)
        ]
    )
    views = views * phase_factors(band.frequencies, -torch.from_numpy(poses.origin_angstrom))
    transform = band.scatter(views)
    transform[:, 0, 0] = references.double().mean((-2, -1))[torch.from_numpy(poses.class_index)]
    transform = transform * contrast_transfer(particles, grid.frequencies())
    images = grid.irfft(transform) * torch.as_tensor(scale, dtype=torch.float64).reshape(-1, 1, 1)
    if spectrum is not None:
        images = images + noise.draw(seed, "noise of test images", particles.uid, grid, spectrum)
    if bool(particles.optics["ctf_premultiplied"].any()):
        images = grid.irfft(grid.rfft(images) * ctf_of_rows(particles, grid.frequencies()))
    return (images * torch.as_tensor(norm, dtype=torch.float64).reshape(-1, 1, 1)).float()


def coloured_spectrum(grid: ImageGrid, pixel_variance: float, *, rise: float = 3.0) -> Tensor:
    """Return a noise spectrum with more power at low frequency, float64, shape (n_shells,)."""
    shell = torch.arange(n_shells(grid), dtype=torch.float64)
    return noise.with_pixel_variance(1 + rise / (1 + (shell / 3) ** 2), grid, pixel_variance)


def image_data(
    images: Tensor, particles: ParticleSet, grid: ImageGrid, *, mask_diameter_angstrom: float | None = None, **settings
) -> ImageData:
    """Return images as the E-step takes them; without a mask where its diameter is left out."""
    n = len(particles)
    mask = torch.ones(grid.shape)
    if mask_diameter_angstrom is not None:
        mask = soft_disc(grid, mask_diameter_angstrom / 2, 3 * grid.pixel_size_angstrom)
    _, micrograph = np.unique(particles["micrograph_name"].astype(str), return_inverse=True)
    given = {
        "index": np.arange(n),
        "background": np.zeros(n),
        "deviation": np.ones(n),
        "group": np.asarray(particles["optics_group"]) - 1,
        "micrograph": micrograph.astype(np.int64),
        "mask": mask,
        **settings,
    }
    return ImageData(particles=particles, source=ArraySource(images=images.numpy(), grid=grid), **given)


def a_model(references: Tensor, data: ImageData, noise_variance: Tensor, search: Search, **settings) -> Model:
    """Return a model with even classes and a wide prior of offsets; ``settings`` replace fields."""
    n, n_classes = len(data.particles), len(references)
    given = {
        "priors": even_priors(n_classes),
        "scale": np.ones(data.n_micrographs),
        "norm": np.ones(n),
        "origin_angstrom": np.zeros((n, 2)),
        "padding": PADDING,
        **settings,
    }
    variance = noise_variance.double().expand(data.n_groups, -1).clone()
    return Model(references=references, noise_variance=variance, search=search, **given)


def even_priors(n_classes: int, offset_sigma_angstrom: float = 8.0) -> Priors:
    return Priors(
        fractions=torch.full((n_classes,), 1 / n_classes, dtype=torch.float64),
        offset_sigma_angstrom=offset_sigma_angstrom,
        prior_offset_angstrom=torch.zeros((n_classes, 2), dtype=torch.float64),
    )


def a_search(grid: ImageGrid, *, psi_step: float, offset_range: float, offset_step: float, **settings) -> Search:
    """Return a search of the whole band; ``settings`` replace fields. Steps are those of the coarse pass."""
    oversampling = settings.pop("oversampling", 1)
    perturbation = settings.pop("perturbation", 0.0)
    last = grid.side // 2 - 1
    poses = in_plane_grid(
        psi_step_degrees=psi_step,
        offset_range_angstrom=offset_range,
        offset_step_angstrom=offset_step,
        perturbation=perturbation,
        oversampling=oversampling,
    )
    return Search(
        poses=poses, **{"coarse_shell": last, "fine_shell": last, "shell": last, "kept_mass": 1.0, **settings}
    )


def e_step(data: ImageData, model: Model, rows: NDArray[np.int64] | None = None) -> Sums:
    """Run the E-step in this process."""
    with InProcessExecutor() as executor:
        return expectation.expect(
            executor.broadcast(data),
            model,
            data,
            np.arange(len(data.particles)) if rows is None else rows,
            executor,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class BruteForce:
    """The E-step by its definition, in double precision and without pruning, for images without premultiplied CTFs.

    ``joint``: log p(X_i, class, rotation, shift), shape (n, C, R, T). ``expected``: Σ over the posterior of log p of
    the unmasked images, which can be differentiated by ``references`` where they are images. ``data``, ``weight``:
    Σ over shifts of posterior · s C X / σ² and s² C² / σ², shapes (n, C, R, K) of the search's band.
    """

    joint: Tensor
    log_likelihood: Tensor
    posterior: Tensor
    expected: Tensor
    references: Tensor
    residual: Tensor
    data: Tensor
    weight: Tensor


def fine_rotations(model: Model, n: int) -> Tensor:
    """Return the rotations that each of n images is compared at, shape (n, R, 3, 3)."""
    turns = model.search.poses.fine_rotations
    if model.rotation is None:
        return turns.expand(n, -1, -1, -1)
    own, mates = torch.from_numpy(model.rotation), model.search.poses.mates
    mates = torch.eye(3, dtype=torch.float64)[None] if mates is None else mates
    of_mates = turns.view(len(mates), -1, 3, 3)
    return torch.cat([some @ (own @ mate)[:, None] for some, mate in zip(of_mates, mates, strict=True)], dim=1)


def _views_of(references: Tensor, model: Model, grid: ImageGrid, band: FourierBand, n: int) -> list[Tensor]:
    """Return the slices that each of n images is compared with, shape (C, R, K)."""
    rotations = fine_rotations(model, n)
    if references.ndim == 3:
        padded = [slices.prepare(references, grid, padding=model.padding)]
    else:
        cubic = ImageGrid.cubic(grid.side, grid.pixel_size_angstrom)
        padded = [slices.prepare(one, cubic, padding=model.padding) for one in references]

    def views(turns: Tensor) -> Tensor:
        found = [slices.extract(one, turns, band) for one in padded]
        return found[0] if references.ndim == 3 else torch.stack(found)

    return [views(rotations[0])] * n if model.rotation is None else [views(turns) for turns in rotations]


def brute_force(data: ImageData, model: Model) -> BruteForce:
    grid, search = data.grid, model.search
    band = FourierBand(grid)
    shell = band.shell_of
    references = model.references.double().clone().requires_grad_(model.references.ndim == 3)
    turned = _views_of(references, model, grid, band, len(data.particles))
    images = torch.from_numpy(data.source.read(data.index)).double() - torch.from_numpy(data.background)[:, None, None]
    images = images / torch.from_numpy(data.deviation * model.norm)[:, None, None]
    pixels = np.rint(model.origin_angstrom / grid.pixel_size_angstrom).astype(int)
    moved = torch.zeros_like(images)
    side = grid.side
    for i, (x, y) in enumerate(pixels):
        rows, columns = slice(max(0, y), min(side, side + y)), slice(max(0, x), min(side, side + x))
        from_rows, from_columns = slice(max(0, -y), min(side, side - y)), slice(max(0, -x), min(side, side - x))
        moved[i, rows, columns] = images[i, from_rows, from_columns]
    shifts = search.poses.fine_shifts_angstrom
    factors = phase_factors(band.frequencies, shifts)
    whole, masked = (band.gather(grid.rfft(pair)) for pair in (moved, moved * data.mask.double()))
    variance = model.noise_variance[data.group][:, shell]
    transfer = torch.from_numpy(model.scale[data.micrograph])[:, None].expand(-1, len(band))
    if data.ctf:
        transfer = transfer * contrast_transfer(data.particles, band.frequencies).double()
    compared = (shell >= search.min_shell) & (shell <= search.fine_shell)
    modelled = shell <= search.shell

    def distances(values: Tensor, which: Tensor) -> Tensor:
        """|X − s C P|²/σ², shape (n, C, R, T); where nothing is modelled |X|²/σ²."""
        found = []
        for i in range(len(values)):
            model_values = (transfer[i] * turned[i]) * which
            difference = (values[i] * factors) - model_values[:, :, None]
            found.append(((difference.real.square() + difference.imag.square()) / variance[i]).sum(-1))
        return torch.stack(found)

    origins = torch.from_numpy(pixels * grid.pixel_size_angstrom)[:, None] + shifts
    offsets = model.priors.log_offset(origins, search.poses.shift_area_angstrom2)  # (n, T, C)
    log_prior = (offsets + model.priors.log_class()).movedim(-1, 1)[:, :, None]
    constant = -(2 * math.pi * variance).log().sum(-1)
    joint = -0.5 * distances(masked, compared) + constant[:, None, None, None]
    if search.poses.fine_log_prior is not None:
        joint = joint + search.poses.fine_log_prior[:, None]
    joint = (joint + log_prior - math.log(len(search.poses.fine_rotations))).detach()
    log_likelihood = joint.flatten(1).logsumexp(-1)
    posterior = (joint - log_likelihood[:, None, None, None]).exp()
    expected = -0.5 * (posterior * distances(whole, modelled)).sum()
    residual = torch.zeros((len(images), n_shells(grid)), dtype=torch.float64)
    with torch.no_grad():
        for i in range(len(images)):
            difference = masked[i] * factors - ((transfer[i] * turned[i]) * modelled)[:, :, None]
            square = (posterior[i][..., None] * difference.abs().square()).sum((0, 1, 2))
            residual[i].index_add_(0, shell, square)
    weighted = (whole * transfer.conj() / variance)[:, modelled]
    power = (transfer.abs().square() / variance)[:, modelled]
    return BruteForce(
        joint=joint,
        log_likelihood=log_likelihood,
        posterior=posterior,
        expected=expected,
        references=references,
        residual=residual,
        data=torch.einsum("ncrt,tk,nk->ncrk", posterior.to(weighted.dtype), factors[:, modelled], weighted),
        weight=posterior.sum(-1)[..., None] * power[:, None, None],
    )
