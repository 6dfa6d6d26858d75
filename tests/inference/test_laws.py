"""Laws of expectation and maximisation: what may never happen, and what a change of the images must do."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.data.particles import ParticleSet
from halfmap.fourier.band import FourierBand
from halfmap.geometry.euler import in_plane_degrees
from halfmap.geometry.shapes import soft_disc
from halfmap.grid import ImageGrid
from halfmap.inference import maximisation
from halfmap.inference.image_data import ImageData
from halfmap.inference.maximisation import Regularisation
from halfmap.inference.posterior import Search
from halfmap.inference.priors import Priors
from halfmap.inference.sums import Sums
from support.model_images import (
    Poses,
    a_model,
    a_search,
    coloured_spectrum,
    drawn_images,
    drawn_poses,
    e_step,
    even_priors,
    image_data,
    particles_of,
    shapes,
)

QUARTERS = {"psi_step": 90.0, "offset_range": 4.0, "offset_step": 4.0, "oversampling": 0}
FINER = {"psi_step": 40.0, "offset_range": 6.0, "offset_step": 4.0}


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    data: ImageData
    search: Search
    spectrum: Tensor
    true: Tensor

    @property
    def band(self) -> FourierBand:
        return FourierBand(self.data.grid)


def one_defocus(particles: ParticleSet, angstrom: float) -> ParticleSet:
    """Let all CTFs be round and the same, so that their zeros coincide."""
    same = np.full(len(particles), angstrom)
    return particles.with_columns(defocus_u_angstrom=same, defocus_v_angstrom=same)


def a_problem(
    n: int = 30, *, side: int = 24, signal: float = 1.0, defocus: float | None = None, **steps: float
) -> Problem:
    grid = ImageGrid.square(side, 4.0)
    particles = particles_of(n, grid)
    if defocus is not None:
        particles = one_defocus(particles, defocus)
    true = shapes(2, grid, radius_angstrom=36)
    search = a_search(grid, **{**QUARTERS, **steps})
    poses, _, _ = drawn_poses(n, search.poses, even_priors(2))
    spectrum = coloured_spectrum(grid, 0.3)
    images = drawn_images(signal * true, particles, poses, grid, spectrum)
    return Problem(data=image_data(images, particles, grid), search=search, spectrum=spectrum, true=true)


def expectations(problem: Problem, regularisation: Regularisation, n: int) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Iterate with fixed noise and prior variances; yield penalised log-likelihood, gradient and references."""
    band, grid, priors = problem.band, problem.data.grid, even_priors(2)
    overlap = maximisation.overlap(problem.data.mask, grid)
    values = band.gather(grid.rfft(0.3 * shapes(2, grid, radius_angstrom=36, seed=7)))
    for _ in range(n):
        images = maximisation.on_images(values, band, grid)
        sums = e_step(problem.data, a_model(images, problem.data, problem.spectrum, problem.search, priors=priors))
        likelihood = float(sums.estimates.log_likelihood.sum())
        gradient = maximisation.band_gradient(sums.gradient.sum(0), band)
        left = gradient - regularisation.precision(band) * values
        yield likelihood + maximisation.log_prior(values, regularisation, band), left, values
        curvature = maximisation.within_mask(sums.curvature.sum(0), band, overlap)
        values = maximisation.maximise(values, gradient, curvature, regularisation, band)
        priors = maximisation.class_priors(sums.class_mass.sum(0), sums.offset, sums.offset_square, priors)


def prior_of(problem: Problem, strength: float) -> Regularisation:
    power = maximisation.shell_power(problem.band.gather(problem.data.grid.rfft(problem.true)), problem.band)
    return Regularisation(prior_variance=power.clamp(min=1e-12), strength=strength)


