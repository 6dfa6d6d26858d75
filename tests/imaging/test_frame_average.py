"""Frames that are moved back: what was moved is there again."""

import numpy as np
import pytest
import torch

from halfmap.data.image_series import FrameSeries, SeriesOptics
from halfmap.data.image_source import ArraySource
from halfmap.errors import InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import movement
from halfmap.imaging.frame_average import frame_average
from halfmap.splines.grids import SplineGrid

N, SHAPE, PIXEL_ANGSTROM = 6, (96, 128), 1.5
GRID = ImageGrid(shape=SHAPE, pixel_size_angstrom=PIXEL_ANGSTROM)


def nodes(seed, *shape, sigma=4.0):
    return SplineGrid(values=torch.from_numpy(np.random.default_rng(seed).normal(0, sigma, shape)))


def series(**fields) -> FrameSeries:
    given = {
        "name": "movie",
        "image_size_angstrom": (SHAPE[1] * PIXEL_ANGSTROM, SHAPE[0] * PIXEL_ANGSTROM),
        "dose_e_per_angstrom2": np.arange(N, dtype=float),
        "is_used": np.ones(N, dtype=bool),
        "optics": SeriesOptics(pixel_size_angstrom=PIXEL_ANGSTROM),
        "movement_x_angstrom": nodes(1, N, 1, 1),
        "movement_y_angstrom": nodes(2, N, 1, 1),
    }
    return FrameSeries(**{**given, **fields})


def texture(x, y):
    """Waves of 6 to 30 pixels, at any place in pixels."""
    generator = np.random.default_rng(3)
    total = np.zeros(np.broadcast(x, y).shape)
    for _ in range(20):
        k, angle = 1 / generator.uniform(6, 30), generator.uniform(0, np.pi)
        total += np.sin(2 * np.pi * k * (x * np.cos(angle) + y * np.sin(angle)) + generator.uniform(0, 6))
    return total


def movie(of: FrameSeries) -> ArraySource:
    """Frames in which content of place p lies at p − movement(p): by fixed-point steps back from pixel to place."""
    y, x = (torch.arange(side, dtype=torch.float64) for side in SHAPE)
    pixel = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2).expand(-1, N, 2) * PIXEL_ANGSTROM
    place = pixel.clone()
    for _ in range(20):
        place = pixel + movement(of, place)
    at = (place / PIXEL_ANGSTROM).numpy().reshape(*SHAPE, N, 2)
    frames = texture(at[..., 0], at[..., 1]).transpose(2, 0, 1).astype(np.float32)
    return ArraySource(images=frames, grid=GRID)


@pytest.mark.parametrize("local", [False, True])
def test_average_shows_what_moved_frames_have_in_common(local):
    fields = {}
    if local:
        fields = {
            "local_movement_x_angstrom": nodes(4, 3, 2, 3, sigma=2.0),
            "local_movement_y_angstrom": nodes(5, 3, 2, 3, sigma=2.0),
            "pyramid_x_angstrom": (nodes(6, 2, 2, 2, sigma=1.0),),
            "pyramid_y_angstrom": (nodes(7, 2, 2, 2, sigma=1.0),),
        }
    of = series(**fields)
    source = movie(of)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    expected = texture(x, y)[16:-16, 16:-16]  # edges have come from outside
    error = np.std(frame_average(source, of)[16:-16, 16:-16] - expected) / expected.std()
    assert error < 0.05  # splines, and edges that the shift wraps round
    assert np.std(source.images.mean(axis=0)[16:-16, 16:-16] - expected) / expected.std() > 0.3


def test_frames_that_are_not_used_are_not_averaged():
    used = np.arange(N) == 2
    of = series(
        is_used=used, movement_x_angstrom=SplineGrid.constant(0.0), movement_y_angstrom=SplineGrid.constant(0.0)
    )
    source = ArraySource(images=np.random.default_rng(0).normal(size=(N, *SHAPE)), grid=GRID)
    assert np.allclose(frame_average(source, of), source.images[2], atol=1e-5)
    with pytest.raises(InputError, match="got none"):
        frame_average(source, of.with_values(is_used=np.zeros(N, dtype=bool)))


def test_movies_with_other_numbers_of_frames_are_refused():
    source = ArraySource(images=np.zeros((N - 1, *SHAPE)), grid=GRID)
    with pytest.raises(InconsistentDataError, match="got 5; check how frames are grouped"):
        frame_average(source, series())
