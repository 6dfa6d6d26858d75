import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.classification import revival
from halfmap.classification.revival import Replacement
from halfmap.errors import InputError, ShapeError
from halfmap.fourier import shells
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import shift
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid
from halfmap.inference import vdam
from halfmap.inference.vdam import Moments


@pytest.mark.parametrize(
    ("algorithm", "n", "first", "last"), [("em", 25, 2, 15), ("em", 10, 2, 6), ("vdam", 200, 61, 159)]
)
def test_classes_are_replaced_early_enough_to_settle(algorithm: str, n: int, first: int, last: int) -> None:
    times = [iteration for iteration in range(1, n + 1) if revival.is_time(algorithm, iteration, n)]
    assert times == list(range(first, last + 1))


def test_other_algorithms_have_no_time() -> None:
    with pytest.raises(InputError, match="em or vdam"):
        revival.is_time("sgd", 1, 10)


@pytest.mark.parametrize(
    ("fractions", "n_particles", "misfit", "pair"),
    [
        ([0.5, 0.3, 0.2], 1000, None, None),
        ([0.6, 0.4, 0.0], 1000, None, (2, 0)),
        ([0.6, 0.37, 0.03], 1000, None, (2, 0)),  # 0.1 of a third
        ([0.6, 0.36, 0.04], 1000, None, None),
        ([0.6, 0.36, 0.04], 50, None, (2, 0)),  # two particles
        ([0.6, 0.4, 0.0], 1000, [1.0, 5.0, 9.0], (2, 1)),
        ([0.93, 0.07, 0.0], 1000, [1.0, 5.0, 9.0], (2, 0)),  # half of 0.07 would be dead too
        ([0.6, 0.4, 0.0], 1000, [1.0, float("nan"), 9.0], (2, 0)),
        ([0.5, 0.5, 0.0, 0.0], 1000, None, (2, 0)),
        ([0.5, 0.5, 0.0], 4, None, None),  # nobody can give half away
    ],
)
def test_the_least_used_class_becomes_the_twin_of_the_worst_large_one(
    fractions: list[float], n_particles: int, misfit: list[float] | None, pair: tuple[int, int] | None
) -> None:
    expected = None if pair is None else Replacement(dead=pair[0], donor=pair[1])
    assert revival.replacement(fractions, n_particles, misfit=misfit) == expected


def test_fractions_and_misfits_must_belong_together() -> None:
    with pytest.raises(ShapeError, match="one value for each class"):
        revival.replacement([0.5, 0.5], 10, misfit=[1.0])


SIDES = [32, 33]


def _grid_and_average(side: int) -> tuple[ImageGrid, Tensor]:
    grid = ImageGrid.square(side, 2.0)
    x, y = grid.positions().unbind(-1)
    average = torch.exp(-((x - 6) ** 2 + (y / 2) ** 2) / 40) + 0.7 * torch.exp(-((x + 8) ** 2 + (y - 5) ** 2) / 25)
    return grid, average * soft_disc(grid, 20.0, 6.0, dtype=torch.float64)


@pytest.mark.parametrize("side", SIDES)
def test_twins_differ_by_a_small_pattern_of_the_averages_own_spectrum(side: int) -> None:
    grid, average = _grid_and_average(side)
    pattern = revival.difference(average, grid, 40.0, seed=1, iteration=3, mask_edge_angstrom=6.0)
    assert float(pattern.norm() / average.norm()) == pytest.approx(0.02, rel=1e-3)
    assert not pattern[grid.radii() > 26.5].any()
    powers = [shells.power_spectrum(grid.rfft(image), grid)[1:7] for image in (pattern, average)]
    shares = [power / power.sum() for power in powers]
    assert 0.1 < float((shares[0] / shares[1])[:4].min()) < float((shares[0] / shares[1])[:4].max()) < 10


@pytest.mark.parametrize("side", SIDES)
def test_twins_do_not_differ_by_contrast_shift_or_rotation(side: int) -> None:
    grid, average = _grid_and_average(side)
    pattern = revival.difference(average, grid, 60.0, seed=1, iteration=3)
    inside = soft_disc(grid, 30.0, 0.0, dtype=torch.float64)
    small = torch.tensor([[1e-3, 0.0], [0.0, 1e-3]], dtype=torch.float64)
    changes = [average * inside, *(shift(average * inside, grid, small) - average * inside)]
    for change in changes:
        cosine = (pattern * change * inside).sum() / (pattern.norm() * (change * inside).norm())
        assert abs(float(cosine)) < 1e-3
    x, y = grid.positions().unbind(-1)
    turned = (average * inside).clone()
    gradient = grid.irfft(grid.rfft(turned) * 2j * torch.pi * grid.frequencies().movedim(-1, 0))
    change = (x * gradient[1] - y * gradient[0]) * inside
    assert abs(float((pattern * change).sum() / (pattern.norm() * change.norm()))) < 1e-6


