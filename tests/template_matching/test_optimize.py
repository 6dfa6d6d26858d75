"""The pixel size and the B-factor of a template are found from particles at their known poses."""

import math

import numpy as np
import pytest
import torch

from halfmap.errors import InputError
from halfmap.template_matching.boxes import ParticleBoxes
from halfmap.template_matching.optimize import best_value, counted_particles, score_boxes
from halfmap.template_matching.params import OptimizeTemplateParams
from halfmap.template_matching.polish import ParticleStates
from halfmap.template_matching.search import Statistics
from support import template_particles
from support.template_particles import PIXEL

N = 16


@pytest.fixture(scope="module")
def boxes():
    """Particles of a template whose voxels are 2 % larger and whose B-factor is 60 Å² higher, in noise."""
    states = template_particles.truth(N)
    model = template_particles.model()
    true = model.with_template(model.template.with_pixel_size(1.02 * PIXEL)).with_b_factor(60.0)
    return ParticleBoxes(
        rows=torch.arange(N),
        centre_pixel=torch.zeros(N, 2, dtype=torch.int64),
        model=model,
        observed=template_particles.observed(true, states, 40.0),
        optics=template_particles.optics(N).with_defocus_added(states.defocus_angstrom),
        known=ParticleStates(
            rotations=states.rotations,
            shifts_angstrom=torch.zeros(N, 2, dtype=torch.float64),
            defocus_angstrom=torch.zeros(N, dtype=torch.float64),
        ),
        statistics=Statistics.neutral(N, 17),
    )


def test_a_wrong_pixel_size_and_b_factor_are_found(boxes):
    sizes = (PIXEL * np.arange(0.96, 1.061, 0.01)).tolist()
    scores = score_boxes(boxes, [(size, 0.0) for size in sizes])
    size = best_value(sizes, scores.z, scores.mip)
    # three of the uncertainties that the noise causes, and a thousandth that the interpolation does
    assert abs(size.value / PIXEL - 1.02) < 3 * size.uncertainty / PIXEL + 0.001
    assert size.uncertainty / PIXEL < 0.002
    factors = np.arange(0.0, 161.0, 20.0).tolist()
    scores = score_boxes(boxes, [(size.value, factor) for factor in factors])
    factor = best_value(factors, scores.z, scores.mip)
    assert abs(factor.value - 60.0) < 3 * factor.uncertainty + 2
    assert factor.uncertainty < 10
    # the position is free, the pose is as known
    assert abs(float(scores.z.max()) - 40) < 4
    assert not size.at_rim
    assert not factor.at_rim


def test_the_vertex_of_a_parabola_is_found_and_a_rim_is_told():
    values = [-2.0, -1.0, 0.0, 2.0, 3.0]
    z = 10 - 0.5 * (torch.tensor(values, dtype=torch.float64) - 0.7).square()
    found = best_value(values, z.expand(3, -1), z.expand(3, -1))
    assert abs(found.value - 0.7) < 1e-9
    assert not found.at_rim
    far = best_value(values[:2], z[:2].expand(3, -1), z[:2].expand(3, -1))
    assert (far.value, far.at_rim) == (-1.0, True)
    assert math.isnan(far.uncertainty)
    assert not best_value([0.0], z[:1, None], z[:1, None]).at_rim


def test_the_same_particles_count_at_every_value():
    z = torch.tensor([[7.0, 9.0], [8.5, 6.0], [7.5, 7.9], [9.5, 9.9]])
    assert counted_particles(z, OptimizeTemplateParams()).tolist() == [True, True, False, True]
    assert counted_particles(z, OptimizeTemplateParams(best_particles=1)).tolist() == [False, False, False, True]
    with pytest.raises(InputError, match=r"z of 20 or more; got 9\.90 at most; lower --min-z"):
        counted_particles(z, OptimizeTemplateParams(min_z=20))
