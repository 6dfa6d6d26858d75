"""The posterior over poses: a coarse pass as a matrix product, then a fine one where it matters."""

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
from halfmap.inference.coarse import SCORES_AT_ONCE, CoarsePoses, CoarseReferences, coarse_pass
from halfmap.inference.priors import Priors
from halfmap.inference.sampling import PoseGrid
from halfmap.inference.sparse import PoseList, WeightedPoses
from halfmap.tensors import BandValues

_SLICE_BYTES = 1 << 28
"""Memory for the fine slices of some classes and the sums over them."""

POSES_AT_ONCE = 1 << 18
"""Coarse poses that are refined at one time: so many that fine slices, made anew each time, cost little beside them."""

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
        ``cut_deviations`` · √E more, where E is the power of an image's signal that coarse poses leave out; up to 25.
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
    cut_deviations: float = 1.7
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
    transfer_power : mean s² C² / σ² of images, float32, shape (K,) of the band: where the signal's power lies; None:
        unknown, and the coarse pass scores all shells at once.
    """

    transform: PaddedTransform
    band: FourierBand
    transfer_power: Tensor | None = None

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
    smallest set that holds ``kept_mass`` of the posterior, and what lies within the cut, is refined on the shells up to ``fine_shell``. Priors
    are exact on both grids. Scheres 2012, J. Struct. Biol. 180, 519, equations 4 and 5; RELION inherits the coarse
    prior and leaves weights that sum to the kept mass.
    """
    if search.poses.one_each:
        yield (
            slice(0, len(images.power)),
            _fine(images, references, priors, search, _given_rotations(images, references, search)),
        )
        return
    coarse = _coarse(images, references, priors, search)
    for part in _parts(coarse.poses, POSES_AT_ONCE):
        some, mine = coarse.of_images(part), images.take(part)
        if search.has_fine_pass:
            yield part, _fine(mine, references, priors, search, some)
        else:
            yield part, _normalised(mine, some, some.scores.view(-1, 1, 1), search)


def _parts(poses: PoseList, most: int) -> list[slice]:
    """Divide images into runs of no more than so many poses each, or of a single image."""
    first = poses.first.tolist()
    bounds = [0]
    for image in range(1, poses.n_images):
        if first[image + 1] - first[bounds[-1]] > most:
            bounds.append(image)
    return [slice(start, stop) for start, stop in pairwise([*bounds, poses.n_images])]


def _fine(
    images: WeightedImages, references: References, priors: Priors, search: Search, coarse: CoarsePoses
) -> Posterior:
    poses = coarse.poses
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
    grid = search.poses
    sparse.add_priors(
        poses,
        scores,
        centres_angstrom=images.centre_angstrom,
        shifts_angstrom=grid.fine_shifts_angstrom,
        means_angstrom=priors.prior_offset_angstrom,
        sigma_angstrom=priors.offset_sigma_angstrom,
        log_class=priors.log_pose(grid.shift_area_angstrom2, grid.n_fine_rotations_of_image),
        rows_of_class=grid.n_rotations,
    )
    return _normalised(images, coarse, scores, search)


def fine_slices(references: References, search: Search) -> Iterator[tuple[slice, BandValues]]:
    """Yield blocks of classes and their slices at the fine rotations, complex64, shape (classes · R · J, K)."""
    band = references.band.head(search.shell)
    for block in class_blocks(references.n_classes, len(search.poses.fine_rotations), len(band)):
        yield block, references.take(block, search.poses.fine_rotations, search.shell)


def _first_coefficient(band: FourierBand, search: Search) -> int:
    return len(band.head(search.min_shell - 1)) if search.min_shell > 1 else 0


