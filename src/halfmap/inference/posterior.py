"""The posterior over poses: a coarse pass as a matrix product, then a fine one where it matters."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from halfmap.compute.memory import plan_chunks
from halfmap.errors import ComputeError, InputError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import phase_factors
from halfmap.fourier.slices import PaddedTransform
from halfmap.grid import ImageGrid
from halfmap.inference import sparse
from halfmap.inference.sampling import PoseGrid
from halfmap.inference.sparse import PoseList, WeightedPoses
from halfmap.tensors import BandValues

_SCORES_AT_ONCE = 1 << 22
"""Scores of the coarse pass that are held at one time: 16 MiB stay in the cache of a CPU."""

_SLICE_BYTES = 1 << 28
"""Memory for the fine slices of some classes and the sums over them."""

POSES_AT_ONCE = 1 << 18
"""Coarse poses that are refined at one time: so many that fine slices, made anew each time, cost little beside them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """Where images are compared with references, and how closely.

    Parameters
    ----------
    poses : the grid of rotations and shifts.
    min_shell : first shell that is compared.
    coarse_shell, fine_shell : last shells that the coarse and the fine pass compare.
    shell : last shell of the sums, at least that of the fine pass.
    kept_mass : share of the posterior that the coarse pass hands on, and the fine one to the sums.
    max_kept : most samples of an image that the coarse pass hands on; 0: any number.

    Raises
    ------
    InputError
        The shells are out of order.
    """

    poses: PoseGrid
    min_shell: int = 1
    coarse_shell: int
    fine_shell: int
    shell: int
    kept_mass: float = 0.999
    max_kept: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.min_shell <= self.coarse_shell <= self.fine_shell <= self.shell:
            raise InputError(
                "Shells of a search must be in order from 1 on: first, last of the coarse and of the fine pass, last; "
                f"got {self.min_shell}, {self.coarse_shell}, {self.fine_shell} and {self.shell}."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Priors:
    """What is expected of classes and offsets before an image is seen.

    Parameters
    ----------
    fractions : of the classes, float64, shape (C,), with sum 1.
    offset_sigma_angstrom : spread of the origins along one axis.
    prior_offset_angstrom : mean origin of each class, float64, shape (C, 2).
    """

    fractions: Tensor
    offset_sigma_angstrom: float
    prior_offset_angstrom: Tensor

    def log_class(self) -> Tensor:
        """Return log fractions, minus infinity for an empty class."""
        return self.fractions.double().log()

    def log_offset(self, origins_angstrom: Tensor, area_angstrom2: float) -> Tensor:
        """Return the log probability of the cell around each origin, for each class.

        Parameters
        ----------
        origins_angstrom : float64, shape (..., 2).
        area_angstrom2 : of the cell.

        Returns
        -------
        float64, shape (..., C)
        """
        variance = self.offset_sigma_angstrom**2
        distance = (origins_angstrom[..., None, :] - self.prior_offset_angstrom).square().sum(-1)
        return math.log(area_angstrom2 / (2 * math.pi * variance)) - distance / (2 * variance)


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedImages:
    """Images on a band, weighted by transfer and noise.

    Parameters
    ----------
    masked, whole : s C X / σ² with and without the mask, float32, shape (n, K, 2).
    power : s² C² / σ², float32, shape (n, K).
    constant : float64, shape (n,): what does not depend on the reference, −½ Σ |X|²/σ² − Σ log 2πσ².
    centre_angstrom : float64, shape (n, 2): the origin that the images have been shifted by already.
    """

    masked: Tensor
    whole: Tensor
    power: Tensor
    constant: Tensor
    centre_angstrom: Tensor

    def take(self, images: slice) -> "WeightedImages":
        """Return some of the images."""
        return WeightedImages(
            masked=self.masked[images],
            whole=self.whole[images],
            power=self.power[images],
            constant=self.constant[images],
            centre_angstrom=self.centre_angstrom[images],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """References of which slices are taken, all classes at the same rotations.

    Parameters
    ----------
    transform : of C images, or of one volume.
    band : of the images; its prefixes are those of the passes.
    """

    transform: PaddedTransform
    band: FourierBand

    @property
    def n_classes(self) -> int:
        """Number C of references."""
        return self.transform.values.shape[0] if self.transform.grid.grid.ndim == 2 else 1

    def take(self, classes: slice, rotations: Tensor, shell: int) -> BandValues:
        """Return slices of some classes up to a shell, complex64, shape (classes · R, K), class by class."""
        band = self.band.head(shell)
        transform = PaddedTransform(values=self.transform.values[classes], grid=self.transform.grid)
        return slices.extract(transform, rotations, band).reshape(-1, len(band))


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """What an E-step finds for each of n images.

    Parameters
    ----------
    poses : fine poses with weights that sum to 1 for each image; the row of class c and fine rotation r is
        c · (number of fine rotations) + r.
    best_row, best_shift : int64, shape (n,): the most probable fine pose.
    max_probability : float64, shape (n,): of that pose, among all that the fine pass scored.
    log_likelihood : float64, shape (n,): log p(X), over all poses, the pruned ones estimated by the coarse pass.
    n_significant : int64, shape (n,): coarse poses kept.
    lost_mass : float64, shape (n,): share of the posterior that both prunings left out.
    """

    poses: WeightedPoses
    best_row: Tensor
    best_shift: Tensor
    max_probability: Tensor
    log_likelihood: Tensor
    n_significant: Tensor
    lost_mass: Tensor


def class_blocks(n_classes: int, n_rotations: int, n_coefficients: int) -> list[slice]:
    """Divide classes so that the slices of one part, and the sums over them, stay within bounds."""
    bytes_each = n_rotations * n_coefficients * 20
    return plan_chunks(n_classes, max(1, _SLICE_BYTES // bytes_each))


def bytes_of_posteriors(
    grid: ImageGrid, n_images: int, n_classes: int, poses: PoseGrid, *, coarse_shell: int, most_kept: int
) -> int:
    """Return the most memory that `posteriors` and the sums over one of its parts need beside images and references.

    Parameters
    ----------
    grid : of the images.
    n_images, n_classes : numbers of them.
    poses : they are compared at.
    coarse_shell : last that the coarse pass compares.
    most_kept : samples of an image that the coarse pass hands on.

    Notes
    -----
    Counted are: coarse slices three times over (as extracted, as real numbers, squares) and three arrays of scores;
    coarse poses as two numbers, twice; of each pose of a part 100 bytes, and 72 for each fine one within it (score, log
    prior, and where it is kept its place, weight, and order); fine slices and sums over them.
    """
    band = FourierBand(grid)
    coarse = n_classes * poses.n_rotations * len(band.head(coarse_shell)) * 28
    scores = 3 * 4 * max(_SCORES_AT_ONCE, n_classes * poses.n_rotations * poses.n_shifts)
    each = min(most_kept, n_classes * poses.n_rotations * poses.n_shifts)
    kept = 32 * n_images * each
    part = min(n_images * each, max(POSES_AT_ONCE, each))
    fine = part * (100 + 72 * poses.children_rotations * poses.children_shifts)
    block = class_blocks(n_classes, len(poses.fine_rotations), len(band))[0].stop
    slices_and_sums = block * len(poses.fine_rotations) * len(band) * 28
    return kept + max(coarse + scores, fine + slices_and_sums)


def posteriors(
    images: WeightedImages, references: References, priors: Priors, search: Search
) -> Iterator[tuple[slice, Posterior]]:
    """Find the posterior over class, rotation and shift of images.

    Parameters
    ----------
    images : on the band of the references, up to the search's last shell at least.
    references : C classes.
    priors : of classes and offsets.
    search : grids, shells and pruning.

    Yields
    ------
    images : consecutive ones, as many as keep the poses of one part within bounds.
    found : their posterior.

    Raises
    ------
    ComputeError
        The scores of an image are not finite.

    Notes
    -----
    The coarse pass scores every class, rotation and shift on the shells up to ``coarse_shell``; the
    smallest set that holds ``kept_mass`` of the posterior is refined on the shells up to ``fine_shell``. Priors
    are exact on both grids. Scheres 2012, J. Struct. Biol. 180, 519, equations 4 and 5; RELION inherits the coarse
    prior and leaves weights that sum to the kept mass.
    """
    if search.poses.one_each:
        yield (
            slice(0, len(images.power)),
            _fine(images, references, priors, search, *_given_rotations(images, references, search)),
        )
        return
    poses, kept_share = _coarse(images, references, priors, search)
    for part in _parts(poses, POSES_AT_ONCE):
        yield part, _fine(images.take(part), references, priors, search, poses.of_images(part), kept_share[part])


def _parts(poses: PoseList, most: int) -> list[slice]:
    """Divide images into runs of no more than so many poses each, or of a single image."""
    first = poses.first.tolist()
    bounds = [0]
    for image in range(1, poses.n_images):
        if first[image + 1] - first[bounds[-1]] > most:
            bounds.append(image)
    return [slice(start, stop) for start, stop in pairwise([*bounds, poses.n_images])]


def _fine(
    images: WeightedImages, references: References, priors: Priors, search: Search, poses: PoseList, kept_share: Tensor
) -> Posterior:
    scores = torch.zeros((len(poses.row), search.poses.children_rotations, search.poses.children_shifts))
    scores = scores.to(images.power.device)
    factors = phase_factors(references.band.head(search.shell).frequencies, search.poses.fine_shifts_angstrom).to(
        torch.complex64
    )
    used = slice(_first_coefficient(references.band, search), len(references.band.head(search.fine_shell)))
    masked, power = images.masked[:, used], images.power[:, used]
    for block, fine in fine_slices(references, search):
        sparse.score_children(
            poses,
            masked,
            power,
            fine[:, used],
            factors[:, used],
            scores,
            first_row=block.start * search.poses.n_rotations,
        )
    return _normalised(images, poses, scores, kept_share, priors, search)


def fine_slices(references: References, search: Search) -> Iterator[tuple[slice, BandValues]]:
    """Yield blocks of classes and their slices at the fine rotations, complex64, shape (classes · R · J, K)."""
    band = references.band.head(search.shell)
    for block in class_blocks(references.n_classes, len(search.poses.fine_rotations), len(band)):
        yield block, references.take(block, search.poses.fine_rotations, search.shell)


def coarse_scores(images: WeightedImages, references: References, search: Search) -> Iterator[tuple[slice, Tensor]]:
    """Score images against all references at all coarse poses.

    Yields
    ------
    rows : of the images.
    scores : float32, shape (images, T, C · R), without priors.
    """
    band = references.band.head(search.coarse_shell)
    used = slice(_first_coefficient(references.band, search), len(band))
    rows = references.take(slice(0, references.n_classes), search.poses.rotations, search.coarse_shell)[:, used]
    paired = torch.view_as_real(rows.contiguous()).flatten(1)
    squares = rows.real.square() + rows.imag.square()
    factors = phase_factors(band.frequencies[used], search.poses.shifts_angstrom).to(torch.complex64)
    n, T = len(images.power), search.poses.n_shifts
    for part in plan_chunks(n, max(1, _SCORES_AT_ONCE // (T * len(rows)))):
        masked = torch.view_as_complex(images.masked[part, used])
        shifted = torch.view_as_real(masked[:, None] * factors).flatten(2).flatten(0, 1)
        cross = (shifted @ paired.T).view(-1, T, len(rows))
        norm = images.power[part, used] @ squares.T
        yield part, cross.sub_(norm.mul_(0.5)[:, None])


def _first_coefficient(band: FourierBand, search: Search) -> int:
    return len(band.head(search.min_shell - 1)) if search.min_shell > 1 else 0


def _coarse(images: WeightedImages, references: References, priors: Priors, search: Search) -> tuple[PoseList, Tensor]:
    grid = search.poses
    area = grid.shift_area_angstrom2 * grid.children_shifts
    log_class = priors.log_class() - math.log(grid.n_rotations)
    n_rows = references.n_classes * grid.n_rotations
    rows, shifts, counts, shares = [], [], [], []
    for part, scores in coarse_scores(images, references, search):
        origins = images.centre_angstrom[part, None] + grid.shifts_angstrom
        prior = (priors.log_offset(origins, area) + log_class).float()
        scores.view(*scores.shape[:2], references.n_classes, -1).add_(prior[..., None])
        n_each = scores.shape[1] * n_rows
        first = torch.arange(len(scores) + 1, device=scores.device) * n_each
        kept, facts = sparse.keep_mass(first, scores.reshape(-1), search.kept_mass, search.max_kept)
        _check(facts)
        image, flat = torch.nonzero(kept.view(len(scores), n_each), as_tuple=True)
        shift, row = flat // n_rows, flat % n_rows
        order = torch.argsort(image * n_each + row * grid.n_shifts + shift)
        rows.append(row[order])
        shifts.append(shift[order])
        counts.append(torch.bincount(image, minlength=len(scores)))
        shares.append(facts[:, 2])
    first = torch.cat([torch.zeros(1, dtype=torch.int64, device=counts[0].device), torch.cat(counts).cumsum(0)])
    return PoseList(first=first, row=torch.cat(rows), shift=torch.cat(shifts)), torch.cat(shares)


def _given_rotations(images: WeightedImages, references: References, search: Search) -> tuple[PoseList, Tensor]:
    """Return all classes and shifts of each image at the rotation of its own: so few need no first pass."""
    n, device = len(images.power), images.power.device
    C, T = references.n_classes, search.poses.n_shifts
    image = torch.arange(n, device=device)
    rows = torch.arange(C, device=device) * n + image[:, None]
    return (
        PoseList(
            first=torch.arange(n + 1, device=device) * (C * T),
            row=rows.repeat_interleave(T, dim=1).flatten(),
            shift=torch.arange(T, device=device).repeat(n * C),
        ),
        torch.ones(n, dtype=torch.float64, device=device),
    )


def _normalised(
    images: WeightedImages, poses: PoseList, scores: Tensor, kept_share: Tensor, priors: Priors, search: Search
) -> Posterior:
    grid = search.poses
    J, M = scores.shape[1:]
    image = poses.image()
    classes = poses.row // grid.n_rotations
    shifts = poses.shift[:, None] * M + torch.arange(M, device=poses.shift.device)
    origins = images.centre_angstrom[image, None] + grid.fine_shifts_angstrom[shifts]
    variance = priors.offset_sigma_angstrom**2
    distance = (origins - priors.prior_offset_angstrom[classes, None]).square().sum(-1)
    log_prior = math.log(grid.shift_area_angstrom2 / (2 * math.pi * variance)) - distance / (2 * variance)
    log_prior += priors.log_class()[classes, None] - math.log(grid.n_fine_rotations_of_image)
    scores += log_prior[:, None].float()
    first = poses.first * (J * M)
    kept, facts = sparse.keep_mass(first, scores.reshape(-1), search.kept_mass)
    _check(facts)
    at = torch.nonzero(kept).flatten()
    owner = image[at // (J * M)]
    total = facts[:, 1] + facts[:, 2].log()
    weight = (scores.reshape(-1)[at] - total[owner]).exp().float()
    best = first[:-1] + facts[:, 3].long()
    rows, fine_shifts = _fine_pose(poses, at, J, M)
    best_rows, best_shifts = _fine_pose(poses, best, J, M)
    order = torch.argsort((owner * (int(rows.max()) + 1) + rows) * len(grid.fine_shifts_angstrom) + fine_shifts)
    return Posterior(
        poses=WeightedPoses(image=owner, row=rows, shift=fine_shifts, weight=weight).take(order),
        best_row=best_rows,
        best_shift=best_shifts,
        max_probability=(facts[:, 0] - facts[:, 1]).exp(),
        log_likelihood=images.constant + facts[:, 1] - kept_share.log(),
        n_significant=poses.first[1:] - poses.first[:-1],
        lost_mass=1 - kept_share * facts[:, 2],
    )


def _fine_pose(poses: PoseList, flat: Tensor, J: int, M: int) -> tuple[Tensor, Tensor]:
    coarse, child = flat // (J * M), flat % (J * M)
    return poses.row[coarse] * J + child // M, poses.shift[coarse] * M + child % M


def _check(facts: Tensor) -> None:
    if not bool(torch.isfinite(facts[:, :2]).all()):
        raise ComputeError(
            "Scores of images must be finite; got some that are not; check the noise spectra and the images."
        )
