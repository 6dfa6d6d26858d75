"""The posterior over poses: a coarse pass as a matrix product, then a fine one where it matters."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from halfmap.compute.memory import plan_chunks
from halfmap.errors import ComputeError, InputError
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import phase_factors
from halfmap.geometry.rotations import random_rotations
from halfmap.grid import ImageGrid
from halfmap.inference import sparse
from halfmap.inference.coarse import (
    SCORES_AT_ONCE,
    CoarsePoses,
    CoarseReferences,
    Pruning,
    coarse_pass,
    pass_around_each,
)
from halfmap.inference.priors import Priors
from halfmap.inference.references import SLICE_BYTES, References
from halfmap.inference.sampling import PoseGrid
from halfmap.inference.sparse import PoseList, WeightedPoses
from halfmap.tensors import Rotations

POSES_AT_ONCE = 1 << 18
"""Coarse poses that are refined at one time: so many that fine slices, made anew each time, cost little beside them."""

_SAMPLED_ROTATIONS = 16
"""Rotations at which it is measured what the mean over finer poses keeps."""

_MOST_LOW = 0.7
"""Share of the coefficients above which scoring them first saves nothing."""

_NOT_FINITE = "Scores of images must be finite; got some that are not; check the noise spectra and the images."


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
    cut_nats, cut_deviations : the coarse pass hands on poses too that are no more than ``cut_nats`` below the best, and
        ``cut_deviations`` · √E more, where E is the power of an image's signal that coarse poses leave out; up to 100.
    low_share : the coarse pass scores all poses on the low shells that hold this share of the signal's power, and goes
        on only with those that the others can still raise to near the best; 1: all shells at once, as where all mass
        is kept.

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
    cut_nats: float = 8.0
    cut_deviations: float = 2.0
    low_share: float = 0.9

    @property
    def has_fine_pass(self) -> bool:
        """Whether finer poses or shells are left to refine."""
        grid = self.poses
        finer = len(grid.fine_rotations) * len(grid.fine_shifts_angstrom) > grid.n_rotations * grid.n_shifts
        return finer or self.fine_shell > self.coarse_shell

    def __post_init__(self) -> None:
        if not 1 <= self.min_shell <= self.coarse_shell <= self.fine_shell <= self.shell:
            raise InputError(
                "Shells of a search must be in order from 1 on: first, last of the coarse and of the fine pass, last; "
                f"got {self.min_shell}, {self.coarse_shell}, {self.fine_shell} and {self.shell}."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedImages:
    """Images on a band, weighted by transfer and noise.

    Parameters
    ----------
    masked, whole : s C X / σ² with and without the mask, float32, shape (n, K, 2).
    power : s² C² / σ², float32, shape (n, K).
    constant : float64, shape (n,): what does not depend on the reference, −½ Σ |X|²/σ² − Σ log 2πσ².
    centre_angstrom : float64, shape (n, 2): the origin that the images have been shifted by already.
    rotation : float64, shape (n, 3, 3): around which each is searched; None: searches are not around their own.
    """

    masked: Tensor
    whole: Tensor
    power: Tensor
    constant: Tensor
    centre_angstrom: Tensor
    rotation: Rotations | None = None

    def take(self, images: slice) -> "WeightedImages":
        """Return some of the images."""
        return WeightedImages(
            masked=self.masked[images],
            whole=self.whole[images],
            power=self.power[images],
            constant=self.constant[images],
            centre_angstrom=self.centre_angstrom[images],
            rotation=None if self.rotation is None else self.rotation[images],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """What an E-step finds for each of n images.

    Parameters
    ----------
    poses : fine poses with weights that sum to 1 for each image; the row of class c and fine rotation r is
        c · (number of fine rotations) + r, where rotations are those of `rotations_of`.
    best_row, best_shift : int64, shape (n,): the most probable fine pose.
    max_probability : float64, shape (n,): of that pose, among all that the fine pass scored.
    log_likelihood : float64, shape (n,): log p(X), over all poses, the pruned ones estimated by the coarse pass.
    n_significant : int64, shape (n,): coarse poses that hold the mass to be kept.
    lost_mass : float64, shape (n,): share of the posterior that both prunings left out.
    """

    poses: WeightedPoses
    best_row: Tensor
    best_shift: Tensor
    max_probability: Tensor
    log_likelihood: Tensor
    n_significant: Tensor
    lost_mass: Tensor


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
    Counted are: coarse slices three times over (as extracted, as real numbers, squares) and six arrays of scores;
    coarse poses as two numbers, twice; of each pose of a part 100 bytes, and 72 for each fine one within it (score, log
    prior, and where it is kept its place, weight, and order); fine slices and sums over them.
    """
    band = FourierBand(grid)
    coarse = n_classes * poses.n_rotations * len(band.head(coarse_shell)) * 28
    scores = 6 * 4 * max(SCORES_AT_ONCE, n_classes * poses.n_rotations * poses.n_shifts)
    each = min(most_kept, n_classes * poses.n_rotations * poses.n_shifts)
    kept = 32 * n_images * each
    part = min(n_images * each, max(POSES_AT_ONCE, each))
    fine = part * (100 + 72 * poses.children_rotations * poses.children_shifts)
    # one class at least
    slices_and_sums = max(SLICE_BYTES, min(n_classes, 1) * len(poses.fine_rotations) * len(band) * 28)
    return kept + max(coarse + scores, fine + slices_and_sums)


