"""Aberrations of an optics group beyond defocus, as template matching takes them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.imaging.projection import magnified
from halfmap.optics.aberrations import even_phase, magnify, odd_phase
from halfmap.tensors import Rotations


@dataclass(frozen=True, kw_only=True)
class Aberrations:
    """What all particles of an optics group share.

    Parameters
    ----------
    even_zernike, odd_zernike : radians, in the order of `halfmap.optics.aberrations.even_index` and ``odd_index``; a
        beam tilt among the odd ones.
    magnification : rows of M of `halfmap.optics.aberrations.magnify`.
    """

    even_zernike: tuple[float, ...] = ()
    odd_zernike: tuple[float, ...] = ()
    magnification: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)

    @property
    def is_magnified(self) -> bool:
        """Whether the magnification is no identity."""
        return self.magnification != (1.0, 0.0, 0.0, 1.0)

    @property
    def is_odd(self) -> bool:
        """Whether there are odd aberrations."""
        return any(self.odd_zernike)

    def frequencies(self, frequencies: Tensor) -> Tensor:
        """Return the specimen's frequencies that lie at the image's, both (x, y) in 1/Å, shape (..., 2)."""
        return magnify(frequencies, self._matrix()) if self.is_magnified else frequencies

    def rotations(self, rotations: Rotations) -> Rotations:
        """Return the matrices whose slices are those of rotations, as the image has them; shape (..., 3, 3)."""
        return magnified(rotations, self._matrix()) if self.is_magnified else rotations

    def even_phase(self, frequencies: Tensor) -> Tensor | None:
        """Return what even aberrations add to γ at the specimen's frequencies, float64; None where nothing."""
        return even_phase(frequencies, self.even_zernike) if any(self.even_zernike) else None

    def odd_phase(self, frequencies: Tensor) -> Tensor:
        """Return the phase of odd aberrations at the image's frequencies, float64."""
        # voltage and spherical aberration count for a beam tilt alone
        return odd_phase(
            self.frequencies(frequencies), odd_zernike=self.odd_zernike, voltage_kv=300.0, spherical_aberration_mm=0.0
        )

    def _matrix(self) -> Tensor:
        return torch.tensor(self.magnification, dtype=torch.float64).reshape(2, 2)


NO_ABERRATIONS = Aberrations()
"""None beyond defocus."""