def test_patterns_follow_seed_and_iteration_alone() -> None:
    grid, average = _grid_and_average(32)
    options = {"seed": 1, "iteration": 3}
    pattern = revival.difference(average, grid, 40.0, **options)
    assert torch.equal(pattern, revival.difference(average, grid, 40.0, **options))
    for other in ({"seed": 2}, {"iteration": 4}):
        changed = revival.difference(average, grid, 40.0, **{**options, **other})
        assert abs(float((changed * pattern).sum() / pattern.square().sum())) < 0.5


def test_an_empty_average_gives_an_empty_pattern() -> None:
    grid = ImageGrid.square(16, 2.0)
    assert not revival.difference(torch.zeros(16, 16), grid, 20.0, seed=1, iteration=1).any()


def test_dividing_keeps_the_donors_average_and_all_shares() -> None:
    references = torch.arange(12.0).reshape(3, 2, 2)
    fractions = torch.tensor([0.68, 0.3, 0.02], dtype=torch.float64)
    pattern = torch.tensor([[1.0, -1.0], [0.5, 0.0]])
    images, shares = revival.divided(references, fractions, Replacement(dead=2, donor=0), pattern)
    assert torch.equal((images[0] + images[2]) / 2, references[0])
    assert torch.equal(images[0] - images[2], 2 * pattern)
    assert torch.equal(images[1], references[1])
    assert float(shares.sum()) == pytest.approx(1.0)
    assert float(shares[0]) == float(shares[2])
    assert references[2, 0, 0] == 8.0  # the input stays


def test_divided_memory_leads_to_the_twins() -> None:
    rng = np.random.default_rng(1)
    first = torch.from_numpy(rng.normal(size=(2, 3, 5)) + 1j * rng.normal(size=(2, 3, 5))).to(torch.complex64)
    second = torch.from_numpy(rng.uniform(1, 2, size=(2, 3, 5))).float()
    pattern = torch.from_numpy(rng.normal(size=5) + 1j * rng.normal(size=5)).to(torch.complex64)
    divided = revival.divided_moments(Moments(first=first, second=second), Replacement(dead=1, donor=2), pattern)
    before, after = first / second, divided.first / divided.second
    assert torch.allclose(after[:, 2], before[:, 2] + pattern, atol=1e-6)
    assert torch.allclose(after[:, 1], before[:, 2] - pattern, atol=1e-6)
    assert torch.allclose(divided.second[:, 1] + divided.second[:, 2], second[:, 2])
    assert torch.equal(divided.first[:, 0], first[:, 0])


def _images(n: int, distance: float, side: int = 24) -> tuple[ImageGrid, Tensor, Tensor, Tensor]:
    """Return white-noise images (variance 1 per pixel) of two views, their views and the mean view."""
    rng = np.random.default_rng(5)
    grid = ImageGrid.square(side, 2.0)
    x, y = grid.positions().unbind(-1)
    mean = torch.exp(-(x**2 + y**2) / 120)
    unlike = torch.exp(-((x - 7) ** 2 + y**2) / 20) - torch.exp(-((x + 7) ** 2 + (y - 4) ** 2) / 20)
    mean, unlike = 10 * mean / mean.norm(), distance * unlike / unlike.norm()
    views = torch.from_numpy(rng.integers(0, 2, size=n))
    images = mean + (views[:, None, None] - 0.5) * unlike + torch.from_numpy(rng.normal(size=(n, *grid.shape)))
    return grid, images, views, mean


def _em(images: Tensor, twins: Tensor, grid: ImageGrid, iterations: int) -> Tensor:
    """Classify without poses; averages are Wiener-filtered with the spectrum of the mean of all."""
    band = FourierBand(grid, max_shell=8)
    signal = band.gather(grid.rfft(images.mean(0))).abs().square()
    signal = (band.shell_sum(signal) / torch.bincount(band.shell_of))[band.shell_of]
    noise = 1.0 / grid.n_pixels
    values, references = band.gather(grid.rfft(images)), band.gather(grid.rfft(twins.to(torch.float64)))
    for _ in range(iterations):
        squares = (values[:, None] - references).abs().square().sum(-1) / noise
        posterior = torch.softmax(-squares, dim=1)
        counts = posterior.sum(0)[:, None]
        average = posterior.T.to(values.dtype) @ values / counts
        references = average * (signal / (signal + noise / counts))
    return posterior


