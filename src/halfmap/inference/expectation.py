"""The E-step: the posterior of every image, and the sums over it that the M-step needs."""

from dataclasses import dataclass, replace
from functools import partial, reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.compute.broadcast import Broadcast
from halfmap.compute.device import task_device
from halfmap.compute.executor import Executor
from halfmap.compute.memory import plan_chunks
from halfmap.compute.progress import Progress, task_progress
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import phase_factors
from halfmap.fourier.shells import n_shells
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.imaging.image_model import contrast_transfer, ctf_of_rows
from halfmap.inference import sparse
from halfmap.inference.coarse import CoarseReferences
from halfmap.inference.image_data import ImageData
from halfmap.inference.images import to_band, weighted_images
from halfmap.inference.maximisation import shell_mean
from halfmap.inference.posterior import (
    Posterior,
    Search,
    WeightedImages,
    bytes_of_posteriors,
    posteriors,
    prepared,
    rotations_of,
)
from halfmap.inference.priors import Priors
from halfmap.inference.references import References
from halfmap.inference.sampling import PoseGrid
from halfmap.inference.sums import Estimates, GradientSums, SliceSums, Sums, add
from halfmap.inference.vdam import pseudo_halves
from halfmap.tensors import Images, Rotations

_CHUNK_BYTES = 1 << 28
_MOST_IN_CHUNK = 1024
_MOST_IN_CHUNK_OF_VOLUMES = 200
"""Images compared with volumes take a hundred times as long as those compared with class averages."""

_IMAGES_AT_ONCE = 128
_TRANSFERS = 32
"""Particles whose transfer tells on which shells the signal lies."""

