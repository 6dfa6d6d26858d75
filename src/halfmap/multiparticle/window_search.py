"""Where steps would start too far away: shifts and defoci of whole images, looked for over a range."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.fourier.band import FourierBand
from halfmap.multiparticle.cutting import ImagePasses
from halfmap.multiparticle.local_model import best_scale
from halfmap.multiparticle.series_model import ScalePrior, SpeciesModel, resolution_of
from halfmap.units import electron_wavelength_angstrom

SCALE_ROUNDS = 10
"Of choosing trials and the scale in turn."
SAMPLES_PER_PERIOD = 4.0
"Of the highest frequency, between trial shifts or along the phase between trial defoci."


def shift_grid(reach_angstrom: float, resolution_angstrom: float) -> Tensor:
    """Return trial shifts on a square lattice within a circle, float64, shape (G, 2); the first is zero."""
    n = math.ceil(reach_angstrom / (resolution_angstrom / SAMPLES_PER_PERIOD))
    axis = torch.arange(-n, n + 1, dtype=torch.float64) * (reach_angstrom / max(n, 1))
    shifts = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2)
    length = shifts.norm(dim=1)
    inside = length <= reach_angstrom * (1 + 1e-9)
    return shifts[inside][length[inside].argsort(stable=True)]


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundShifts:
    """By how much the content of whole images is shifted, as far as their likelihood tells.

    Parameters
    ----------
    mean : float64, shape (T, 2), Å: of the posterior over all trials; zero where an image holds no particle.
    variance : float64, shape (T, 2), Å², along x and y: what is expected where nothing tells more.
    """

    mean: Tensor
    variance: Tensor


def image_shifts(
    images: ImagePasses,
    models: Sequence[SpeciesModel],
    noise: Sequence[Tensor],
    *,
    reach_angstrom: float,
    expected_angstrom: float,
    moved_angstrom: Tensor,
) -> FoundShifts:
    """Find by how much the content of whole images is shifted, by cross-correlation with what they should show.

    Parameters
    ----------
    images, models, noise : as for `halfmap.multiparticle.series_model.look`.
    reach_angstrom : how far to look.
    expected_angstrom : standard deviation along each axis that is expected of shifts.
    moved_angstrom : shape (T, 2): how far images have been moved already from where they are expected.

    Notes
    -----
    Products of data and models are added over all particles of an image before their phases are looked at, so an
    image costs one matrix product. What is returned is the mean over all trials, each as likely as the image makes it,
    which is off by less than the likeliest trial wherever an image has peaks of its noise beside its own. Scales of
    images keep to that of the series (`local_model.best_scale`), which is found together with the shifts: an image
    that shows little stays where it is expected, however large a peak its noise has.
    """
    n_images = models[0].counted.shape[1]
    grids = [shift_grid(reach_angstrom, resolution_of(model.band)) for model in models]
    shifts = max(grids, key=len)
    cross = torch.zeros((n_images, len(shifts)), dtype=torch.float64)
    power = torch.zeros(n_images, dtype=torch.float64)
    for t, observed in images:
        for model, windows, variance in zip(models, observed, noise, strict=True):
            one_cross, one_power = _image_products(t, model, windows, variance)
            cross[t] += _at_shifts(one_cross, shifts, model.band)
            power[t] += one_power
    prior = (shifts + moved_angstrom[:, None]).square().sum(-1) / (2 * expected_angstrom**2)
    weights = _probabilities(cross, power, prior)
    mean = weights @ shifts
    # a trial stands for the square around it
    cell = (float(shifts[1:].norm(dim=1).min()) if len(shifts) > 1 else 0.0) ** 2 / 12
    variance = (weights @ shifts.square() - mean.square()).clamp(min=0.0) + cell
    is_seen = power[:, None] > 0
    return FoundShifts(
        mean=torch.where(is_seen, mean, 0.0), variance=torch.where(is_seen, variance, expected_angstrom**2)
    )


def _probabilities(cross: Tensor, power: Tensor, prior: Tensor) -> Tensor:
    """Return how probable each trial is in each image, (T, G), under scales much alike.

    Parameters
    ----------
    cross, prior : x·m of each image and trial, and minus the logarithm of what is expected, (T, G).
    power : m·m of each image, (T,).

    Notes
    -----
    The scale of the series is that of expectation maximisation, the trial being what is not observed. With a Gaussian
    prior the integral over an image's own scale is the value at the best one times what all trials share.
    """
    power = power[:, None].expand_as(cross)
    weights = (cross.clamp(min=0.0).square() / (2 * power.clamp(min=1e-300)) - prior).softmax(1)
    for _ in range(SCALE_ROUNDS):
        scale = ((weights * cross).sum() / power[:, 0].sum().clamp(min=1e-300)).clamp(min=0.0)
        weights = (_gain(cross, power, float(scale)) - prior).softmax(1)
    return weights


def _gain(cross: Tensor, power: Tensor, scale: float) -> Tensor:
    """Return the log-likelihood of trials against noise alone, each at the image's own scale, (T, G)."""
    own = best_scale(cross, power, prior_scale=scale)
    return own * cross - own.square() / 2 * power - ScalePrior(scale=scale).energy_of(own)


