"""Motion written as RELION writes it, and read back."""

import dataclasses

import numpy as np
import pytest
import torch

from halfmap.data.image_series import FrameSeries, SeriesOptics
from halfmap.imaging.deformation import movement
from halfmap.io import star
from halfmap.io.relion_motion import read_corrected_movies
from halfmap.io.relion_motion_writer import write_motion
from halfmap.splines.grids import SplineGrid

N, SIZE, PIXEL = 8, (400, 300), 1.2


def smooth(coefficients) -> SplineGrid:
    """A polynomial that RELION's model can say, on nodes of a grid."""
    time = torch.arange(N, dtype=torch.float64)[:, None, None]
    y, x = (torch.linspace(-0.5, 0.5, 9, dtype=torch.float64)[None, :, None].swapaxes(1, axis) for axis in (1, 2))
    a, b, c = coefficients
    return SplineGrid(values=a * time * x + b * time**2 * y**2 + c * time * x * y)


def series() -> FrameSeries:
    steps = np.random.default_rng(2).normal(0, 1, (2, N)).cumsum(axis=1)
    return FrameSeries(
        name="a",
        image_size_angstrom=(SIZE[0] * PIXEL, SIZE[1] * PIXEL),
        dose_e_per_angstrom2=3.0 + 1.5 * np.arange(N),
        is_used=np.ones(N, dtype=bool),
        optics=SeriesOptics(pixel_size_angstrom=PIXEL, voltage_kv=200.0),
        movement_x_angstrom=SplineGrid(values=torch.from_numpy(steps[0]).reshape(-1, 1, 1)),
        movement_y_angstrom=SplineGrid(values=torch.from_numpy(steps[1]).reshape(-1, 1, 1)),
        local_movement_x_angstrom=smooth((0.2, 0.03, -0.1)),
        local_movement_y_angstrom=smooth((-0.1, 0.02, 0.2)),
        n_frames_of_movie=N,
        movie_name="Movies/a.tif",
    )


def read_back(folder) -> FrameSeries:
    columns = {"rlnMicrographName": ["a.mrc"], "rlnMicrographMetadata": ["a.star"]}
    table = star.StarTable(name="micrographs", columns={key: np.array(value) for key, value in columns.items()})
    star.write(folder / "micrographs.star", [table])
    return read_corrected_movies(folder / "micrographs.star", project_root=folder).series[0]


@pytest.mark.parametrize("binning", [1.0, 2.0])
def test_motion_that_the_model_can_say_comes_back(tmp_path, binning):
    given = series()
    left = write_motion(tmp_path / "a.star", given, general={"rlnMicrographGainName": "gain.mrc"}, binning=binning)
    assert left < 1e-3  # pixels: splines between nodes
    read = read_back(tmp_path)
    place = torch.from_numpy(np.random.default_rng(1).uniform(0, 1, (20, 1, 2)))
    place = (place * torch.tensor(SIZE, dtype=torch.float64) * PIXEL).expand(-1, N, -1)
    expected = movement(given, place)
    found = movement(read, place)
    # Å: places count from the first frame; six decimals, and splines over nodes
    torch.testing.assert_close(found - found[:, :1], expected - expected[:, :1], atol=5e-3, rtol=0)
    np.testing.assert_allclose(read.dose_e_per_angstrom2, given.dose_e_per_angstrom2, atol=1e-6)
    assert read.movie_name == "Movies/a.tif"
    assert read.further["rlnMicrographGainName"] == "gain.mrc"
    assert read.is_used.all()


def test_bad_frames_stay_out(tmp_path):
    is_used = np.ones(N, dtype=bool)
    is_used[3] = False
    write_motion(tmp_path / "a.star", dataclasses.replace(series(), is_used=is_used), general={})
    read = read_back(tmp_path)
    np.testing.assert_array_equal(read.is_used, is_used)


def test_how_far_the_model_is_off_is_told(tmp_path):
    rough = SplineGrid(values=torch.from_numpy(np.random.default_rng(1).normal(0, PIXEL, (N, 5, 5))))
    left = write_motion(
        tmp_path / "a.star",
        dataclasses.replace(series(), local_movement_x_angstrom=rough, local_movement_y_angstrom=rough),
        general={},
    )
    assert left > 0.5  # pixels, of motion of 1 pixel that is rough in place and time
