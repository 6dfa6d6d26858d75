"""M's score of a series, a normalised cross-correlation, to compare numbers and optima with the likelihood's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.errors import ComputeError
from halfmap.fourier.band import FourierBand
from halfmap.multiparticle.fit import Comparison, Parameters
from halfmap.multiparticle.joint import JointObjective, Prediction
from halfmap.multiparticle.noise import data_sums

WEIGHT_THRESHOLD = 0.05
"Shells count where an image's weight is at least this share of that of the image with the least dose, as in M."


@dataclass(frozen=True, kw_only=True, eq=False)
class MScore:
    """Sums that M's scores are made of.

    Parameters
    ----------
    cross, reference, data : float64, shape (P, T)
        AB, A² and B² of each particle of all species, one species after the other, in each image.
    """

    cross: Tensor
    reference: Tensor
    data: Tensor

    @property
    def value(self) -> float:
        """M's score of the series: 100 P T ΣAB / √(ΣA² ΣB²)."""
        n_particles, n_images = self.cross.shape
        ratio = self.cross.sum() / (self.reference.sum() * self.data.sum()).sqrt().clamp(min=1e-300)
        return float(100 * n_particles * n_images * ratio)

    @property
    def of_particles(self) -> Tensor:
        """The same ratio of each particle, times 100 T, shape (P,)."""
        norm = (self.reference.sum(1) * self.data.sum(1)).sqrt().clamp(min=1e-300)
        return 100 * self.cross.shape[1] * self.cross.sum(1) / norm

    @property
    def of_images(self) -> Tensor:
        """The same ratio of each image, times 100 P, shape (T,)."""
        norm = (self.reference.sum(0) * self.data.sum(0)).sqrt().clamp(min=1e-300)
        return 100 * self.cross.shape[0] * self.cross.sum(0) / norm


class MObjective(JointObjective):
    """Minus M's score as a function of all parameters, without priors.

    Parameters
    ----------
    comparison : images, layouts; its noise and scales are not used.
    start : where parameters are zero.

    Notes
    -----
    With Y = W/PS · slice and X = CTF · W · image, where W is an image's weight and PS its mean power spectrum, the
    score is Σ Re X Y* over √(Σ|Y|² Σ|X|²), each particle against its own half. There is no CTF on the reference's side.
    Windows here hold what the CTF has displaced, and are not cropped to the particle afterwards, as M's are: scores of
    M itself are higher by what noise the cropping takes away.
    """

    def __init__(self, comparison: Comparison, start: Parameters) -> None:
        sums = data_sums(comparison.images, comparison.bands, comparison.counted)
        spectra = [one[:, 0] / one[:, 3].clamp(min=1.0) for one in sums]
        self._sums = _Sums(comparison, [one / one[:, 1:].mean(1, keepdim=True) for one in spectra])
        super().__init__(comparison, start, self._sums)

    def score(self, vector: Tensor) -> MScore:
        """Return the sums at some parameters."""
        self._sums.begin()
        super().__call__(vector.detach())
        return self._sums.found()

    def __call__(self, vector: Tensor) -> Tensor:
        """Return minus the score, and leave its gradient in ``vector.grad`` where the vector asks for one."""
        found = self.score(vector)
        value = torch.tensor(-found.value, dtype=torch.float64)
        if not bool(torch.isfinite(value)) or float(value) == 0.0:
            raise ComputeError("M's score must be a number other than zero; nothing in the images can be compared.")
        if vector.requires_grad:
            self._sums.begin(totals=found)
            super().__call__(vector)
        return value

    def energy(self, shared: Tensor, own: Sequence[Tensor]) -> Tensor:
        """Return zero: M has no priors."""
        return (shared.sum() + sum(part.sum() for part in own)) * 0.0


class _Sums:
    """An image's AB, A² and B², weighted so that their sum has the gradient of minus the score."""

    def __init__(self, comparison: Comparison, spectra: Sequence[Tensor]) -> None:
        self._counted, self._spectra = comparison.counted, spectra
        self._parts: list[list[Tensor]] = []
        self._totals: MScore | None = None

    def begin(self, totals: MScore | None = None) -> None:
        """Forget earlier sums; with totals, what follows is differentiated."""
        self._totals = totals
        self._parts = [[torch.zeros(which.shape, dtype=torch.float64) for _ in range(3)] for which in self._counted]

    def found(self) -> MScore:
        """Return all sums since `begin`."""
        cross, reference, data = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        return MScore(cross=cross, reference=reference, data=data)

    def __call__(self, number: int, t: int, observed: Tensor, expected: Prediction, band: FourierBand) -> Tensor:
        """Return what an image adds."""
        weight = expected.weight
        relevant = (weight >= WEIGHT_THRESHOLD * weight.max()).to(weight)
        spectrum = self._spectra[number][t][band.shell_of.cpu()].to(weight)
        data = observed * (expected.ctf * weight * relevant)
        reference = expected.view * (weight / spectrum * relevant)
        cross = (data.real * reference.real + data.imag * reference.imag).double().sum(-1)
        power = (reference.real.square() + reference.imag.square()).double().sum(-1)
        rows = torch.nonzero(self._counted[number][:, t]).flatten()
        own = (data.real.square() + data.imag.square()).double().sum(-1)
        for table, values in zip(self._parts[number], (cross, power, own), strict=True):
            table[rows, t] = values.detach().cpu()
        totals = self._totals
        if totals is None:
            return (cross.detach() * 0).sum()
        all_cross, all_power, all_own = totals.cross.sum(), totals.reference.sum(), totals.data.sum()
        n_particles, n_images = totals.cross.shape
        norm = (all_power * all_own).sqrt()
        # the derivative of AB / √(A² B²) by its parts
        change = cross.sum().cpu() - all_cross / 2 * (power.sum().cpu() / all_power + own.sum().cpu() / all_own)
        return -100 * n_particles * n_images * change / norm


def m_score(comparison: Comparison, start: Parameters) -> MScore:
    """Return M's score of a series as it is; see `MObjective`."""
    objective = MObjective(comparison, start)
    return objective.score(torch.zeros(len(objective.units), dtype=torch.float64))