def posteriors(
    images: WeightedImages,
    references: References,
    priors: Priors,
    search: Search,
    coarse_references: CoarseReferences | None = None,
) -> Iterator[tuple[slice, Posterior]]:
    """Find the posterior over class, rotation and shift of images.

    Parameters
    ----------
    images : on the band of the references, up to the search's last shell at least.
    references : C classes.
    priors : of classes and offsets.
    search : grids, shells and pruning.
    coarse_references : of `prepared`, where they are at hand.

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
    smallest set that holds ``kept_mass`` of the posterior, and what lies within the cut, is refined on the shells up to
    ``fine_shell``. Priors are exact on both grids. Scheres 2012, J. Struct. Biol. 180, 519, equations 4 and 5; RELION
    inherits the coarse prior and leaves weights that sum to the kept mass.
    """
    if coarse_references is None:
        coarse_references = prepared(references, search)
    for some in _searched_at_once(images, references, search):
        coarse = _coarse(images.take(some), references, coarse_references, priors, search)
        for part in _parts(coarse.poses, POSES_AT_ONCE):
            here = slice(some.start + part.start, some.start + part.stop)
            kept, mine = coarse.of_images(part), images.take(here)
            if search.poses.around_each:
                kept = kept.with_poses(_of_fewer_images(kept.poses, references, search, some, part))
            if search.has_fine_pass:
                yield here, _fine(mine, references, priors, search, kept)
            else:
                yield here, _normalised(mine, kept, kept.scores.view(-1, 1, 1), search)


def rotations_of(images: WeightedImages, grid: PoseGrid, *, fine: bool) -> Rotations:
    """Return the rotations that images are compared at, float64, shape (R, 3, 3).

    Of a search around each image's own rotation they are those of the first image, of the second, and so on.
    """
    if not grid.around_each:
        return grid.fine_rotations if fine else grid.rotations
    if images.rotation is None:
        raise InputError(
            "A search around each image's rotation must know them; got none; give WeightedImages.rotation."
        )
    return grid.around(images.rotation, fine=fine).flatten(0, 1)


