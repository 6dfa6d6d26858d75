"""The M-step: references, noise, grey scales and priors from the sums of an E-step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.errors import ShapeError
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import crop_or_pad
from halfmap.fourier.shells import n_shells, shell_index
from halfmap.grid import ImageGrid
from halfmap.inference.priors import Priors
from halfmap.tensors import BandValues, Images

FIRST_PRIOR_SHELL = 5
"""Below this shell references are not regularised, as in RELION (its minres_map)."""

SCALE_LIMITS = (0.2, 5.0)
MIN_OFFSET_VARIANCE_ANGSTROM2 = 2.0


def band_gradient(gradient: Images, band: FourierBand) -> BandValues:
    """Return the derivative of the log-likelihood by the references' coefficients.

    Parameters
    ----------
    gradient : by their pixels, float32, shape (..., side, side).

    Returns
    -------
    Complex, shape (..., K): ∂/∂Re + i ∂/∂Im of each coefficient, its mate included.

    Notes
    -----
    A pixel is Σ over the band of 2 Re(V e^{2πi k·x}), so the derivative is twice the number of pixels times
    the transform of the image of derivatives.
    """
    return band.gather(band.grid.rfft(gradient)) * (2.0 * band.grid.n_pixels)


def shell_power(values: BandValues, band: FourierBand) -> Tensor:
    """Return ½ of the mean square in each shell, float64, shape (..., n_shells): the variance of one component.

    Shells without coefficients hold 0.
    """
    return 0.5 * shell_mean(values.real.square() + values.imag.square(), band)


def shell_mean(values: Tensor, band: FourierBand) -> Tensor:
    """Return the mean of real band values over each shell, float64, shape (..., n_shells); 0 where there are none."""
    count = torch.bincount(band.shell_of, minlength=n_shells(band.grid)).double()
    sums = torch.zeros((*values.shape[:-1], len(count)), dtype=torch.float64, device=values.device)
    sums[..., : band.max_shell + 1] = band.shell_sum(values)
    return sums / count.clamp(min=1)


def overlap(mask: Images, grid: ImageGrid) -> Images:
    """Return the overlap of a mask with itself, moved by each vector of the grid, as a share of that unmoved.

    Parameters
    ----------
    mask : shape (side, side).

    Returns
    -------
    float32, shape (side, side); 1 at the centre.
    """
    large, large_grid = crop_or_pad(mask.double(), grid, 2 * grid.side)
    power = large_grid.rfft(large)
    correlation = large_grid.irfft((power.real.square() + power.imag.square()).to(power.dtype))
    near, _ = crop_or_pad(correlation, large_grid, grid.shape)
    return (near / near[grid.centre]).float()


def within_mask(curvature: Tensor, band: FourierBand, mask_overlap: Images) -> Tensor:
    """Return the curvature that references confined to a mask feel: the mean over neighbouring coefficients.

    Parameters
    ----------
    curvature : Σ weight · s² C²/σ² in the frame of the references, float32, shape (..., K).
    mask_overlap : of `overlap`.

    Returns
    -------
    float32, shape (..., K), not negative.

    Notes
    -----
    A reference that is 0 outside a mask cannot have one coefficient without its neighbours. Its second derivative by
    one is that of the whole sum seen through the mask's transform, W * |M|²: in space, the kernel of W times the
    overlap of the mask with itself. Where the CTFs of all particles have a zero in common W alone is much too
    small, and steps divided by it would grow from iteration to iteration.
    """
    transform = band.scatter(curvature)
    shell = shell_index(band.grid, device=curvature.device)
    beyond = shell > band.max_shell
    means = shell_mean(curvature, band).float()
    transform = torch.where(beyond, means[..., band.max_shell, None, None], transform)
    transform[..., 0, 0] = means[..., band.min_shell]
    kernel = band.grid.irfft(transform.to(torch.complex64))
    return band.gather(band.grid.rfft(kernel * mask_overlap)).real.clamp(min=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Regularisation:
    """How far the references' own power is trusted.

    Parameters
    ----------
    prior_variance : τ² of each class and shell, float64, shape (C, n_shells).
    strength : T, divided by the share of noise that the mask lets through, so that it means what it means in RELION.
    """

    prior_variance: Tensor
    strength: float

    def precision(self, band: FourierBand) -> Tensor:
        """Return 1/(T τ²) for each coefficient, float32, shape (C, K): 0 below `FIRST_PRIOR_SHELL`.

        Where τ² is 0, a coefficient without a prior value stays 0.
        """
        precision = 1 / (self.strength * self.prior_variance)
        precision[:, :FIRST_PRIOR_SHELL] = 0
        return precision[:, band.shell_of].float()


def maximise(
    references: BandValues, gradient: BandValues, curvature: Tensor, regularisation: Regularisation, band: FourierBand
) -> BandValues:
    """Move references to where the penalised expected log-likelihood is largest.

    Parameters
    ----------
    references, gradient : complex64, shape (C, K); the gradient as of `band_gradient`.
    curvature : float32, shape (C, K).

    Returns
    -------
    complex64, shape (C, K)

    Notes
    -----
    V + (g − V/(Tτ²)) / (W + 1/(Tτ²)): the Wiener filter of Scheres 2012 (J. Struct. Biol. 180, 519, equation 2), data /
    (W + 1/(Tτ²)), where slices are exact; as a step from the current reference its fixed point is that of the exact
    likelihood even where W is not quite its second derivative. Coefficients with less than 1/1000 of their
    shell's mean curvature are taken to have that much, as in RELION.
    """
    if references.shape != gradient.shape or references.shape != curvature.shape:
        raise ShapeError(
            f"References, gradient and curvature must have one shape; got {tuple(references.shape)}, "
            f"{tuple(gradient.shape)} and {tuple(curvature.shape)}."
        )
    precision = regularisation.precision(band)
    full = _floored(curvature, band) + precision
    settled = torch.isfinite(precision) & (full > 0)
    precision = torch.where(settled, precision, torch.zeros_like(precision))
    step = (gradient - precision * references) / torch.where(settled, full, torch.ones_like(full))
    return torch.where(settled, references + step, torch.zeros_like(references))


def unregularised(references: BandValues, gradient: BandValues, curvature: Tensor, band: FourierBand) -> BandValues:
    """Return the averages of the images: `maximise` without a prior, complex64, shape (C, K)."""
    floored = _floored(curvature, band)
    seen = floored > 0
    return torch.where(seen, references + gradient / torch.where(seen, floored, torch.ones_like(floored)), 0.0)


def _floored(curvature: Tensor, band: FourierBand) -> Tensor:
    return torch.maximum(curvature, (shell_mean(curvature, band)[:, band.shell_of] * 1e-3).float())


def signal_to_noise(curvature: Tensor, regularisation: Regularisation, band: FourierBand) -> Tensor:
    """Return RELION's data-vs-prior ratio: mean W · T · τ² of each class and shell, float64, shape (C, n_shells)."""
    return shell_mean(curvature, band) * regularisation.strength * regularisation.prior_variance


