"""How well a 2D classification agrees with the truth of simulated particles.

All functions take arrays over the same particles in the same order; class numbers count from 1, and 0 means that a
particle is in no class. Views v and −v of a structure are each
other's mirror images; no rotation in the plane brings them together, so they are different views here, unless
an operator of the structure's symmetry relates them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.errors import InputError, ShapeError
from halfmap.geometry.rotations import (
    angular_distance_degrees,
    matrix_from_rotation_vector,
    rotation_vector_from_matrix,
    viewing_direction,
)
from halfmap.geometry.symmetry import operators

JUNK = 0
"""The structure of images that show none."""

_FIRST_GUESSES = 128
_MOST_STEPS = 50
_SETTLED_RAD = 1e-7
_SMALLEST_DISTANCE = 1e-3  # of the weights of a median, in degrees or Å


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What particles really show.

    Parameters
    ----------
    structure : whole numbers, shape (n,): `JUNK` for images of nothing wanted, else from 1.
    rotation : float64, shape (n, 3, 3).
    origin_angstrom : float64, shape (n, 2).
    symmetries : point group of each structure, the first for number 1.

    Raises
    ------
    ShapeError
        The arrays are not over the same particles.
    InputError
        A structure has no symmetry.
    """

    structure: NDArray[np.int64]
    rotation: NDArray[np.float64]
    origin_angstrom: NDArray[np.float64]
    symmetries: Sequence[str]

    def __post_init__(self) -> None:
        n = len(self.structure)
        if self.rotation.shape != (n, 3, 3) or self.origin_angstrom.shape != (n, 2):
            raise ShapeError(
                f"Rotations and origins of {n} particles must have shapes ({n}, 3, 3) and ({n}, 2); got "
                f"{self.rotation.shape} and {self.origin_angstrom.shape}."
            )
        if n and not 0 <= int(self.structure.min()) <= int(self.structure.max()) <= len(self.symmetries):
            raise InputError(
                f"Structures must be 0 to {len(self.symmetries)}, one symmetry each; got {int(self.structure.min())} "
                f"to {int(self.structure.max())}; name the symmetry of every structure."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class PoseErrors:
    """Errors of every particle against the consensus of its class, shape (n,) each.

    Parameters
    ----------
    in_plane_degrees : turn about the beam, 0 to 180.
    shift_angstrom : distance in the plane.
    """

    in_plane_degrees: NDArray[np.float64]
    shift_angstrom: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class JunkSeparation:
    """How well classes keep junk from particles.

    Parameters
    ----------
    precision, recall : of "its class is mostly junk" as a test for junk; NaN where nothing is called junk, or
        nothing is.
    area_under_curve : probability that an image of junk lies in a class with a greater share of junk than a
        particle does, ties counted half; NaN without junk or without particles.
    """

    precision: float
    recall: float
    area_under_curve: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where either is 0 or unknown."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total > 0 else 0.0


def majority(truth: Truth, class_number: ArrayLike) -> dict[int, int]:
    """Return for each occupied class the structure, or `JUNK`, that most of its images show."""
    numbers = _numbers(truth, class_number)
    found = {}
    for number in np.unique(numbers[numbers > 0]):
        counts = np.bincount(truth.structure[numbers == number], minlength=1 + len(truth.symmetries))
        found[int(number)] = int(counts.argmax())
    return found


def purity(truth: Truth, class_number: ArrayLike) -> float:
    """Return the share of images that show what most images of their class show; junk counts as a structure."""
    numbers = _numbers(truth, class_number)
    most = majority(truth, numbers)
    return float(
        np.mean([most.get(int(number)) == what for number, what in zip(numbers, truth.structure, strict=True)])
    )


def junk_separation(truth: Truth, class_number: ArrayLike) -> JunkSeparation:
    """Measure how far junk and particles lie in different classes."""
    numbers = _numbers(truth, class_number)
    is_junk = truth.structure == JUNK
    _, place = np.unique(numbers, return_inverse=True)
    sizes = np.bincount(place)
    share = np.bincount(place, weights=is_junk) / sizes
    called = (share > 0.5)[place]
    right = float(np.sum(called & is_junk))
    return JunkSeparation(
        precision=right / called.sum() if called.any() else math.nan,
        recall=right / is_junk.sum() if is_junk.any() else math.nan,
        area_under_curve=_area_under_curve(share[place], is_junk),
    )


def effective_number(sizes: ArrayLike) -> float:
    """Return exp(−Σ p ln p) of class sizes or fractions p; K for K equal classes, 1 for a single one."""
    values = np.asarray(sizes, dtype=np.float64)
    p = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def view_spread_degrees(truth: Truth, class_number: ArrayLike) -> NDArray[np.float64]:
    """Return the angle between each particle's view and the mean view of its class.

    Parameters
    ----------
    class_number : whole numbers, shape (n,).

    Returns
    -------
    float64, shape (n,)
        Degrees, over the symmetry's equivalent views the smallest. Infinite for a particle in no class, or in one of
        another structure or of junk; NaN for junk. A median leaves NaN out and counts the infinite ones.
    """
    found = _blank(truth)
    for rows, symmetry in _members(truth, class_number):
        group = operators(symmetry)
        views = viewing_direction(_tensor(truth.rotation[rows]))
        found[rows] = _angle_to(_mean_view(views, group), views, group).numpy()
    return found


def pose_errors(
    truth: Truth, class_number: ArrayLike, rotation: NDArray[np.float64], origin_angstrom: NDArray[np.float64]
) -> PoseErrors:
    """Return errors of in-plane angles and offsets against the consensus of each class.

    Parameters
    ----------
    class_number : shape (n,).
    rotation : shape (n, 3, 3), about the beam: the class average appears in the image turned by it.
    origin_angstrom : shape (n, 2).

    Returns
    -------
    PoseErrors
        Infinite and NaN as in `view_spread_degrees`.

    Notes
    -----
    Turned back by its found pose, a particle shows its structure in the orientation Z⁻¹ A with its centre at
    Z⁻¹ (found − true origin). A class average has no angle or centre of its own, so the consensus is fitted:
    the medoid of the orientations, refined to their median on the group of rotations (Weiszfeld's steps), where
    each particle counts with that equivalent under the symmetry that is nearest; and the geometric median of
    the centres. The in-plane error is the turn about the beam in the rotation that leads from the consensus to
    the particle (swing and twist), so the spread of views within a class does not enter it.
    """
    angle, distance = _blank(truth), _blank(truth)
    turned_back = _tensor(rotation).mT
    orientation = turned_back @ _tensor(truth.rotation)
    centre = (turned_back[:, :2, :2] @ _tensor(origin_angstrom - truth.origin_angstrom)[..., None])[..., 0]
    for rows, symmetry in _members(truth, class_number):
        group = operators(symmetry)
        consensus = _median_orientation(orientation[rows], group)
        relative = _nearest_equivalents(orientation[rows], consensus, group) @ consensus.mT
        twist = torch.atan2(relative[:, 1, 0] - relative[:, 0, 1], relative[:, 0, 0] + relative[:, 1, 1])
        angle[rows] = torch.rad2deg(twist.abs()).numpy()
        distance[rows] = (centre[rows] - _geometric_median(centre[rows])).norm(dim=-1).numpy()
    return PoseErrors(in_plane_degrees=angle, shift_angstrom=distance)


def partition_of_views(truth: Truth, n_classes: int, *, seed: int = 1) -> NDArray[np.int64]:
    """Divide the particles by their true views into compact classes, the best that a classification could do.

    Parameters
    ----------
    n_classes : of all structures together; each gets its share by the number of its particles, at least one.
    seed : of the first centres.

    Returns
    -------
    int64, shape (n,)
        Class numbers from 1; junk is in class 0.

    Notes
    -----
    k-means on the sphere modulo the symmetry (Lloyd's steps), from centres drawn far from one another.

    Raises
    ------
    InputError
        There are fewer classes than structures.
    """
    present = [number for number in range(1, len(truth.symmetries) + 1) if (truth.structure == number).any()]
    if n_classes < len(present):
        raise InputError(
            f"There must be a class for each of {len(present)} structures; got {n_classes}; ask for more classes."
        )
    numbers = np.zeros(len(truth.structure), dtype=np.int64)
    left, particles = n_classes, int(np.isin(truth.structure, present).sum())
    for place, structure in enumerate(present):
        rows = np.flatnonzero(truth.structure == structure)
        waiting = len(present) - place - 1
        mine = min(max(round(left * len(rows) / particles), 1), left - waiting)
        group = operators(truth.symmetries[structure - 1])
        views = viewing_direction(_tensor(truth.rotation[rows]))
        numbers[rows] = 1 + (n_classes - left) + _k_means(views, mine, group, seed)
        left, particles = left - mine, particles - len(rows)
    return numbers


def _numbers(truth: Truth, class_number: ArrayLike) -> NDArray[np.int64]:
    numbers = np.asarray(class_number, dtype=np.int64)
    if numbers.shape != truth.structure.shape:
        raise ShapeError(
            f"There must be one class number for each of {len(truth.structure)} particles; got {numbers.shape}."
        )
    return numbers


def _tensor(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))  # columns of tables are read-only, tensors are not


