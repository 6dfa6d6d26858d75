"""What a search keeps of its correlations, place by place."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.kernels import correlation_maps as kernels

HISTOGRAM_EDGES = np.linspace(-12.0, 28.0, 401)
"""Edges of the histogram of correlations."""

STRIDE = 8
"""Of the places that the histogram counts, along each axis: it need not see all to know the distribution."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CorrelationMaps:
    """Correlations gathered at every place.

    Parameters
    ----------
    best : float32, shape (y, x): the highest.
    best_number : int32: which that is; of equal ones the lowest number.
    total, squares : float64: sums of the correlations and of their squares.
    histogram : int64, shape (len(HISTOGRAM_EDGES) − 1,): correlations at every `STRIDE`-th place along each axis;
        those beyond the edges count in the outermost bins.
    """

    best: Tensor
    best_number: Tensor
    total: Tensor
    squares: Tensor
    histogram: Tensor

    @classmethod
    def empty(cls, shape: tuple[int, int], *, device: torch.device | str = "cpu") -> "CorrelationMaps":
        """Return the maps of no correlation."""
        return cls(
            best=torch.full(shape, -torch.inf, dtype=torch.float32, device=device),
            best_number=torch.zeros(shape, dtype=torch.int32, device=device),
            total=torch.zeros(shape, dtype=torch.float64, device=device),
            squares=torch.zeros(shape, dtype=torch.float64, device=device),
            histogram=torch.zeros(len(HISTOGRAM_EDGES) - 1, dtype=torch.int64, device=device),
        )

    def gather(self, scores: Tensor, numbers: Tensor, first_row: int = 0) -> None:
        """Add correlations to the maps, in place.

        Parameters
        ----------
        scores : float32, shape (B, rows, width or more).
        numbers : int32, shape (B,): what each is called.
        first_row : where in the maps they lie.
        """
        width = self.best.shape[1]
        rows = slice(first_row, first_row + scores.shape[1])
        best, number, total, squares = (m[rows] for m in (self.best, self.best_number, self.total, self.squares))
        if scores.device.type == "cpu":
            arrays = (array.numpy() for array in (scores, numbers, best, number, total, squares))
            kernels.gather(*arrays)
        else:
            gather_plainly(scores[:, :, :width], numbers, best, number, total, squares)
        sampled = scores[:, -first_row % STRIDE :: STRIDE, :width:STRIDE].flatten()
        low, step = HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[1] - HISTOGRAM_EDGES[0]
        bins = ((sampled - low) / step).clamp(0, len(self.histogram) - 1).to(torch.int64)
        self.histogram.add_(torch.bincount(bins, minlength=len(self.histogram)))

    def joined(self, later: "CorrelationMaps") -> "CorrelationMaps":
        """Return the maps of both; ``later`` has the higher numbers."""
        better = later.best > self.best
        return CorrelationMaps(
            best=torch.maximum(self.best, later.best),
            best_number=torch.where(better, later.best_number, self.best_number),
            total=self.total + later.total,
            squares=self.squares + later.squares,
            histogram=self.histogram + later.histogram,
        )

    def cpu(self) -> "CorrelationMaps":
        """Return the maps in main memory."""
        return CorrelationMaps(**{name: value.cpu() for name, value in vars(self).items()})

    def mean(self, count: int) -> Tensor:
        """Return the mean of the ``count`` correlations of each place, float32."""
        return (self.total / count).to(torch.float32)

    def deviation(self, count: int) -> Tensor:
        """Return the standard deviation of the ``count`` correlations of each place, float32."""
        mean = self.total / count
        return (self.squares / count - mean.square()).clamp(min=0).sqrt().to(torch.float32)


def gather_plainly(
    scores: Tensor, numbers: Tensor, best: Tensor, best_number: Tensor, total: Tensor, squares: Tensor
) -> None:
    """Do what `halfmap.kernels.correlation_maps.gather` does, by tensor operations: on a GPU.

    Parameters
    ----------
    scores : float32, shape (B, h, w).
    numbers : int32, shape (B,).
    best, best_number, total, squares : shape (h, w); changed.
    """
    most, which = scores.max(dim=0)
    best_number.copy_(torch.where(most > best, numbers[which], best_number))
    torch.maximum(best, most, out=best)
    total.add_(scores.sum(dim=0, dtype=torch.float64))
    squares.add_(scores.to(torch.float64).square().sum(dim=0))
