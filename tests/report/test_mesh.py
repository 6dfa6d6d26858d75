import numpy as np
import pytest

from halfmap.errors import ShapeError
from halfmap.report.mesh import surface_mesh


def ball(shape=(24, 26, 28), radius=8.0, centre=(11.3, 12.1, 13.7)):
    """A map whose value is the radius less the distance from a centre (z, y, x)."""
    grid = np.indices(shape).astype(np.float64)
    return radius - np.sqrt(sum((axis - at) ** 2 for axis, at in zip(grid, centre, strict=True)))


def volume_of(mesh):
    """The enclosed volume by the divergence theorem: positive where triangles face outwards."""
    a, b, c = (mesh.vertices[mesh.triangles[:, k]].astype(np.float64) for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def test_the_surface_of_a_ball_lies_on_the_ball():
    mesh = surface_mesh(ball(), 0.0)
    distance = np.linalg.norm(mesh.vertices - np.array([13.7, 12.1, 11.3]), axis=1)
    assert np.abs(distance - 8.0).max() < 0.1  # voxels: the mean of crossings lies a little inside of a curved surface
    assert volume_of(mesh) == pytest.approx(4 / 3 * np.pi * 8.0**3, rel=0.02)


def test_triangles_face_to_where_the_map_is_lower():
    assert volume_of(surface_mesh(ball(), 0.0)) > 0
    assert volume_of(surface_mesh(-ball(), 0.0)) < 0


def test_a_surface_within_the_box_is_closed():
    triangles = surface_mesh(ball(), 0.0).triangles.astype(np.int64)
    edges = np.concatenate([triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    there = {tuple(edge) for edge in edges.tolist()}
    assert len(there) == len(edges)
    assert {(b, a) for a, b in there} == there


def test_every_triangle_has_vertices_that_exist_and_differ():
    mesh = surface_mesh(np.random.default_rng(1).normal(size=(9, 8, 7)), 0.3)
    assert mesh.triangles.max() < len(mesh.vertices)
    assert (np.diff(np.sort(mesh.triangles.astype(np.int64), axis=1), axis=1) > 0).all()


def test_a_map_that_nowhere_has_the_value_has_no_surface():
    mesh = surface_mesh(ball(), 100.0)
    assert len(mesh.vertices) == len(mesh.triangles) == 0


def test_what_is_no_map_is_refused():
    for shape in ((4, 4), (4, 4, 1)):
        with pytest.raises(ShapeError):
            surface_mesh(np.zeros(shape), 0.0)
