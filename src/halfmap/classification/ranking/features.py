"""What a ranker sees of class averages, free of their scale: small pictures and a few numbers."""

import math
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.classification.closing import last_joined_shell
from halfmap.classification.result import frc_crossings
from halfmap.data.class_averages import ClassAverages
from halfmap.errors import InputError
from halfmap.fourier import filters
from halfmap.fourier.resample import rescale_to_pixel_size
from halfmap.fourier.shells import power_spectrum, shell_counts
from halfmap.grid import ImageGrid
from halfmap.tensors import Images

SIDE = 64
"""Side of the pictures, which span the mask."""

FEATURES: tuple[str, ...] = (
    "log rotation accuracy in degrees",
    "log offset accuracy over diameter",
    "log (1 + diameter over resolution)",
    "log (1 + (diameter over resolution)² over log particles)",
    "resolution over the best of the run",
    "log (1 + diameter over FRC resolution)",
    "FRC at 2 to 5 cycles per diameter",
    "FRC at 5 to 10 cycles per diameter",
    "log (1 + SSNR) at 1 to 3 cycles per diameter",
    "log (1 + SSNR) at 3 to 6 cycles per diameter",
    "log (1 + SSNR) at 6 to 12 cycles per diameter",
    "log particles",
    "log share of particles times classes",
    "log contrast over the median of the run",
    "log contrast over the greatest of the run",
    "mean of the rim",
    "deviation of the rim",
    "skewness",
    "kurtosis",
    "share of variance in the radial mean",
    "distance of the centre of mass over radius",
    "log share of power at 1 to 2 cycles per diameter",
    "log share of power at 2 to 4 cycles per diameter",
    "log share of power at 4 to 8 cycles per diameter",
    "log share of power at 8 to 16 cycles per diameter",
    "share of the disc that is particle",
    "scattered signal",
    "edge signal",
    "log deviation in the particle over that beside it",
)
"""Names of the numbers, in order."""

GROUPS: dict[str, tuple[int, ...]] = {
    "accuracy": (0, 1),
    "resolution": (2, 3, 4),
    "frc": (5, 6, 7),
    "ssnr": (8, 9, 10),
    "size": (3, 11, 12),
}
"""Numbers that are absent together, because a run, or another program, did not leave them."""

_FINEST_CYCLES = 20.0
_FILTER_EDGE_SHELLS = 4.0
_PARTICLE_CYCLES = 7.0
_ISLAND_DEVIATIONS = 0.5
_INNER_SHARE = 0.6
_LEAST_ISLAND_SHARE = 0.1
_UNKNOWN_ACCURACY = 999.0  # RELION's, where it was not estimated
_TINY = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Description:
    """Class averages as a ranker sees them.

    Parameters
    ----------
    images : float32, shape (n, 64, 64): the averages over the diameter of the mask, mean 0 and deviation 1 inside it,
        0 outside.
    features : float32, shape (n, number of `FEATURES`); nan where unknown.
    is_empty : shape (n,): classes without particles or without any contrast.
    """

    images: NDArray[np.float32]
    features: NDArray[np.float32]
    is_empty: NDArray[np.bool_]