def noise_variance(power: Tensor, count: Tensor, previous: Tensor, *, mask_power: float) -> Tensor:
    """Return σ² of the noise without mask.

    Parameters
    ----------
    power, count : of `Sums`, float64, shape (groups, n_shells).
    previous : σ² so far, kept where a group has no coefficients.
    mask_power : share of white noise that the mask lets through.

    Returns
    -------
    float64, shape (groups, n_shells); DC and shells beyond the band take their neighbours' values.
    """
    measured = power / (2 * mask_power * count.clamp(min=1))
    variance = torch.where((count > 0) & (measured > 0), measured, previous)
    last = int(torch.nonzero(count.sum(0) > 0).max()) if bool((count > 0).any()) else variance.shape[1] - 1
    variance[:, 0] = variance[:, 1]
    variance[:, last + 1 :] = variance[:, last : last + 1]
    return variance


def micrograph_scale(cross: Tensor, square: Tensor, n_particles: Tensor) -> Tensor:
    """Return the grey scale of each micrograph, drawn towards 1 as far as its own particles leave it open.

    Parameters
    ----------
    cross, square : Σ Re(X conj(C P))/σ² and Σ |C P|²/σ², float64, shape (M,).
    n_particles : of each micrograph, shape (M,).

    Returns
    -------
    float64, shape (M,); its mean over particles is 1.

    Notes
    -----
    A scale has the likelihood of a normal with mean cross/square and variance 1/square, and a normal prior
    around the common mean whose variance is what the scatter of the means has beyond their errors (DerSimonian and
    Laird 1986, Control. Clin. Trials 7, 177). So micrographs with few particles need no regrouping.
    """
    told = square > 0
    if not bool(told.any()):
        return torch.ones_like(cross)
    raw = cross[told] / square[told]
    weight = square[told]
    mean = (weight * raw).sum() / weight.sum()
    scatter = (weight * (raw - mean).square()).sum() - (len(raw) - 1)
    spread = weight.sum() - weight.square().sum() / weight.sum()
    between = float((scatter / spread.clamp(min=1e-30)).clamp(0.0, 1.0)) if len(raw) > 1 else 0.0
    scale = torch.full_like(cross, float(mean))
    if between > 0:
        scale[told] = (weight * raw + mean / between) / (weight + 1 / between)
    average = float((scale * n_particles).sum() / n_particles.sum())
    if not average > 0:
        return torch.ones_like(cross)
    return (scale / average).clamp(*SCALE_LIMITS)