@pytest.mark.parametrize("strength", [1.0, 1e6], ids=["prior", "no prior"])
@pytest.mark.parametrize(
    "case",
    [
        pytest.param({}, id="particles"),
        pytest.param({"side": 25}, id="odd side"),
        pytest.param({"defocus": 15_000.0}, id="one defocus"),
        pytest.param({"n": 3, "defocus": 15_000.0}, id="few particles of one defocus"),
        pytest.param({"signal": 0.0, "defocus": 15_000.0}, id="noise of one defocus"),
    ],
)
def test_likelihood_never_falls_at_quarter_turns_and_whole_pixels(case: dict, strength: float) -> None:
    problem = a_problem(**case)
    values = np.array([value for value, _, _ in expectations(problem, prior_of(problem, strength), 9)])
    assert np.diff(values).min() >= -1e-6 * abs(values[0])
    assert values[-1] > values[0] + 10  # it went somewhere


@pytest.mark.parametrize("case", [{}, {"side": 25}, {"defocus": 15_000.0}])
def test_likelihood_never_falls_between_the_points_of_the_grid(case: dict) -> None:
    problem = a_problem(**case, **FINER)
    values = np.array([value for value, _, _ in expectations(problem, prior_of(problem, 1.0), 9)])
    assert np.diff(values).min() >= -1e-4 * abs(values[0])


@pytest.mark.parametrize(
    ("n", "defocus", "side"), [(30, 15_000.0, 32), (5, 25_000.0, 32), (1, 25_000.0, 32), (1, 10_000.0, 49)]
)
def test_steps_within_a_mask_shrink_what_is_wrong(n: int, defocus: float, side: int) -> None:
    """The map from an error of the references to that of the next ones has no eigenvalue below −1, poses known.

    Largest eigenvalue of mask · (curvature)⁻¹ · (second derivative) · mask, by power iteration.
    """
    from halfmap.inference.image_data import circular_mask

    grid = ImageGrid.square(side, 4.0)
    problem = a_problem(n, side=side, defocus=defocus, psi_step=24.0)
    mask = circular_mask(side * 4.0, 5.0, grid)
    overlap, band = maximisation.overlap(mask, grid), problem.band
    row = np.arange(n) % len(problem.search.poses.fine_rotations)

    def sums_at(images: Tensor) -> Sums:
        return e_step(problem.data, a_model(images, problem.data, problem.spectrum, problem.search, assigned_row=row))

    nothing = torch.zeros((1, *grid.shape))
    start = sums_at(nothing)
    curvature = maximisation.within_mask(start.curvature.sum(0), band, overlap)
    floor = 1e-3 * maximisation.shell_mean(curvature, band)[:, band.shell_of].float()
    error = shapes(1, grid, radius_angstrom=2 * side, seed=9, blob_angstrom=3.0) * mask
    largest = 0.0
    for _ in range(25):
        moved = sums_at(error).gradient
        change = maximisation.band_gradient((start.gradient - moved).sum(0), band)
        step = maximisation.on_images(change / torch.maximum(curvature, floor), band, grid) * mask
        largest = float(step.norm() / error.norm())
        error = step / step.abs().max()
    assert largest < 2


def test_fixed_point_is_where_the_derivative_is_nothing() -> None:
    problem = a_problem(20, defocus=12_000.0)
    left = [(float(g.abs().square().mean()), v) for _, g, v in expectations(problem, prior_of(problem, 1.0), 60)]
    assert left[-1][0] < 1e-6 * left[0][0]  # a thousandth in amplitude: single precision, and 60 steps


def a_step(data: ImageData, references: Tensor, spectrum: Tensor, search: Search, **settings) -> Sums:
    return e_step(data, a_model(references, data, spectrum, search, **settings))


def centred_images(problem: Problem, margin: int) -> Tensor:
    """Return the images with nothing in a margin, so that nothing is lost when they move."""
    images = torch.from_numpy(problem.data.source.read(problem.data.index)).clone()
    inside = torch.zeros(problem.data.grid.shape)
    inside[margin:-margin, margin:-margin] = 1
    return images * inside