_kept: list[tuple[tuple[Broadcast, Broadcast, str], tuple["Model", References, CoarseReferences | None]]] = []
"""The model that was prepared last, and for what."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """Everything that an E-step believes.

    Parameters
    ----------
    references : float32, shape (C, side, side), or volumes, (C, side, side, side): masked, on the grid of the images.
    padding : of their transform.
    priors : of classes and offsets.
    noise_variance : σ² of the noise without mask, float64, shape (groups, n_shells).
    scale : of micrographs, float64, shape (M,).
    norm : of particles, float64, shape (N,): images are divided by it.
    origin_angstrom : float64, shape (N, 2): the search is around it.
    search : grids, shells and pruning.
    rotation : of each particle, around which it is searched; float64, shape (N, 3, 3); None where the search's grid
        is the same for all.
    keep_origin : whether origins are not searched either.
    assigned_row : int64, shape (N,): the fine row, class · R + rotation, that each particle is given to with the
        first shift, unseen; the class alone where rotations are given; None: the posterior decides.
    iteration : a number that tells apart what is drawn at random.
    pseudo_halves : whether the sums are kept apart for the two halves of VDAM.
    scale_shell : shells up to this one tell the grey scale of micrographs; 0: none.
    slice_power : see `halfmap.inference.references.References`.
    """

    references: Images
    padding: int
    priors: Priors
    noise_variance: Tensor
    scale: NDArray[np.float64]
    norm: NDArray[np.float64]
    origin_angstrom: NDArray[np.float64]
    search: Search
    rotation: NDArray[np.float64] | None = None
    keep_origin: bool = False
    assigned_row: NDArray[np.int64] | None = None
    iteration: int = 0
    pseudo_halves: bool = False
    scale_shell: int = 0
    slice_power: float | None = None


def expect(
    sent: Broadcast,
    model: Model,
    data: ImageData,
    rows: NDArray[np.int64],
    executor: Executor,
    *,
    progress: Progress | None = None,
) -> Sums:
    """Run the E-step over some particles.

    Parameters
    ----------
    sent : ``data``, broadcast.
    model : what is believed.
    data : the images.
    rows : of the particles that take part.
    executor : runs the chunks.
    progress : advances by the particles done.

    Returns
    -------
    `Sums`
        The same on any number of workers: chunks follow from the particles, and are added in a fixed tree.
    """
    believed = executor.broadcast(model)
    try:
        task = partial(expect_chunk, sent, believed)
        chunks = chunks_of(data.grid, len(rows), volumes=model.references.ndim == 4)
        return executor.reduce(task, [rows[chunk] for chunk in chunks], add, progress=progress)
    finally:
        believed.discard()  # one for each iteration would fill the scratch folder


def chunks_of(grid: ImageGrid, n_images: int, *, volumes: bool = False) -> list[slice]:
    """Return the parts of an E-step over so many images, each of which is a task; fewer images with volumes."""
    most = _MOST_IN_CHUNK_OF_VOLUMES if volumes else _MOST_IN_CHUNK
    return plan_chunks(n_images, max(1, min(most, _CHUNK_BYTES // bytes_per_image(grid))))


def bytes_of_chunk(
    grid: ImageGrid,
    n_images: int,
    n_classes: int,
    poses: PoseGrid,
    *,
    padding: int,
    coarse_shell: int,
    most_kept: int,
) -> int:
    """Return the most memory that a task of an E-step over so many images needs, in bytes.

    Parameters
    ----------
    n_classes : number of references.
    poses : they are compared at.
    padding : of their transforms.
    coarse_shell, most_kept : last shell of the first pass, and samples of an image that it hands on.
    """
    most = max(chunk.stop - chunk.start for chunk in chunks_of(grid, n_images))
    images = most * bytes_per_image(grid) + min(most, _IMAGES_AT_ONCE) * grid.n_pixels * 40
    references = n_classes * (grid.n_pixels * 4 + (padding * grid.side) ** 2 * 8)
    sums = 3 * n_classes * 2 * grid.n_pixels * 8
    return (
        images
        + references
        + sums
        + bytes_of_posteriors(grid, most, n_classes, poses, coarse_shell=coarse_shell, most_kept=most_kept)
    )


def bytes_per_image(grid: ImageGrid) -> int:
    """Return the memory that one image takes while its chunk is worked on, in bytes.

    Half a transform holds ½ n² coefficients, of which π/4 lie on the band: weighted images with and without mask,
    their power, and temporaries.
    """
    return grid.side * grid.side * 24


def expect_chunk(data: Broadcast, model: Broadcast, rows: NDArray[np.int64]) -> Sums:
    """Run the E-step over one chunk of particles: the task of `expect`."""
    images_data: ImageData = data.load()
    current, references, coarse = _prepared(model, data, str(task_device()))
    sums = _sums(images_data, current, references, coarse, rows)
    task_progress().advance(len(rows))
    return sums


def _prepared(model: Broadcast, data: Broadcast, device: str) -> tuple[Model, References, CoarseReferences | None]:
    """Return the model and its references, kept for the next chunk, those of another model let go before."""
    wanted = model, data, device
    found = [prepared for of, prepared in _kept if of == wanted]
    if not found:
        _kept.clear()  # slices of both would not fit
        found = [_prepare(*wanted)]
        _kept[:] = [(wanted, found[0])]
    return found[0]


def _prepare(model: Broadcast, data: Broadcast, device: str) -> tuple[Model, References, CoarseReferences | None]:
    current: Model = model.load()
    images: ImageData = data.load()
    references = References.of(current.references.to(device), images.grid, current.padding)
    power = _transfer_power(images, current, references.band)
    references = replace(references, transfer_power=power, slice_power=current.slice_power)
    search = current.search
    return current, references, None if current.assigned_row is not None else prepared(references, search)


def _transfer_power(data: ImageData, model: Model, band: FourierBand) -> Tensor:
    """Return s² C² / σ², the mean over some particles, the same whatever the chunk, shape (K,)."""
    n = len(data.particles)
    rows = np.unique(np.arange(_TRANSFERS) * n // _TRANSFERS)
    _, square = _transfer(data, model, rows, band, band.indices.device)
    sigma2 = model.noise_variance[data.group[rows]].float().to(band.indices.device)[:, band.shell_of]
    return (square / sigma2).mean(0)


def _sums(
    data: ImageData,
    model: Model,
    references: References,
    coarse: CoarseReferences | None,
    rows: NDArray[np.int64],
) -> Sums:
    images, spectra = _weighted(data, model, references.band, rows)
    if model.assigned_row is None:
        found = posteriors(images, references, model.priors, model.search, coarse)
    else:
        row = torch.from_numpy(model.assigned_row[rows]).to(images.power.device)
        if model.search.poses.around_each:
            row = row * len(rows) + torch.arange(len(rows), device=row.device)
        found = iter([(slice(0, len(rows)), _given(row))])
    return reduce(
        add,
        (
            _summed(data, model, references, rows[part], images.take(part), spectra.take(part), one)
            for part, one in found
        ),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Spectra:
    """What residuals of n images are measured by, shell by shell.

    power : Σ |masked image|², float64, shape (n, n_shells).
    count : number of coefficients, of premultiplied images Σ C²: what their noise power is proportional to.
    weight : what each coefficient counts for, float32, shape (n, K): C² of premultiplied images, whose residual is
        C (X − C P), else 1; None where it is 1 everywhere.
    """

    power: Tensor
    count: Tensor
    weight: Tensor | None

    def take(self, part: slice) -> "_Spectra":
        weight = None if self.weight is None else self.weight[part]
        return _Spectra(power=self.power[part], count=self.count[part], weight=weight)


def _given(row: Tensor) -> Posterior:
    """Return the posterior that knows each image's row, at the first shift."""
    n = len(row)
    zero = torch.zeros_like(row)
    one = torch.ones(n, dtype=torch.float64, device=row.device)
    return Posterior(
        poses=sparse.WeightedPoses(image=torch.arange(n, device=row.device), row=row, shift=zero, weight=one.float()),
        best_row=row,
        best_shift=zero,
        max_probability=one,
        log_likelihood=zero.double(),
        n_significant=zero + 1,
        lost_mass=zero.double(),
    )


