"""Scores and sums over the poses that matter, with kernels on a CPU and tensor operations elsewhere."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.kernels import pose_lists, pose_scores, pose_sums

_VALUES_AT_ONCE = 1 << 24
"""Numbers in a temporary of the tensor path."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PoseList:
    """Poses of some images: rows of the references and shifts, sorted by image, then row.

    Parameters
    ----------
    first : int64, shape (n + 1,): the poses of image i are those from first[i] to first[i + 1].
    row, shift : int64, shape (S,).
    """

    first: Tensor
    row: Tensor
    shift: Tensor

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.first) - 1

    def of_images(self, images: slice) -> "PoseList":
        """Return the poses of consecutive images, which are counted from 0."""
        first = self.first[images.start : images.stop + 1]
        mine = slice(int(first[0]), int(first[-1]))
        return PoseList(first=first - first[0], row=self.row[mine], shift=self.shift[mine])

    def image(self) -> Tensor:
        """Return the image of each pose, shape (S,)."""
        counts = self.first[1:] - self.first[:-1]
        return torch.repeat_interleave(torch.arange(self.n_images, device=self.first.device), counts)


def score_children(
    poses: PoseList,
    weighted: Tensor,
    power: Tensor,
    references: Tensor,
    factors: Tensor,
    scores: Tensor,
    *,
    first_row: int = 0,
) -> None:
    """Score the finer poses within coarse ones: Re Σ weighted · factor · conj(reference) − ½ Σ power |reference|².

    Parameters
    ----------
    poses : coarse; coarse row r has the fine rows r · J + j, shift t the fine shifts t · M + m.
    weighted : s C X / σ², float32, shape (n, K, 2).
    power : s² C² / σ², float32, shape (n, K).
    references : complex64, shape (rows, K): the fine rows of the coarse ones from ``first_row`` on.
    factors : complex64, shape (T · M, K): what shifts an image by each fine shift.
    scores : float32, shape (S, J, M), filled in place for the poses whose rows are among the references.
    """
    J, M = scores.shape[1:]
    if weighted.device.type == "cpu":
        pose_scores.score_children(
            poses.first.numpy(),
            poses.row.numpy(),
            poses.shift.numpy(),
            _numpy(weighted),
            _numpy(power),
            _numpy(torch.view_as_real(references)),
            _numpy(factors.real),
            _numpy(factors.imag),
            scores.numpy(),
            first_row=first_row,
            children_rows=J,
            children_shifts=M,
            n_threads=torch.get_num_threads(),
        )
        return
    image = poses.image()
    mine = torch.nonzero((poses.row >= first_row) & (poses.row < first_row + len(references) // J)).flatten()
    complex_images = torch.view_as_complex(weighted.contiguous())
    j, m = torch.arange(J, device=mine.device), torch.arange(M, device=mine.device)
    for some in mine.split(max(1, _VALUES_AT_ONCE // (J * M * power.shape[1]))):
        rows = (poses.row[some] - first_row)[:, None] * J + j
        slices = references[rows]  # (s, J, K)
        products = complex_images[image[some]][:, None] * slices.conj()
        shifted = factors[poses.shift[some][:, None] * M + m]  # (s, M, K)
        norm = (power[image[some]][:, None] * slices.abs().square()).sum(-1)
        cross = torch.einsum("sjk,smk->sjm", products, shifted).real
        scores[some] = cross - 0.5 * norm[:, :, None]


def keep_mass(
    first: Tensor, log_weights: Tensor, kept_mass: float, most: int = 0, nats: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find for each image the few samples that hold a share of its weight.

    Parameters
    ----------
    first : shape (n + 1,): the samples of image i are those from first[i] to first[i + 1]; at least one each.
    log_weights : float32, shape (S,).
    kept_mass : the share, up to 1.
    most : keep about so many for an image at most; 0: any number.
    nats : shape (n,): samples within so much of the best are kept too, up to 100; None: the share alone decides.

    Returns
    -------
    kept : bool, shape (S,): those above a threshold; at least one of each image.
    facts : float64, shape (n, 6)
        Largest log weight, logarithm of the sum of all weights, share of the sum that the kept ones hold,
        position of the largest within the image's samples, number of kept ones, and of those that the share alone
        would keep.
    """
    # small beside the scores, whatever the device
    within = torch.zeros(len(first) - 1) if nats is None else nats
    kept, facts = pose_lists.keep_mass(
        first.cpu().numpy(),
        log_weights.float().cpu().numpy(),
        float(kept_mass),
        within.float().cpu().numpy(),
        int(most),
        n_threads=torch.get_num_threads(),
    )
    return torch.from_numpy(kept).to(log_weights.device), torch.from_numpy(facts).to(log_weights.device)


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedPoses:
    """Fine poses with their posterior, one a row.

    Parameters
    ----------
    image, row, shift : int64, shape (S,).
    weight : float32, shape (S,).
    """

    image: Tensor
    row: Tensor
    shift: Tensor
    weight: Tensor

    def take(self, which: Tensor) -> "WeightedPoses":
        """Return some of the poses, by index or mask."""
        return WeightedPoses(
            image=self.image[which], row=self.row[which], shift=self.shift[which], weight=self.weight[which]
        )

    def sorted_by_row(self) -> "WeightedPoses":
        """Return the poses sorted by row, those of one row as they are."""
        if self.row.device.type != "cpu":
            return self.take(torch.argsort(self.row, stable=True))
        return self.take(torch.from_numpy(pose_lists.order_by_row(self.row.numpy())))

    def runs(self) -> Tensor:
        """Return where runs of one image and row begin, and the end, int64, shape (U + 1,)."""
        changes = (self.image[1:] != self.image[:-1]) | (self.row[1:] != self.row[:-1])
        ends = torch.tensor([len(self.image)], device=self.image.device)
        start = torch.zeros(min(1, len(self.image)), dtype=torch.int64, device=self.image.device)
        return torch.cat([start, torch.nonzero(changes).flatten() + 1, ends])


def add_priors(
    poses: PoseList,
    scores: Tensor,
    *,
    centres_angstrom: Tensor,
    shifts_angstrom: Tensor,
    means_angstrom: Tensor,
    sigma_angstrom: float,
    log_class: Tensor,
    rows_of_class: int,
) -> None:
    """Add the log priors of class and offset to the scores of the finer poses within coarse ones.

    Parameters
    ----------
    poses : coarse; shift t has the fine shifts t · M + m.
    scores : float32, shape (S, J, M), added to.
    centres_angstrom : origins that images have been shifted by already, float64, shape (n, 2).
    shifts_angstrom : fine ones, float64, shape (T · M, 2).
    means_angstrom : expected origin of each class, float64, shape (C, 2).
    sigma_angstrom : spread of origins along one axis.
    log_class : float64, shape (C,): all that does not depend on the origin.
    rows_of_class : number of coarse rows of each class.
    """
    if scores.device.type == "cpu":
        pose_lists.add_priors(
            scores.numpy(),
            poses.first.numpy(),
            poses.row.numpy(),
            poses.shift.numpy(),
            _numpy(centres_angstrom),
            _numpy(shifts_angstrom),
            _numpy(means_angstrom),
            _numpy(log_class),
            1 / sigma_angstrom**2,
            rows_of_class,
            n_threads=torch.get_num_threads(),
        )
        return
    M = scores.shape[2]
    classes = poses.row // rows_of_class
    shifts = poses.shift[:, None] * M + torch.arange(M, device=scores.device)
    origins = centres_angstrom[poses.image(), None] + shifts_angstrom.to(scores.device)[shifts]
    distance = (origins - means_angstrom.to(scores.device)[classes, None]).square().sum(-1)
    log_prior = log_class.to(scores.device)[classes, None] - distance / (2 * sigma_angstrom**2)
    scores += log_prior[:, None].float()


def list_weighted(poses: PoseList, scores: Tensor, kept: Tensor, counts: Tensor, total: Tensor) -> WeightedPoses:
    """List the kept ones of the finer poses within coarse ones, sorted by image, then row, then shift.

    Parameters
    ----------
    poses : coarse, sorted by image, then row, then shift.
    scores : log weights, float32, shape (S, J, M).
    kept : bool, shape (S, J, M).
    counts : int64, shape (n,): number of kept ones of each image.
    total : float64, shape (n,): logarithm of the sum of an image's kept weights.
    """
    if scores.device.type == "cpu":
        listed = pose_lists.list_weighted(
            scores.numpy(),
            kept.numpy(),
            poses.first.numpy(),
            poses.row.numpy(),
            poses.shift.numpy(),
            _numpy(total),
            torch.cat([counts.new_zeros(1), counts.cumsum(0)]).numpy(),
            n_threads=torch.get_num_threads(),
        )
        image, row, shift, weight = (torch.from_numpy(array) for array in listed)
        return WeightedPoses(image=image, row=row, shift=shift, weight=weight)
    J, M = scores.shape[1:]
    coarse, j, m = torch.nonzero(kept, as_tuple=True)
    image = poses.image()[coarse]
    row, shift = poses.row[coarse] * J + j, poses.shift[coarse] * M + m
    weight = (scores[coarse, j, m] - total[image]).exp().float()
    order = torch.argsort((image * (int(row.max()) + 1) + row) * (int(shift.max()) + 1) + shift)
    return WeightedPoses(image=image, row=row, shift=shift, weight=weight).take(order)


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """What the posterior expects of each of n images before its transfer, summed in place by `sum_poses`.

    Parameters
    ----------
    mean : Σ weight · conj(factor) · reference, complex64, shape (n, K).
    mean_square : Σ weight · |reference|², float32, shape (n, K).
    """

    mean: Tensor
    mean_square: Tensor

    @classmethod
    def none(cls, power: Tensor) -> "Expected":
        """Return what no pose adds to, for images whose power has shape (n, K)."""
        return cls(mean=torch.zeros_like(power, dtype=torch.complex64), mean_square=torch.zeros_like(power))

    def by_shell(self, weighted: Tensor, power: Tensor, shell_of: Tensor, n_shells: int) -> tuple[Tensor, Tensor]:
        """Return what the residual of each image needs, shell by shell.

        Parameters
        ----------
        weighted : s C X / σ² of the masked images, float32, shape (n, K, 2).
        power : s² C² / σ², float32, shape (n, K).
        shell_of : shape (K,).

        Returns
        -------
        cross : float64, shape (n, n_shells), Σ weight Re(factor · weighted · conj(reference)).
        square : float64, shape (n, n_shells), Σ weight · power · |reference|².
        """
        if power.device.type == "cpu":
            cross, square = pose_sums.shell_sums(
                _numpy(torch.view_as_real(self.mean)),
                _numpy(self.mean_square),
                _numpy(weighted),
                _numpy(power),
                shell_of.numpy(),
                n_shells,
                n_threads=torch.get_num_threads(),
            )
            return torch.from_numpy(cross), torch.from_numpy(square)
        products = (torch.view_as_complex(weighted.contiguous()) * self.mean.conj()).real
        by_shell = torch.zeros((2, len(power), n_shells), dtype=torch.float64, device=power.device)
        by_shell.index_add_(2, shell_of, torch.stack([products, power * self.mean_square]).double())
        return by_shell[0], by_shell[1]


def sum_poses(
    poses: WeightedPoses, weighted: Tensor, power: Tensor, references: Tensor, factors: Tensor, expected: Expected
) -> tuple[Tensor, Tensor]:
    """Add images, shifted and weighted by their posterior, into the rows of the references: the M-step's sums.

    Parameters
    ----------
    poses : sorted by row, then image.
    weighted : s C X / σ² of the images without mask, float32, shape (n, K, 2).
    power : s² C² / σ², float32, shape (n, K).
    references : complex64, shape (rows, K).
    factors : complex64, shape (fine shifts, K).
    expected : of the images, added to in place.

    Returns
    -------
    data : complex64, shape (rows, K), Σ weight · factor · weighted.
    total : float32, shape (rows, K), Σ weight · power.
    """
    shape = references.shape
    if power.device.type == "cpu":
        data = torch.empty((*shape, 2), dtype=torch.float32)
        total = torch.empty(shape, dtype=torch.float32)
        pose_sums.sum_poses(
            poses.runs().numpy(),
            poses.image.numpy(),
            poses.row.numpy(),
            poses.shift.numpy(),
            poses.weight.numpy(),
            _numpy(weighted),
            _numpy(power),
            _numpy(torch.view_as_real(references)),
            _numpy(factors.real),
            _numpy(factors.imag),
            data.numpy(),
            total.numpy(),
            torch.view_as_real(expected.mean).numpy(),
            expected.mean_square.numpy(),
            n_threads=torch.get_num_threads(),
        )
        return torch.view_as_complex(data), total
    summed = torch.zeros(shape, dtype=torch.complex64, device=power.device)
    total = torch.zeros(shape, dtype=torch.float32, device=power.device)
    images = torch.view_as_complex(weighted)
    for some in torch.arange(len(poses.image), device=power.device).split(max(1, _VALUES_AT_ONCE // shape[1])):
        image, row, weight = poses.image[some], poses.row[some], poses.weight[some][:, None]
        factor, slices = factors[poses.shift[some]] * weight, references[row]
        summed.index_add_(0, row, images[image] * factor)
        total.index_add_(0, row, power[image] * weight)
        expected.mean.index_add_(0, image, slices * factor.conj())
        expected.mean_square.index_add_(0, image, slices.abs().square() * weight)
    return summed, total


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().numpy()
