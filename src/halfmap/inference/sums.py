"""Sums over the posterior of particles: all that a chunk of an E-step hands back."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.rotated_spectra import rotate_back
from halfmap.grid import ImageGrid
from halfmap.inference.references import References, SliceBlock


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientSums:
    """What images say of class averages.

    Parameters
    ----------
    gradient : float32, shape (H, C, side, side): derivative of the expected log-likelihood by each pixel of the
        references; H is 2 for pseudo-halves, else 1.
    curvature : float32, shape (H, C, K): Σ weight s² C² / σ² in the frame of the references, K of the search's band.
    """

    gradient: Tensor
    curvature: Tensor

    @classmethod
    def none(cls, n_halves: int, references: References, grid: ImageGrid, band: FourierBand) -> "GradientSums":
        """Return sums over no image."""
        shape = (n_halves, references.n_classes)
        return cls(
            gradient=torch.zeros((*shape, *grid.shape), dtype=torch.float32),
            curvature=torch.zeros((*shape, len(band)), dtype=torch.float32),
        )

    def insert(
        self, half: int, block: SliceBlock, data: Tensor, weight: Tensor, band: FourierBand, references: References
    ) -> None:
        """Add the sums over a block of slices: data complex64, weight float32, shape (rows, K)."""
        shape = (block.classes.stop - block.classes.start, -1, len(band))
        data = (data - weight * block.values).view(shape)
        self.gradient[half, block.classes] += slices.adjoint(data, block.rotations, band, references.padded_grid).cpu()
        self.curvature[half, block.classes] += rotate_back(weight.view(shape), block.rotations, band).cpu()


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceSums:
    """What images say of volumes: their slices, inserted.

    Parameters
    ----------
    data : Σ weight · s C X / σ², complex64, shape (H, C, *half volume) of `halfmap.fourier.slices.insert`.
    weight : Σ weight · s² C² / σ², float32, the same shape.
    """

    data: Tensor
    weight: Tensor

    @classmethod
    def none(cls, n_halves: int, references: References) -> "SliceSums":
        """Return sums over no image."""
        shape = (n_halves, references.n_classes, *references.padded_grid.shape)
        return cls(data=torch.zeros(shape, dtype=torch.complex64), weight=torch.zeros(shape, dtype=torch.float32))

    def insert(
        self, half: int, block: SliceBlock, data: Tensor, weight: Tensor, band: FourierBand, references: References
    ) -> None:
        """Add the sums over a block of slices: data complex64, weight float32, shape (rows, K)."""
        inserted = slices.insert(data, weight, block.rotations, band, references.padded_grid)
        self.data[half, block.classes.start] += inserted[0].cpu()
        self.weight[half, block.classes.start] += inserted[1].cpu()


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimates:
    """What is found for each of n particles.

    Parameters
    ----------
    row : of the particle among those of the `ImageData`.
    class_index : from 0, of the most probable pose.
    rotation, origin_angstrom : of the most probable pose; rotations have shape (n, 3, 3).
    max_probability, log_likelihood, n_significant, lost_mass : as of a `Posterior`.
    residual : Σ |masked image − model|² over all shells, relative to what the noise leads to expect.
    """

    row: NDArray[np.int64]
    class_index: NDArray[np.int64]
    rotation: NDArray[np.float64]
    origin_angstrom: NDArray[np.float64]
    max_probability: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    n_significant: NDArray[np.int64]
    lost_mass: NDArray[np.float64]
    residual: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Sums over the posterior of all particles; two of them are added by `add`.

    Parameters
    ----------
    references : what the images say of them; None where that was left out.
    class_mass : float64, shape (H, C).
    offset : float64, shape (C, 2): Σ weight · origin.
    offset_square : float64, shape (C,): Σ weight · |origin|².
    residual_power : float64, shape (groups, n_shells): Σ |masked image − model|² over the band's coefficients; of
        premultiplied images Σ C² |X − model|².
    residual_count : float64, shape (groups, n_shells): number of coefficients, of premultiplied images Σ C².
    scale_cross, scale_square : float64, shape (M,): Σ Re(X conj(C P))/σ² and Σ |C P|²/σ² of each micrograph.
    estimates : of the particles.
    """

    references: GradientSums | SliceSums | None
    class_mass: Tensor
    offset: Tensor
    offset_square: Tensor
    residual_power: Tensor
    residual_count: Tensor
    scale_cross: Tensor
    scale_square: Tensor
    estimates: Estimates

    def without_references(self) -> "Sums":
        """Return the sums but for what the images say of the references, which takes most of the memory."""
        return replace(self, references=None)

    @property
    def gradient(self) -> Tensor:
        """Of class averages; see `GradientSums`."""
        assert isinstance(self.references, GradientSums)
        return self.references.gradient

    @property
    def curvature(self) -> Tensor:
        """Of class averages; see `GradientSums`."""
        assert isinstance(self.references, GradientSums)
        return self.references.curvature

    @property
    def slices(self) -> SliceSums:
        """Of volumes."""
        assert isinstance(self.references, SliceSums)
        return self.references


def add(first: Sums, second: Sums) -> Sums:
    """Add the sums of two chunks; changes and returns the first's tensors."""
    for field in fields(Sums):
        if field.name not in ("estimates", "references"):
            getattr(first, field.name).add_(getattr(second, field.name))
    assert first.references is not None
    for field in fields(first.references):
        getattr(first.references, field.name).add_(getattr(second.references, field.name))
    joined = {
        field.name: np.concatenate([getattr(first.estimates, field.name), getattr(second.estimates, field.name)])
        for field in fields(Estimates)
    }
    values = {field.name: getattr(first, field.name) for field in fields(Sums)}
    return Sums(**{**values, "estimates": Estimates(**joined)})
