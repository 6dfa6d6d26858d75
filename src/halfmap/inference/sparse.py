"""Scores and sums over the poses that matter, with kernels on a CPU and tensor operations elsewhere."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.kernels import pose_lists, sparse_poses

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
        sparse_poses.score_children(
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
    kept, facts = sparse_poses.keep_mass(
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


def sum_into_rows(
    poses: WeightedPoses, weighted: Tensor, power: Tensor, factors: Tensor, n_rows: int
) -> tuple[Tensor, Tensor]:
    """Add images, shifted and weighted by their posterior, into the rows of the references: the M-step's sums.

    Parameters
    ----------
    poses : sorted by row.
    weighted : s C X / σ² of the images without mask, float32, shape (n, K, 2).
    power : s² C² / σ², float32, shape (n, K).
    factors : complex64, shape (fine shifts, K).
    n_rows : number of fine rows.

    Returns
    -------
    data : complex64, shape (n_rows, K), Σ weight · factor · weighted.
    total : float32, shape (n_rows, K), Σ weight · power.
    """
    K = power.shape[1]
    data = torch.zeros((n_rows, K, 2), dtype=torch.float32, device=power.device)
    total = torch.zeros((n_rows, K), dtype=torch.float32, device=power.device)
    if power.device.type == "cpu":
        if len(poses.image):
            sparse_poses.sum_into_rows(
                poses.runs().numpy(),
                *_arrays(poses),
                _numpy(weighted),
                _numpy(power),
                _numpy(factors.real),
                _numpy(factors.imag),
                data.numpy(),
                total.numpy(),
                n_threads=torch.get_num_threads(),
            )
        return torch.view_as_complex(data), total
    images = torch.view_as_complex(weighted)
    complex_data = torch.view_as_complex(data)
    for some in torch.arange(len(poses.image), device=power.device).split(max(1, _VALUES_AT_ONCE // K)):
        weight = poses.weight[some][:, None]
        complex_data.index_add_(0, poses.row[some], images[poses.image[some]] * factors[poses.shift[some]] * weight)
        total.index_add_(0, poses.row[some], power[poses.image[some]] * weight)
    return complex_data, total


def model_sums(
    poses: WeightedPoses,
    weighted: Tensor,
    power: Tensor,
    references: Tensor,
    factors: Tensor,
    shell_of: Tensor,
    n_shells: int,
) -> tuple[Tensor, Tensor]:
    """Return what the residual of each image needs, shell by shell.

    Parameters
    ----------
    poses : sorted by image, then row.
    weighted : s C X / σ² of the masked images, float32, shape (n, K, 2).
    references : complex64, shape (rows, K).
    shell_of : shape (K,).

    Returns
    -------
    cross : float64, shape (n, n_shells), Σ weight Re(factor · weighted · conj(reference)).
    square : float64, shape (n, n_shells), Σ weight · power · |reference|².
    """
    n, K = power.shape
    cross = torch.zeros((n, n_shells), dtype=torch.float64, device=power.device)
    square = torch.zeros((n, n_shells), dtype=torch.float64, device=power.device)
    if power.device.type == "cpu":
        if len(poses.image):
            sparse_poses.model_sums(
                poses.runs().numpy(),
                *_arrays(poses),
                _numpy(weighted),
                _numpy(power),
                _numpy(torch.view_as_real(references)),
                _numpy(factors.real),
                _numpy(factors.imag),
                shell_of.numpy(),
                cross.numpy(),
                square.numpy(),
                n_threads=torch.get_num_threads(),
            )
        return cross, square
    images = torch.view_as_complex(weighted)
    for some in torch.arange(len(poses.image), device=power.device).split(max(1, _VALUES_AT_ONCE // K)):
        image, weight = poses.image[some], poses.weight[some][:, None]
        slices = references[poses.row[some]]
        products = (images[image] * factors[poses.shift[some]] * slices.conj()).real * weight
        squares = power[image] * slices.abs().square() * weight
        for sums, values in ((cross, products), (square, squares)):
            by_shell = torch.zeros((len(some), n_shells), dtype=torch.float64, device=values.device)
            by_shell.index_add_(1, shell_of, values.double())
            sums.index_add_(0, image, by_shell)
    return cross, square


def _arrays(poses: WeightedPoses) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return poses.image.numpy(), poses.row.numpy(), poses.shift.numpy(), poses.weight.numpy()


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().numpy()
