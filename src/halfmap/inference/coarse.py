"""The coarse pass: all poses of a grid scored by matrix products, low frequencies first, and the few that matter."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from halfmap.compute.memory import plan_chunks
from halfmap.inference import sparse
from halfmap.inference.priors import Priors
from halfmap.inference.sparse import PoseList
from halfmap.kernels import dense_scores, pose_lists
from halfmap.tensors import BandValues

SCORES_AT_ONCE = 1 << 20
"""Scores that are held at one time: 4 MiB, and twice as much beside them, stay near a CPU."""

_DEVIATIONS = 3.0
_NATS = 10.0
"""A pose is passed over if, raised by 3 deviations of what it may still gain, it stays 10 nats below the best, or more
where more are kept."""

_MOST_HOPEFUL = 1 / 16
"""Share of the poses up to which scoring them one by one is cheaper than a product over all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CoarseReferences:
    """What coarse poses stand for, once for all images.

    Parameters
    ----------
    values : references at the coarse rotations, complex64, shape (C, R, K) on the coefficients that are compared; or
        (C, R / 2, K) with ``half_turns``; None where each image has rotations of its own.
    half_turns : whether rotations r and r + R / 2 differ by half a turn in the plane. There the reference is the
        conjugate, and one product serves both.
    damping : what the mean over the finer poses of a coarse one keeps of coefficients up to the coarse shell, float32.
    left_out : float32, up to the fine shell: mean |P|² of references less that of their damped ones.
    n_low : number of the coefficients that are scored first: the others only at poses that they can still raise to
        near the best; 0: all at once.
    """

    values: BandValues | None
    half_turns: bool
    damping: Tensor
    left_out: Tensor
    n_low: int = 0

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Real parts, imaginary parts and squares, float32, shape (rows, K) each: what products take."""
        assert self.values is not None
        flat = self.values.flatten(0, 1)
        real, imag = flat.real.contiguous(), flat.imag.contiguous()
        return real, imag, real.square() + imag.square()

    def all_rows(self, coefficients: slice) -> BandValues:
        """Return references at all rotations on some coefficients, shape (C · R, K)."""
        assert self.values is not None
        some = self.values[..., coefficients]
        if self.half_turns:
            some = torch.cat([some, some.conj().resolve_conj()], dim=1)
        return some.flatten(0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class CoarsePoses:
    """What the coarse pass keeps of each of n images.

    Parameters
    ----------
    poses : S of them.
    scores : log weights with priors, float32, shape (S,).
    share : float64, shape (n,): of the posterior that the kept poses hold.
    n_significant : int64, shape (n,): poses that hold the mass that is to be kept.
    """

    poses: PoseList
    scores: Tensor
    share: Tensor
    n_significant: Tensor

    def with_poses(self, poses: PoseList) -> "CoarsePoses":
        """Return the same with poses that are numbered otherwise."""
        return replace(self, poses=poses)

    def of_images(self, images: slice) -> "CoarsePoses":
        """Return what is kept of consecutive images, which are counted from 0."""
        mine = slice(int(self.poses.first[images.start]), int(self.poses.first[images.stop]))
        return CoarsePoses(
            poses=self.poses.of_images(images),
            scores=self.scores[mine],
            share=self.share[images],
            n_significant=self.n_significant[images],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruning:
    """How many poses are kept; see `halfmap.inference.sparse.keep_mass`."""

    kept_mass: float
    max_kept: int
    nats: Tensor

    def of(self, images: slice | Tensor) -> "Pruning":
        """Return what holds for some images."""
        return Pruning(kept_mass=self.kept_mass, max_kept=self.max_kept, nats=self.nats[images])


def coarse_pass(
    weighted: Tensor,
    power: Tensor,
    references: CoarseReferences,
    factors: BandValues,
    priors: Priors,
    origins_angstrom: Tensor,
    *,
    shift_area_angstrom2: float,
    pruning: Pruning,
) -> CoarsePoses:
    """Find the poses that hold the posterior of each image.

    Parameters
    ----------
    weighted : s C X / σ², float32, shape (n, K, 2).
    power : s² C² / σ², float32, shape (n, K).
    references : C classes at R rotations.
    factors : what shifts an image by each of T shifts, complex64, shape (T, K).
    priors : of classes and offsets.
    origins_angstrom : of the images at the shifts, float64, shape (n, T, 2).
    shift_area_angstrom2 : of the cell of a shift.
    pruning : what is kept.

    Returns
    -------
    `CoarsePoses`

    Notes
    -----
    What the coefficients of higher frequency may still add is bounded by 3 standard deviations (their sum at the right
    pose is drawn around ½ Σ |C P|²/σ² with variance Σ |C P|²/σ²), so a pose that matters is passed over only by a
    chance of 1e-3; ``share`` leaves this out. An image whose low frequencies tell little is scored whole.
    """
    K = power.shape[1]
    n_low = references.n_low
    at_once = n_low == 0 or n_low >= K or power.device.type != "cpu"
    scorer = _Scorer(weighted, power, references, factors, slice(K if at_once else n_low, K))
    found = []
    n_each = factors.shape[0] * scorer.n_rows
    for part in plan_chunks(len(power), max(1, SCORES_AT_ONCE // n_each)):
        everyone = torch.arange(part.stop - part.start, device=power.device)
        scores = prior_scores(priors, origins_angstrom[part], shift_area_angstrom2, scorer.n_rows)
        if at_once:
            scorer.add(scores, everyone, part, slice(0, K))
            found.append(_kept_of_all(scores, everyone, pruning.of(part)))
            continue
        scorer.add(scores, everyone, part, slice(0, n_low))
        marked, count = scorer.mark_hopeful(scores, part, pruning.nats[part].clamp(min=_NATS))
        few = count <= _MOST_HOPEFUL * n_each
        some, rest = torch.nonzero(few).flatten(), torch.nonzero(~few).flatten()
        hopeful = _listed(scores, some, marked[some], count[some])
        scorer.add_to_list(hopeful, part, some)
        pieces = [_kept_of_list(hopeful, pruning.of(part).of(some))] if len(some) else []
        if len(rest):
            scorer.add(scores, rest, part, scorer.later)
            pieces.append(_kept_of_all(scores, rest, pruning.of(part).of(rest)))
        found.append(pieces[0] if len(pieces) == 1 else _merged(pieces, torch.cat([some, rest])))
    return _joined(found)


def pass_around_each(
    weighted: Tensor,
    power: Tensor,
    values: BandValues,
    factors: BandValues,
    priors: Priors,
    origins_angstrom: Tensor,
    *,
    shift_area_angstrom2: float,
    log_rotation: Tensor | None,
    pruning: Pruning,
) -> CoarsePoses:
    """Find the poses that hold the posterior of each image, compared at rotations of its own.

    Parameters
    ----------
    weighted, power, factors, priors, origins_angstrom, shift_area_angstrom2, pruning : as for `coarse_pass`.
    values : references at the rotations of each image, complex64, shape (C, n, R, K).
    log_rotation : log priors of the R rotations, relative to their mean; None: all are alike.

    Returns
    -------
    `CoarsePoses`, whose row of class c and rotation r of image i is (c · n + i) · R + r.
    """
    C, n, R, _ = values.shape
    scores = prior_scores(priors, origins_angstrom, shift_area_angstrom2, C * R)
    if log_rotation is not None:
        scores += log_rotation.float().to(scores.device).repeat(C)
    shifted = torch.view_as_real(torch.view_as_complex(weighted.contiguous())[:, None] * factors).flatten(2)
    power_of_parts = power.repeat_interleave(2, dim=-1)
    for c, mine in enumerate(values):
        parts = torch.view_as_real(mine.contiguous()).flatten(2)
        cross = shifted @ parts.mT
        norm = torch.einsum("nk,nrk->nr", power_of_parts, parts.square())
        scores[:, :, c * R : (c + 1) * R] += cross - 0.5 * norm[:, None]
    found = _kept_of_all(scores, torch.arange(n, device=scores.device), pruning)
    row = (found.poses.row // R * n + found.poses.image()) * R + found.poses.row % R
    return found.with_poses(PoseList(first=found.poses.first, row=row, shift=found.poses.shift))


def prior_scores(priors: Priors, origins_angstrom: Tensor, shift_area_angstrom2: float, n_rows: int) -> Tensor:
    """Return the log priors of all rows and shifts, float32, shape (n, T, C · R)."""
    R = n_rows // len(priors.fractions)
    if origins_angstrom.device.type == "cpu":
        scores = torch.empty((*origins_angstrom.shape[:2], n_rows), dtype=torch.float32)
        dense_scores.write_priors(
            scores.numpy(),
            origins_angstrom.contiguous().numpy(),
            priors.prior_offset_angstrom.contiguous().numpy(),
            priors.log_pose(shift_area_angstrom2, R).numpy(),
            1 / priors.offset_sigma_angstrom**2,
            n_threads=torch.get_num_threads(),
        )
        return scores
    log_prior = priors.log_offset(origins_angstrom, shift_area_angstrom2) + priors.log_class() - math.log(R)
    return log_prior.float().repeat_interleave(R, dim=-1)


class _Scorer:
    """Images, references and shifts in the form that products take."""

    def __init__(
        self, weighted: Tensor, power: Tensor, references: CoarseReferences, factors: BandValues, later: slice
    ) -> None:
        self.weighted, self.power = weighted, power
        self.references, self.factors = references, factors
        self.cosine, self.sine = factors.real.contiguous(), factors.imag.contiguous()
        assert references.values is not None
        self.real, self.imag, self.squares = references.parts
        self.n_rows = len(self.real) * (2 if references.half_turns else 1)
        self.n_classes = len(references.values)
        self.later = later
        self.later_rows = references.all_rows(later).contiguous()

    def add(self, scores: Tensor, which: Tensor, part: slice, some: slice) -> None:
        """Add what some coefficients say of some images of a part, ``which`` of them, to their scores."""
        weighted = self.weighted[part, some][which]
        real, imag = self.real[:, some], self.imag[:, some]
        norm = self.power[part, some][which] @ self.squares[:, some].T
        shifted = self._shifted(weighted, some)  # (m, T, 2, K)
        m, T = shifted.shape[:2]
        if self.references.half_turns:
            one = (shifted[:, :, 0].flatten(0, 1) @ real.T).view(m, T, -1)
            two = (shifted[:, :, 1].flatten(0, 1) @ imag.T).view(m, T, -1)
        else:
            one = (shifted.flatten(2).flatten(0, 1) @ torch.cat([real, imag], dim=1).T).view(m, T, -1)
            two = one.new_empty((0, 0, 0))
        if scores.device.type == "cpu":
            dense_scores.add_products(
                scores.numpy(),
                which.numpy(),
                one.numpy(),
                two.numpy(),
                norm.numpy(),
                self.n_classes,
                n_threads=torch.get_num_threads(),
            )
            return
        one -= 0.5 * norm[:, None]
        if self.references.half_turns:
            shape = (m, T, self.n_classes, 1, -1)
            one, two = one.view(shape), two.view(shape)
            one = torch.cat([one + two, one - two], dim=3).flatten(2)
        scores.index_add_(0, which, one)

    def _shifted(self, weighted: Tensor, some: slice) -> Tensor:
        if weighted.device.type == "cpu":
            shifted = dense_scores.shift_images(
                weighted.numpy(),
                self.cosine[:, some].numpy(),
                self.sine[:, some].numpy(),
                n_threads=torch.get_num_threads(),
            )
            return torch.from_numpy(shifted)
        product = torch.view_as_complex(weighted.contiguous())[:, None] * self.factors[:, some]
        return torch.stack([product.real, product.imag], dim=2)

    def mark_hopeful(self, scores: Tensor, part: slice, nats: Tensor) -> tuple[Tensor, Tensor]:
        """Mark the poses of a part that later coefficients can raise to near the best, and count each image's."""
        some = self.later
        norm = self.power[part, some] @ self.squares[:, some].T
        if self.references.half_turns:
            norm = norm.view(len(norm), self.n_classes, 1, -1).expand(-1, -1, 2, -1).flatten(1)
        marked, count = dense_scores.mark_hopeful(
            scores.numpy(),
            norm.contiguous().numpy(),
            self.weighted[part, some].numpy(),
            self.power[part, some].numpy(),
            torch.view_as_real(self.later_rows).numpy(),
            self.cosine[:, some].numpy(),
            self.sine[:, some].numpy(),
            deviations=_DEVIATIONS,
            nats=nats.float().numpy(),
            n_threads=torch.get_num_threads(),
        )
        return torch.from_numpy(marked), torch.from_numpy(count)

    def add_to_list(self, listed: tuple[PoseList, Tensor], part: slice, which: Tensor) -> None:
        """Add what later coefficients say to the scores of listed poses."""
        poses, scores = listed
        some = self.later
        more = torch.empty((len(scores), 1, 1), dtype=torch.float32)
        sparse.score_children(
            poses,
            self.weighted[part, some][which],
            self.power[part, some][which],
            self.later_rows,
            self.factors[:, some],
            more,
        )
        scores += more.view(-1)


