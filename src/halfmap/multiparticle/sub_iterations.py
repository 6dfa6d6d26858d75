"""Sub-iterations of the refinement of a series: from coarse to fine, with the noise and the particles that fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.data.image_series import ImageSeries
from halfmap.errors import InputError
from halfmap.fourier.band import FourierBand
from halfmap.multiparticle import solve
from halfmap.multiparticle.cutting import ImagePasses
from halfmap.multiparticle.fit import Comparison, Parameters, Visited, prior_of, visit
from halfmap.multiparticle.neighbours import OverlappingWindows, WithoutNeighbours
from halfmap.multiparticle.noise import first_variance, mean_share, residual_variance
from halfmap.multiparticle.objectives import descent_of
from halfmap.multiparticle.parameter_layout import Layout
from halfmap.multiparticle.params import ParameterChoice, PriorWidths
from halfmap.multiparticle.schedule import Schedule, fractions, shell_at
from halfmap.multiparticle.searched import with_defoci_searched, with_shifts_searched
from halfmap.multiparticle.series_model import ScalePrior, SpeciesLook, SpeciesState, counted, resolution_of

LEAST_GAIN = -3.0
"""Log-likelihood that a particle adds to its images, against noise alone, below which it is set aside: what one among
twenty is expected to be."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step that was kept: where, and half of χ² and priors there, which compare within a sub-iteration only."""

    sub_iteration: int
    resolution_angstrom: float
    objective: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """The end of a fit.

    Parameters
    ----------
    visited : the last place that was kept, compared at full resolution.
    comparison : that compared it.
    posterior : what is known there.
    gain : of each species, by how much every particle makes its images likelier than noise alone, shape (P,).
    set_aside : of each species, bool, (P,): particles that made their images less likely, and so had no say.
    objective_before, objective_after : of the start and of the end, in the same comparison; the smaller, the better.
    worse : why a series whose objective is no smaller stays as it was.
    steps : that were kept.
    """

    visited: Visited
    comparison: Comparison
    posterior: solve.Posterior
    gain: tuple[Tensor, ...]
    set_aside: tuple[Tensor, ...]
    objective_before: float
    objective_after: float
    worse: str
    steps: tuple[Step, ...]


def fit_windows(
    images: ImagePasses,
    centre_angstrom: Sequence[Tensor],
    bands: Sequence[FourierBand],
    series: ImageSeries,
    states: tuple[SpeciesState, ...],
    choice: ParameterChoice,
    widths: PriorWidths,
    schedule: Schedule,
    *,
    overlapping: OverlappingWindows | None = None,
) -> Fitted:
    """Fit parameters to what has been cut out of the images of a series.

    Parameters
    ----------
    images : windows of every species, image by image.
    centre_angstrom, bands : of each species' windows, up to its resolution.
    series, states : where the fit begins.
    choice, widths, schedule : of the fit.
    overlapping : the same images, where they hold neighbours of particles; from the second sub-iteration on these are
        taken off.

    Raises
    ------
    InputError, ComputeError
        See `refine_series`.
    """
    n_samples = [state.position_angstrom.shape[1] for state in states]
    layouts = [Layout(series, len(state.subset), n, choice, widths) for state, n in zip(states, n_samples, strict=True)]
    start = _start(series, states, layouts)
    taking_part = _taking_part(series, states)
    # windows have no noise where they reach beyond the rim of an image
    recorded = [torch.ones((len(series), 1), dtype=torch.float64)] * len(states)
    if overlapping is not None:
        recorded = [mean_share(*one) for one in zip(overlapping.share_recorded, taking_part, strict=True)]
    first_noise = [
        variance / share for variance, share in zip(first_variance(images, bands, taking_part), recorded, strict=True)
    ]
    noise = first_noise
    parameters, steps, descent = start, list[Step](), descent_of(schedule)
    has_searched = False
    searches_shifts = schedule.search_angstrom > 0 and bool(choice.image_warp or choice.volume_warp or choice.positions)
    for number, fraction in enumerate(fractions(schedule), start=1):
        heads = [band.head(shell_at(band.max_shell, fraction)) for band in bands]
        comparison = Comparison(
            images=images,
            centre_angstrom=centre_angstrom,
            counted=taking_part,
            bands=heads,
            noise=noise,
            scale_prior=[None] * len(states),
            layouts=layouts,
            prior=prior_of(layouts),
            fits_ctf=[resolution_of(head) <= schedule.ctf_resolution_angstrom for head in heads],
        )
        if searches_shifts:
            parameters, comparison = with_shifts_searched(
                comparison, start, parameters, reach_angstrom=schedule.search_angstrom, is_first=number == 1
            )
        clear = comparison.counted
        if schedule.search_defocus_angstrom and choice.defocus and any(comparison.fits_ctf) and not has_searched:
            parameters = with_defoci_searched(comparison, parameters, reach_angstrom=schedule.search_defocus_angstrom)
            has_searched = True
        # poses and warps of the first sub-iteration may be too far off to judge particles by
        sets_aside = descent.sets_aside and number > 1
        comparison, noise = _with_noise(comparison, parameters, noise, recorded, sets_aside=sets_aside)
        if overlapping is not None and number > 1:
            comparison = _without_neighbours(comparison, parameters, overlapping, clear)
            comparison, noise = _with_noise(comparison, parameters, noise, recorded, sets_aside=sets_aside)
        if comparison.faint is not None:  # of which nothing has been compared
            is_faint = comparison.faint.is_faint[:, None]
            noise = [torch.where(is_faint, one, other) for one, other in zip(first_noise, noise, strict=True)]
        here = visit(comparison, parameters)

        def keep(there: Visited, number: int = number, resolution: float = min(comparison.resolutions)) -> None:
            steps.append(Step(sub_iteration=number, resolution_angstrom=resolution, objective=there.objective))

        keep(here)
        here = descent.descended(comparison, here, keep)
        parameters = here.parameters
    set_aside = tuple((~now & before).any(1) for now, before in zip(comparison.counted, clear, strict=True))
    looks = here.looks
    if any(bool(which.any()) for which in set_aside):
        looks = replace(comparison, counted=clear).looked_at(parameters)
    before, after = descent.values(comparison, start, here)
    return Fitted(
        visited=here,
        comparison=comparison,
        posterior=solve.posterior(here.equations, comparison.prior),
        gain=tuple(_gain(one, one.scale) for one in looks),
        set_aside=set_aside,
        objective_before=before,
        objective_after=after,
        worse=descent.worse,
        steps=tuple(steps),
    )