@pytest.mark.parametrize("side", [24, 25])
def test_images_that_are_moved_by_whole_pixels_give_the_same_averages_and_moved_origins(side: int) -> None:
    problem = a_problem(8, side=side, **FINER)
    images, moves = centred_images(problem, 4), np.array([[3, -2], [0, 4], [-4, 1], [1, 1]] * 2)
    moved = torch.stack(
        [torch.roll(image, (int(y), int(x)), (0, 1)) for image, (x, y) in zip(images, moves, strict=True)]
    )
    wide = Priors(
        fractions=even_priors(2).fractions,
        offset_sigma_angstrom=1e6,
        prior_offset_angstrom=even_priors(2).prior_offset_angstrom,
    )
    grid, particles = problem.data.grid, problem.data.particles
    one, two = (
        a_step(
            image_data(some, particles, grid, mask_diameter_angstrom=80.0),
            problem.true,
            problem.spectrum,
            problem.search,
            origin_angstrom=origin,
            priors=wide,
        )
        for some, origin in ((images, np.zeros((8, 2))), (moved, -4.0 * moves))
    )
    np.testing.assert_array_equal(one.gradient, two.gradient)
    np.testing.assert_allclose(one.estimates.origin_angstrom - 4.0 * moves, two.estimates.origin_angstrom, atol=1e-9)
    np.testing.assert_array_equal(in_plane_degrees(one.estimates.rotation), in_plane_degrees(two.estimates.rotation))


def test_images_that_are_turned_by_a_quarter_give_the_same_averages_and_turned_angles() -> None:
    """A point (x, y) goes to (−y, x) where array rows grow downwards and the angle from x to y: psi falls by 90°."""
    problem = a_problem(8, side=25, psi_step=30.0, offset_range=4.0, offset_step=4.0)
    images, grid, particles = centred_images(problem, 1), problem.data.grid, problem.data.particles
    turned = torch.rot90(images, -1, (1, 2)).contiguous()
    after = particles.with_columns(defocus_angle_degrees=particles["defocus_angle_degrees"] + 90)
    one, two = (
        a_step(image_data(some, table, grid), problem.true, problem.spectrum, problem.search)
        for some, table in ((images, particles), (turned, after))
    )
    scale = float(one.gradient.abs().max())
    np.testing.assert_allclose(one.gradient, two.gradient, atol=1e-4 * scale)
    np.testing.assert_allclose(one.curvature, two.curvature, atol=1e-4 * float(one.curvature.max()))
    change = (in_plane_degrees(two.estimates.rotation) - in_plane_degrees(one.estimates.rotation)) % 360
    np.testing.assert_allclose(change, 270.0, atol=1e-6)
    x, y = one.estimates.origin_angstrom.T
    np.testing.assert_allclose(two.estimates.origin_angstrom, np.stack([-y, x], axis=1), atol=1e-9)


def test_grey_scale_changes_nothing_but_units() -> None:
    problem = a_problem(8, **FINER)
    a = 37.0
    images = torch.from_numpy(problem.data.source.read(problem.data.index))
    one = a_step(problem.data, problem.true, problem.spectrum, problem.search)
    scaled = image_data(a * images, problem.data.particles, problem.data.grid)
    two = a_step(scaled, a * problem.true, a**2 * problem.spectrum, problem.search)
    np.testing.assert_allclose(two.gradient * a, one.gradient, atol=1e-4 * float(one.gradient.abs().max()))
    np.testing.assert_allclose(two.curvature * a**2, one.curvature, rtol=1e-4)
    np.testing.assert_allclose(two.estimates.max_probability, one.estimates.max_probability, atol=1e-3)
    np.testing.assert_array_equal(two.estimates.origin_angstrom, one.estimates.origin_angstrom)
    band = problem.band
    lost = 2 * len(band) * np.log(a)  # log 2πσ² of each coefficient
    np.testing.assert_allclose(two.estimates.log_likelihood + lost, one.estimates.log_likelihood, atol=0.01)


def test_deviation_of_the_background_and_norm_are_units_too() -> None:
    problem = a_problem(8, **FINER)
    images = torch.from_numpy(problem.data.source.read(problem.data.index))
    factor = torch.linspace(0.5, 2, 8)[:, None, None]
    one = a_step(problem.data, problem.true, problem.spectrum, problem.search)
    for settings, norm in (
        ({"deviation": factor.flatten().double().numpy(), "background": np.full(8, 5.0)}, np.ones(8)),
        ({"background": np.full(8, 5.0)}, factor.flatten().double().numpy()),
    ):
        data = image_data(factor * images + 5, problem.data.particles, problem.data.grid, **settings)
        two = a_step(data, problem.true, problem.spectrum, problem.search, norm=norm)
        np.testing.assert_allclose(two.gradient, one.gradient, atol=1e-3 * float(one.gradient.abs().max()))