def _listed(scores: Tensor, which: Tensor, marked: Tensor, count: Tensor) -> tuple[PoseList, Tensor]:
    first = torch.cat([count.new_zeros(1), count.cumsum(0)])
    row, shift, listed = pose_lists.list_marked(
        scores.numpy(), which.numpy(), marked.numpy(), first.numpy(), n_threads=torch.get_num_threads()
    )
    return PoseList(first=first, row=torch.from_numpy(row), shift=torch.from_numpy(shift)), torch.from_numpy(listed)


def _kept_of_all(scores: Tensor, which: Tensor, pruning: Pruning) -> CoarsePoses:
    mine = scores if len(which) == len(scores) else scores[which]
    n, T, R = mine.shape
    first = torch.arange(n + 1, device=scores.device) * (T * R)
    kept, facts = sparse.keep_mass(first, mine.reshape(-1), pruning.kept_mass, pruning.max_kept, pruning.nats)
    marked, count = kept.view(mine.shape), facts[:, 4].long()
    if scores.device.type == "cpu":
        poses, listed = _listed(mine, torch.arange(n), marked, count)
    else:
        image, row, shift = torch.nonzero(marked.transpose(1, 2), as_tuple=True)
        listed = mine[image, shift, row]
        poses = PoseList(first=torch.cat([count.new_zeros(1), count.cumsum(0)]), row=row, shift=shift)
    return CoarsePoses(poses=poses, scores=listed, share=facts[:, 2], n_significant=facts[:, 5].long())