def _start(series: ImageSeries, states: tuple[SpeciesState, ...], layouts: Sequence[Layout]) -> Parameters:
    """Return where a fit begins: all parameters are zero."""
    return Parameters(
        series=series,
        species=states,
        shared=torch.zeros(layouts[0].n_shared, dtype=torch.float64),
        own=tuple(torch.zeros((layout.n_particles, layout.n_particle), dtype=torch.float64) for layout in layouts),
    )


def _taking_part(series: ImageSeries, states: Sequence[SpeciesState]) -> list[Tensor]:
    """Return of each species which particles lie wholly in which used images, bool, (P, T)."""
    found = [counted(series, state) for state in states]
    if not any(bool(one.any()) for one in found):
        raise InputError(
            f"Particles of series {series.name} must lie in images that are used; got none of "
            f"{sum(map(len, found))} in {int(series.is_used.sum())} used images of {len(series)}; look at "
            "positions, and at which images are excluded."
        )
    return found


def _without_neighbours(
    comparison: Comparison, parameters: Parameters, images: OverlappingWindows, clear: Sequence[Tensor]
) -> Comparison:
    """Return the comparison with all particles that have a say taken off the windows of the others."""
    scale = [one.scale for one in comparison.looked_at(parameters)]
    is_there = [~(~now & before).any(1) for now, before in zip(comparison.counted, clear, strict=True)]
    return replace(comparison, images=WithoutNeighbours(images, comparison.models(parameters), scale, is_there))


def _with_noise(
    comparison: Comparison,
    parameters: Parameters,
    noise: Sequence[Tensor],
    recorded: Sequence[Tensor],
    *,
    sets_aside: bool,
) -> tuple[Comparison, list[Tensor]]:
    """Return the comparison with the noise that parameters leave, the scales that they expect, and who counts."""
    looks = comparison.looked_at(parameters)
    if sets_aside:
        kept = tuple(_with_misfits_out(one) for one in looks)
        if any(not torch.equal(now, one.counted) for now, one in zip(kept, looks, strict=True)):
            comparison = replace(comparison, counted=kept)
            looks = comparison.looked_at(parameters)
    scales = [float(one.scale[0]) for one in looks]
    if not any(scale > 0 for scale in scales):
        raise InputError(
            f"Images of series {parameters.series.name} must resemble the references; none does, at "
            f"{comparison.resolutions[0]:.1f} Å; look at contrast, handedness and "
            "pixel size, and whether positions belong to this series."
        )
    updated = []
    for before, one, share in zip(noise, looks, recorded, strict=True):
        estimated = residual_variance(one.shell_sums, one.scale) / share
        # shells beyond what has been compared keep what they had
        updated.append(torch.cat([estimated, before[:, estimated.shape[1] :]], dim=1))
    priors = [ScalePrior(scale=scale) if scale > 0 else None for scale in scales]
    return replace(comparison, noise=updated, scale_prior=priors), updated


def _gain(one: SpeciesLook, scale: Tensor) -> Tensor:
    """Return by how much each particle makes its images likelier than noise alone, (P,)."""
    return (one.products.data - one.products.chi2(scale)).sum(1) / 2


def _with_misfits_out(one: SpeciesLook) -> Tensor:
    """Return which particles and images count, (P, T), without particles that make their images less likely.

    Notes
    -----
    At the scale of the rest: misfits lower the scale of all, and with it what they are judged by.
    """
    fits = torch.ones(len(one.counted), dtype=torch.bool)
    for _ in range(3):
        cross, model = (values[fits].sum() for values in (one.products.cross, one.products.model))
        scale = (cross / model.clamp(min=1e-300)).clamp(min=0.0).expand_as(one.scale)
        fits = _gain(one, scale) > LEAST_GAIN
        if not bool(fits.any()):
            return one.counted
    return one.counted & fits[:, None]
