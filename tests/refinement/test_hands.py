"""Halves of opposite hands are brought to one; halves that agree, and noise, stay as they are."""

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.fourier import shells, slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.slices import PaddedGrid
from halfmap.geometry.rotations import random_rotations
from halfmap.grid import ImageGrid
from halfmap.inference.reconstruction import SliceAccumulator
from halfmap.refinement.hands import are_of_opposite_hands, is_mirrored, turned_over
from halfmap.refinement.state import Orientations

GRID = ImageGrid.cubic(24, 4.0)
BAND = FourierBand(GRID.with_shape((24, 24)))
N = 600


def blobs(mirrored: bool = False) -> torch.Tensor:
    centres = keyed_random.normal(1, "blobs", 0, size=(8, 3)) * 12.0
    centres = torch.from_numpy(-centres if mirrored else centres)
    distance = (GRID.positions()[..., None, :] - centres).norm(dim=-1)
    return torch.exp(-((distance / 7.0) ** 2)).sum(-1).float()


def seen(volume: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    return slices.extract(slices.prepare(volume, GRID), rotations, BAND)


def summed(images: torch.Tensor, rotations: torch.Tensor) -> SliceAccumulator:
    grid = PaddedGrid(GRID)
    data, weight = slices.insert(images, torch.ones(images.shape), rotations, BAND, grid)
    return SliceAccumulator(data=data, weight=weight, grid=grid)


def orientations(rotations: torch.Tensor) -> Orientations:
    n = len(rotations)
    numbers = {name: np.zeros(n) for name in ("norm", "max_probability", "log_likelihood", "lost_mass")}
    return Orientations(
        rotation=rotations.numpy(),
        origin_angstrom=np.zeros((n, 2)),
        n_significant=np.zeros(n, dtype=np.int64),
        **numbers,
    )


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_second_half_of_the_other_hand_is_turned_over_with_its_poses(mirrored):
    rotations = random_rotations(1, "poses", np.arange(2 * N))
    first, second = blobs(), blobs(mirrored)
    images = seen(second, rotations[N:])
    halves = [summed(seen(first, rotations[:N]), rotations[:N]), summed(images, rotations[N:])]
    rows = np.arange(N, 2 * N)
    found, poses = halves, orientations(rotations)
    assert are_of_opposite_hands([half.volume() for half in halves], GRID, 2) == mirrored
    if mirrored:
        turned, poses = turned_over(halves[1], poses, rows)
        found = [halves[0], turned]
    one, other = (GRID.rfft(half.volume().double()) for half in found)
    assert shells.fsc(one, other, GRID)[3:9].min() > 0.95
    np.testing.assert_array_equal(poses.rotation[:N], rotations[:N].numpy())
    again = seen(first, torch.from_numpy(poses.rotation[N:]))
    # the pose with which the turned map shows what the other map showed
    torch.testing.assert_close(again, images, atol=1e-4 * float(images.abs().max()), rtol=0)


def test_maps_that_agree_with_neither_hand_or_with_both_stay_as_they_are():
    noise = torch.tensor([1.0, 1.0, 0.9, 0.1, -0.05, 0.12, 0.0, -0.1, 0.2])
    assert not is_mirrored(noise, noise.flip(0), 2)
    both = torch.tensor([1.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1])
    assert not is_mirrored(both, both + 0.02, 2)
    assert is_mirrored(both - 0.3, both, 2)
    assert not is_mirrored(both - 0.3, both, 6)  # two shells beyond the join say too little
