"""Images whose in-plane angles are given: many at a time find what each finds alone."""

import numpy as np
import pytest
import torch

from halfmap.classification.params import ClassificationParams
from halfmap.classification.problem import ClassificationProblem
from halfmap.compute.in_process import InProcessExecutor
from halfmap.data.image_source import ArraySource
from halfmap.geometry.euler import array_from_euler, in_plane_degrees
from halfmap.grid import ImageGrid
from halfmap.inference import expectation
from halfmap.inference.expectation import Model
from halfmap.inference.posterior import Priors, Search
from halfmap.inference.sampling import in_plane_grid, own_rotations
from support.particle_sets import a_particle_set

SIDE, PIXEL, N, C = 24, 4.0, 20, 3


def expected(rows, psi, *, keep_origin, one_angle=False):
    """Return the sums over some images; with ``one_angle``, of a search whose whole grid is the first image's angle."""
    random = np.random.default_rng(4)
    images = random.normal(size=(N, SIDE, SIDE)).astype(np.float32)
    references = torch.from_numpy(random.normal(size=(C, SIDE, SIDE)).astype(np.float32))
    particles = a_particle_set(N)
    params = ClassificationParams(classes=C, mask_diameter_angstrom=70.0)
    grid = ImageGrid.square(SIDE, PIXEL)
    poses = in_plane_grid(psi_step_degrees=30, offset_range_angstrom=8.0, offset_step_angstrom=4.0)
    if one_angle:
        angle = torch.from_numpy(array_from_euler(0.0, 0.0, float(psi[rows[0]])))[None]
        poses = type(poses)(
            rotations=angle,
            fine_rotations=angle,
            shifts_angstrom=poses.shifts_angstrom,
            fine_shifts_angstrom=poses.fine_shifts_angstrom,
            shift_area_angstrom2=poses.shift_area_angstrom2,
        )
    with InProcessExecutor() as executor:
        problem = ClassificationProblem.of(particles, ArraySource(images=images, grid=grid), params, executor)
        model = Model(
            references=references * problem.data.mask * 0.3,
            padding=3,
            priors=Priors(
                fractions=torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
                offset_sigma_angstrom=5.0,
                prior_offset_angstrom=torch.zeros((C, 2), dtype=torch.float64),
            ),
            noise_variance=torch.full((1, SIDE // 2 + 1), 0.5 / SIDE**2, dtype=torch.float64),
            scale=np.ones(problem.data.n_micrographs),
            norm=np.ones(N),
            origin_angstrom=np.zeros((N, 2)) if one_angle else particles["origin_angstrom"],
            search=Search(
                poses=poses if one_angle else own_rotations(poses, keep_origin=keep_origin),
                coarse_shell=9,
                fine_shell=9,
                shell=9,
                kept_mass=1.0,
            ),
            rotation=None if one_angle else array_from_euler(0.0, 0.0, psi),
            keep_origin=keep_origin,
        )
        return expectation.expect(problem.sent, model, problem.data, np.asarray(rows), executor)


@pytest.fixture(scope="module")
def psi():
    return np.random.default_rng(1).uniform(-180, 180, N)


@pytest.mark.parametrize("keep_origin", [False, True])
def test_many_images_find_what_each_finds_alone(psi, keep_origin):
    together = expected(range(N), psi, keep_origin=keep_origin)
    alone = [expected([row], psi, keep_origin=keep_origin) for row in range(N)]
    for name in ("gradient", "curvature", "class_mass", "residual_power", "offset"):
        parts = torch.stack([getattr(one, name) for one in alone]).double().sum(0)
        found = getattr(together, name).double()
        assert float((found - parts).abs().max()) <= 1e-5 * float(parts.abs().max()), name  # float32 sums
    for name in ("class_index", "rotation", "origin_angstrom", "log_likelihood", "max_probability"):
        values = np.concatenate([getattr(one.estimates, name) for one in alone])
        np.testing.assert_allclose(getattr(together.estimates, name), values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(in_plane_degrees(together.estimates.rotation), psi, atol=1e-9)


def test_a_given_angle_is_a_search_over_that_angle_alone(psi, monkeypatch):
    searched = expected([3], psi, keep_origin=False, one_angle=True)
    centred = a_particle_set(N).with_columns(origin_angstrom=np.zeros((N, 2)))
    monkeypatch.setattr(f"{__name__}.a_particle_set", lambda n: centred)
    given = expected([3], psi, keep_origin=False)
    assert given.estimates.log_likelihood[0] == pytest.approx(searched.estimates.log_likelihood[0], rel=1e-7)
    assert given.estimates.origin_angstrom.tolist() == searched.estimates.origin_angstrom.tolist()
    torch.testing.assert_close(given.gradient, searched.gradient, rtol=1e-4, atol=1e-4)