def prepared(references: References, search: Search) -> CoarseReferences:
    """Return what coarse poses stand for: references at the centres of their cells, with what blurs them within.

    Notes
    -----
    A reference at the centre of its cell promises details that the finer poses hold elsewhere, and so scores cells with
    the true pose too low. The mean over the finer poses is also what the likelihood of a cell is to first order. What
    it keeps of each shell is measured on a few rotations.
    """
    grid = search.poses
    R, J, C = grid.n_rotations, grid.children_rotations, references.n_classes
    every = slice(0, C)
    if grid.around_each:
        base = random_rotations(0, "sample of rotations", np.arange(_SAMPLED_ROTATIONS))
        coarse = grid.rotations[:1] @ base
        fine = (grid.fine_rotations[:J] @ base[:, None]).flatten(0, 1)
    else:
        pick = torch.unique(torch.arange(_SAMPLED_ROTATIONS) * R // _SAMPLED_ROTATIONS)
        coarse = grid.rotations[pick]
        fine = grid.fine_rotations.view(R, J, 3, 3)[pick].flatten(0, 1)
    band = references.band.head(search.coarse_shell)
    K, shell_of = len(band), references.band.shell_of
    centre = references.take(every, coarse, search.coarse_shell)
    finer = references.take(every, fine, search.fine_shell)
    mean = finer[:, :K].view(len(centre), J, K).mean(1) * _kept_by_shifts(band, grid)
    n_shells = search.fine_shell + 1
    kept, power = (
        torch.zeros(n_shells, dtype=torch.float64, device=centre.device).index_add(
            0, shell_of[:K], values.sum(0).double()
        )
        for values in ((mean * centre.conj()).real, centre.abs().square())
    )
    damping = (kept / power.clamp(min=1e-30))[shell_of[:K]].float()
    left_out = finer.abs().square().mean(0)
    left_out[:K] -= (centre * damping).abs().square().mean(0)
    values = None
    if not grid.around_each:
        rotations = grid.rotations[: R // 2] if grid.half_turns else grid.rotations
        values = (references.take(every, rotations, search.coarse_shell) * damping).view(C, len(rotations), K)
        values = values[..., _first_coefficient(references.band, search) :]
    n_low = 0
    if references.transfer_power is not None and search.kept_mass < 1:
        first = _first_coefficient(references.band, search)
        signal = references.transfer_power[first:K] * (centre * damping).abs().square().mean(0)[first:]
        n_low = _n_low(signal, shell_of[first:K], search.low_share)
    return CoarseReferences(values=values, half_turns=grid.half_turns, damping=damping, left_out=left_out, n_low=n_low)


def _kept_by_shifts(band: FourierBand, grid: PoseGrid) -> Tensor:
    """Return what is left of coefficients in the mean over the finer shifts of a coarse one, float32, shape (K,)."""
    children = grid.fine_shifts_angstrom[: grid.children_shifts] - grid.shifts_angstrom[0]
    return phase_factors(band.frequencies, children.to(band.frequencies.device)).mean(0).real.float()


def _searched_at_once(images: WeightedImages, references: References, search: Search) -> list[slice]:
    """Divide images so that references at rotations of their own stay within bounds."""
    n = len(images.power)
    if not search.poses.around_each:
        return [slice(0, n)]
    each = references.n_classes * search.poses.n_rotations * len(references.band.head(search.coarse_shell)) * 28
    return plan_chunks(n, max(1, SLICE_BYTES // each))


def _of_fewer_images(poses: PoseList, references: References, search: Search, some: slice, part: slice) -> PoseList:
    """Return poses of consecutive images with rows as they are counted where there are no others."""
    R = search.poses.n_rotations
    of_all, of_part = (some.stop - some.start) * R, (part.stop - part.start) * R
    row = poses.row // of_all * of_part + poses.row % of_all - part.start * R
    return PoseList(first=poses.first, row=row, shift=poses.shift)


def _fine(
    images: WeightedImages, references: References, priors: Priors, search: Search, coarse: CoarsePoses
) -> Posterior:
    poses, grid = coarse.poses, search.poses
    J, M = grid.children_rotations, grid.children_shifts
    scores = torch.zeros((len(poses.row), J, M), device=images.power.device)
    factors = phase_factors(references.band.head(search.shell).frequencies, grid.fine_shifts_angstrom).to(
        torch.complex64
    )
    used = slice(_first_coefficient(references.band, search), len(references.band.head(search.fine_shell)))
    masked, power = images.masked[:, used], images.power[:, used]
    rotations = rotations_of(images, grid, fine=True)
    for block in references.blocks(rotations, poses.row, J, search.fine_shell):
        place, inside = block.place(poses.row)
        sparse.score_children(
            PoseList(
                first=poses.first, row=place if inside is None else torch.where(inside, place, -1), shift=poses.shift
            ),
            masked,
            power,
            block.values[:, used],
            factors[:, used],
            scores,
        )
    rows_of_class = len(rotations) // J
    sparse.add_priors(
        poses,
        scores,
        centres_angstrom=images.centre_angstrom,
        shifts_angstrom=grid.fine_shifts_angstrom,
        means_angstrom=priors.prior_offset_angstrom,
        sigma_angstrom=priors.offset_sigma_angstrom,
        log_class=priors.log_pose(grid.shift_area_angstrom2, len(grid.fine_rotations)),
        rows_of_class=rows_of_class,
    )
    if grid.fine_log_prior is not None:
        of_coarse = grid.fine_log_prior.view(grid.n_rotations, J).float().to(scores.device)
        scores += of_coarse[poses.row % grid.n_rotations][:, :, None]
    return _normalised(images, coarse, scores, search)


def _first_coefficient(band: FourierBand, search: Search) -> int:
    return len(band.head(search.min_shell - 1)) if search.min_shell > 1 else 0


def _coarse(
    images: WeightedImages,
    references: References,
    coarse_references: CoarseReferences,
    priors: Priors,
    search: Search,
) -> CoarsePoses:
    """Find the coarse poses that matter."""
    grid, band = search.poses, references.band.head(search.coarse_shell)
    first = _first_coefficient(references.band, search)
    used = slice(first, len(band))
    told = slice(first, len(coarse_references.left_out))
    nats = torch.zeros(len(images.power), device=images.power.device)
    if search.has_fine_pass:
        missed = (images.power[:, told] @ coarse_references.left_out[told]).clamp(min=0)
        nats = search.cut_nats + search.cut_deviations * missed.sqrt()
    factors = phase_factors(band.frequencies[used], grid.shifts_angstrom).to(torch.complex64)
    area = grid.shift_area_angstrom2 * grid.children_shifts
    origins = images.centre_angstrom[:, None] + grid.shifts_angstrom
    pruning = Pruning(kept_mass=search.kept_mass, max_kept=search.max_kept, nats=nats)
    if grid.around_each:
        turns = rotations_of(images, grid, fine=False)
        values = references.take(slice(0, references.n_classes), turns, search.coarse_shell) * coarse_references.damping
        found = pass_around_each(
            images.masked[:, used],
            images.power[:, used],
            values[:, used].view(references.n_classes, len(images.power), grid.n_rotations, -1),
            factors,
            priors,
            origins,
            shift_area_angstrom2=area,
            log_rotation=grid.log_prior,
            pruning=pruning,
        )
    else:
        found = coarse_pass(
            images.masked[:, used],
            images.power[:, used],
            coarse_references,
            factors,
            priors,
            origins,
            shift_area_angstrom2=area,
            pruning=pruning,
        )
    if not bool(torch.isfinite(found.scores).all()):
        raise ComputeError(_NOT_FINITE)
    return found


def _parts(poses: PoseList, most: int) -> list[slice]:
    """Divide images into runs of no more than so many poses each, or of a single image."""
    first = poses.first.tolist()
    bounds = [0]
    for image in range(1, poses.n_images):
        if first[image + 1] - first[bounds[-1]] > most:
            bounds.append(image)
    return [slice(start, stop) for start, stop in pairwise([*bounds, poses.n_images])]


def _n_low(power: Tensor, shell_of: Tensor, share: float) -> int:
    """Return how many coefficients lie on the low shells that hold a share of the power; 0 if that saves little."""
    of_shell = torch.zeros(int(shell_of[-1]) + 1, dtype=torch.float64, device=power.device)
    held = of_shell.index_add(0, shell_of, power.double()).cumsum(0)
    last = int(torch.searchsorted(held, share * held[-1]))
    n_low = int((shell_of <= last).sum())
    return n_low if n_low < _MOST_LOW * len(shell_of) else 0


def _normalised(images: WeightedImages, coarse: CoarsePoses, scores: Tensor, search: Search) -> Posterior:
    poses = coarse.poses
    J, M = scores.shape[1:]
    first = poses.first * (J * M)
    kept, facts = sparse.keep_mass(first, scores.reshape(-1), search.kept_mass)
    _check(facts)
    best_rows, best_shifts = _fine_pose(poses, first[:-1] + facts[:, 3].long(), J, M)
    total = facts[:, 1] + facts[:, 2].log()
    return Posterior(
        poses=sparse.list_weighted(poses, scores, kept.view(scores.shape), facts[:, 4].long(), total),
        best_row=best_rows,
        best_shift=best_shifts,
        max_probability=(facts[:, 0] - facts[:, 1]).exp(),
        log_likelihood=images.constant + facts[:, 1] - coarse.share.log(),
        n_significant=coarse.n_significant,
        lost_mass=1 - coarse.share * facts[:, 2],
    )


def _fine_pose(poses: PoseList, flat: Tensor, J: int, M: int) -> tuple[Tensor, Tensor]:
    coarse, child = flat // (J * M), flat % (J * M)
    return poses.row[coarse] * J + child // M, poses.shift[coarse] * M + child % M


def _check(facts: Tensor) -> None:
    if not bool(torch.isfinite(facts[:, :2]).all()):
        raise ComputeError(_NOT_FINITE)