def class_priors(mass: Tensor, offset: Tensor, offset_square: Tensor, previous: Priors) -> Priors:
    """Return fractions of the classes and the prior of offsets from the sums of an E-step.

    Parameters
    ----------
    mass, offset, offset_square : of `Sums`, over pseudo-halves together: shapes (C,), (C, 2) and (C,).
    previous : keeps the offset of classes without particles.

    Notes
    -----
    The mean offset of a class is weighted by the class's own particles (RELION divides by all of them,
    which draws it to 0); the spread is floored at √2 Å.
    """
    total = mass.sum()
    mean = torch.where(mass[:, None] > 0, offset / mass.clamp(min=1e-30)[:, None], previous.prior_offset_angstrom)
    around = offset_square - 2 * (mean * offset).sum(-1) + mass * mean.square().sum(-1)
    variance = max(float(around.sum() / (2 * total)), MIN_OFFSET_VARIANCE_ANGSTROM2)
    return Priors(
        fractions=mass / total,
        offset_sigma_angstrom=variance**0.5,
        prior_offset_angstrom=mean,
    )


def log_prior(references: BandValues, regularisation: Regularisation, band: FourierBand) -> float:
    """Return −½ Σ |V|²/(T τ²): what the references cost under their prior."""
    precision = regularisation.precision(band).double()
    square = references.real.double().square() + references.imag.double().square()
    return float(-0.5 * torch.where(square > 0, square * precision, torch.zeros_like(square)).sum())


def on_background(images: Images, mask: Images) -> Images:
    """Return images with that grey value added which makes their mean outside a mask 0.

    Parameters
    ----------
    images : shape (..., side, side).
    mask : shape (side, side), from 0 to 1; images are returned as they are where it is 1 everywhere.

    Notes
    -----
    A band holds no mean. References are nothing outside their mask, and what they are made of has to end at 0 there:
    else the mask turns the missing mean into a disc, and its lowest shells are lost again at every step.
    """
    outside = 1 - mask
    total = outside.sum()
    if not bool(total > 0):
        return images
    return images - ((images * outside).sum((-2, -1)) / total)[..., None, None]


def on_images(references: BandValues, band: FourierBand, grid: ImageGrid) -> Images:
    """Return band values as images, float32, shape (C, side, side)."""
    return grid.irfft(band.scatter(references)).float()
