"""Boxes about the particles of a micrograph, made ready to be compared with a template."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.grid import ImageGrid
from halfmap.template_matching.aberrations import NO_ABERRATIONS, Aberrations
from halfmap.template_matching.filters import FilteredMicrograph, OddPhases, filter_micrograph
from halfmap.template_matching.model import BoxModel, ParticleOptics, cut_boxes
from halfmap.template_matching.params import ParticleBoxParams
from halfmap.template_matching.polish import ParticleStates
from halfmap.template_matching.search import Statistics
from halfmap.template_matching.template import Template
from halfmap.tensors import BandValues, Rotations


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Particles of one micrograph, as they come from a search.

    Parameters
    ----------
    position_pixel : float64, shape (N, 2): (x, y) of the centres.
    rotations : float64, shape (N, 3, 3).
    optics : with the defocus known so far.
    statistics : of the search, about each position, wide enough for how far it may move.
    aberrations : of the micrograph's optics group.
    """

    position_pixel: Tensor
    rotations: Rotations
    optics: ParticleOptics
    statistics: Statistics
    aberrations: Aberrations = NO_ABERRATIONS

    def __len__(self) -> int:
        return len(self.rotations)


def check_box(side: int, template_side: int) -> None:
    """Raise unless a box is even and larger than the template.

    Raises
    ------
    InputError
        It is not.
    """
    if side % 2 or side <= template_side:
        raise InputError(
            f"--box must be even and larger than the template, {template_side} px; got {side} px; give "
            f"{template_side + 16}."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleBoxes:
    """Particles of one micrograph in boxes, made ready to be compared with the template.

    Parameters
    ----------
    rows : int64, shape (N,): which of the candidates they are.
    centre_pixel : int64, shape (N, 2): the pixel of the micrograph, (x, y), that is the centre of each box.
    model : of the boxes.
    observed : complex64, shape (N, K), of `BoxModel.observed`.
    optics, known, statistics : of the particles, as far as they are known; about the centres of the boxes.
    """

    rows: Tensor
    centre_pixel: Tensor
    model: BoxModel
    observed: BandValues
    optics: ParticleOptics
    known: ParticleStates
    statistics: Statistics


def cut_particles(
    micrograph: Tensor,
    pixel_size_angstrom: float,
    candidates: Candidates,
    template: Template,
    box: int,
    params: ParticleBoxParams,
    *,
    key: int = 0,
) -> Iterator[ParticleBoxes]:
    """Yield the particles of one micrograph in boxes, some at a time; parameters as of `refine_particles`."""
    check_box(box, template.side)
    if len(candidates.statistics.mean) != len(candidates):
        raise ShapeError(
            f"Statistics must be of {len(candidates)} particles; got {len(candidates.statistics.mean)}; cut them anew."
        )
    grid = ImageGrid.square(box, pixel_size_angstrom)
    odd = OddPhases(candidates.aberrations, pixel_size_angstrom)
    if params.global_filtering:
        whole = filter_micrograph(micrograph, params, seed=params.seed, key=key, odd=odd)
        for rows in torch.arange(len(candidates)).split(params.batch):
            yield _cut(whole, grid, candidates, template, rows, torch.zeros(2, dtype=torch.int64))
        return
    level = micrograph - micrograph.mean()
    for row in range(len(candidates)):
        corner = candidates.position_pixel[row].round().to(torch.int64) - box // 2
        part = cut_boxes(level, corner[None], box)[0]
        filtered = filter_micrograph(part, params, seed=params.seed, key=key, odd=odd)
        yield _cut(filtered, grid, candidates, template, torch.tensor([row]), corner)


def _cut(
    filtered: FilteredMicrograph,
    grid: ImageGrid,
    candidates: Candidates,
    template: Template,
    rows: Tensor,
    origin: Tensor,
) -> ParticleBoxes:
    """Cut some particles out; ``origin`` is the pixel of the micrograph that what was filtered begins with."""
    model = BoxModel.of(template, filtered.curves, grid, candidates.aberrations)
    position = candidates.position_pixel[rows]
    centre = position.round().to(torch.int64)
    statistics = candidates.statistics
    return ParticleBoxes(
        rows=rows,
        centre_pixel=centre,
        model=model,
        observed=model.observed(cut_boxes(filtered.values, centre - grid.side // 2 - origin, grid.side)),
        optics=candidates.optics.take(rows),
        known=ParticleStates(
            rotations=candidates.rotations[rows],
            shifts_angstrom=(position - centre) * grid.pixel_size_angstrom,
            defocus_angstrom=torch.zeros(len(rows), dtype=torch.float64),
        ),
        statistics=Statistics(mean=statistics.mean[rows], deviation=statistics.deviation[rows]),
    )
