"""The local quadratic model: how well a particle fits an image, and how that changes with what is particular to both.

An image of a particle depends on a few numbers only: where its content lies, how it is turned, its defocus, and the
optics. Of the likelihood of one image over these numbers nothing is kept but value, gradient and Gauss-Newton
Hessian; any parameter of a whole series acts through them, and no image is looked at again until it has changed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.imaging.projection import magnified, shift_phases
from halfmap.tensors import BandValues, Rotations, Shifts

_TURNS = ("turn_x", "turn_y", "turn_z")
_MAGNIFICATION = {
    "magnification_11": (0, 0), "magnification_12": (0, 1), "magnification_21": (1, 0), "magnification_22": (1, 1),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageTransfer:
    """How projections of particles become what one image shows of them.

    Parameters
    ----------
    values : float32, shape (P, K): CTF times the image's weight.
    by_phase : float32, shape (P, K): the derivative of ``values`` by γ; None where no parameter changes γ.
    odd_phase : complex64, shape (K,): factors of odd aberrations; None for none.
    phase_bases : by name of a local parameter that changes γ, ∂γ/∂parameter, shape (K,).
    odd_bases : by name of an odd Zernike coefficient, its polynomial, shape (K,).
    magnification : shape (2, 2); None for the identity.
    """

    values: Tensor
    by_phase: Tensor | None
    odd_phase: Tensor | None
    phase_bases: Mapping[str, Tensor]
    odd_bases: Mapping[str, Tensor]
    magnification: Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalProducts:
    """Products, over the band and in units of the noise, of data x, model m and its derivatives j, at a scale of one.

    Parameters
    ----------
    data, cross, model : float64, shape (P,): x·x, x·m and m·m.
    data_slopes, model_slopes : float64, shape (P, d): x·j and m·j.
    slopes : float64, shape (P, d, d): j·j.
    """

    data: Tensor
    cross: Tensor
    model: Tensor
    data_slopes: Tensor
    model_slopes: Tensor
    slopes: Tensor

    def chi2(self, scale: Tensor) -> Tensor:
        """Return Σ |x − a m|² for scales a, shape (P,)."""
        return self.data - 2 * scale * self.cross + scale.square() * self.model

    def gradient(self, scale: Tensor) -> Tensor:
        """Return the gradient of half of `chi2` by the local parameters, shape (P, d)."""
        return scale[..., None] * (scale[..., None] * self.model_slopes - self.data_slopes)

    def hessian(self, scale: Tensor) -> Tensor:
        """Return the Gauss-Newton Hessian of half of `chi2`, shape (P, d, d)."""
        return scale.square()[..., None, None] * self.slopes


def modelled(
    references: Sequence[slices.PaddedTransform],
    which: Tensor,
    band: FourierBand,
    rotation: Rotations,
    shift_angstrom: Shifts,
    transfer: ImageTransfer,
    active: Sequence[str] = (),
) -> Tensor:
    """Return what an image should show of particles, and how that changes with local parameters.

    Parameters
    ----------
    references : of `halfmap.fourier.slices.prepare`, on one grid.
    which : int64, shape (P,): the number of each particle's reference.
    band : of the images.
    rotation : float64, shape (P, 3, 3), of the particles in the image.
    shift_angstrom : float64, shape (P, 2): where content lies from the centre of what was cut out.
    transfer : of the image.
    active : names of local parameters, see `halfmap.multiparticle.parameters.LOCAL`.

    Returns
    -------
    complex64, shape (P, 1 + d, K)
        The model at a scale of one, and its derivatives by the active parameters.
    """
    frequencies = band.frequencies.to(references[0].values.device)
    factor = shift_phases(frequencies, shift_angstrom.to(frequencies.device), references[0].values.dtype)
    if transfer.odd_phase is not None:
        factor = factor * transfer.odd_phase
    view, slopes = _views(references, which, band, rotation, transfer.magnification, active)
    shown = factor * transfer.values
    rows = [shown * view]
    by_phase = None if transfer.by_phase is None else factor * transfer.by_phase * view
    for name in active:
        if name in ("shift_x", "shift_y"):
            along = frequencies[:, 0 if name == "shift_x" else 1]
            rows.append(rows[0] * torch.complex(torch.zeros_like(along), -2 * math.pi * along).to(rows[0].dtype))
        elif name in transfer.odd_bases:
            basis = transfer.odd_bases[name].to(rows[0].real)
            rows.append(rows[0] * torch.complex(torch.zeros_like(basis), basis))
        elif by_phase is not None and name in transfer.phase_bases:
            rows.append(by_phase * transfer.phase_bases[name].to(by_phase.real))
        else:
            rows.append(shown * _moved(slopes, name, frequencies, transfer.magnification))
    return torch.stack(rows, dim=1)


def _views(
    references: Sequence[slices.PaddedTransform],
    which: Tensor,
    band: FourierBand,
    rotation: Rotations,
    magnification: Tensor | None,
    active: Sequence[str],
) -> tuple[BandValues, Tensor]:
    """Return slices, (P, K), and their slopes, (3, P, K); of the latter nothing where no parameter needs them."""
    values = references[0].values
    needs_slopes = any(name in _TURNS or name in _MAGNIFICATION for name in active)
    view = values.new_empty((len(which), len(band)))
    slopes = values.new_empty((3, len(which) if needs_slopes else 0, len(band)))
    for number, reference in enumerate(references):
        rows = torch.nonzero(which == number).flatten()
        if not len(rows):
            continue
        there = rows.to(values.device)
        if needs_slopes:
            found, slope = slices.extract_with_gradients(reference, rotation[rows], band, magnification=magnification)
            slopes[:, there] = slope
        else:
            turned = rotation[rows] if magnification is None else magnified(rotation[rows], magnification)
            found = slices.extract(reference, turned, band)
        view[there] = found
    return view, slopes


def _moved(slopes: Tensor, name: str, frequencies: Tensor, magnification: Tensor | None) -> BandValues:
    """Return how slices change where their points move as a turn or a magnification moves them."""
    x, y, z = slopes
    if name in _MAGNIFICATION:
        row, column = _MAGNIFICATION[name]
        return slopes[row] * frequencies[:, column].to(x.real)
    points = frequencies if magnification is None else frequencies @ magnification.to(frequencies).T
    kx, ky = points.to(x.real).unbind(-1)
    return {"turn_x": -ky * z, "turn_y": kx * z, "turn_z": ky * x - kx * y}[name]


def products(observed: BandValues, model: Tensor, noise_variance: Tensor) -> LocalProducts:
    """Reduce images and their models to what the quadratic model needs.

    Parameters
    ----------
    observed : complex64, shape (P, K).
    model : complex64, shape (P, 1 + d, K), of `modelled`.
    noise_variance : shape (K,): σ² of one real component.

    Notes
    -----
    One product of real matrices a particle: Re Σ a conj b over the band. Sums are float64: aberrations of different
    orders turn the phase of coarse images nearly alike, and the Hessian is to tell them apart.
    """
    vectors = torch.cat([observed[:, None], model], dim=1) * noise_variance.rsqrt().to(model.real)
    real = torch.view_as_real(vectors).flatten(-2).double()
    gram = (real @ real.mT).cpu()
    return LocalProducts(
        data=gram[:, 0, 0],
        cross=gram[:, 0, 1],
        model=gram[:, 1, 1],
        data_slopes=gram[:, 0, 2:],
        model_slopes=gram[:, 1, 2:],
        slopes=gram[:, 2:, 2:],
    )


def best_scale(cross: Tensor, model: Tensor, *, prior_scale: float, prior_share: float = 0.5) -> Tensor:
    """Return the scale of a species in an image.

    Parameters
    ----------
    cross, model : sums of x·m and m·m over the particles; any shape.
    prior_scale : what is expected before looking, of the whole series.
    prior_share : standard deviation of the scale around that, as a share of it.

    Returns
    -------
    Where likelihood and prior together are largest, never below zero.
    """
    precision = 1.0 / (prior_share * max(prior_scale, 1e-12)) ** 2
    return ((cross + precision * prior_scale) / (model + precision)).clamp(min=0.0)