def _weighted(
    data: ImageData, model: Model, band: FourierBand, rows: NDArray[np.int64]
) -> tuple[WeightedImages, _Spectra]:
    """Read images, weight them, and measure their power."""
    device = band.indices.device
    head = band.head(model.search.shell)
    pixel = data.grid.pixel_size_angstrom
    shifts = np.rint(model.origin_angstrom[rows] / pixel).astype(np.int64)
    centre = shifts * pixel
    # an origin that is kept is applied whole, in Fourier space what is left of a pixel
    remainder = model.origin_angstrom[rows] - centre if model.keep_origin else None
    masked, whole, powers, constants, spectra, counts, weights = [], [], [], [], [], [], []
    shells = n_shells(data.grid)
    per_shell = torch.bincount(band.shell_of.cpu(), minlength=shells).double()
    for part in plan_chunks(len(rows), _IMAGES_AT_ONCE):
        mine = rows[part]
        noise_variance = model.noise_variance[data.group[mine]]
        done = _premultiplied(data, mine, band)
        multiplied = torch.ones((len(mine), shells), dtype=torch.float64)
        if done is not None:
            multiplied = torch.where(per_shell > 0, shell_mean(done, band).cpu(), multiplied)
            weights.append(done[:, : len(head)])
        values = to_band(
            torch.from_numpy(data.source.read(data.index[mine])).to(device),
            band,
            background=data.background[mine],
            factor=1 / (data.deviation[mine] * model.norm[mine]),
            shifts_pixel=shifts[part],
            mask=data.mask.to(device),
            fill=_noise_fill(data, model, mine, noise_variance * multiplied),
        )
        transfer, square = _transfer(data, model, mine, head, device)
        sigma2 = noise_variance.float().to(device)[:, head.shell_of]
        if remainder is not None:
            factors = phase_factors(head.frequencies, torch.from_numpy(remainder[part]).to(device))
            transfer = transfer * factors.to(torch.complex64)
        masked.append(weighted_images(values.masked[:, : len(head)], transfer, sigma2))
        whole.append(weighted_images(values.whole[:, : len(head)], transfer, sigma2))
        powers.append(square / sigma2)
        spectrum = torch.zeros((len(mine), shells), dtype=torch.float64)
        spectrum[:, : values.power.shape[1]] = values.power.cpu()
        constants.append(_constant(spectrum / multiplied.clamp(min=1e-6), per_shell, noise_variance))
        spectra.append(spectrum)
        counts.append(per_shell * multiplied)
    weighted = WeightedImages(
        masked=torch.cat(masked),
        whole=torch.cat(whole),
        power=torch.cat(powers),
        constant=torch.cat(constants).to(device),
        centre_angstrom=torch.from_numpy(centre if remainder is None else model.origin_angstrom[rows]).to(device),
        rotation=None if model.rotation is None else torch.from_numpy(model.rotation[rows]).to(device),
    )
    return weighted, _Spectra(
        power=torch.cat(spectra), count=torch.cat(counts), weight=torch.cat(weights) if weights else None
    )