def _kept_of_list(listed: tuple[PoseList, Tensor], pruning: Pruning) -> CoarsePoses:
    poses, scores = listed
    kept, facts = sparse.keep_mass(poses.first, scores, pruning.kept_mass, pruning.max_kept, pruning.nats)
    count = facts[:, 4].long()
    first = torch.cat([count.new_zeros(1), count.cumsum(0)])
    return CoarsePoses(
        poses=PoseList(first=first, row=poses.row[kept], shift=poses.shift[kept]),
        scores=scores[kept],
        share=facts[:, 2],
        n_significant=facts[:, 5].long(),
    )


def _merged(pieces: list[CoarsePoses], image_of: Tensor) -> CoarsePoses:
    """Put pieces together whose images, in turn, are numbers ``image_of``, in the order of these numbers."""
    joined = _joined(pieces)
    image = image_of[joined.poses.image()]
    order = torch.argsort(image, stable=True)
    images = torch.argsort(image_of)
    count = (joined.poses.first[1:] - joined.poses.first[:-1])[images]
    return CoarsePoses(
        poses=PoseList(
            first=torch.cat([count.new_zeros(1), count.cumsum(0)]),
            row=joined.poses.row[order],
            shift=joined.poses.shift[order],
        ),
        scores=joined.scores[order],
        share=joined.share[images],
        n_significant=joined.n_significant[images],
    )


def _joined(pieces: list[CoarsePoses]) -> CoarsePoses:
    counts = torch.cat([piece.poses.first[1:] - piece.poses.first[:-1] for piece in pieces])
    return CoarsePoses(
        poses=PoseList(
            first=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            row=torch.cat([piece.poses.row for piece in pieces]),
            shift=torch.cat([piece.poses.shift for piece in pieces]),
        ),
        scores=torch.cat([piece.scores for piece in pieces]),
        share=torch.cat([piece.share for piece in pieces]),
        n_significant=torch.cat([piece.n_significant for piece in pieces]),
    )
