"""The law of pose accuracy, on references whose likelihood is known."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from halfmap import keyed_random
from halfmap.errors import ShapeError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import phase_factors
from halfmap.geometry.rotations import matrix_from_euler, matrix_from_rotation_vector, random_rotations
from halfmap.grid import ImageGrid
from halfmap.inference.accuracy import TELLING_NATS, pose_accuracy, volume_pose_accuracy

PIXEL = 2.0
SIDE = 32
SQUARE, CUBE = ImageGrid.square(SIDE, PIXEL), ImageGrid.cubic(SIDE, PIXEL)
BAND = FourierBand(SQUARE, max_shell=12)
BLOBS = [((10.0, 4.0, -6.0), 1.0), ((-8.0, 12.0, 2.0), 0.7), ((3.0, -9.0, 11.0), 1.3)]


def a_map(grid: ImageGrid = CUBE) -> Tensor:
    """Return three Gaussian blobs of 4 Å, in as many dimensions as the grid has."""
    centres = [(torch.tensor(place[: grid.ndim]), height) for place, height in BLOBS]
    squares = [((grid.positions() - at).square().sum(-1), height) for at, height in centres]
    return sum(height * torch.exp(-square / 32) for square, height in squares).float()


def information(noise: Tensor | float, n: int = 1) -> Tensor:
    """Return C²/σ² with the CTF of one defocus, shape (n, K)."""
    frequency = BAND.frequencies.square().sum(-1)
    transfer = torch.sin(math.pi * 0.02 * 12000 * frequency + 0.1)
    return (transfer.square() / noise).expand(n, -1)


def first_told(told_at: Callable[[float], float], low: float, high: float) -> float:
    """Return where an increasing function reaches what tells, by bisection."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if told_at(middle) >= TELLING_NATS else (middle, high)
    return high


def told_by_move_of(true: Tensor, weight: Tensor) -> Callable[[float], float]:
    """Return what moves in Å along x or y tell, in the mean of both."""

    def told(move: float) -> float:
        shifts = torch.tensor([[move, 0.0], [0.0, move]], dtype=torch.float64)
        other = true * phase_factors(BAND.frequencies, shifts)
        return float(0.5 * (weight * (true - other).abs().square()).sum(-1).mean())

    return told


def told_by_noisy_images(true: Tensor, other: Tensor, weight: Tensor, n_draws: int = 2000) -> float:
    """Return the mean log-likelihood ratio of two poses over images drawn with noise of variance 1 / weight."""
    noise = torch.from_numpy(keyed_random.normal(1, "noise of accuracies", range(n_draws), size=(2 * len(BAND),)))
    noise = torch.view_as_complex(noise.view(n_draws, -1, 2)) / weight.sqrt()
    image = true + noise
    worse = 0.5 * (weight * (image - other).abs().square()).sum(-1)
    better = 0.5 * (weight * (image - true).abs().square()).sum(-1)
    return float((worse - better).mean())


def turned(axis: int, degrees: float, rotation: Tensor) -> Tensor:
    return matrix_from_rotation_vector(math.radians(degrees) * torch.eye(3, dtype=torch.float64)[axis]) @ rotation


@pytest.mark.parametrize("noise", [3e-5, 3e-4])
def test_errors_of_a_map_are_those_at_which_the_likelihood_tells(noise: float) -> None:
    transform, weight = slices.prepare(a_map(), CUBE), information(noise)[0]
    rotation = random_rotations(1, "views", range(1))[0]
    true = slices.extract(transform, rotation, BAND)

    def told_by_turn(axis: int) -> Callable[[float], float]:
        def told(degrees: float) -> float:
            other = slices.extract(transform, turned(axis, degrees, rotation), BAND)
            return float(0.5 * (weight * (true - other).abs().square()).sum())

        return told

    errors = [first_told(told_by_turn(axis), 0.0, 20.0) for axis in range(3)]
    degrees, angstrom = volume_pose_accuracy(transform, BAND, weight[None], rotation[None])
    assert degrees == pytest.approx(sum(errors) / 3, rel=0.02)  # of linear slices and 24 steps
    assert angstrom == pytest.approx(first_told(told_by_move_of(true, weight), 0.0, 10.0), rel=0.01)
    # and images drawn with that noise tell by as much
    other = slices.extract(transform, turned(0, errors[0], rotation), BAND)
    assert told_by_noisy_images(true, other, weight) == pytest.approx(TELLING_NATS, rel=0.1)  # 2000 draws, ±0.07


