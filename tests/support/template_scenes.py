"""A lopsided template, and micrographs of noise in which it lies at known places."""

import numpy as np
import torch

from halfmap import keyed_random
from halfmap.grid import ImageGrid
from halfmap.template_matching.filters import filter_micrograph
from halfmap.template_matching.global_search.correlation import Correlator
from halfmap.template_matching.global_search.orientations import SearchGrid, search_grid
from halfmap.template_matching.global_search.params import MatchTemplateParams
from halfmap.template_matching.global_search.problem import MatchProblem
from halfmap.template_matching.model import ParticleOptics
from halfmap.template_matching.template import prepare_template

PIXEL_SIZE, SIDE = 4.0, 24
DEFOCUS = 6000.0
CENTRES = ((20, 8, 10), (-18, 14, -6), (4, -22, 14), (-8, -12, -20), (16, 0, -16), (-2, 20, 20))
OPTICS = ParticleOptics(
    **{
        name: torch.tensor([value], dtype=torch.float64)
        for name, value in zip(
            ParticleOptics.__dataclass_fields__, (DEFOCUS, DEFOCUS, 0.0, 300.0, 2.7, 0.07, 0.0, 0.0), strict=True
        )
    }
)


def lopsided():
    """Return a density of a few blobs without symmetry, float32, shape (SIDE, SIDE, SIDE)."""
    position = ImageGrid.cubic(SIDE, PIXEL_SIZE).positions()
    centres = torch.tensor(CENTRES, dtype=torch.float64)
    return torch.exp(-(position[..., None, :] - centres).square().sum(-1) / 40).sum(-1).to(torch.float32)


def noise(shape, number=0):
    """Return white noise, float32."""
    return torch.from_numpy(keyed_random.normal(5, "template scenes", number, size=shape).astype(np.float32))


def settings(step=30.0, **more):
    """Return the settings of a quick search at one defocus."""
    defaults = {
        "theta_step_degrees": step,
        "psi_step_degrees": step,
        "defocus_min_angstrom": 0.0,
        "defocus_max_angstrom": 0.0,
    }
    return MatchTemplateParams(**{**defaults, **more})


def problem_of(micrograph, params, *, template=None, orientations=None):
    """Return the search of a micrograph as recorded for the lopsided template."""
    template = prepare_template(lopsided(), ImageGrid.cubic(SIDE, PIXEL_SIZE)) if template is None else template
    orientations = search_grid(params) if orientations is None else orientations
    return MatchProblem.of(filter_micrograph(micrograph, params), template, OPTICS, orientations, params)


def scene(shape, angles, corners, strength, number=0):
    """Return a micrograph as recorded: projections at corners (x, y), of a norm in standard deviations of the noise."""
    known = SearchGrid(
        phi_degrees=torch.tensor([a[0] for a in angles], dtype=torch.float64),
        theta_degrees=torch.tensor([a[1] for a in angles], dtype=torch.float64),
        psi_degrees=torch.tensor([angles[0][2]], dtype=torch.float64),
    )
    values = noise(shape, number)
    views = Correlator.of(problem_of(values, settings(), orientations=known), torch.device("cpu"))
    for (x, y), image in zip(corners, views.projections(torch.arange(len(angles))), strict=True):
        values[y : y + SIDE, x : x + SIDE] -= strength * image / image.norm()
    return values