def test_identical_twins_never_part() -> None:
    grid, images, _, _ = _images(200, 7.0)
    posterior = _em(images, torch.stack([images.mean(0)] * 2), grid, 10)
    assert torch.allclose(posterior, torch.full_like(posterior, 0.5))


@pytest.mark.parametrize("iteration", [1, 2, 3])
def test_twins_that_differ_a_little_find_the_two_views_of_their_class(iteration: int) -> None:
    grid, images, views, mean = _images(200, 7.0)
    pattern = revival.difference(mean, grid, 40.0, seed=1, iteration=iteration)
    start, _ = revival.divided(
        torch.stack([mean, mean]), torch.tensor([1.0, 0.0]), Replacement(dead=1, donor=0), pattern
    )
    found = _em(images, start, grid, 10).argmax(1)
    assert max(float((found == views).double().mean()), float((found != views).double().mean())) > 0.97


def test_a_class_of_two_views_has_larger_residuals_than_one_of_one_view() -> None:
    grid, mixed, _, mean = _images(200, 7.0)
    _, pure, _, _ = _images(200, 0.0)
    band = FourierBand(grid, max_shell=8)
    variance = 1.0 / (2 * grid.n_pixels)
    values = [band.gather(grid.rfft(images)) for images in (mixed, pure)]
    power = torch.stack([value.abs().square().sum() / variance for value in values])
    data = torch.stack([value.sum(0) / variance for value in values])
    weight = torch.full(data.shape, 200 / variance, dtype=torch.float64)
    references = band.gather(grid.rfft(mean)).expand(2, -1)
    counts = torch.tensor([200.0, 200.0])
    excess = revival.excess_residual(power, data, weight, references, counts)
    direct = torch.stack([((value - references[0]).abs().square() / variance).sum() for value in values])
    assert float(excess[0]) == pytest.approx(float(direct[0] - direct.mean()), rel=1e-9)
    # half of a squared distance of 49 / 4, less what lies beyond the band, for each of 200 images
    assert float(excess[0]) == pytest.approx(200 * 49 / 4 / 2, rel=0.35)
    assert float(excess[1]) == 0


@pytest.mark.parametrize(("share", "part"), [(0.02, True), (0.0, False)])
def test_twins_part_in_minibatches_too(share: float, part: bool) -> None:
    grid, images, views, mean = _images(1200, 7.0)
    band = FourierBand(grid, max_shell=8)
    variance = 1.0 / (2 * grid.n_pixels)
    values = band.gather(grid.rfft(images)).to(torch.complex64)
    references = band.gather(grid.rfft(torch.stack([mean, mean]))).to(torch.complex64)
    fractions = torch.tensor([1.0, 0.0], dtype=torch.float64)
    half = torch.from_numpy(vdam.pseudo_halves(1, np.arange(1, 1201)))
    moments = Moments.none(2, len(band))
    for iteration in range(24):
        if iteration == 12:
            pattern = revival.difference(mean, grid, 40.0, seed=1, iteration=iteration, share=share)
            in_band = band.gather(grid.rfft(pattern)).to(torch.complex64)
            decision = revival.replacement(fractions, 1200)
            assert decision == Replacement(dead=1, donor=0)
            references, fractions = revival.divided(references, fractions, decision, in_band)
            moments = revival.divided_moments(moments, decision, in_band)
        rows = slice(iteration % 6 * 200, iteration % 6 * 200 + 200)
        squares = (values[rows, None] - references).abs().square().sum(-1).double() / (2 * variance)
        posterior = torch.softmax(fractions.clamp_min(1e-300).log() - squares, dim=1).float()
        weights = torch.stack([posterior * (half[rows, None] == h) for h in (0, 1)]).transpose(1, 2)
        counts = weights.sum(-1, keepdim=True)
        update = vdam.update(
            references,
            (weights.to(values.dtype) @ values[rows] - counts * references) / variance,
            (counts / variance).expand(-1, -1, len(band)),
            moments,
            step=0.5,
            regularisation=2.0,
            fractions=fractions,
            shell_of=band.shell_of,
        )
        references, moments = update.references, update.moments
        fractions = 0.9 * fractions + 0.1 * posterior.double().mean(0)
    found = (fractions.log() - (values[:, None] - references).abs().square().sum(-1) / (2 * variance)).argmax(1)
    purity = max(float((found == views).double().mean()), float((found != views).double().mean()))
    assert (purity > 0.95) if part else (purity < 0.6)