def describe(averages: ClassAverages, *, mask_diameter_angstrom: float) -> Description:
    """Describe class averages.

    Parameters
    ----------
    averages : all classes of a run: some features compare a class with the others. Needs ``average``; uses what
        else there is.
    mask_diameter_angstrom : of the circular mask; lengths count in it.

    Raises
    ------
    InputError
        The diameter is not positive.

    Notes
    -----
    The numbers are RELION's features 0 to 3, 9 and 10 made independent of the scale (its class ranker's table), the
    FRC of two halves, the SSNR of the model, and moments. The islands that make features 9 and 10 are those of
    the average below 7 cycles per diameter that stand half a deviation above the rim.
    """
    if not mask_diameter_angstrom > 0:
        raise InputError(
            f"The diameter of the mask must be positive; got {mask_diameter_angstrom} Å; "
            "give that of the classification."
        )
    if not len(averages):
        return Description(
            images=np.zeros((0, SIDE, SIDE), dtype=np.float32),
            features=np.zeros((0, len(FEATURES)), dtype=np.float32),
            is_empty=np.zeros(0, dtype=bool),
        )
    grid = ImageGrid.square(SIDE, mask_diameter_angstrom / SIDE)
    values = torch.from_numpy(np.nan_to_num(averages["average"], posinf=0.0, neginf=0.0)).float()
    coarse = filters.low_pass(averages.grid, mask_diameter_angstrom / _FINEST_CYCLES, _FILTER_EDGE_SHELLS)
    values = filters.apply_filter(values, averages.grid, coarse)
    small, _ = rescale_to_pixel_size(values, averages.grid, grid.pixel_size_angstrom, SIDE)
    disc = grid.radii() < mask_diameter_angstrom / 2
    inside = small[:, disc].double()
    deviation = inside.std(dim=1, correction=0)
    particles = averages.get("n_particles", 1)
    is_empty = (deviation.numpy() < _TINY) | (particles < 1)
    images = (small.double() - inside.mean(dim=1)[:, None, None]) / deviation.clamp(min=_TINY)[:, None, None]
    images = (images * disc).float()
    contrast = np.log(np.maximum(deviation.numpy(), _TINY))
    columns = np.concatenate(
        [
            _of_tables(averages, mask_diameter_angstrom),
            _against_others(contrast, is_empty),
            _moments(images, grid, disc),
            _powers(images, grid),
            _islands(images, grid, disc),
        ],
        axis=1,
    )
    columns[~np.isfinite(columns)] = math.nan
    return Description(images=images.numpy(), features=columns.astype(np.float32), is_empty=is_empty)


def _of_tables(averages: ClassAverages, diameter: float) -> NDArray[np.float64]:
    """Return the first 13 features, nan where the table lacks what they are made from."""
    rotation = averages.get("rotation_accuracy_degrees", math.nan)
    offset = averages.get("offset_accuracy_angstrom", math.nan)
    known = (rotation > 0) & (rotation < _UNKNOWN_ACCURACY) & (offset > 0) & (offset < _UNKNOWN_ACCURACY)
    resolution = averages.get("ssnr_resolution_angstrom", math.nan)
    cycles = np.where(resolution > 0, diameter / np.where(resolution > 0, resolution, 1.0), math.nan)
    n = averages.get("n_particles", 0).astype(np.float64)
    known_n = np.where("n_particles" in averages, np.maximum(n, 0.0), math.nan)
    best = np.nanmax(cycles) if np.isfinite(cycles).any() else math.nan
    frc_cycles = _frc_cycles(averages, diameter)
    share = averages.get("fraction", math.nan)
    if "fraction" not in averages and n.sum() > 0:
        share = n / n.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = [
            np.log(np.where(known, rotation, math.nan)),
            np.log(np.where(known, offset, math.nan) / diameter),
            np.log1p(cycles),
            np.log1p(cycles**2 / np.log(np.maximum(known_n, 3.0))),
            cycles / max(best, _TINY),
            np.log1p(frc_cycles),
            _mean_over(averages, "frc", diameter, 2, 5),
            _mean_over(averages, "frc", diameter, 5, 10),
            *(np.log1p(np.maximum(_mean_over(averages, "ssnr", diameter, *b), 0)) for b in ((1, 3), (3, 6), (6, 12))),
            np.log1p(known_n),
            np.log(np.maximum(share * len(averages), 1e-3)),
        ]
    return np.stack([np.broadcast_to(column, len(averages)) for column in columns], axis=1)


def _frc_cycles(averages: ClassAverages, diameter: float) -> NDArray[np.float64]:
    """Return diameter over where the FRC falls beyond the join, nan where there is none.

    The ranker weighs for itself how much that is worth; so it sees the crossing also where it may be chance, and the
    class has no FRC resolution. Of tables without curves it sees the FRC resolution.
    """
    resolution = averages.get("frc_resolution_angstrom", math.nan)
    if "frc" in averages:
        joined = last_joined_shell(averages.grid, diameter)
        resolution = frc_crossings(torch.from_numpy(np.array(averages["frc"])), averages.grid, joined)
    return np.where(resolution > 0, diameter / np.where(resolution > 0, resolution, 1.0), math.nan)


