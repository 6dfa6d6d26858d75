"""Poses, positions and defoci to the last digit: Gauss–Newton steps on the likelihood, and what it can tell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.fourier import slices
from halfmap.geometry.rotations import matrix_from_rotation_vector, rotation_vector_from_matrix
from halfmap.template_matching.model import BoxModel, ParticleOptics
from halfmap.template_matching.per_particle import PerParticle
from halfmap.tensors import BandValues, Rotations

N_PARAMETERS = 6
"""x and y in Å, defocus in Å, turns about the image's x and y axes and the viewing direction in radians."""

ALL_FREE = torch.ones(N_PARAMETERS, dtype=torch.bool)
"""All six may change."""

MAX_ITERATIONS = 12
CONVERGED = 0.2
"""Length of a step, in stated uncertainties, below which a particle is left as it is."""

DIFFERENCE = 0.6
"""Step of differences, in samples of the padded transform at the highest frequency: enough to smooth its cells."""

SAME_PEAK = 1.5
"""Distance, in widths of the score's peak, within which a start leads to the same maximum."""

_FIRST_DAMPING = 1e-3
_MAX_DAMPING = 1e3


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleStates(PerParticle):
    """Where particles lie and how.

    Parameters
    ----------
    rotations : float64, shape (N, 3, 3): A of the conventions.
    shifts_angstrom : float64, shape (N, 2): (x, y) from the centre of the box to the particle.
    defocus_angstrom : float64, shape (N,): added to the defocus of the optics.
    """

    rotations: Rotations
    shifts_angstrom: Tensor
    defocus_angstrom: Tensor

    def moved(self, steps: Tensor) -> "ParticleStates":
        """Return the particles after steps, float64, shape (N, 6), in the order of `N_PARAMETERS`."""
        return ParticleStates(
            rotations=matrix_from_rotation_vector(steps[:, 3:]) @ self.rotations,
            shifts_angstrom=self.shifts_angstrom + steps[:, :2],
            defocus_angstrom=self.defocus_angstrom + steps[:, 2],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit(PerParticle):
    """How well a projection explains each box, and how that changes.

    Parameters
    ----------
    score : float64, shape (N,): correlation in standard deviations of what white noise gives.
    likelihood : float64, shape (N,): the root of twice the gain in log-likelihood by the projection at its best scale;
        the score, where no filter weighs frequencies beyond whitening.
    amplitude : float64, shape (N,): that best scale.
    information : float64, shape (N, 6, 6): curvature of the squared residual at scale 1, scale free.
    noise_information : the same with the coloured noise of the other filters in it.
    gradient : float64, shape (N, 6).
    width : float64, shape (N, 6): step of each parameter over which the score falls by the factor exp(−1/2), about.
    """

    score: Tensor
    likelihood: Tensor
    amplitude: Tensor
    information: Tensor
    noise_information: Tensor
    gradient: Tensor
    width: Tensor

    def covariance(self, *, n_fitted: int = 1, free: Tensor | None = None) -> Tensor:
        """Return the Cramér–Rao bound at this point, float64, shape (N, 6, 6), the scale unknown too.

        Parameters
        ----------
        n_fitted : numbers that were fitted to the same boxes, the scale among them. Each has added 1 to the squared
            likelihood that is noise, and is taken off.
        free : bool, shape (6,): the parameters that are not known; default all of them.

        Returns
        -------
        0 for what is known; NaN where nothing is left: then the box says nothing of the parameters.
        """
        unknown = (ALL_FREE if free is None else free).to(self.information.device)
        inverse = torch.linalg.pinv(self.information * (unknown[:, None] & unknown), hermitian=True)
        squared = self.likelihood.square()
        signal = self.amplitude.square() * (squared - n_fitted) / squared
        bound = inverse @ self.noise_information @ inverse / signal[:, None, None]
        return torch.where(((self.amplitude > 0) & (signal > 0))[:, None, None], bound, torch.nan)

    def step(self, damping: Tensor, free: Tensor) -> Tensor:
        """Return the damped Gauss–Newton step, float64, shape (N, 6).

        Parameters
        ----------
        damping : shape (N,), relative to the curvature of each parameter.
        free : bool, shape (6,): the parameters that may change.
        """
        diagonal = self.information.diagonal(dim1=-2, dim2=-1)
        scale = diagonal.clamp(min=1e-300).rsqrt() * free.to(diagonal.device)
        matrix = self.information * scale[:, :, None] * scale[:, None, :]
        matrix = matrix + torch.diag_embed(damping[:, None].expand(-1, N_PARAMETERS) + 1e-9)
        solved = torch.linalg.solve(matrix, (self.gradient * scale / self.amplitude[:, None])[..., None])[..., 0]
        # no further than the template still resembles itself
        step = solved * scale
        longest = (step / self.width).abs().amax(dim=-1).clamp(min=1.0)
        return step / longest[:, None]


def fit(
    model: BoxModel,
    observed: BandValues,
    optics: ParticleOptics,
    states: ParticleStates,
    *,
    by_differences: bool = False,
) -> Fit:
    """Compare boxes with projections of the template.

    Parameters
    ----------
    model : of the boxes.
    observed : complex64, shape (N, K), of `BoxModel.observed`.
    optics, states : of the N particles.
    by_differences : take derivatives by turns from slices turned a little to either side, not from the slopes of the
        interpolation: slower, but smooth, where those slopes state uncertainties of angles about 2 % too small.

    Notes
    -----
    With y the box and m the projection, both in units of the noise, the best scale is a = y·m / m·m. The parameters'
    part of the information is a² (JᵀJ − Jᵀm mᵀJ / m·m), J the derivatives of m: what is left of them when the scale is
    free (Kaufman 1975).
    """
    frequencies = model.band.frequencies
    if by_differences:
        bare, turned = _turned_slices(model, states.rotations)
    else:
        # of the magnified image's turns, which differ from those of the specimen by as little as it from 1
        rotations = model.aberrations.rotations(states.rotations)
        bare, turned = slices.extract_turning(model.template.transform, rotations, model.band)
    ctf, by_defocus = model.ctf(optics.with_defocus_added(states.defocus_angstrom))
    turns = (states.shifts_angstrom @ frequencies.T) * (2 * math.pi)
    centred = observed * torch.polar(torch.ones((), device=turns.device), turns.to(torch.float32))
    filtered = ctf * model.gain
    projection = filtered * bare
    ramp = (frequencies * (-2 * math.pi)).to(torch.float32)
    vectors = torch.stack(
        [
            centred,
            projection,
            *(projection * torch.complex(torch.zeros_like(one), one) for one in ramp.unbind(-1)),
            by_defocus * model.gain * bare,
            *(filtered * turned),
        ],
        dim=1,
    )
    real = torch.view_as_real(vectors).flatten(-2)
    products = (real @ real.mT).to(torch.float64)
    noise_products = products[:, 1:, 1:]
    if not model.is_white:
        weighted = real[:, 1:] * model.noise.repeat_interleave(2)
        noise_products = (weighted @ weighted.mT).to(torch.float64)
    norm = products[:, 1, 1].clamp(min=1e-300)
    along = products[:, 2:, 1]
    information = products[:, 2:, 2:] - along[:, :, None] * along[:, None, :] / norm[:, None, None]
    amplitude = products[:, 0, 1] / norm
    share = along / norm[:, None]
    cross = noise_products[:, 1:, 0]
    noise_information = (
        noise_products[:, 1:, 1:]
        - share[:, :, None] * cross[:, None, :]
        - cross[:, :, None] * share[:, None, :]
        + share[:, :, None] * share[:, None, :] * noise_products[:, :1, :1]
    )
    return Fit(
        score=products[:, 0, 1] * noise_products[:, 0, 0].clamp(min=1e-300).rsqrt(),
        likelihood=products[:, 0, 1] * norm.rsqrt(),
        amplitude=amplitude,
        information=information,
        noise_information=noise_information,
        gradient=products[:, 2:, 0] - along * amplitude[:, None],
        width=(information.diagonal(dim1=-2, dim2=-1) / norm[:, None]).clamp(min=1e-300).rsqrt(),
    )


def _turned_slices(model: BoxModel, rotations: Rotations) -> tuple[BandValues, BandValues]:
    """Return slices and their derivatives by turns, as of `slices.extract_turning`, by central differences."""
    step = DIFFERENCE / float(model.template.transform.grid.coordinates(model.band).abs().max())
    turned = []
    for axis in torch.eye(3, dtype=torch.float64) * step:
        ahead, behind = (
            model.slices(matrix_from_rotation_vector(way * axis).to(rotations.device) @ rotations) for way in (1, -1)
        )
        turned.append((ahead - behind) / (2 * step))
    return model.slices(rotations), torch.stack(turned)


def polish(
    model: BoxModel,
    observed: BandValues,
    optics: ParticleOptics,
    states: ParticleStates,
    *,
    free: Tensor | None = None,
) -> tuple[ParticleStates, Fit]:
    """Climb to the nearest maximum of the likelihood in all six parameters, or in some of them.

    Parameters
    ----------
    model, observed, optics : as of `fit`.
    states : where to begin; the score there should be positive.
    free : bool, shape (6,): the parameters that may change; default all of them.

    Returns
    -------
    states : at the maximum, never with a smaller likelihood than where they began.
    fit : there, of rough slopes.

    Notes
    -----
    Levenberg's and Marquardt's damping: a step that does not climb is tried again, shorter.
    """
    current = fit(model, observed, optics, states)
    damping = torch.full_like(current.score, _FIRST_DAMPING)
    active = torch.nonzero(current.likelihood > 0).flatten()
    for _ in range(MAX_ITERATIONS):
        if not len(active):
            break
        here = current.take(active)
        steps = here.step(damping[active], ALL_FREE if free is None else free)
        trial_states = states.take(active).moved(steps)
        trial = fit(model, observed[active], optics.take(active), trial_states)
        better = trial.likelihood > here.likelihood
        gain = (trial.likelihood.square() - here.likelihood.square()) / 2
        promised = (here.gradient * steps).sum(-1) * here.amplitude / 2
        states = states.put(active, trial_states.chosen(better, states.take(active)))
        current = current.put(active, trial.chosen(better, here))
        damping[active] = torch.where(better, damping[active] / 10, damping[active].clamp(min=1e-2) * 10)
        # a step that gains less, or promises less, than one of so many uncertainties
        done = torch.where(better, gain, promised) < CONVERGED**2 / 2
        done |= damping[active] > _MAX_DAMPING
        active = active[~done]
    return states, current


def climb(
    model: BoxModel,
    observed: BandValues,
    optics: ParticleOptics,
    starts: Sequence[ParticleStates],
    *,
    free: Tensor | None,
) -> tuple[ParticleStates, Fit]:
    """Climb from several starts, and keep the best maximum of each particle.

    Parameters
    ----------
    model, observed, optics : as of `fit`.
    starts : of the same particles, the most likely first.
    free : as of `polish`; None to judge the first start as it is.

    Returns
    -------
    As of `polish`.
    """
    if free is None:
        return starts[0], fit(model, observed, optics, starts[0])
    states, found = polish(model, observed, optics, starts[0], free=free)
    for other in starts[1:]:
        # what lies on the same peak need not be climbed twice
        turn = rotation_vector_from_matrix(other.rotations @ states.rotations.mT)
        away = torch.nonzero((turn / found.width[:, 3:]).norm(dim=-1) > SAME_PEAK).flatten()
        if not len(away):
            continue
        rest = polish(model, observed[away], optics.take(away), other.take(away), free=free)
        better = away[rest[1].likelihood > found.likelihood[away]]
        chosen = torch.nonzero(torch.isin(away, better)).flatten()
        states, found = states.put(better, rest[0].take(chosen)), found.put(better, rest[1].take(chosen))
    return states, found