def test_without_limit_the_prior_leaves_the_plain_average() -> None:
    problem = a_problem(8, **FINER)
    band, grid = problem.band, problem.data.grid
    sums = a_step(problem.data, problem.true, problem.spectrum, problem.search)
    values = band.gather(grid.rfft(problem.true))
    gradient = maximisation.band_gradient(sums.gradient.sum(0), band)
    curvature = maximisation.within_mask(sums.curvature.sum(0), band, maximisation.overlap(problem.data.mask, grid))
    plain = maximisation.unregularised(values, gradient, curvature, band)
    free = maximisation.maximise(values, gradient, curvature, prior_of(problem, 1e12), band)
    np.testing.assert_allclose(free, plain, atol=1e-5 * float(plain.abs().max()))
    tight = maximisation.maximise(values, gradient, curvature, prior_of(problem, 1e-12), band)
    beyond = band.shell_of >= maximisation.FIRST_PRIOR_SHELL
    assert float(tight[:, beyond].abs().max()) < 1e-6 * float(plain.abs().max())


def test_average_of_many_equal_images_is_their_reference() -> None:
    """At known poses, all around the circle and at several defoci, the plain average converges to what was drawn."""
    grid = ImageGrid.square(32, 4.0)
    n = 90
    particles = particles_of(n, grid)
    true = shapes(1, grid, radius_angstrom=40)
    search = a_search(grid, psi_step=360 / n, offset_range=0, offset_step=4, oversampling=0)
    poses = Poses(
        class_index=np.zeros(n, dtype=int), psi_degrees=np.arange(n) * 360.0 / n, origin_angstrom=np.zeros((n, 2))
    )
    images = drawn_images(true, particles, poses, grid, None)
    data = image_data(images, particles, grid)
    mask = soft_disc(grid, 44, 10)
    band, overlap = FourierBand(grid), maximisation.overlap(mask, grid)
    values = torch.zeros((1, len(band)), dtype=torch.complex64)
    for _ in range(20):
        current = maximisation.on_background(maximisation.on_images(values, band, grid), mask) * mask
        values = band.gather(grid.rfft(current))
        spectrum = coloured_spectrum(grid, 0.1)
        sums = a_step(data, current, spectrum, search, assigned_row=np.arange(n))
        values = maximisation.unregularised(
            values,
            maximisation.band_gradient(sums.gradient.sum(0), band),
            maximisation.within_mask(sums.curvature.sum(0), band, overlap),
            band,
        )
    wanted = band.gather(grid.rfft(true))
    correlation = (values * wanted.conj()).real.sum() / (values.abs().norm() * wanted.abs().norm())
    assert float(correlation) > 0.9999
    assert float(values.abs().norm() / wanted.abs().norm()) == pytest.approx(1, abs=0.01)
    # the lowest shell too, of which transfer functions tell little and where the missing mean would be seen
    lowest = band.shell_of == 1
    assert float((values - wanted)[:, lowest].abs().norm() / wanted[:, lowest].abs().norm()) < 0.05


def test_nothing_known_of_a_shell_is_nothing_there() -> None:
    problem = a_problem(4)
    band = problem.band
    zero = torch.zeros((1, len(band)), dtype=torch.complex64)
    prior = replace(prior_of(problem, 1.0), prior_variance=torch.zeros((1, 13), dtype=torch.float64))
    found = maximisation.maximise(zero, zero + 1, torch.ones((1, len(band))), prior, band)
    assert bool((found[:, band.shell_of >= maximisation.FIRST_PRIOR_SHELL] == 0).all())
    assert bool((found[:, band.shell_of < maximisation.FIRST_PRIOR_SHELL] == 1).all())
