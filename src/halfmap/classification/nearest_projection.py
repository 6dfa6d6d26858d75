"""The true projection that a class average shows best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.errors import InputError, ShapeError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import phase_factors
from halfmap.fourier.shells import frc, resolution_at_threshold
from halfmap.geometry.healpix import OrientationGrid
from halfmap.geometry.rotations import matrix_from_rotation_vector
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid
from halfmap.tensors import Images, ImagesRfft, Rotations, Shifts

_VIEWS = OrientationGrid(2)  # 15° apart, refined afterwards
_PSI_STEP_DEGREES = 7.5
_SEARCHED_ELEMENTS = 10  # resolution elements across the mask in the search
_STEPS_PER_ELEMENT = 3
_OFFSET_REACH = 0.1  # of the mask's diameter
_PADDING = 3
_KEPT = 4
_STEPS = 40
_FIRST_TURN_RAD, _FIRST_SHIFT_PIXEL = math.radians(2.0), 0.3
_EDGE_PIXEL = 5.0
_SAMPLES_AT_ONCE = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class NearestProjections:
    """For each class average the true projection with the highest mean FRC; NaN, and structure 0, for blank ones.

    Parameters
    ----------
    frc : float64, shape (n, n_shells), 1 at zero frequency, which is not compared.
    mean_frc : over the compared shells, shape (n,).
    resolution_angstrom : where the curve falls below 0.5, shape (n,).
    structure : number of the map, from 1, shape (n,).
    rotation : of the map, float64, shape (n, 3, 3).
    origin_angstrom : shape (n, 2).
    """

    frc: NDArray[np.float64]
    mean_frc: NDArray[np.float64]
    resolution_angstrom: NDArray[np.float64]
    structure: NDArray[np.int64]
    rotation: NDArray[np.float64]
    origin_angstrom: NDArray[np.float64]


def nearest_projections(
    averages: Images,
    grid: ImageGrid,
    maps: Sequence[Volume],
    *,
    symmetries: Sequence[str],
    mask_diameter_angstrom: float,
    finest_angstrom: float,
) -> NearestProjections:
    """Compare class averages with all projections of the true maps.

    Parameters
    ----------
    averages : real, shape (n, side, side).
    grid : of the averages.
    maps : the structures without the microscope's transfer, in cubes of the images' side and pixel size.
    symmetries : point group of each.
    mask_diameter_angstrom : of the soft disc about the centre that both are multiplied with.
    finest_angstrom : the FRC is averaged over the shells up to here.

    Returns
    -------
    NearestProjections

    Notes
    -----
    The mean FRC does not depend on how an average is filtered, as long as no shell vanishes. All views 15° apart,
    angles in the plane and offsets are compared in the first shells by one matrix product of the whitened
    coefficients; the best few are then refined in all five parameters by gradient steps on the mean FRC of the
    masked images.

    Raises
    ------
    ShapeError
        Maps and averages differ in side or pixel size.
    InputError
        There are no maps, or not one symmetry for each.
    """
    grid.check(averages, "averages")
    if not maps or len(maps) != len(symmetries):
        raise InputError(
            f"There must be one symmetry for each of at least one map; got {len(maps)} maps and {len(symmetries)} "
            "symmetries; name them all."
        )
    for volume in maps:
        if volume.grid.side != grid.side or not math.isclose(
            volume.grid.pixel_size_angstrom, grid.pixel_size_angstrom, rel_tol=1e-3
        ):
            raise ShapeError(
                f"Maps must have the averages' {grid.side} px of {grid.pixel_size_angstrom:g} Å; got "
                f"{volume.grid.side} px of {volume.grid.pixel_size_angstrom:g} Å; rescale them."
            )
    prepared = [slices.prepare(volume.values.float(), volume.grid, _PADDING) for volume in maps]
    mask = soft_disc(grid, mask_diameter_angstrom / 2, _EDGE_PIXEL * grid.pixel_size_angstrom)
    shown = torch.nonzero((averages * mask).flatten(1).any(dim=1)).flatten()
    masked = grid.rfft(averages[shown].float() * mask)
    element_angstrom = max(mask_diameter_angstrom / _SEARCHED_ELEMENTS, finest_angstrom)
    reach = _OFFSET_REACH * mask_diameter_angstrom
    last = min(int(grid.side * grid.pixel_size_angstrom / finest_angstrom), (grid.side - 1) // 2)
    found = [
        _refined(
            transform, mask, masked, grid, last, *_searched(transform, masked, grid, symmetry, element_angstrom, reach)
        )
        for transform, symmetry in zip(prepared, symmetries, strict=True)
    ]
    score = torch.stack([one[0] for one in found])
    structure, every = score.argmax(dim=0), torch.arange(len(shown))
    curve, rotation, origin = (torch.stack([one[part] for one in found])[structure, every] for part in (1, 2, 3))
    curve[:, 0] = 1.0

    def of_all(values: Tensor, blank: float) -> NDArray[Any]:
        full = torch.full((len(averages), *values.shape[1:]), blank, dtype=values.dtype)
        full[shown] = values
        return full.numpy()

    resolution = torch.tensor([resolution_at_threshold(one, grid, 0.5) for one in curve], dtype=torch.float64)
    return NearestProjections(
        frc=of_all(curve, math.nan),
        mean_frc=of_all(score[structure, every], math.nan),
        resolution_angstrom=of_all(resolution, math.nan),
        structure=of_all(1 + structure, 0),
        rotation=of_all(rotation, math.nan),
        origin_angstrom=of_all(origin, math.nan),
    )


def _searched(
    transform: slices.PaddedTransform,
    masked: ImagesRfft,
    grid: ImageGrid,
    symmetry: str,
    element_angstrom: float,
    reach_angstrom: float,
) -> tuple[Rotations, Shifts]:
    """Return the best orientations (n, kept, 3, 3) and origins in Å (n, kept, 2), of different views."""
    shell = int(grid.side * grid.pixel_size_angstrom / element_angstrom)
    band = FourierBand(grid, max_shell=min(max(shell, 1), (grid.side // 2) - 1))
    n_steps = math.ceil(reach_angstrom * _STEPS_PER_ELEMENT / element_angstrom)
    line = torch.linspace(-reach_angstrom, reach_angstrom, 2 * n_steps + 1, dtype=torch.float64)
    origins = torch.cartesian_prod(line, line)
    phases = phase_factors(band.frequencies, origins).to(torch.complex64)
    images = band.as_real(_whitened(band.gather(masked), band)[:, None] * phases)  # (n, offsets, 2K)
    psi = torch.arange(0.0, 360.0, _PSI_STEP_DEGREES, dtype=torch.float64)
    turns = matrix_from_rotation_vector(torch.nn.functional.pad(torch.deg2rad(psi)[:, None], (2, 0)))
    views = _VIEWS.rotations(_VIEWS.direction_numbers(symmetry) * _VIEWS.n_angles)
    best, place = [], []
    for some in views.split(max(1, _SAMPLES_AT_ONCE // len(turns))):
        references = band.as_real(_whitened(slices.extract(transform, turns @ some[:, None], band), band))
        for one in references:  # of each view the best angle and offset
            score = images @ one.T
            value, where = score.flatten(1).max(dim=1)
            best.append(value)
            place.append(where)
    value, view = torch.stack(best).topk(min(_KEPT, len(views)), dim=0)
    where = torch.stack(place).gather(0, view)
    rotation = turns[where % len(turns)] @ views[view]
    return rotation.transpose(0, 1), origins[where // len(turns)].transpose(0, 1)


def _whitened(values: Tensor, band: FourierBand) -> Tensor:
    """Bring every shell to the same power, so that a product over the band adds up correlations."""
    power = band.shell_sum(values.abs().square()).clamp(min=torch.finfo(torch.float32).tiny)
    return values * power.rsqrt().to(values.real.dtype)[..., band.shell_of]


def _refined(
    transform: slices.PaddedTransform,
    mask: Tensor,
    masked: ImagesRfft,
    grid: ImageGrid,
    last: int,
    rotation: Rotations,
    origin: Shifts,
) -> tuple[Tensor, Tensor, Rotations, Shifts]:
    """Return of each average the best mean FRC, its curve, the rotation and the origin."""
    band = FourierBand(grid)
    turn = torch.zeros((*rotation.shape[:2], 3), dtype=torch.float64, requires_grad=True)
    shift = torch.zeros((*rotation.shape[:2], 2), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam(
        [{"params": [turn], "lr": _FIRST_TURN_RAD}, {"params": [shift], "lr": _FIRST_SHIFT_PIXEL}]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS, eta_min=0.0)

    def curves() -> tuple[Tensor, Rotations, Shifts]:
        turned = matrix_from_rotation_vector(turn) @ rotation
        moved = origin + shift * grid.pixel_size_angstrom
        values = slices.extract(transform, turned, band)
        placed = values * phase_factors(band.frequencies, -moved).to(values.dtype)
        image = grid.irfft(band.scatter(placed)) * mask
        return frc(grid.rfft(image), masked[:, None].expand(-1, rotation.shape[1], -1, -1), grid), turned, moved

    for _ in range(_STEPS):
        optimiser.zero_grad()
        loss = -curves()[0][..., 1 : last + 1].mean(dim=-1).sum()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        curve, turned, moved = curves()
    score, best = curve[..., 1 : last + 1].mean(dim=-1).max(dim=1)
    every = torch.arange(len(masked))
    return score, curve[every, best], turned[every, best], moved[every, best]