def _likeliest(cross: Tensor, power: Tensor, prior: Tensor) -> Tensor:
    """Return which trial is likeliest in each image, (T,), under scales much alike; the first in images without power.

    Parameters
    ----------
    cross : x·m of each image and trial, (T, G).
    power : m·m of each image and trial, (T, G).
    prior : minus its logarithm, of each trial, (G,).
    """
    images = torch.arange(len(cross))
    gain = cross.clamp(min=0.0).square() / (2 * power.clamp(min=1e-300)) - prior
    best = gain.argmax(1)
    for _ in range(SCALE_ROUNDS):
        scale = (cross[images, best].sum() / power[images, best].sum().clamp(min=1e-300)).clamp(min=0.0)
        best = (_gain(cross, power, float(scale)) - prior).argmax(1)
    return best


def _image_products(t: int, model: SpeciesModel, windows: Tensor, variance: Tensor) -> tuple[Tensor, float]:
    """Return Σ x conj m / σ² over particles, (K,), and the sum of |m|² / σ²."""
    sigma2 = variance[t][model.band.shell_of.cpu()].to(windows.device)
    cross = torch.zeros(len(model.band), dtype=torch.complex128, device=windows.device)
    power = 0.0
    for rows in model.batches(t, 0):
        shown = model.modelled(t, rows, ())[:, 0]
        part = windows[rows.to(windows.device), : len(model.band)]
        cross += (part * shown.conj()).sum(0) / sigma2
        power += float(((shown.real.square() + shown.imag.square()) / sigma2).sum())
    return cross.cpu(), power


def _at_shifts(cross: Tensor, shifts: Tensor, band: FourierBand) -> Tensor:
    """Return Re Σ over the band of the products, with the model moved by each shift."""
    phase = 2 * math.pi * (shifts @ band.frequencies.cpu().T)
    return phase.cos() @ cross.real - phase.sin() @ cross.imag


def image_defoci(
    images: ImagePasses,
    models: Sequence[SpeciesModel],
    noise: Sequence[Tensor],
    *,
    reach_angstrom: float,
    expected_angstrom: float,
) -> Tensor:
    """Find by how much the defocus of whole images differs from what it is taken to be.

    Parameters
    ----------
    images, models, noise : as for `halfmap.multiparticle.series_model.look`.
    reach_angstrom : how far to look to either side.
    expected_angstrom : standard deviation that is expected of the difference.

    Returns
    -------
    float64, shape (T,), Å: zero where an image holds no particle, or nothing in it fits better than what is there.
    """
    n_images = models[0].counted.shape[1]
    finest = min(resolution_of(model.band) for model in models)
    step = 2 * finest**2 / (SAMPLES_PER_PERIOD * electron_wavelength_angstrom(models[0].voltage_kv))
    n = math.ceil(reach_angstrom / step)
    trials = torch.arange(-n, n + 1, dtype=torch.float64) * (reach_angstrom / max(n, 1))
    trials = trials[trials.abs().argsort(stable=True)]
    cross = torch.zeros((n_images, len(trials)), dtype=torch.float64)
    power = torch.zeros_like(cross)
    for t, observed in images:
        for i, trial in enumerate(trials.tolist()):
            for model, windows, variance in zip(models, observed, noise, strict=True):
                one_cross, one_power = _image_products(t, model.with_defocus_added(trial), windows, variance)
                cross[t, i] += float(one_cross.real.sum())
                power[t, i] += one_power
    return trials[_likeliest(cross, power, trials.square() / (2 * expected_angstrom**2))]