def test_errors_grow_with_the_noise_and_end_at_their_caps() -> None:
    transform, rotations = slices.prepare(a_map(), CUBE), random_rotations(2, "views", range(20))
    found = [
        volume_pose_accuracy(transform, BAND, information(noise, 20), rotations)
        for noise in (1e-6, 1e-5, 4e-5, 1e-3, 1e-1, 1e6)
    ]
    degrees, angstrom = zip(*found, strict=True)
    assert list(degrees) == sorted(degrees)
    assert list(angstrom) == sorted(angstrom)
    # while errors are small, four times the noise doubles them
    assert degrees[2] / degrees[1] == pytest.approx(2.0, rel=0.05)
    assert angstrom[2] / angstrom[1] == pytest.approx(2.0, rel=0.02)
    assert found[-1] == pytest.approx((30.0, 10 * PIXEL))


def test_errors_of_many_particles_are_the_mean_of_each() -> None:
    transform, rotations = slices.prepare(a_map(), CUBE), random_rotations(3, "views", range(6))
    weights = torch.cat([information(noise) for noise in (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 1e-3)])
    together = volume_pose_accuracy(transform, BAND, weights, rotations)
    each = [volume_pose_accuracy(transform, BAND, weights[i : i + 1], rotations[i : i + 1]) for i in range(6)]
    assert together == pytest.approx(torch.tensor(each, dtype=torch.float64).mean(0).tolist(), rel=1e-5)


def test_a_ball_can_be_placed_but_not_turned() -> None:
    ball = torch.exp(-CUBE.positions().square().sum(-1) / 128).float()
    degrees, angstrom = volume_pose_accuracy(
        slices.prepare(ball, CUBE), BAND, information(1e-3), random_rotations(4, "views", range(1))
    )
    assert degrees == pytest.approx(30.0)
    assert angstrom < PIXEL


def test_no_particles_have_no_error() -> None:
    none = torch.zeros((0, 3, 3), dtype=torch.float64)
    found = volume_pose_accuracy(slices.prepare(a_map(), CUBE), BAND, torch.zeros((0, len(BAND))), none)
    assert all(math.isnan(value) for value in found)


def test_information_must_fit_the_particles_and_the_band() -> None:
    transform, rotations = slices.prepare(a_map(), CUBE), random_rotations(5, "views", range(2))
    with pytest.raises(ShapeError, match="particles and coefficients"):
        volume_pose_accuracy(transform, BAND, information(1.0, 3), rotations)


@pytest.mark.parametrize("noise", [1e-5, 1e-4])
def test_errors_of_a_class_are_those_at_which_the_likelihood_tells(noise: float) -> None:
    image, weight = a_map(SQUARE)[None], information(noise)
    transform = slices.prepare(image, SQUARE)
    true = slices.extract(transform, matrix_from_euler(0.0, 0.0, 0.0), BAND)

    def told_by_turn(degrees: float) -> float:
        other = slices.extract(transform, matrix_from_euler(0.0, 0.0, degrees), BAND)
        return float(0.5 * (weight * (true - other).abs().square()).sum())

    # weights and masses are sums over particles: three here
    degrees, angstrom = pose_accuracy(image, 3 * weight.float(), torch.tensor([3.0]), SQUARE, 12)
    assert degrees.item() == pytest.approx(first_told(told_by_turn, 0.0, 20.0), rel=0.01)
    assert angstrom.item() == pytest.approx(first_told(told_by_move_of(true[0], weight[0]), 0.0, 10.0), rel=0.01)


def test_a_class_without_particles_has_no_error() -> None:
    images = a_map(SQUARE).expand(2, -1, -1)
    weight = torch.cat([information(1e-5), torch.zeros(1, len(BAND))]).float()
    degrees, angstrom = pose_accuracy(images, weight, torch.tensor([1.0, 0.0]), SQUARE, 12)
    assert torch.isnan(degrees).tolist() == torch.isnan(angstrom).tolist() == [False, True]
