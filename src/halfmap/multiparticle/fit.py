"""Gauss-Newton steps of a series: what is compared, which step is taken, and whether it is kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.data.image_series import ImageSeries
from halfmap.errors import ComputeError
from halfmap.fourier.band import FourierBand
from halfmap.imaging.deformation import views
from halfmap.imaging.series_transfer import CTF_PARAMETERS
from halfmap.multiparticle import solve
from halfmap.multiparticle.cutting import ImagePasses
from halfmap.multiparticle.faint_images import FaintImages
from halfmap.multiparticle.normal_equations import NormalEquations, assemble
from halfmap.multiparticle.parameter_layout import LOCAL, Layout
from halfmap.multiparticle.parameter_priors import particle_precision, shared_precision
from halfmap.multiparticle.parameters import Design, apply, design
from halfmap.multiparticle.series_model import (
    BATCH_BYTES,
    ScalePrior,
    SpeciesLook,
    SpeciesModel,
    SpeciesState,
    look,
    resolution_of,
)

TOLERANCE = 0.1
"A step is not worth it that promises less of the objective: one parameter off by its error bar costs 0.5."
FIRST_DAMPING = 1e-3
MOST_DAMPING = 1e4
_MATRICES_OF_SHARED = 5  # four at most, and gaps between them; measured
_WEIGHTS_OF_A_VIEW = 2  # scale and B, where they depend on the place
_CTF = (*CTF_PARAMETERS, *(name for name in LOCAL if name.startswith("odd_zernike")))


@dataclass(frozen=True, kw_only=True, eq=False)
class Parameters:
    """A series and its particles, and how far their parameters have come from where the refinement began.

    Parameters
    ----------
    series : the series.
    species : the particles of each species.
    shared, own : sums of the steps taken, shapes (m,), and (P, q) of each species.
    """

    series: ImageSeries
    species: tuple[SpeciesState, ...]
    shared: Tensor
    own: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What stays the same while steps are taken and compared.

    Parameters
    ----------
    images : of the series.
    centre_angstrom, counted, bands : of each species: where windows lie, what counts, what is compared.
    noise : σ² of each species' windows, (T, n_shells).
    scale_prior : of each species.
    layouts : of each species; what is shared is the same in all.
    prior : of all parameters.
    fits_ctf : whether each species takes part in fitting the CTF.
    faint : images that do not count, and what is known of where they lie.
    """

    images: ImagePasses
    centre_angstrom: Sequence[Tensor]
    counted: Sequence[Tensor]
    bands: Sequence[FourierBand]
    noise: Sequence[Tensor]
    scale_prior: Sequence[ScalePrior | None]
    layouts: Sequence[Layout]
    prior: solve.Prior
    fits_ctf: Sequence[bool]
    faint: FaintImages | None = None

    @property
    def resolutions(self) -> list[float]:
        """Å, that each species is compared up to."""
        return [resolution_of(band) for band in self.bands]

    def places(self, parameters: Parameters) -> list[Tensor]:
        """Return where particles of each species lie in images, (P, T, 2)."""
        return [
            views(parameters.series, state.position_angstrom, state.rotation).position_angstrom
            for state in parameters.species
        ]

    def models(self, parameters: Parameters) -> list[SpeciesModel]:
        """Return what each species should look like."""
        return [
            SpeciesModel(parameters.series, state, band, centre, counted)
            for state, band, centre, counted in zip(
                parameters.species, self.bands, self.centre_angstrom, self.counted, strict=True
            )
        ]

    def looked_at(self, parameters: Parameters, active: Sequence[str] = ()) -> tuple[SpeciesLook, ...]:
        """Compare parameters with the images."""
        return look(self.images, self.models(parameters), self.noise, active, self.scale_prior)

    def objective(self, parameters: Parameters, looks: Sequence[SpeciesLook]) -> float:
        """Return half of χ² and what priors add to it.

        Raises
        ------
        ComputeError
            It is zero or not finite.
        """
        half_chi2 = sum(float(one.chi2.sum()) for one in looks) / 2
        if not 0 < half_chi2 < float("inf"):
            raise ComputeError(
                f"The objective of series {parameters.series.name} must be a positive number; got {half_chi2:g}; no "
                "particle lies wholly inside a used image, or images and references hold nothing that can be compared."
            )
        scales = sum(
            prior.energy(one.scale) for prior, one in zip(self.scale_prior, looks, strict=True) if prior is not None
        )
        faint = 0.0 if self.faint is None else self.faint.energy(self.places(parameters))
        return half_chi2 + scales + faint + float(self.prior.energy(parameters.shared, parameters.own))


@dataclass(frozen=True, kw_only=True, eq=False)
class Visited:
    """Parameters that have been compared with the images, and the equations there.

    Parameters
    ----------
    parameters : the place.
    looks, designs : of each species.
    objective : value, priors included.
    equations : of the likelihood alone.
    """

    parameters: Parameters
    looks: tuple[SpeciesLook, ...]
    designs: tuple[Design, ...]
    objective: float
    equations: NormalEquations