def _coarse(images: WeightedImages, references: References, priors: Priors, search: Search) -> CoarsePoses:
    """Find the coarse poses that matter."""
    grid, band = search.poses, references.band.head(search.coarse_shell)
    first = _first_coefficient(references.band, search)
    used = slice(first, len(band))
    values, left_out = _cells(references, search)
    values = values[..., used]
    told = slice(first, len(left_out))
    missed = (images.power[:, told] @ left_out[told]).clamp(min=0)
    nats = search.cut_nats + search.cut_deviations * missed.sqrt()
    n_low = 0
    if references.transfer_power is not None and search.kept_mass < 1:
        power = references.transfer_power[used] * values.abs().square().mean((0, 1))
        n_low = _n_low(power, band.shell_of[used], search.low_share)
    found = coarse_pass(
        images.masked[:, used],
        images.power[:, used],
        CoarseReferences(values=values, half_turns=grid.half_turns),
        phase_factors(band.frequencies[used], grid.shifts_angstrom).to(torch.complex64),
        priors,
        images.centre_angstrom[:, None] + grid.shifts_angstrom,
        shift_area_angstrom2=grid.shift_area_angstrom2 * grid.children_shifts,
        n_low=n_low,
        kept_mass=search.kept_mass,
        max_kept=search.max_kept,
        nats=nats if search.has_fine_pass else torch.zeros_like(nats),
    )
    if not bool(torch.isfinite(found.scores).all()):
        raise ComputeError(_NOT_FINITE)
    return found


def _cells(references: References, search: Search) -> tuple[BandValues, Tensor]:
    """Return what a coarse pose stands for: the mean of the references at the finer poses within it.

    Returns
    -------
    values : complex64, shape (C, R, K) up to the coarse shell, R half of the rotations with half turns.
    left_out : float32, shape (K,) up to the fine shell: mean |P|² of the finer poses less that of their mean.

    Notes
    -----
    A reference at the centre of its cell promises details that the finer poses hold elsewhere, and so scores cells with
    the true pose too low. The mean is also what the likelihood of a cell is to first order.
    """
    grid = search.poses
    n_fine = len(grid.fine_rotations) // (2 if grid.half_turns else 1)
    K = len(references.band.head(search.coarse_shell))
    damping = _damping(references.band.head(search.coarse_shell), grid)
    parts, whole, mean = [], [], []
    for block in class_blocks(references.n_classes, n_fine, len(references.band.head(search.fine_shell))):
        fine = references.take(block, grid.fine_rotations[:n_fine], search.fine_shell)
        cells = fine[:, :K].view(block.stop - block.start, -1, grid.children_rotations, K).mean(2) * damping
        parts.append(cells)
        whole.append(fine.abs().square().sum(0) / n_fine)
        mean.append(cells.abs().square().sum((0, 1)) * (grid.children_rotations / n_fine))
    left_out = torch.stack(whole).sum(0)
    left_out[:K] -= torch.stack(mean).sum(0)
    return torch.cat(parts), left_out / references.n_classes


def _damping(band: FourierBand, grid: PoseGrid) -> Tensor:
    """Return what is left of coefficients in the mean over the finer shifts of a coarse one, float32, shape (K,)."""
    children = grid.fine_shifts_angstrom[: grid.children_shifts] - grid.shifts_angstrom[0]
    return phase_factors(band.frequencies, children.to(band.frequencies.device)).mean(0).real.float()


def _n_low(power: Tensor, shell_of: Tensor, share: float) -> int:
    """Return how many coefficients lie on the low shells that hold a share of the power; 0 if that saves little."""
    of_shell = torch.zeros(int(shell_of[-1]) + 1, dtype=torch.float64, device=power.device)
    held = of_shell.index_add(0, shell_of, power.double()).cumsum(0)
    last = int(torch.searchsorted(held, share * held[-1]))
    n_low = int((shell_of <= last).sum())
    return n_low if n_low < _MOST_LOW * len(shell_of) else 0


def _given_rotations(images: WeightedImages, references: References, search: Search) -> CoarsePoses:
    """Return all classes and shifts of each image at the rotation of its own: so few need no first pass."""
    n, device = len(images.power), images.power.device
    C, T = references.n_classes, search.poses.n_shifts
    image = torch.arange(n, device=device)
    rows = torch.arange(C, device=device) * n + image[:, None]
    return CoarsePoses(
        poses=PoseList(
            first=torch.arange(n + 1, device=device) * (C * T),
            row=rows.repeat_interleave(T, dim=1).flatten(),
            shift=torch.arange(T, device=device).repeat(n * C),
        ),
        scores=torch.zeros(n * C * T, device=device),
        share=torch.ones(n, dtype=torch.float64, device=device),
        n_significant=torch.full((n,), C * T, dtype=torch.int64, device=device),
    )


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
