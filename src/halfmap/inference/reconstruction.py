"""Volumes from the sums of slices: symmetry, joined low shells, with and without a prior."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from halfmap.fourier import slices
from halfmap.fourier.slices import PaddedGrid, PaddedTransform
from halfmap.geometry.symmetric_volumes import symmetrise_accumulators
from halfmap.inference.maximisation import FIRST_PRIOR_SHELL
from halfmap.tensors import Volumes

VOLUME_BYTES = 150
"""Of each coefficient of the padded transform, what a reconstruction needs beside the sums at most."""

_LEAST_WEIGHT = 1e-3
"""Weights are not taken for less than this share of their shell's mean, as in RELION."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceAccumulator:
    """Data and weights of one volume, as of `halfmap.inference.sums.SliceSums`.

    Parameters
    ----------
    data : complex64, shape ``grid.shape``, Σ weight · s C X / σ².
    weight : float32, the same shape, Σ weight · s² C² / σ².
    grid : what they sample.
    """

    data: Tensor
    weight: Tensor
    grid: PaddedGrid

    def symmetrised(self, symmetry: str) -> "SliceAccumulator":
        """Return the sums over the rotations of a point group."""
        data, weight = symmetrise_accumulators(self.data, self.weight, symmetry)
        return SliceAccumulator(data=data, weight=weight, grid=self.grid)

    def joined(self, other: "SliceAccumulator") -> "SliceAccumulator":
        """Return the sum of two."""
        return SliceAccumulator(data=self.data + other.data, weight=self.weight + other.weight, grid=self.grid)

    @cached_property
    def mean_weight(self) -> Tensor:
        """Mean weight in each shell of the volume, float64, shape (n_shells,); 0 where nothing was seen."""
        return _means(self.weight, _shells(self.grid))[: self.grid.grid.side // 2 + 1]

    def error_variance(self) -> Tensor:
        """Return the variance of one real component of the volume's transform, float64, shape (n_shells,).

        On the scale of `ImageGrid.rfft` of the volume; 0 where nothing was seen.

        Notes
        -----
        What is known of a coefficient of the volume lies in padding³ of the finer transform's.
        """
        mean = self.mean_weight
        known = mean * self.grid.padding**3 * self.grid.grid.side**2
        return torch.where(known > 0, 1 / known.clamp(min=1e-300), torch.zeros_like(known))

    def completeness(self) -> Tensor:
        """Return the share of each shell that was seen, float64, shape (n_shells,)."""
        return _means(self.weight > self._least_weight(), _shells(self.grid))[: len(self.mean_weight)]

    @cached_property
    def divisor(self) -> Tensor:
        """What the data are divided by where there is no prior, float32, of the weights' shape.

        Notes
        -----
        A coefficient that a single image grazes has next to no weight, and divided by it would be that image's noise
        as loud as what many images say beside it. Coefficients of the finer transform nearer than one of the volume's
        own hang together, so each is divided by the mean weight around it where that is more than its own; in each
        shell the mean of weight over divisor is 1. With 300 views of a ribosome this is worth five shells of 48.
        """
        place, n = _shells(self.grid), len(self.mean_weight)
        least = self._least_weight()
        divisor = torch.maximum(torch.maximum(self.weight, self._weight_around()), least)
        is_seen = self.weight > least
        height = _means((self.weight / divisor)[is_seen], place[is_seen], n=n + 1)
        height[height == 0] = 1  # nothing was seen there
        return divisor.mul_(height.float()[place])

    def _least_weight(self) -> Tensor:
        """Return the weight up to which a coefficient counts as not seen, float32, of the weights' shape."""
        beyond = torch.ones(1, dtype=torch.float64)
        return torch.cat([_LEAST_WEIGHT * self.mean_weight, beyond]).float()[_shells(self.grid)]

    def _weight_around(self) -> Tensor:
        """Return the mean weight over one coefficient of the volume's own transform, by linear interpolation's kernel.

        How weights change with the wave number is no unevenness, so the mean is taken of their ratios to its mean.
        """
        reach = self.grid.padding - 1
        ring = _wave_numbers(self.grid).round().long()
        density = _means(self.weight, ring).float()[ring]
        del ring
        even = torch.where(density > 0, self.weight / density.clamp(min=1e-30), torch.zeros_like(density))
        mates = even[..., 1 : reach + 1].flip(0, 1, 2)
        whole = torch.nn.functional.pad(torch.cat([mates, even], dim=-1), (0, reach, reach, reach, reach, reach))
        for _ in range(2):  # the mean over pairs, twice, is that kernel
            whole = torch.nn.functional.avg_pool3d(whole[None], reach + 1, stride=1)[0]
        return whole * density

    def volume(self, fsc: Tensor | None = None, strength: float = 1.0, *, keeps_height: bool = False) -> Volumes:
        """Reconstruct.

        Parameters
        ----------
        fsc : such that the volume's ratio of signal to noise is F / (1 − F), shape (n_shells,): for half maps the FSC
            between them. None: without prior.
        strength : T, by which that ratio is multiplied.
        keeps_height : whether each shell is divided by the share of its signal that the prior leaves, ⟨w² / (w + p)⟩ /
            ⟨w⟩ of weights w and the prior's precision p: only directions that are seen less than others are damped.

        Returns
        -------
        float32, shape (z, y, x)

        Notes
        -----
        data / (w + ⟨weight⟩ (1 − F) / (T F)), the mean over the shell: Scheres 2012 (J. Struct. Biol. 180, 519,
        equation 2) with τ² = T · SSNR / (padding³ ⟨weight⟩). Below shell 5 there is no prior. T enters once (RELION:
        twice). w is the weight, or what lies around it where that is more (`divisor`).
        """
        return slices.to_reference(
            PaddedTransform(values=self._divided(fsc, strength, keeps_height=keeps_height), grid=self.grid)
        )

    def _divided(self, fsc: Tensor | None, strength: float, *, keeps_height: bool) -> Tensor:
        """Return the data divided by weight and prior, complex64, of the data's shape."""
        mean = self.mean_weight
        n = len(mean)
        precision = torch.zeros(n, dtype=torch.float64)
        if fsc is not None:
            known = fsc.nan_to_num(0.0).clamp(0.001, 0.999)
            precision = mean * (1 - known) / (strength * known)
            precision[:FIRST_PRIOR_SHELL] = 0
        prior = torch.cat([precision, torch.zeros(1, dtype=torch.float64)]).float()
        place, divisor = _shells(self.grid), self.divisor
        total = divisor + prior[place]
        seen = (place < n) & (total > 0)
        values = self.data / total.clamp(min=1e-30)
        values[~seen] = 0
        if keeps_height:
            left = torch.bincount(place.flatten(), (divisor.square() / total.clamp(min=1e-30)).flatten().double())
            whole = torch.bincount(place.flatten(), divisor.flatten().double())
            height = torch.where(left > 0, whole / left.clamp(min=1e-300), torch.ones_like(left))
            values *= height.float()[place]
        return values


def join_low_shells(
    first: SliceAccumulator, second: SliceAccumulator, shell: int
) -> tuple[SliceAccumulator, SliceAccumulator]:
    """Give two halves their mean up to a shell, so that they stay in one orientation; at shell 0 nothing is joined."""
    if shell < 1:
        return first, second
    low = _shells(first.grid) <= shell
    data, weight = (first.data + second.data) / 2, (first.weight + second.weight) / 2

    def with_mean(one: SliceAccumulator) -> SliceAccumulator:
        return SliceAccumulator(
            data=torch.where(low, data, one.data), weight=torch.where(low, weight, one.weight), grid=one.grid
        )

    return with_mean(first), with_mean(second)


def _means(values: Tensor, group: Tensor, n: int = 0) -> Tensor:
    """Return the mean of the values in each group, float64, shape (n,) or as many as there are; 0 in empty ones."""
    sums = torch.bincount(group.flatten(), values.flatten().double(), minlength=n)
    return sums / torch.bincount(group.flatten(), minlength=n).clamp(min=1)


@lru_cache(maxsize=1)
def _shells(grid: PaddedGrid) -> Tensor:
    """Return the shell of each stored coefficient in those of the volume itself, int64, shape ``grid.shape``.

    What lies beyond the last shell has the number that would follow.
    """
    return (_wave_numbers(grid) / grid.padding).round().clamp(max=grid.grid.side // 2 + 1).long()


def _wave_numbers(grid: PaddedGrid) -> Tensor:
    """Return |k| of each stored coefficient in the padded volume's own, float32, shape ``grid.shape``."""
    R = grid.radius
    whole = torch.arange(-R, R + 1, dtype=torch.float32).square()
    half = torch.arange(R + 1, dtype=torch.float32).square()
    return (whole[:, None, None] + whole[:, None] + half).sqrt()