def memory_bytes(series: ImageSeries, layouts: Sequence[Layout]) -> int:
    """Return about what steps take besides the windows: local models, designs and normal equations, from shapes alone.

    Parameters
    ----------
    series : to be refined.
    layouts : of each species.

    Notes
    -----
    Of each particle and image products, Hessian, design and their product, how much nodes of grids and the image count
    there; of each particle its coupling to what is shared, once eliminated; and dense matrices of what is shared. All
    for two places, where a step begins and ends.
    """
    m, n_images = layouts[0].n_shared, len(series)
    d = _most_active(layouts[0])
    nodes = sum(block.columns.shape[1] for block in layouts[0].blocks if len(block.shape) > 1)
    total = _MATRICES_OF_SHARED * m * m
    for layout in layouts:
        q = layout.n_particle
        of_view = (d + 2) ** 2 + d * d + 2 * d * q + nodes + _WEIGHTS_OF_A_VIEW
        total += layout.n_particles * (n_images * of_view + 3 * q * q + 2 * q * m)
    return 2 * 8 * total + BATCH_BYTES


def _most_active(layout: Layout) -> int:
    """Return how many local parameters there are at most: place, view and defocus, and the optics that are fitted."""
    choice = layout.choice
    aberrations = {0: 0, 2: 3, 3: 6, 4: 8, 5: 12}
    optics = 2 * choice.astigmatism + choice.phase_shift + choice.spherical_aberration + 4 * choice.magnification
    return 6 + optics + aberrations[choice.odd_zernike_order] + aberrations[choice.even_zernike_order]


def prior_of(layouts: Sequence[Layout]) -> solve.Prior:
    """Return the prior of all parameters."""
    return solve.Prior(
        shared=shared_precision(layouts[0]), particles=tuple(particle_precision(layout) for layout in layouts)
    )


def visit(comparison: Comparison, parameters: Parameters) -> Visited:
    """Compare parameters with the images, and see how they would change."""
    designs = tuple(
        design(parameters.series, state.position_angstrom, state.rotation, layout)
        for state, layout in zip(parameters.species, comparison.layouts, strict=True)
    )
    active = designs[0].active
    looks = comparison.looked_at(parameters, active)
    parts = [
        _equations(comparison, parameters, number, one, plan)
        for number, (one, plan) in enumerate(zip(looks, designs, strict=True))
    ]
    return Visited(
        parameters=parameters,
        looks=looks,
        designs=designs,
        objective=comparison.objective(parameters, looks),
        equations=sum(parts[1:], start=parts[0]),
    )


def _equations(
    comparison: Comparison, parameters: Parameters, number: int, one: SpeciesLook, plan: Design
) -> NormalEquations:
    gradient, hessian = one.gradient, one.hessian
    if not comparison.fits_ctf[number]:
        kept = torch.tensor([name not in _CTF for name in plan.active], dtype=torch.float64)
        gradient, hessian = gradient * kept, hessian * kept[:, None] * kept
    if comparison.faint is not None:
        place = comparison.places(parameters)[number]
        gradient, hessian = comparison.faint.added(number, place, plan.active, gradient, hessian)
    n_shared = comparison.layouts[number].n_shared
    return assemble(gradient, hessian, plan.particle, plan.columns, plan.shared, n_shared)


def moved(parameters: Parameters, layouts: Sequence[Layout], shared: Tensor, own: Sequence[Tensor]) -> Parameters:
    """Return parameters after a step."""
    species, series = [], parameters.series
    for state, layout, step in zip(parameters.species, layouts, own, strict=True):
        series, position, rotation = apply(
            parameters.series, state.position_angstrom, state.rotation, shared, step, layout
        )
        species.append(replace(state, position_angstrom=position, rotation=rotation))
    return Parameters(
        series=series,
        species=tuple(species),
        shared=parameters.shared + shared,
        own=tuple(before + step for before, step in zip(parameters.own, own, strict=True)),
    )


def descend(
    comparison: Comparison, start: Visited, n_steps: int, report: Callable[[Visited], None] = lambda _: None
) -> Visited:
    """Take Gauss-Newton steps as long as they better the objective.

    Parameters
    ----------
    comparison : that decides.
    start : where to begin.
    n_steps : at most.
    report : called with every place that is kept.

    Returns
    -------
    Visited
        Never with a larger objective than the start.

    Notes
    -----
    Levenberg's and Marquardt's: a step that does not keep at least a tenth of what it promises is taken again, shorter,
    from the same equations; only the place where it leads is compared anew.
    """
    here, damping = start, 0.0
    for _ in range(n_steps):
        equations = solve.with_prior(here.equations, comparison.prior, here.parameters.shared, here.parameters.own)
        while True:
            shared, own = solve.step(equations, damping)
            promised = -equations.predicted_change(shared, own)
            if promised < TOLERANCE or damping > MOST_DAMPING:
                return here
            there = visit(comparison, moved(here.parameters, comparison.layouts, shared, own))
            if here.objective - there.objective > 0.1 * promised:
                break
            damping = max(10 * damping, FIRST_DAMPING)
        here, damping = there, damping / 10 if damping > FIRST_DAMPING else 0.0
        report(here)
    return here
