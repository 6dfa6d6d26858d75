"""A domain looked for where particles, whose positions and poses are known, say that it must be."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from halfmap.geometry.rotations import matrix_from_rotation_vector
from halfmap.template_matching.boxes import Candidates, ParticleBoxes, cut_particles
from halfmap.template_matching.constrained_params import ConstrainedSearchParams
from halfmap.template_matching.polish import ParticleStates, climb, fit
from halfmap.template_matching.refine import STARTS, Refined, RefinedBoxes
from halfmap.template_matching.search import search
from halfmap.template_matching.template import Template
from halfmap.tensors import Rotations

SLICES_AT_ONCE = 2**24
"""Coefficients of the slices that are scored together: 128 MiB."""


def domain_rotations(params: ConstrainedSearchParams) -> Rotations:
    """Return the rotations of the domain that are tried, in the frame of the particle's template.

    Returns
    -------
    float64, shape (R, 3, 3): W. A point v of the domain's template lies at W v in the particle's, so the domain of a
    particle of pose A has pose A W. The identity is among them where the ranges hold it.
    """
    axis = _unit(params.axis)
    if params.tilt_axis is None:
        tilts = _tilts_in_every_direction(axis, params)
    else:
        second = _unit(params.tilt_axis)
        tilts = torch.deg2rad(torch.tensor(params.tilts_degrees, dtype=torch.float64))[:, None] * second
    turns = torch.deg2rad(torch.tensor(params.turns_degrees, dtype=torch.float64))[:, None] * axis
    turned = matrix_from_rotation_vector(turns)[:, None] @ matrix_from_rotation_vector(tilts)
    return turned.flatten(0, 1)


def _tilts_in_every_direction(axis: Tensor, params: ConstrainedSearchParams) -> Tensor:
    """Return rotation vectors across the axis, rings of them, as far apart as the rings are."""
    least = torch.eye(3, dtype=torch.float64)[axis.abs().argmin()]
    across = torch.linalg.cross(axis, least)
    across = across / across.norm()
    basis = torch.stack([across, torch.linalg.cross(axis, across)])
    vectors = []
    for tilt in params.tilts_degrees:
        n = max(1, round(360 * math.sin(math.radians(tilt)) / params.tilt_step_degrees))
        azimuth = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
        vectors.append(math.radians(tilt) * torch.stack([azimuth.cos(), azimuth.sin()], dim=-1) @ basis)
    return torch.cat(vectors)


def _unit(vector: tuple[float, float, float]) -> Tensor:
    values = torch.tensor(vector, dtype=torch.float64)
    return values / values.norm()


def number_of_trials(params: ConstrainedSearchParams) -> int:
    """Return how many scores each particle is given: orientations times defoci times positions."""
    n_places = (2 * params.reach_pixel + 1) ** 2
    return len(domain_rotations(params)) * len(params.defocus_offsets_angstrom) * n_places


def search_domains(
    micrograph: Tensor,
    pixel_size_angstrom: float,
    candidates: Candidates,
    template: Template,
    box: int,
    params: ConstrainedSearchParams,
    *,
    particle_template: Template | None = None,
    key: int = 0,
) -> Refined:
    """Look for the domain of each particle of a micrograph.

    Parameters
    ----------
    micrograph, pixel_size_angstrom, box, key : as of `halfmap.template_matching.refine.refine_particles`.
    candidates : the particles, with the statistics of a search with the domain's template.
    template : of the domain, in the frame of the particle's: turned by nothing, it lies where the particle has it.
    params : the settings.
    particle_template : what the particle looks like without the domain. Its projection is taken off each box, at the
        scale that fits best.

    Returns
    -------
    Refined
        Positions and poses are those of the domain's template; the position is where the middle of the particle's
        template would be. The start is the domain as the particle has it; the defocus offset counts from the
        particle's defocus, and holds the domain's depth.

    Raises
    ------
    ShapeError, InputError
        As of `halfmap.template_matching.refine.refine_particles`.

    Notes
    -----
    Depth is the third component of the rotated place; it adds to the defocus, or subtracts where the settings say so.
    Without ``particle_template`` what the particle itself has in common with the domain adds to the score.
    """
    rotations = domain_rotations(params)
    parts = []
    for boxes in cut_particles(micrograph, pixel_size_angstrom, candidates, template, box, params, key=key):
        if particle_template is not None:
            boxes = _without(boxes, particle_template)
        depth = boxes.known.rotations[:, 2] @ torch.tensor(params.centre_angstrom, dtype=torch.float64)
        depth = -depth if params.inverted_depth else depth
        boxes = replace(boxes, known=replace(boxes.known, defocus_angstrom=depth))
        parts.append(_search_boxes(boxes, rotations, params))
    return Refined.joined(parts)


def _without(boxes: ParticleBoxes, particle_template: Template) -> ParticleBoxes:
    """Take the projection of what is known off each box, at its best scale."""
    model = boxes.model.with_template(particle_template)
    amplitude = fit(model, boxes.observed, boxes.optics, boxes.known).amplitude.to(torch.float32)
    known = model.projections(boxes.optics, boxes.known.rotations, boxes.known.shifts_angstrom)
    return replace(boxes, observed=boxes.observed - amplitude[:, None] * known)


def _search_boxes(boxes: ParticleBoxes, rotations: Rotations, params: ConstrainedSearchParams) -> Refined:
    """Try every orientation, defocus and position of each particle, then climb from the best."""
    model, observed, known = boxes.model, boxes.observed, boxes.known
    start = fit(model, observed, boxes.optics, known)
    offsets = torch.tensor(params.defocus_offsets_angstrom, dtype=torch.float64)
    found = [_best_of_one(boxes, i, known.rotations[i] @ rotations, offsets, params) for i in range(len(known))]
    starts = [
        ParticleStates.joined([one.take(torch.tensor([min(which, len(one) - 1)])) for one in found])
        for which in range(STARTS if params.polish else 1)
    ]
    moves, turns = params.reach_pixel > 0, len(rotations) > 1
    # a small domain tells too little of its defocus to be let go from what the particle's is
    free = torch.tensor([moves, moves, False, turns, turns, turns]) if params.polish else None
    states, reached = climb(model, observed, boxes.optics, starts, free=free)
    n = torch.full((len(known),), number_of_trials(params))
    result = RefinedBoxes(start, states, reached, torch.zeros(len(known), dtype=torch.float64), n)
    return result.of_boxes(boxes, free)


def _best_of_one(
    boxes: ParticleBoxes, particle: int, rotations: Rotations, offsets: Tensor, params: ConstrainedSearchParams
) -> ParticleStates:
    """Return the best of all trials of one particle, the best orientations first."""
    model = boxes.model
    defocus = boxes.known.defocus_angstrom[particle] + offsets
    one = torch.full((len(offsets),), particle)
    ctf, _ = model.ctf(boxes.optics.take(one).with_defocus_added(defocus))
    parts, scores = [], []
    for some in rotations.split(max(1, SLICES_AT_ONCE // len(model.band))):
        best = search(
            model,
            boxes.observed[particle],
            ctf,
            boxes.statistics,
            particle,
            slices=model.slices(some),
            rotations=some,
            defocus_angstrom=defocus,
            start_pixel=torch.zeros(2, dtype=torch.int64),
            reach_pixel=params.reach_pixel,
            limit_pixel=params.reach_pixel,
            n_best=STARTS,
        )
        parts.append(best.states)
        scores.append(best.z)
    order = torch.cat(scores).argsort(descending=True, stable=True)[:STARTS]
    return ParticleStates.joined(parts).take(order)