def premultiplied_power(data: ImageData, rows: NDArray[np.int64]) -> Tensor:
    """Return by how much noise has lost power where images have been multiplied by their CTF.

    Returns
    -------
    float64, shape (n, n_shells): the mean of C² in each shell; 1 for other images, and for shells without coefficients.
    """
    band = FourierBand(data.grid)
    done = _premultiplied(data, rows, band)
    if done is None:
        return torch.ones((len(rows), n_shells(data.grid)), dtype=torch.float64)
    power = shell_mean(done, band)
    return torch.where(power > 0, power, torch.ones_like(power))


def _premultiplied(data: ImageData, rows: NDArray[np.int64], band: FourierBand) -> Tensor | None:
    """Return the C² of images that have been multiplied by their CTF and 1 of others, float32; None: no image has."""
    if not data.ctf or not _any_premultiplied(data):
        return None
    some = data.particles.take(rows)
    done = torch.from_numpy(np.asarray(some.optics_values("ctf_premultiplied"), dtype=bool))
    once = ctf_of_rows(some, band.frequencies, intact_first_peak=data.intact_first_peak)
    return torch.where(done.to(once.device)[:, None], once.square(), torch.ones_like(once))


def _any_premultiplied(data: ImageData) -> bool:
    optics = data.particles.optics
    return "ctf_premultiplied" in optics and bool(np.asarray(optics["ctf_premultiplied"], dtype=bool).any())


def _constant(spectrum: Tensor, count: Tensor, noise_variance: Tensor) -> Tensor:
    """Return −½ Σ |X|²/σ² − Σ log 2πσ² from Σ |X|² of each shell and its number of coefficients."""
    inside = count > 0
    sigma2 = noise_variance[:, inside]
    return (-0.5 * spectrum[:, inside] / sigma2 - count[inside] * (2 * torch.pi * sigma2).log()).sum(-1)


def _noise_fill(data: ImageData, model: Model, rows: NDArray[np.int64], noise_variance: Tensor) -> Images | None:
    if not data.fill_noise:
        return None
    return noise.draw(
        data.seed,
        "noise outside the mask",
        data.particles.uid[rows],
        data.grid,
        noise_variance,
        iteration=model.iteration,
    )