def _mean_over(averages: ClassAverages, name: str, diameter: float, low: float, high: float) -> NDArray[np.float64]:
    """Return the mean of a spectrum between two frequencies in cycles per diameter, nan where there is none."""
    if name not in averages:
        return np.full(len(averages), math.nan)
    curve = averages[name]
    extent = max(averages.grid.shape) * averages.grid.pixel_size_angstrom
    cycles = np.arange(curve.shape[1]) * diameter / extent
    mine = (cycles >= low) & (cycles < high)
    if not mine.any():
        return np.full(len(averages), math.nan)
    mean: NDArray[np.float64] = curve[:, mine].mean(axis=1)
    return mean


def _against_others(contrast: NDArray[np.float64], is_empty: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return log contrast less the median and the greatest among classes that are not empty."""
    others = contrast[~is_empty] if (~is_empty).any() else contrast
    if not len(others):
        return np.zeros((0, 2))
    against = np.stack([contrast - np.median(others), contrast - others.max()], axis=1)
    return np.clip(against, -5.0, 5.0)


def _moments(images: Images, grid: ImageGrid, disc: Tensor) -> NDArray[np.float64]:
    """Return mean and deviation of the rim, skewness, kurtosis, radial share and distance of the centre of mass."""
    radii = grid.radii()
    rim = disc & (radii > 0.95 * SIDE / 2 * grid.pixel_size_angstrom)
    inside, edge = images[:, disc].double(), images[:, rim].double()
    ring = (radii / grid.pixel_size_angstrom).round().long()
    counts = torch.bincount(ring[disc])
    sums = torch.zeros(len(images), len(counts), dtype=torch.float64).index_add_(1, ring[disc], inside)
    radial = (sums.square() / counts).sum(dim=1) / counts.sum()
    weight = (images.double() - edge.mean(dim=1)[:, None, None]).clamp(min=0.0) * disc
    mass = weight.sum(dim=(1, 2)).clamp(min=_TINY)
    centre = torch.einsum("nyx,yxc->nc", weight, grid.positions()) / mass[:, None]
    columns = [
        edge.mean(dim=1),
        edge.std(dim=1, correction=0),
        inside.pow(3).mean(dim=1).clamp(-5, 5),
        inside.pow(4).mean(dim=1).clamp(max=20).log1p(),
        radial,
        centre.norm(dim=1) / (SIDE / 2 * grid.pixel_size_angstrom),
    ]
    return torch.stack(columns, dim=1).numpy()


def _powers(images: Images, grid: ImageGrid) -> NDArray[np.float64]:
    """Return the log shares of power in four octaves."""
    power = power_spectrum(grid.rfft(images), grid) * shell_counts(grid)
    total = power[:, 1:17].sum(dim=1).clamp(min=_TINY)
    shares = [power[:, low : 2 * low].sum(dim=1) / total for low in (1, 2, 4, 8)]
    return torch.stack(shares, dim=1).clamp(min=1e-6).log().numpy()


def _islands(images: Images, grid: ImageGrid, disc: Tensor) -> NDArray[np.float64]:
    """Return share of the disc, scattered signal, edge signal and log ratio of deviations of the particle's islands."""
    diameter = SIDE * grid.pixel_size_angstrom
    smooth = filters.apply_filter(images, grid, filters.low_pass(grid, diameter / _PARTICLE_CYCLES)).numpy()
    radii = grid.radii().numpy() / (diameter / 2)
    within = disc.numpy()
    rim = within & (radii > 0.95)
    inner = within & (radii <= _INNER_SHARE)
    found = np.empty((len(smooth), 4))
    for number, (image, full) in enumerate(zip(smooth, images.numpy(), strict=True)):
        above = within & (image - np.median(image[rim]) > _ISLAND_DEVIATIONS * image[within].std())
        islands, n_islands = scipy.ndimage.label(above)
        in_middle = np.bincount(islands[inner], minlength=n_islands + 1)
        large = in_middle > _LEAST_ISLAND_SHARE * inner.sum()
        large[0] = False
        particle = large[islands]
        scattered = above & ~particle
        beside = full[within & ~particle]
        ratio = full[particle].std() / max(beside.std(), 0.01) if particle.any() and len(beside) else 0.1
        found[number] = (
            particle.sum() / within.sum(),
            scattered.sum() / (above.sum() + 1.0),
            particle[rim].mean(),
            math.log(max(ratio, 0.1)),
        )
    return found