def _blank(truth: Truth) -> NDArray[np.float64]:
    return np.where(truth.structure == JUNK, math.nan, math.inf)


def _members(truth: Truth, class_number: ArrayLike) -> list[tuple[NDArray[np.int64], str]]:
    """Return for each class of a structure the rows of that structure in it, and the structure's symmetry."""
    numbers = _numbers(truth, class_number)
    return [
        (np.flatnonzero((numbers == number) & (truth.structure == structure)), truth.symmetries[structure - 1])
        for number, structure in majority(truth, numbers).items()
        if structure != JUNK
    ]


def _area_under_curve(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Return the area under the receiver's curve, from the mean ranks of equal scores (Mann and Whitney 1947)."""
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return math.nan
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((rank[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _equivalents(views: Tensor, group: Tensor) -> Tensor:
    """Return the views of all equivalent orientations, (n, g, 3): third rows of A S."""
    return torch.einsum("ni,gij->ngj", views, group)


def _angle_to(view: Tensor, views: Tensor, group: Tensor) -> Tensor:
    """Return the smallest angles in degrees between views and one view (3,), or several (k, 3): (n,) or (n, k)."""
    equivalents = _equivalents(views, group)
    chord = (equivalents[:, :, None] - view.reshape(-1, 3)).norm(dim=-1).amin(dim=1) / 2.0
    degrees = torch.rad2deg(2.0 * torch.asin(chord.clamp(max=1.0)))
    return degrees[:, 0] if view.ndim == 1 else degrees


def _some(values: Tensor) -> Tensor:
    """Return at most so many of the values, evenly spread over them."""
    return values[torch.linspace(0, len(values) - 1, min(len(values), _FIRST_GUESSES)).long()]


def _mean_view(views: Tensor, group: Tensor) -> Tensor:
    """Return the mean of views, each moved to its equivalent nearest to the mean; begun at their medoid."""
    guesses = _some(views)
    mean = guesses[_angle_to(guesses, views, group).sum(dim=0).argmin()]
    for _ in range(_MOST_STEPS):
        last = mean
        mean = _step_of_mean(views, mean, group)
        if float((mean - last).norm()) < _SETTLED_RAD:
            break
    return mean


def _step_of_mean(views: Tensor, mean: Tensor, group: Tensor) -> Tensor:
    equivalents = _equivalents(views, group)
    nearest = (equivalents @ mean).argmax(dim=1)
    return torch.nn.functional.normalize(equivalents[torch.arange(len(views)), nearest].sum(dim=0), dim=0)


def _k_means(views: Tensor, n_classes: int, group: Tensor, seed: int) -> NDArray[np.int64]:
    chance = keyed_random.uniform(seed, "first centres of a partition", np.arange(n_classes))
    centres = views[int(chance[0] * len(views))][None]
    for quantile in chance[1:]:  # each next one by chance, in proportion to the squared distance (k-means++)
        weight = _angle_to(centres, views, group).amin(dim=1).square().cumsum(dim=0)
        chosen = min(int(torch.searchsorted(weight, quantile * weight[-1])), len(views) - 1)
        centres = torch.cat([centres, views[chosen][None]])
    label = torch.full((len(views),), -1)
    for _ in range(_MOST_STEPS):
        last, label = label, _angle_to(centres, views, group).argmin(dim=1)
        if bool((label == last).all()):
            break
        centres = torch.stack(
            [
                _step_of_mean(views[label == k], centre, group) if bool((label == k).any()) else centre
                for k, centre in enumerate(centres)
            ]
        )
    return label.numpy()


def _nearest_equivalents(orientations: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """Return A S with that S of the group that brings each orientation nearest to the target."""
    traces = torch.einsum("nij,gjk,ik->ng", orientations, group, target)
    return orientations @ group[traces.argmax(dim=1)]


def _median_orientation(orientations: Tensor, group: Tensor) -> Tensor:
    """Return the orientation with the least sum of angles to the nearest equivalents of all."""
    guesses = _some(orientations)
    traces = torch.einsum("nij,gjk,mik->nmg", orientations, group, guesses).amax(dim=-1)
    median = guesses[torch.acos(((traces - 1.0) / 2.0).clamp(-1.0, 1.0)).sum(dim=0).argmin()]
    for _ in range(_MOST_STEPS):
        nearest = _nearest_equivalents(orientations, median, group)
        weight = 1.0 / angular_distance_degrees(median, nearest).clamp(min=_SMALLEST_DISTANCE)
        step = (rotation_vector_from_matrix(nearest @ median.mT) * weight[:, None]).sum(dim=0) / weight.sum()
        median = matrix_from_rotation_vector(step) @ median
        if float(step.norm()) < _SETTLED_RAD:
            break
    return median


def _geometric_median(points: Tensor) -> Tensor:
    """Return the point with the least sum of distances (Weiszfeld 1937)."""
    median = points.median(dim=0).values
    for _ in range(_MOST_STEPS):
        weight = 1.0 / (points - median).norm(dim=-1).clamp(min=_SMALLEST_DISTANCE)
        last, median = median, (points * weight[:, None]).sum(dim=0) / weight.sum()
        if float((median - last).norm()) < _SETTLED_RAD:
            break
    return median
