"""Stacks of particles that are filled tilt by tilt."""

import numpy as np
import pytest

from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.io.relion_tilt_geometry import angles_of_series, rotation_of_angles
from halfmap.io.tilt_stacks import TiltStackWriter, rigid_series, visible_text
from support.series_scenes import tilt_series


def test_stacks_hold_the_tilts_that_came_in_their_order(tmp_path):
    grid = ImageGrid.square(4, 2.0)
    images = np.random.default_rng(0).normal(size=(3, 5, 4, 4)).astype("f4")
    paths = [tmp_path / "sub" / f"{number}.mrcs" for number in range(3)]
    with TiltStackWriter(paths, 5, grid) as stacks:
        stacks.put(3, [0, 2], images[[0, 2], 3])
        stacks.put(1, [2], images[[2], 1])
    assert np.array_equal(mrc.map_data(paths[0]), images[0, [3]])
    assert np.array_equal(mrc.map_data(paths[2]), images[2, [1, 3]])
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["0.mrcs", "2.mrcs"]
    assert visible_text(stacks.is_visible).tolist() == ["[0,0,0,1,0]", "[0,0,0,0,0]", "[0,1,0,1,0]"]


def test_failure_leaves_no_stack(tmp_path):
    def fail():
        with TiltStackWriter([tmp_path / "a.mrcs"], 2, ImageGrid.square(4, 2.0)) as stacks:
            stacks.put(0, [0], np.zeros((1, 4, 4)))
            raise RuntimeError("x")

    with pytest.raises(RuntimeError, match="x"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_rigid_series_turns_and_moves_as_told():
    series = tilt_series()
    generator = np.random.default_rng(2)
    angles = (generator.normal(0, 3, 15), np.linspace(-50, 50, 15), generator.normal(80, 2, 15))
    series = series.with_values(dose_e_per_angstrom2=3.0 * np.arange(15))
    rotation, shift = rotation_of_angles(*angles), generator.normal(0, 5, (15, 2))
    found, moved = angles_of_series(rigid_series(series, rotation, shift))
    assert np.allclose(found, angles, atol=1e-6)
    assert np.allclose(moved, shift, atol=0.05)  # Å; what RELION's tables are checked for
