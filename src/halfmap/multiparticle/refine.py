"""Multi-particle refinement of one series: sample, microscope and particles of all species together."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.compute.memory import memory_budget_bytes
from halfmap.data.image_series import ImageSeries
from halfmap.data.image_source import ImageSource
from halfmap.data.population import SpeciesParticles
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import views
from halfmap.imaging.series_transfer import image_ctf
from halfmap.multiparticle import solve
from halfmap.multiparticle.cutting import CutImages, Windows, alias_free_length_angstrom, binned_grid, windows
from halfmap.multiparticle.grid_choice import concern_about_image_warp, shift_information
from halfmap.multiparticle.params import ParameterChoice, PriorWidths
from halfmap.multiparticle.references import ReferencePair
from halfmap.multiparticle.schedule import Schedule
from halfmap.multiparticle.series_model import SpeciesState
from halfmap.multiparticle.shared_optics import OpticsQuadratic, optics_quadratic
from halfmap.multiparticle.sub_iterations import Fitted, Step, fit_windows

_SHARE_OF_MEMORY = 0.5
_COARSEST_WINDOWS = 2.0
"Images are high-passed at the largest window times this."


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeciesProblem:
    """A species in a series.

    Parameters
    ----------
    name : of the species.
    particles : those in the series; none is allowed.
    references : what its half-sets are compared with, up to their resolution.
    diameter_angstrom : of the particle.
    """

    name: str
    particles: SpeciesParticles
    references: ReferencePair
    diameter_angstrom: float


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesProblem:
    """Everything that the refinement of a series needs; can be sent to another process.

    Parameters
    ----------
    series : as it is known.
    images : one for each of its entries, as recorded.
    species : those that count.
    """

    series: ImageSeries
    images: ImageSource
    species: tuple[SpeciesProblem, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedSpecies:
    """What became of a species in a series.

    Parameters
    ----------
    position_angstrom, rotation : shapes (P, n, 3) and (P, n, 3, 3).
    change, deviation : float64, shape (P, q): by how much each of a particle's parameters changed, and its standard
        deviation now; named by ``names``, in ``units``.
    gain : float64, shape (P,): by how much the particle makes its images likelier than noise alone would.
    is_set_aside : bool, shape (P,): the particle makes its images less likely. It had no say, and keeps its pose.
    chi2_per_component : float64, shape (P,): 1 where references and noise explain a particle's images; NaN where none
        counts.
    scale : float64, shape (T,): of the references in each image, in units of the image's standard deviation.
    n_images : int64, shape (P,): in how many used images the particle lies.
    """

    position_angstrom: NDArray[np.float64]
    rotation: NDArray[np.float64]
    names: tuple[str, ...]
    units: tuple[str, ...]
    change: NDArray[np.float64]
    deviation: NDArray[np.float64]
    gain: NDArray[np.float64]
    is_set_aside: NDArray[np.bool_]
    chi2_per_component: NDArray[np.float64]
    scale: NDArray[np.float64]
    n_images: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesResult:
    """What became of a series.

    Parameters
    ----------
    series : refined; the one given where ``is_changed`` is False, for the reason said.
    species : in the problem's order; None for those without particles here.
    names, units, change, deviation : of what all particles share, shape (m,).
    gauges : what images cannot tell apart, in words; priors have decided there.
    concerns : sentences about what was asked for.
    n_effective : how many parameters the images have determined.
    objective_before, objective_after : half of χ² and priors, or minus M's score, at full resolution and with the same
        noise.
    steps : that were kept.
    optics : what the series says of its optics; None where none were fitted.
    """

    series: ImageSeries
    species: tuple[FittedSpecies | None, ...]
    is_changed: bool
    reason: str
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    change: NDArray[np.float64]
    deviation: NDArray[np.float64]
    gauges: tuple[str, ...] = ()
    concerns: tuple[str, ...] = ()
    n_effective: float = 0.0
    objective_before: float = float("nan")
    objective_after: float = float("nan")
    steps: tuple[Step, ...] = ()
    optics: OpticsQuadratic | None = None


def refine_series(
    problem: SeriesProblem,
    choice: ParameterChoice,
    *,
    widths: PriorWidths | None = None,
    schedule: Schedule | None = None,
    memory_bytes: float | None = None,
    device: str = "cpu",
) -> SeriesResult:
    """Refine a series.

    Parameters
    ----------
    problem : series, images and species.
    choice : what is fitted.
    widths : of the priors.
    schedule : sub-iterations, steps, searches.
    memory_bytes : for what is cut out of the images; where that is not enough they are cut again at every pass. None
        for half of what is free.
    device : where images and references are compared.

    Returns
    -------
    SeriesResult
        Unchanged, with the reason, where nothing got better.

    Raises
    ------
    InputError, InconsistentDataError, ComputeError
        The series cannot be refined: it has no particles in used images, other images than entries, images that are not
        finite, or nothing of the references in them.
    """
    present = [species for species in problem.species if len(species.particles)]
    if not present:
        raise InputError(
            f"A series must hold particles to be refined; {problem.series.name} has none of the "
            f"{len(problem.species)} species; leave it out."
        )
    series = problem.series
    states = tuple(_state(species, device) for species in present)
    seen = [views(series, state.position_angstrom, state.rotation) for state in states]
    cut_from = min(species.references.resolution_angstrom for species in present)
    binned = binned_grid(problem.images.grid, cut_from)
    species_windows = [
        windows_of(series, one.particles, binned, one.references.resolution_angstrom, one.diameter_angstrom, device)
        for one in present
    ]
    largest = max(window.grid.side * window.grid.pixel_size_angstrom for window in species_windows)
    images = CutImages(
        problem.images,
        species_windows,
        [one.position_angstrom for one in seen],
        resolution_angstrom=cut_from,
        coarsest_angstrom=_COARSEST_WINDOWS * largest,
        used=np.asarray(series.is_used, dtype=bool),
        memory_bytes=_SHARE_OF_MEMORY * memory_budget_bytes() if memory_bytes is None else memory_bytes,
        device=device,
    )
    bands = [window.band for window in species_windows]
    fitted = fit_windows(
        images, images.centre_angstrom, bands, series, states, choice, widths or PriorWidths(), schedule or Schedule(),
        overlapping=images,
    )  # fmt: skip
    return _result(problem, fitted)


def _state(species: SpeciesProblem, device: str) -> SpeciesState:
    first, second = (half.to(device) for half in species.references.halves)
    return SpeciesState(
        position_angstrom=torch.from_numpy(np.asarray(species.particles.position_angstrom, dtype=np.float64)),
        rotation=torch.from_numpy(np.asarray(species.particles.rotation, dtype=np.float64)),
        subset=torch.from_numpy(np.asarray(species.particles.random_subset, dtype=np.int64)),
        references=replace(species.references, halves=(first, second)),
        diameter_angstrom=species.diameter_angstrom,
    )


def windows_of(
    series: ImageSeries,
    particles: SpeciesParticles,
    binned: ImageGrid,
    resolution_angstrom: float,
    diameter_angstrom: float,
    device: str = "cpu",
) -> Windows:
    """Return the windows in which a species of a series is compared, wide enough for its largest defocus.

    Raises
    ------
    InputError
        See `cutting.windows`.
    """
    position, rotation = (torch.from_numpy(each) for each in (particles.position_angstrom, particles.rotation))
    table = image_ctf(series, position, views(series, position, rotation))
    defocus = float(torch.maximum(table.defocus_u_angstrom.abs(), table.defocus_v_angstrom.abs()).max())
    length = alias_free_length_angstrom(series, defocus, resolution_angstrom, diameter_angstrom)
    return windows(binned, length, resolution_angstrom, device=device)


def _result(problem: SeriesProblem, fitted: Fitted) -> SeriesResult:
    """Put a fit into plain arrays."""
    here = fitted.visited
    layouts = fitted.comparison.layouts
    is_changed = fitted.objective_after < fitted.objective_before
    numbers = iter(range(len(layouts)))
    species = tuple(
        _fitted_species(fitted, next(numbers), one, is_changed=is_changed) if len(one.particles) else None
        for one in problem.species
    )
    none = np.zeros(layouts[0].n_shared)
    return SeriesResult(
        series=here.parameters.series if is_changed else problem.series,
        species=species,
        is_changed=is_changed,
        reason="" if is_changed else fitted.worse,
        names=tuple(layouts[0].names),
        units=tuple(layouts[0].units),
        change=here.parameters.shared.numpy() if is_changed else none,
        deviation=fitted.posterior.shared_deviation.numpy(),
        gauges=tuple(solve.named_gauges(fitted.posterior.null_space, layouts[0].names)),
        concerns=_concerns(fitted),
        n_effective=fitted.posterior.n_effective,
        objective_before=fitted.objective_before,
        objective_after=fitted.objective_after,
        steps=fitted.steps,
        optics=optics_quadratic(fitted),
    )


def _concerns(fitted: Fitted) -> tuple[str, ...]:
    faint = fitted.comparison.faint
    found = [_concern_about_warp(fitted), None if faint is None else faint.concern]
    return tuple(concern for concern in found if concern is not None)


def _concern_about_warp(fitted: Fitted) -> str | None:
    nodes, here = fitted.comparison.layouts[0].choice.image_warp_nodes, fitted.visited
    if nodes is None:
        return None
    information = sum(
        (shift_information(one.hessian, plan.active) for one, plan in zip(here.looks, here.designs, strict=True)),
        start=torch.zeros(len(here.parameters.series), dtype=torch.float64),
    )
    return concern_about_image_warp(here.parameters.series, nodes, information)


def _fitted_species(fitted: Fitted, number: int, species: SpeciesProblem, *, is_changed: bool) -> FittedSpecies:
    here, layout = fitted.visited, fitted.comparison.layouts[number]
    state, one = here.parameters.species[number], here.looks[number]
    n_images = one.counted.sum(1)
    components = 2.0 * len(fitted.comparison.bands[number]) * n_images
    stays = fitted.set_aside[number] | (not is_changed)
    before = species.particles
    return FittedSpecies(
        position_angstrom=np.where(stays[:, None, None], before.position_angstrom, state.position_angstrom),
        rotation=np.where(stays[:, None, None, None], before.rotation, state.rotation),
        names=tuple(layout.particle_names),
        units=tuple(layout.particle_units),
        change=torch.where(stays[:, None], 0.0, here.parameters.own[number]).numpy(),
        deviation=fitted.posterior.particle_deviation[number].numpy(),
        gain=fitted.gain[number].numpy(),
        is_set_aside=fitted.set_aside[number].numpy(),
        chi2_per_component=torch.where(n_images > 0, one.chi2.sum(1) / components, torch.nan).numpy(),
        scale=one.scale.numpy(),
        n_images=n_images.numpy(),
    )
