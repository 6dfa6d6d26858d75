"""Refinement of particles found by a template: a search on a local grid, then the maximum of the likelihood."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from halfmap.template_matching.boxes import Candidates, ParticleBoxes, cut_particles
from halfmap.template_matching.local_grid import local_rotations
from halfmap.template_matching.model import BoxModel, ParticleOptics
from halfmap.template_matching.params import RefineTemplateParams
from halfmap.template_matching.per_particle import PerParticle
from halfmap.template_matching.polish import N_PARAMETERS, Fit, ParticleStates, climb, fit, polish
from halfmap.template_matching.search import Statistics, search
from halfmap.template_matching.template import Template
from halfmap.tensors import BandValues, Rotations

REACH = 3
"""Pixels to either side of the known position that the search begins with; it moves on where the best lies beyond."""

STEP_WIDTHS = 1.0
"""Step of the grid, in widths of the score's peak: half a step off, the score has lost an eighth along each axis."""

COARSE_SHARE = 0.75
"""Share of the template's power, lowest frequencies first, on which the search is done before a climb: a small part of
the coefficients."""

FINALISTS = 4
"""Orientations of that search that are judged again on the whole template."""

STARTS = 2
"""Orientations among them from which the likelihood is climbed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Refined(PerParticle):
    """Particles after refinement; every field of length N.

    Parameters
    ----------
    position_pixel, rotations : as of `Candidates`.
    defocus_offset_angstrom : added to the defocus known before.
    pixel_size_offset_angstrom : added to the pixel size of the micrograph, to make the template fit.
    mip, z : score in standard deviations of white noise; and less its mean, in those of the search.
    start_mip, start_z : of the position, pose and defocus known before.
    uncertainty : float64, shape (N, 6): standard deviations of x and y in Å, of the defocus in Å, and of turns about
        the image's x and y axes and the viewing direction in degrees. NaN without --polish, and for what is kept.
    n_correlations : int64: scores computed in the search.
    """

    position_pixel: Tensor
    rotations: Rotations
    defocus_offset_angstrom: Tensor
    pixel_size_offset_angstrom: Tensor
    mip: Tensor
    z: Tensor
    start_mip: Tensor
    start_z: Tensor
    uncertainty: Tensor
    n_correlations: Tensor


def free_parameters(params: RefineTemplateParams) -> Tensor:
    """Return which of the six parameters are refined, bool, shape (6,): what has no range keeps what is known of it."""
    tilt, psi = (params.orientations and one > 0 for one in (params.tilt_range_degrees, params.psi_range_degrees))
    defocus = len(params.defocus_offsets_angstrom()) > 1
    return torch.tensor([True, True, defocus, tilt, tilt, psi])


def refine_particles(
    micrograph: Tensor,
    pixel_size_angstrom: float,
    candidates: Candidates,
    template: Template,
    box: int,
    params: RefineTemplateParams,
    *,
    key: int = 0,
) -> Refined:
    """Refine the particles of one micrograph.

    Parameters
    ----------
    micrograph : shape (y, x), as recorded: particles dark.
    pixel_size_angstrom : of the micrograph.
    candidates : the particles; their centres lie within the micrograph.
    template : of the same pixel size.
    box : side of the box cut out about each particle, in pixels.
    params : the settings.
    key : tells micrographs apart where phases are made random.

    Raises
    ------
    ShapeError
        The statistics have another length than the candidates.
    InputError
        The box is odd or no larger than the template, or the micrograph has no contrast.

    Notes
    -----
    Parts of a box beyond the micrograph are zero, the mean of its noise.
    """
    parts = cut_particles(micrograph, pixel_size_angstrom, candidates, template, box, params, key=key)
    return Refined.joined([_refine_batch(part, params) for part in parts])


def _refine_batch(boxes: ParticleBoxes, params: RefineTemplateParams) -> Refined:
    result = refine_boxes(boxes.model, boxes.observed, boxes.optics, boxes.known, boxes.statistics, params)
    return result.of_boxes(boxes, free_parameters(params) if params.polish else None)


class RefinedBoxes(NamedTuple):
    """Particles in boxes after refinement.

    Attributes
    ----------
    start : the fit where they began.
    states, fit : where they ended.
    pixel_size_offset_angstrom : as of `Refined`.
    n_correlations : scores computed for each.
    """

    start: Fit
    states: ParticleStates
    fit: Fit
    pixel_size_offset_angstrom: Tensor
    n_correlations: Tensor

    def of_boxes(self, boxes: ParticleBoxes, free: Tensor | None) -> Refined:
        """Return the particles in the micrograph that the boxes were cut from.

        Parameters
        ----------
        boxes : in which they were refined.
        free : bool, shape (6,): the parameters that were climbed; None without a climb.
        """
        n, pixel, statistics = len(boxes.rows), boxes.model.band.grid.pixel_size_angstrom, boxes.statistics
        mean, deviation = statistics.at(torch.arange(n), self.states.shifts_angstrom / pixel)
        first_mean, first_deviation = statistics.at(torch.arange(n), torch.zeros(n, 2))
        units = torch.tensor([1.0, 1.0, 1.0, *[180 / torch.pi] * 3], dtype=torch.float64)
        uncertainty = torch.full((n, N_PARAMETERS), torch.nan, dtype=torch.float64)
        if free is not None:
            covariance = self.fit.covariance(n_fitted=int(free.sum()) + 1, free=free)
            uncertainty = torch.where(free, covariance.diagonal(dim1=-2, dim2=-1).sqrt() * units, torch.nan)
        return Refined(
            position_pixel=boxes.centre_pixel + self.states.shifts_angstrom / pixel,
            rotations=self.states.rotations,
            defocus_offset_angstrom=self.states.defocus_angstrom,
            pixel_size_offset_angstrom=self.pixel_size_offset_angstrom,
            mip=self.fit.score,
            z=(self.fit.score - mean) / deviation,
            start_mip=self.start.score,
            start_z=(self.start.score - first_mean) / first_deviation,
            uncertainty=uncertainty,
            n_correlations=self.n_correlations,
        )


def refine_boxes(
    model: BoxModel,
    observed: BandValues,
    optics: ParticleOptics,
    known: ParticleStates,
    statistics: Statistics,
    params: RefineTemplateParams,
) -> RefinedBoxes:
    """Search about each particle, then climb.

    Parameters
    ----------
    model : of the boxes.
    observed : complex64, shape (N, K), of `BoxModel.observed`.
    optics, known : of the particles, as far as they are known.
    statistics : of the search, about the middle of each box.
    params : the settings.
    """
    start = fit(model, observed, optics, known)
    if params.polish:
        few = torch.arange(min(len(known), 4))
        ctf, _ = model.ctf(optics.take(few))
        coarse = model.head(model.shell_of_share(model.slices(known.rotations[few]), ctf, COARSE_SHARE))
        # scores of some shells alone are not those that the statistics are of
        around = Statistics.neutral(len(statistics.mean), 2 * statistics.half + 1)
    else:
        coarse, around = model, statistics
    widths = start.width.median(dim=0).values if params.polish else torch.zeros(N_PARAMETERS)
    starts, n_correlations = _search_all(model, coarse, observed, optics, known, around, params, widths)
    states, found, size_offset = _climb_with_sizes(model, observed, optics, starts, params)
    worse = torch.nonzero(found.likelihood < start.likelihood).flatten()
    if params.polish and len(worse):
        # interpolation roughens the peak: where it was begun on a higher spot, it is climbed from there
        again = polish(model, observed[worse], optics.take(worse), known.take(worse), free=free_parameters(params))
        states, found = states.put(worse, again[0]), found.put(worse, again[1])
        size_offset[worse] = 0.0
    return RefinedBoxes(start, states, found, size_offset, n_correlations)


def _climb_with_sizes(
    model: BoxModel,
    observed: Tensor,
    optics: ParticleOptics,
    starts: list[ParticleStates],
    params: RefineTemplateParams,
) -> tuple[ParticleStates, Fit, Tensor]:
    """Climb with the pixel size that suits each particle best; return that offset too.

    Pixel sizes are compared over the frequencies that the template fills at each of them.
    """
    free, offsets = free_parameters(params) if params.polish else None, params.pixel_size_offsets_angstrom
    pixel, own = model.band.grid.pixel_size_angstrom, model.template.grid.pixel_size_angstrom
    # a micrograph of larger pixels shows the template smaller, in its own pixels
    sizes = [own * pixel / (pixel + offset) for offset in offsets]
    chosen = torch.zeros(len(observed), dtype=torch.int64)
    if len(sizes) > 1:
        shared = model.head(model.shell_of_all(sizes))
        seen = observed[:, : len(shared.band)]
        likelihoods = [
            climb(shared.with_pixel_size(size), seen, optics, starts, free=free)[1].likelihood for size in sizes
        ]
        chosen = torch.stack(likelihoods).argmax(dim=0).cpu()
    groups = [torch.nonzero(chosen == which).flatten() for which in range(len(sizes))]
    climbed = [
        climb(
            model.with_pixel_size(size),
            observed[mine],
            optics.take(mine),
            [one.take(mine) for one in starts],
            free=free,
        )
        for size, mine in zip(sizes, groups, strict=True)
        if len(mine)
    ]
    back = torch.cat(groups).argsort()
    states = ParticleStates.joined([part for part, _ in climbed]).take(back)
    found = Fit.joined([part for _, part in climbed]).take(back)
    return states, found, torch.tensor(offsets, dtype=torch.float64)[chosen]


def _search_all(
    model: BoxModel,
    coarse: BoxModel,
    observed: Tensor,
    optics: ParticleOptics,
    known: ParticleStates,
    statistics: Statistics,
    params: RefineTemplateParams,
    widths: Tensor,
) -> tuple[list[ParticleStates], Tensor]:
    """Search about each particle; return the best starts of all, in turn, and the number of scores of each.

    ``widths`` are those of the score's peak, which steps may have; 0 where they must be as fine as asked for.
    """
    turning = (torch.rad2deg(widths[3:]) * STEP_WIDTHS).tolist()
    local = local_rotations(
        tilt_range_degrees=params.tilt_range_degrees if params.orientations else 0.0,
        tilt_step_degrees=max(params.tilt_step_degrees, min(turning[:2])),
        psi_range_degrees=params.psi_range_degrees if params.orientations else 0.0,
        psi_step_degrees=max(params.psi_step_degrees, turning[2]),
    ).to(observed.device)
    defocus = torch.tensor(params.defocus_offsets_angstrom(float(widths[2]) * STEP_WIDTHS), dtype=torch.float64)
    limit = (model.band.grid.side - model.template.side) // 2
    seen = observed[:, : len(coarse.band)]
    found, n_correlations = [], []
    shared: tuple[Rotations, Rotations, Tensor] | None = None
    for i in range(len(known)):
        # particles of a search have their orientations from one grid: neighbours often share them, and their slices
        if shared is None or not torch.equal(shared[0], known.rotations[i]):
            rotations = local @ known.rotations[i]
            shared = (known.rotations[i], rotations, coarse.slices(rotations))
        offsets = known.defocus_angstrom[i] + defocus
        ctf, _ = model.ctf(optics.take(torch.full((len(offsets),), i)).with_defocus_added(offsets))
        best = search(
            coarse,
            seen[i],
            ctf[:, : len(coarse.band)],
            statistics,
            i,
            slices=shared[2],
            rotations=shared[1],
            defocus_angstrom=offsets,
            start_pixel=torch.zeros(2, dtype=torch.int64),
            reach_pixel=min(REACH, limit),
            limit_pixel=limit,
            n_best=FINALISTS if params.polish else 1,
        )
        n_correlations.append(best.n_correlations)
        if params.polish:
            pixels = (best.states.shifts_angstrom[0] / model.band.grid.pixel_size_angstrom).round().to(torch.int64)
            best = search(
                model,
                observed[i],
                ctf,
                statistics,
                i,
                slices=model.slices(best.states.rotations),
                rotations=best.states.rotations,
                defocus_angstrom=offsets,
                start_pixel=pixels,
                reach_pixel=1,
                limit_pixel=limit,
                n_best=STARTS,
            )
            n_correlations[-1] += best.n_correlations
        found.append(best.states)
    starts = []
    for which in range(max(len(states) for states in found)):
        starts.append(
            ParticleStates.joined([states.take(torch.tensor([min(which, len(states) - 1)])) for states in found])
        )
    return starts, torch.tensor(n_correlations)
