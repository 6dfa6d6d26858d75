"""How well a refinement agrees with the truth of simulated particles: poses, maps, and what the halves promise.

A refinement may turn and move the particle: a map that it finds shows at v what the true one shows at M v + c. Both are
fitted to the poses, and the truth is brought there, so that no found map is ever interpolated.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.errors import ShapeError
from halfmap.fourier import shells
from halfmap.fourier.resample import shift
from halfmap.geometry.rotations import angular_distance_degrees
from halfmap.geometry.symmetric_volumes import rotate_volume
from halfmap.geometry.symmetry import distance_degrees, operators
from halfmap.postprocessing.half_map_fsc import HalfMapFsc, check_same_grid, half_map_fsc
from halfmap.refinement.decisions import join_shell
from halfmap.tensors import Rotations, Volumes

CERTAIN, DOUBTFUL = 0.95, 0.3
"""FSC with the truth between which what the halves promise is compared with it."""

LEAST_KEPT_OF_REFERENCE = 0.75
"""`kept_of_reference` below which a map has left its reference; an ellipsoid keeps 0.6, the low-passed truth 0.9."""

_CANDIDATES = 200
_STEPS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """Where a refinement has put the particle: its map at v is the true one at M v + c.

    Parameters
    ----------
    rotation : M, float64, shape (3, 3).
    centre_angstrom : c, (x, y, z), float64, shape (3,).
    """

    rotation: Rotations
    centre_angstrom: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class PoseErrors:
    """Errors of every particle in the frame of the refinement, shape (n,) each.

    Parameters
    ----------
    angle_degrees : smallest over the symmetry.
    shift_angstrom : distance of the origins.
    """

    angle_degrees: NDArray[np.float64]
    shift_angstrom: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class MapAgreement:
    """Half-maps against each other and their mean against the truth, under one mask.

    Parameters
    ----------
    halves : correlations of the half-maps.
    truth : FSC of the mean of the half-maps with the truth, both masked, float64, shape (n_shells,).
    promised : √(2F / (1 + F)), F the corrected FSC of the half-maps, float64, shape (n_shells,).
    compared : shells beyond the join where ``truth`` lies between `CERTAIN` and `DOUBTFUL`, bool, shape (n_shells,).
    """

    halves: HalfMapFsc
    truth: Tensor
    promised: Tensor
    compared: Tensor

    @property
    def resolution_angstrom(self) -> float:
        """Where the FSC with the truth falls below 0.5."""
        return shells.resolution_at_threshold(self.truth, self.halves.grid, 0.5)

    @property
    def calibration(self) -> tuple[float, float]:
        """Mean and largest |promised − truth| over the compared shells; nan where there is none."""
        apart = (self.promised - self.truth).abs()[self.compared]
        return (float(apart.mean()), float(apart.max())) if len(apart) else (math.nan, math.nan)


def fitted_frame(
    true_rotation: ArrayLike,
    true_origin_angstrom: ArrayLike,
    rotation: ArrayLike,
    origin_angstrom: ArrayLike,
    symmetry: str,
) -> Frame:
    """Fit the frame of a refinement to its poses.

    Parameters
    ----------
    true_rotation, rotation : shape (n, 3, 3).
    true_origin_angstrom, origin_angstrom : shape (n, 2).
    symmetry : point group of the truth, about its centre.

    Returns
    -------
    `Frame`

    Raises
    ------
    ShapeError
        The arrays are not over the same particles, or over none.

    Notes
    -----
    A particle of orientation A, seen where the truth has A', gives M = (A' S)ᵀ A for an operator S. Of the M of up to
    200 particles the one with the smallest median angle between A Mᵀ and A' wins; then M is the chordal mean over the
    particles nearer than twice the median, five times over. Origins then differ by (A' S c)_xy, from which c follows by
    least squares over the same particles; of c what the operators leave is kept: on the axis of C, 0 for D, T, O and I.
    """
    true, found = _tensor(true_rotation), _tensor(rotation)
    offset = _tensor(true_origin_angstrom) - _tensor(origin_angstrom)
    if len(true) == 0 or true.shape != found.shape or offset.shape != (len(true), 2):
        raise ShapeError(
            "True and found poses must be of the same particles, one or more; got rotations of shapes "
            f"{tuple(true.shape)} and {tuple(found.shape)} and origins of {tuple(offset.shape)}."
        )
    some = torch.arange(0, len(true), max(1, len(true) // _CANDIDATES))
    candidates = true[some].mT @ found[some]
    medians = torch.stack([distance_degrees(found @ one.mT, true, symmetry).median() for one in candidates])
    turn = candidates[medians.argmin()]
    for _ in range(_STEPS):
        equivalent = _nearest_equivalents(true, found @ turn.mT, symmetry)
        apart = angular_distance_degrees(found @ turn.mT, equivalent)
        near = apart <= 2 * apart.median() + 1e-9
        turn = _nearest_rotation((equivalent[near].mT @ found[near]).mean(0))
    rows = equivalent[near, :2].reshape(-1, 3)
    centre = torch.linalg.lstsq(rows, offset[near].reshape(-1, 1), driver="gelsd").solution[:, 0]
    return Frame(rotation=turn, centre_angstrom=operators(symmetry).mean(0) @ centre)


def pose_errors(
    frame: Frame,
    true_rotation: ArrayLike,
    true_origin_angstrom: ArrayLike,
    rotation: ArrayLike,
    origin_angstrom: ArrayLike,
    symmetry: str,
) -> PoseErrors:
    """Return how far poses lie from the true ones, in the frame of the refinement; parameters as of `fitted_frame`."""
    true, found = _tensor(true_rotation), _tensor(rotation)
    in_true_frame = found @ frame.rotation.mT
    equivalent = _nearest_equivalents(true, in_true_frame, symmetry)
    moved = np.asarray(true_origin_angstrom) - (equivalent[:, :2] @ frame.centre_angstrom).numpy()
    return PoseErrors(
        angle_degrees=angular_distance_degrees(in_true_frame, equivalent).numpy(),
        shift_angstrom=np.linalg.norm(np.asarray(origin_angstrom) - moved, axis=1),
    )


def in_frame(truth: Volume, frame: Frame) -> Volume:
    """Return the true map as the refinement sees it: at v the truth at M v + c."""
    moved = shift(truth.values.double(), truth.grid, -frame.centre_angstrom)
    return Volume(values=rotate_volume(moved.float(), truth.grid, frame.rotation), grid=truth.grid)


def map_agreement(
    half1: Volume, half2: Volume, truth: Volume, mask: Volume, *, join_resolution_angstrom: float
) -> MapAgreement:
    """Compare half-maps with each other and with the truth.

    Parameters
    ----------
    half1, half2 : unregularised.
    truth : in the frame of the refinement, on the same grid.
    mask : made from the truth, so that it knows nothing of the half-maps.
    join_resolution_angstrom : up to which the halves were joined.

    Raises
    ------
    InconsistentDataError
        Sides or pixel sizes differ.

    References
    ----------
    Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721, for √(2F / (1 + F)).
    """
    check_same_grid(truth, half1, "The truth", "the half maps")
    grid = half1.grid
    found = half_map_fsc(half1, half2, mask)
    joined = half1.values.double() + half2.values.double()
    with_truth = shells.fsc(_masked_rfft(joined, mask), _masked_rfft(truth.values.double(), mask), grid)
    known = found.corrected.clamp(min=0.0)
    join = join_shell(join_resolution_angstrom, 0.0, max(grid.shape) * grid.pixel_size_angstrom)
    beyond = torch.arange(shells.n_shells(grid)) > join
    return MapAgreement(
        halves=found,
        truth=with_truth,
        promised=(2 * known / (1 + known)).sqrt(),
        compared=beyond & (with_truth <= CERTAIN) & (with_truth >= DOUBTFUL),
    )


def kept_of_reference(reference: Volume, found: Volume, low_pass_angstrom: float) -> float:
    """Return how far a refined map still shows the reference that it began with.

    Parameters
    ----------
    reference, found : on the same grid; their grey scales may differ.
    low_pass_angstrom : of the reference.

    Returns
    -------
    Mean FSC over the upper half of the shells that the low-passed reference had.

    Notes
    -----
    Only about the size and place of the particle does nearly any map agree, in the lowest shells; a hollow particle has
    shells where it has nearly no power, so that one shell alone says little.
    """
    check_same_grid(found, reference, "the map", "the reference")
    grid = reference.grid
    last = max(1, round(grid.side * grid.pixel_size_angstrom / low_pass_angstrom))
    curve = shells.fsc(grid.rfft(reference.values.double()), grid.rfft(found.values.double()), grid)
    return float(curve[last // 2 + 1 : last + 1].mean())


def _tensor(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float64).copy())


def _nearest_equivalents(true: Tensor, found: Tensor, symmetry: str) -> Tensor:
    """Return for each found orientation the nearest of the true one's equivalents A' S, shape (n, 3, 3)."""
    equivalents = true[:, None] @ operators(symmetry)
    nearest = angular_distance_degrees(found[:, None], equivalents).argmin(1)
    return equivalents[torch.arange(len(true)), nearest]


def _nearest_rotation(matrix: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(matrix)
    signs = torch.ones(3, dtype=matrix.dtype)
    signs[2] = torch.det(left @ right)
    return left @ torch.diag(signs) @ right


def _masked_rfft(values: Volumes, mask: Volume) -> Tensor:
    return mask.grid.rfft(values * mask.values.double())
