"""How well a template fits its particles when its pixel size and its B-factor are changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.template_matching.boxes import Candidates, ParticleBoxes, cut_particles
from halfmap.template_matching.params import OptimizeTemplateParams, RefineTemplateParams
from halfmap.template_matching.per_particle import PerParticle
from halfmap.template_matching.polish import polish
from halfmap.template_matching.refine import refine_boxes
from halfmap.template_matching.template import Template

POSITION = torch.tensor([True, True, False, False, False, False])
"""Parameters that may change while templates are compared: x and y."""

AS_KNOWN = RefineTemplateParams(orientations=False, defocus_min_angstrom=0.0, defocus_max_angstrom=0.0, polish=False)
"""The pose and the defocus as they are; the position from a window of whole pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplateScores(PerParticle):
    """Scores of the N particles of a micrograph with each of V templates.

    Parameters
    ----------
    mip, z : float64, shape (N, V): in standard deviations of white noise; and less their mean, in those of the search.
    """

    mip: Tensor
    z: Tensor


def score_templates(
    micrograph: Tensor,
    pixel_size_angstrom: float,
    candidates: Candidates,
    template: Template,
    box: int,
    params: OptimizeTemplateParams,
    *,
    changes: Sequence[tuple[float, float]],
    key: int = 0,
) -> TemplateScores:
    """Score the particles of one micrograph with a template, changed in several ways.

    Parameters
    ----------
    micrograph, pixel_size_angstrom, candidates, box, key : as of `halfmap.template_matching.refine.refine_particles`.
    template : whose pixel size is changed to that of the changes.
    params : the settings of the boxes.
    changes : pixel size of the template, counted in the micrograph's nominal pixels, and B-factor added to it.

    Raises
    ------
    ShapeError, InputError
        As of `halfmap.template_matching.refine.refine_particles`.

    Notes
    -----
    Pose and defocus stay as they are known. The position is looked for in a window about the known one with the first
    of the changes, then climbed to a fraction of a pixel with each: a position in whole pixels would damp the score as
    a B-factor does. All changes are compared over the same frequencies.
    """
    cut = cut_particles(micrograph, pixel_size_angstrom, candidates, template, box, params, key=key)
    return TemplateScores.joined([score_boxes(boxes, changes) for boxes in cut])


def score_boxes(boxes: ParticleBoxes, changes: Sequence[tuple[float, float]]) -> TemplateScores:
    """Score particles in boxes; ``changes`` and notes as of `score_templates`."""
    shared = boxes.model.head(boxes.model.shell_of_all([size for size, _ in changes]))
    observed = boxes.observed[:, : len(shared.band)]
    pixel, rows = shared.band.grid.pixel_size_angstrom, torch.arange(len(boxes.rows))
    states, mip, z = None, [], []
    for size, b_factor in changes:
        model = shared.with_pixel_size(size).with_b_factor(b_factor)
        if states is None:
            states = refine_boxes(model, observed, boxes.optics, boxes.known, boxes.statistics, AS_KNOWN).states
        moved, found = polish(model, observed, boxes.optics, states, free=POSITION)
        mean, deviation = boxes.statistics.at(rows, moved.shifts_angstrom / pixel)
        mip.append(found.score)
        z.append((found.score - mean) / deviation)
    return TemplateScores(mip=torch.stack(mip, dim=-1), z=torch.stack(z, dim=-1))


def counted_particles(z: Tensor, params: OptimizeTemplateParams) -> Tensor:
    """Return which particles count: bool, shape (N,).

    Parameters
    ----------
    z : shape (N, V): of the particles at every value.

    Raises
    ------
    InputError
        None does.

    Notes
    -----
    Chosen once, by the best of each, so that every value is judged by the same particles. Were they chosen at each
    value, one at which the weaker ones fall below the threshold would have the higher mean.
    """
    best = z.amax(dim=-1)
    if params.best_particles is not None:
        counted = torch.zeros_like(best, dtype=torch.bool)
        counted[best.argsort(descending=True, stable=True)[: params.best_particles]] = True
        return counted
    if not bool((best >= params.min_z).any()):
        raise InputError(
            f"Some particles must have a z of {params.min_z:g} or more; got {float(best.max()):.2f} at most; lower "
            "--min-z, or give --best-particles."
        )
    return best >= params.min_z


@dataclass(frozen=True, kw_only=True, eq=False)
class Best:
    """The best of some values.

    Parameters
    ----------
    value : the vertex of the parabola through the value of the highest score and its two neighbours.
    uncertainty : standard deviation of it that the noise alone causes; NaN at the rim.
    at_rim : whether it is the first or the last of several values, so that a better one may lie beyond.
    """

    value: float
    uncertainty: float
    at_rim: bool


def best_value(values: Sequence[float], z: Tensor, mip: Tensor) -> Best:
    """Return the value at which the mean z is highest.

    Parameters
    ----------
    values : ascending, V of them.
    z, mip : shape (N, V), of the particles that count.

    Notes
    -----
    Half the sum of the squared scores is the logarithm of the likelihood, whose curvature gives the uncertainty. What
    it does not know is how wrong poses and positions are.
    """
    x, score = np.asarray(values, dtype=np.float64), z.mean(0).numpy()
    top = int(score.argmax())
    if top in (0, len(x) - 1):
        return Best(value=float(x[top]), uncertainty=np.nan, at_rim=len(x) > 1)
    near = slice(top - 1, top + 2)
    curvature, slope, _ = np.polyfit(x[near] - x[top], score[near], 2)
    information = -2 * np.polyfit(x[near] - x[top], (mip.square().sum(0) / 2).numpy()[near], 2)[0]
    return Best(
        value=float(x[top] - slope / (2 * curvature)) if curvature < 0 else float(x[top]),
        uncertainty=float(information**-0.5) if information > 0 else np.nan,
        at_rim=False,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Walk:
    """Templates that were tried, one after another.

    Parameters
    ----------
    varied : what differs between them.
    name : of the walk.
    pixel_sizes_angstrom, b_factors_angstrom2 : of the V templates, what varies ascending.
    scores : of the particles that count.
    """

    varied: Literal["pixel size", "B-factor"]
    name: str
    pixel_sizes_angstrom: tuple[float, ...]
    b_factors_angstrom2: tuple[float, ...]
    scores: TemplateScores

    @property
    def values(self) -> tuple[float, ...]:
        """What varies."""
        return self.b_factors_angstrom2 if self.varied == "B-factor" else self.pixel_sizes_angstrom

    @property
    def unit(self) -> str:
        """Unit of what varies."""
        return "Å²" if self.varied == "B-factor" else "Å"

    @property
    def best(self) -> Best:
        """Where the mean z is highest."""
        return best_value(self.values, self.scores.z, self.scores.mip)