def _transfer(
    data: ImageData, model: Model, rows: NDArray[np.int64], band: FourierBand, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return what images are multiplied by, s conj(T), and s² |T|², each of shape (n, K)."""
    scale = torch.from_numpy(model.scale[data.micrograph[rows]]).float().to(device)[:, None]
    if not data.ctf:
        return scale.expand(-1, len(band)), scale.square().expand(-1, len(band))
    some = data.particles.take(rows)
    transfer = contrast_transfer(some, band.frequencies, intact_first_peak=data.intact_first_peak)
    square = transfer.abs().square() if transfer.is_complex() else transfer.square()
    if _any_premultiplied(data):
        done = torch.from_numpy(np.asarray(some.optics_values("ctf_premultiplied"), dtype=bool)).to(device)[:, None]
        once = ctf_of_rows(some, band.frequencies, intact_first_peak=data.intact_first_peak)
        phases = transfer / torch.where(once == 0, torch.ones_like(once), once)
        transfer = torch.where(done, phases, transfer)
    transfer = transfer.conj().resolve_conj() if transfer.is_complex() else transfer
    return transfer * scale, square * scale.square()


def _summed(
    data: ImageData,
    model: Model,
    references: References,
    rows: NDArray[np.int64],
    images: WeightedImages,
    spectra: _Spectra,
    found: Posterior,
) -> Sums:
    search, device = model.search, images.power.device
    grid = search.poses
    band = references.band.head(search.shell)
    n_halves = 2 if model.pseudo_halves else 1
    halves = pseudo_halves(data.seed, data.particles.uid[rows]) * (n_halves - 1)
    half = torch.from_numpy(halves).to(device)
    factors = phase_factors(band.frequencies, grid.fine_shifts_angstrom.to(device)).to(torch.complex64)
    shells = n_shells(data.grid)
    if references.are_volumes:
        into: GradientSums | SliceSums = SliceSums.none(n_halves, references)
    else:
        into = GradientSums.none(n_halves, references, data.grid, band)
    expected = sparse.Expected.none(images.power)
    rotations = rotations_of(images, grid, fine=True)
    for block in references.blocks(rotations, found.poses.row, 1, search.shell):
        place, inside = block.place(found.poses.row)
        mine = sparse.WeightedPoses(
            image=found.poses.image, row=place, shift=found.poses.shift, weight=found.poses.weight
        )
        by_row = (mine if inside is None else mine.take(inside)).sorted_by_row()
        for h in range(n_halves):
            chosen = by_row.take(half[by_row.image] == h) if n_halves > 1 else by_row
            total, weight = sparse.sum_poses(chosen, images.whole, images.power, block.values, factors, expected)
            into.insert(h, block, total, weight, band, references)
    cross, square = expected.by_shell(images.masked, images.power, band.shell_of, shells)
    change = 2 * cross - square
    if spectra.weight is not None:
        one, two = expected.by_shell(
            images.masked * spectra.weight[..., None], images.power * spectra.weight, band.shell_of, shells
        )
        change = 2 * one - two
    return _collected(data, model, rotations, rows, images, spectra, found, into, half, (cross, square, change))


def _collected(
    data: ImageData,
    model: Model,
    rotations: Rotations,
    rows: NDArray[np.int64],
    images: WeightedImages,
    spectra: _Spectra,
    found: Posterior,
    into: GradientSums | SliceSums,
    half: Tensor,
    by_shell: tuple[Tensor, Tensor, Tensor],
) -> Sums:
    grid = model.search.poses
    C, R = len(model.references), len(rotations)
    poses = found.poses
    classes, weight = poses.row // R, poses.weight.double()
    origins = images.centre_angstrom[poses.image] + grid.fine_shifts_angstrom.to(weight.device)[poses.shift]
    mass = torch.zeros((2 if model.pseudo_halves else 1, C), dtype=torch.float64)
    mass.view(-1).index_add_(0, (half[poses.image] * C + classes).cpu(), weight.cpu())
    offset = torch.zeros((C, 2), dtype=torch.float64)
    offset.index_add_(0, classes.cpu(), (weight[:, None] * origins).cpu())
    offset_square = torch.zeros(C, dtype=torch.float64)
    offset_square.index_add_(0, classes.cpu(), (weight * origins.square().sum(-1)).cpu())

    group = torch.from_numpy(data.group[rows])
    variance = model.noise_variance[group]
    cross, square, change = (values.cpu() for values in by_shell)
    residual = (spectra.power - variance * change).clamp(min=0)
    residual_power = torch.zeros((data.n_groups, residual.shape[1]), dtype=torch.float64)
    residual_power.index_add_(0, group, residual)
    residual_count = torch.zeros_like(residual_power).index_add_(0, group, spectra.count)
    expected = (2 * variance * spectra.count).sum(-1) * data.mask_power

    micrograph = torch.from_numpy(data.micrograph[rows])
    scale = torch.from_numpy(model.scale)[micrograph]
    told = slice(0, model.scale_shell + 1 if model.scale_shell else 0)
    scale_cross = torch.zeros(data.n_micrographs, dtype=torch.float64)
    scale_cross.index_add_(0, micrograph, cross[:, told].sum(-1) / scale)
    scale_square = torch.zeros_like(scale_cross)
    scale_square.index_add_(0, micrograph, square[:, told].sum(-1) / scale.square())

    best_origin = images.centre_angstrom + grid.fine_shifts_angstrom.to(weight.device)[found.best_shift]
    estimates = Estimates(
        row=rows,
        class_index=(found.best_row // R).cpu().numpy(),
        rotation=rotations[(found.best_row % R).to(rotations.device)].cpu().numpy(),
        origin_angstrom=best_origin.cpu().numpy(),
        max_probability=found.max_probability.cpu().numpy(),
        log_likelihood=found.log_likelihood.cpu().numpy(),
        n_significant=found.n_significant.cpu().numpy(),
        lost_mass=found.lost_mass.cpu().numpy(),
        residual=(residual.sum(-1) / expected).numpy(),
    )
    return Sums(
        references=into,
        class_mass=mass,
        offset=offset,
        offset_square=offset_square,
        residual_power=residual_power,
        residual_count=residual_count,
        scale_cross=scale_cross,
        scale_square=scale_square,
        estimates=estimates,
    )
