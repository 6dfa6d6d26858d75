from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from halfmap.compute.in_process import InProcessExecutor
from halfmap.compute.processes import ProcessExecutor
from halfmap.fourier.band import FourierBand
from halfmap.fourier.shells import n_shells
from halfmap.geometry.euler import array_from_euler, in_plane_degrees
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.imaging.image_model import contrast_transfer
from halfmap.inference import expectation, maximisation, references
from halfmap.inference.expectation import Model
from halfmap.inference.image_data import ImageData
from halfmap.inference.posterior import Priors
from halfmap.inference.sampling import own_rotations
from halfmap.inference.sums import Sums, add
from support.model_images import (
    Poses,
    a_model,
    a_search,
    brute_force,
    coloured_spectrum,
    drawn_images,
    drawn_poses,
    e_step,
    even_priors,
    image_data,
    particles_of,
    shapes,
)

ORIGINS = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, -8.0], [-4.0, 4.0], [0.0, 4.0], [0.0, 0.0]])


def a_case(
    side: int = 24,
    *,
    mask: float | None = None,
    premultiplied: bool = False,
    origins: np.ndarray = ORIGINS,
    **search_settings,
) -> tuple[ImageData, Model]:
    """Six images of two classes; groups, micrographs and particles differ in noise, scale and norm."""
    grid = ImageGrid.square(side, 4.0)
    particles = particles_of(6, grid, n_groups=2, n_micrographs=3, premultiplied=premultiplied)
    true = shapes(2, grid, radius_angstrom=40)
    steps = {"psi_step": 40.0, "offset_range": 6.0, "offset_step": 4.0, **search_settings}
    search = a_search(grid, **steps)
    poses, _, _ = drawn_poses(6, search.poses, even_priors(2))
    spectrum = torch.stack([coloured_spectrum(grid, 0.3), 2 * coloured_spectrum(grid, 0.3, rise=0.0)])
    images = drawn_images(true, particles, poses, grid, spectrum[np.asarray(particles["optics_group"]) - 1])
    data = image_data(images, particles, grid, mask_diameter_angstrom=mask)
    priors = Priors(
        fractions=torch.tensor([0.3, 0.7], dtype=torch.float64),
        offset_sigma_angstrom=5.0,
        prior_offset_angstrom=torch.tensor([[1.0, -2.0], [0.0, 3.0]], dtype=torch.float64),
    )
    model = a_model(
        true + 0.1 * shapes(2, grid, radius_angstrom=40, seed=5),
        data,
        spectrum,
        search,
        priors=priors,
        origin_angstrom=origins,
        scale=np.array([0.8, 1.0, 1.3]),
        norm=np.array([1.0, 0.9, 1.0, 1.1, 1.0, 1.0]),
        scale_shell=5,
    )
    return data, model


CASES = [
    pytest.param({}, id="even side"),
    pytest.param({"side": 25}, id="odd side"),
    pytest.param({"mask": 72.0}, id="mask"),
    pytest.param({"min_shell": 3, "coarse_shell": 6, "fine_shell": 8, "shell": 10}, id="limits of resolution"),
    pytest.param({"perturbation": 0.3}, id="moved sampling"),
    pytest.param({"oversampling": 0}, id="one pass"),
    pytest.param({"offset_range": 0.0}, id="no shifts"),
]


@pytest.mark.parametrize("case", CASES)
def test_likelihood_is_that_of_all_poses_by_brute_force(case: dict) -> None:
    data, model = a_case(**case)
    expected = brute_force(data, model)
    found = e_step(data, model).estimates
    # of some thousand nats in single precision
    np.testing.assert_allclose(found.log_likelihood, expected.log_likelihood.numpy(), atol=2e-3, rtol=0)
    np.testing.assert_allclose(found.max_probability, expected.posterior.flatten(1).amax(1).numpy(), atol=1e-4)
    assert np.abs(found.lost_mass).max() < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_best_pose_is_that_of_brute_force(case: dict) -> None:
    data, model = a_case(**case)
    expected = brute_force(data, model)
    found = e_step(data, model).estimates
    _, _, R, T = expected.posterior.shape
    best = expected.posterior.flatten(1).argmax(1)
    turns = model.search.poses.fine_rotations[(best // T) % R]
    psi = torch.rad2deg(torch.atan2(turns[:, 0, 1], turns[:, 0, 0])).numpy()
    np.testing.assert_array_equal(found.class_index, (best // (R * T)).numpy())
    np.testing.assert_allclose(in_plane_degrees(found.rotation), psi, atol=1e-9)
    shifts = model.search.poses.fine_shifts_angstrom[best % T].numpy()
    np.testing.assert_allclose(found.origin_angstrom, ORIGINS + shifts, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_gradient_is_the_derivative_of_the_expected_likelihood(case: dict) -> None:
    data, model = a_case(**case)
    expected = brute_force(data, model)
    expected.expected.backward()
    gradient = expected.references.grad
    assert gradient is not None
    found = e_step(data, model).gradient[0]
    np.testing.assert_allclose(found.numpy(), gradient.numpy(), atol=2e-5 * float(gradient.abs().max()))


def test_gradient_without_mask_is_the_derivative_of_the_likelihood_itself() -> None:
    """Fisher's identity, by finite differences along random directions."""
    data, model = a_case()
    sums = e_step(data, model)
    for seed in (11, 12):
        direction = shapes(2, data.grid, radius_angstrom=40, seed=seed)
        step = 0.01
        ends = [
            brute_force(
                data, replace(model, references=model.references + sign * step * direction)
            ).log_likelihood.sum()
            for sign in (1, -1)
        ]
        slope = float(ends[0] - ends[1]) / (2 * step)
        assert float((sums.gradient[0] * direction).sum()) == pytest.approx(slope, rel=3e-3)  # third derivatives


@pytest.mark.parametrize("case", CASES)
def test_residuals_masses_and_offsets_are_those_of_brute_force(case: dict) -> None:
    data, model = a_case(**case)
    expected = brute_force(data, model)
    sums = e_step(data, model)
    weight = expected.posterior.sum(2)  # (n, C, T)
    np.testing.assert_allclose(sums.class_mass[0], weight.sum((0, 2)), atol=1e-4)
    origins = torch.from_numpy(ORIGINS)[:, None] + model.search.poses.fine_shifts_angstrom
    np.testing.assert_allclose(sums.offset, torch.einsum("nct,ntd->cd", weight, origins), atol=1e-2)
    np.testing.assert_allclose(
        sums.offset_square, torch.einsum("nct,nt->c", weight, origins.square().sum(-1)), rtol=1e-3, atol=1e-2
    )
    power = torch.zeros_like(sums.residual_power).index_add_(0, torch.from_numpy(data.group), expected.residual)
    np.testing.assert_allclose(sums.residual_power, power, atol=1e-5 * float(power.max()))
    band = FourierBand(data.grid)
    count = torch.bincount(band.shell_of, minlength=n_shells(data.grid)).double()
    np.testing.assert_array_equal(sums.residual_count, count * torch.from_numpy(np.bincount(data.group))[:, None])


def test_curvature_at_quarter_turns_is_the_weighted_power_of_transfer_functions() -> None:
    """With one image, one class and its four turns: W(q) = Σ_r weight_r s² C²/σ² at A_r q, point by point."""
    data, model = a_case(psi_step=90.0, oversampling=0)
    one = replace(model, priors=even_priors(1), references=model.references[:1])
    rows = np.array([3])
    sums = e_step(data, one, rows)
    expected = brute_force(data, one).posterior[3, 0].sum(-1)
    band = FourierBand(data.grid)
    square = contrast_transfer(data.particles.take(rows), band.frequencies)[0].double().square()
    square *= float(one.scale[data.micrograph[3]]) ** 2 / one.noise_variance[data.group[3]][band.shell_of]
    at = {tuple(k): i for i, k in enumerate(band.wave_numbers.tolist())}
    total = torch.zeros(len(band), dtype=torch.float64)
    for weight, turn in zip(expected, one.search.poses.fine_rotations, strict=True):
        points = (band.wave_numbers.double() @ turn[:2, :2].T).round().long()
        for i, (x, y) in enumerate(points.tolist()):
            total[i] += weight * square[at[(x, y)] if (x, y) in at else at[(-x, -y)]]
    np.testing.assert_allclose(sums.curvature[0, 0], total, rtol=1e-4)


def test_scale_sums_are_what_a_change_of_grey_scale_does_to_the_expected_likelihood() -> None:
    data, model = a_case(shell=5, fine_shell=5, coarse_shell=5)
    sums = e_step(data, model)
    # with all posteriors kept, Σ_i −½ |X − s C P|²/σ² is a parabola in s with slope cross − s square at the scale
    share = brute_force(data, model).posterior

    def expected(scale: np.ndarray) -> float:
        changed = brute_force(data, replace(model, scale=scale))
        return float((share * changed.joint).sum())

    for m in range(3):
        up, down = model.scale.copy(), model.scale.copy()
        up[m] += 0.05
        down[m] -= 0.05
        slope = (expected(up) - expected(down)) / 0.1
        bend = (expected(up) - 2 * expected(model.scale) + expected(down)) / 0.05**2
        cross, square = float(sums.scale_cross[m]), float(sums.scale_square[m])
        assert cross - model.scale[m] * square == pytest.approx(slope, abs=1e-3 * square)
        assert -square == pytest.approx(bend, rel=1e-3)


def test_pseudo_halves_add_up_to_the_whole() -> None:
    data, model = a_case()
    whole, halves = e_step(data, model), e_step(data, replace(model, pseudo_halves=True))
    assert halves.gradient.shape[0] == 2
    for name in ("gradient", "curvature", "class_mass"):
        total, parts = getattr(whole, name)[0], getattr(halves, name)
        np.testing.assert_allclose(parts.sum(0), total, atol=2e-5 * float(total.abs().max()))
        assert float(parts[0].abs().max()) > 0
        assert float(parts[1].abs().max()) > 0


def _same(first: Sums, second: Sums, *, relative: float) -> None:
    for name in ("gradient", "curvature", "class_mass", "offset", "residual_power", "scale_cross", "scale_square"):
        a, b = getattr(first, name), getattr(second, name)
        assert float((a - b).abs().max()) <= relative * float(a.abs().max()), name
    for name in ("row", "class_index", "rotation", "origin_angstrom", "n_significant"):
        np.testing.assert_array_equal(getattr(first.estimates, name), getattr(second.estimates, name), err_msg=name)


@pytest.mark.parametrize("case", [{}, {"mask": 72.0, "kept_mass": 0.999}])
def test_sums_do_not_depend_on_how_images_are_divided(case: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = a_case(**case)
    whole = e_step(data, model)
    monkeypatch.setattr(expectation, "_MOST_IN_CHUNK", 2)
    monkeypatch.setattr(expectation, "_IMAGES_AT_ONCE", 1)
    _same(whole, e_step(data, model), relative=1e-5)  # single precision, other order


def test_sums_do_not_depend_on_how_classes_and_scores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = a_case(kept_mass=0.999)
    whole = e_step(data, model)
    monkeypatch.setattr(references, "SLICE_BYTES", 1)
    _same(whole, e_step(data, model), relative=1e-5)


def test_two_threads_give_the_sums_of_one() -> None:
    data, model = a_case(kept_mass=0.999)
    with InProcessExecutor(n_threads=1) as executor:
        one = expectation.expect(executor.broadcast(data), model, data, np.arange(6), executor)
    with InProcessExecutor(n_threads=2) as executor:
        two = expectation.expect(executor.broadcast(data), model, data, np.arange(6), executor)
    _same(one, two, relative=1e-6)  # a matrix product of two threads may round otherwise


@pytest.mark.slow
def test_two_processes_give_the_sums_of_one_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = a_case()
    rows = [np.arange(0, 3), np.arange(3, 6)]
    with InProcessExecutor(n_threads=1) as executor:
        task = partial(expectation.expect_chunk, executor.broadcast(data), executor.broadcast(model))
        one = executor.reduce(task, rows, add)
    with ProcessExecutor(n_workers=2, n_threads=1) as workers:
        task = partial(expectation.expect_chunk, workers.broadcast(data), workers.broadcast(model))
        two = workers.reduce(task, rows, add)
    for name in ("gradient", "curvature", "class_mass", "residual_power"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name


def test_premultiplied_images_give_the_posterior_and_the_averages_of_plain_ones() -> None:
    # moving by whole pixels cuts off an edge, which differs
    (plain, model), (done, _) = (a_case(origins=np.zeros((6, 2)), premultiplied=which) for which in (False, True))
    one, two = e_step(plain, model), e_step(done, model)
    for name in ("gradient", "curvature", "class_mass", "offset", "scale_cross", "scale_square"):
        a, b = getattr(one, name), getattr(two, name)
        assert float((a - b).abs().max()) <= 1e-4 * float(a.abs().max()), name
    np.testing.assert_allclose(one.estimates.max_probability, two.estimates.max_probability, atol=1e-4)
    np.testing.assert_array_equal(in_plane_degrees(one.estimates.rotation), in_plane_degrees(two.estimates.rotation))


@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("mask", [None, 72.0])
@pytest.mark.parametrize("fill", [False, True])
def test_residuals_at_the_truth_tell_the_noise(premultiplied: bool, mask: float | None, fill: bool) -> None:
    """Of 300 images, each group's σ² in every shell, and every image's power."""
    grid = ImageGrid.square(24, 4.0)
    n = 300
    particles = particles_of(n, grid, n_groups=2, n_micrographs=4, premultiplied=premultiplied)
    true = shapes(1, grid, radius_angstrom=26)
    search = a_search(grid, psi_step=360, offset_range=0, offset_step=4, oversampling=0)
    poses = Poses(class_index=np.zeros(n, dtype=int), psi_degrees=np.zeros(n), origin_angstrom=np.zeros((n, 2)))
    spectrum = torch.stack([coloured_spectrum(grid, 0.3), 2 * coloured_spectrum(grid, 0.3, rise=0.5)])
    group = np.asarray(particles["optics_group"]) - 1
    images = drawn_images(true, particles, poses, grid, spectrum[group])
    data = image_data(images, particles, grid, mask_diameter_angstrom=mask, fill_noise=fill)
    sums = e_step(data, a_model(true, data, torch.stack([spectrum[0], spectrum[1]]), search))
    found = maximisation.noise_variance(sums.residual_power, sums.residual_count, spectrum, mask_power=data.mask_power)
    band = FourierBand(grid)
    inside = slice(3, band.max_shell + 1)
    # 150 images of 10 coefficients or more in a shell: 3 %; a mask mixes neighbouring shells and leaves fewer free ones
    allowed = 0.08 if mask is None else 0.15
    np.testing.assert_allclose((found / spectrum)[:, inside], 1.0, atol=allowed if not premultiplied else 0.3)
    assert sums.estimates.residual.mean() == pytest.approx(1.0, abs=0.03)


def test_angles_that_are_given_stay_and_offsets_are_searched() -> None:
    data, model = a_case()
    psi = np.array([10.0, -100.0, 33.3, 170.0, 0.0, -45.0])
    own = replace(model.search, poses=own_rotations(model.search.poses, keep_origin=False))
    kept = replace(model, rotation=array_from_euler(0.0, 0.0, psi), search=own)
    found = e_step(data, kept)
    np.testing.assert_allclose(in_plane_degrees(found.estimates.rotation), psi, atol=1e-9)
    zero = np.zeros(1)
    for i in range(6):
        turn = matrix_from_euler(zero, zero, psi[i : i + 1])
        grid = replace(model.search.poses, rotations=turn, fine_rotations=turn)
        alone = brute_force(data, replace(model, search=replace(model.search, poses=grid)))
        assert found.estimates.log_likelihood[i] == pytest.approx(float(alone.log_likelihood[i]), abs=2e-3)


def test_offsets_that_are_kept_are_applied_to_parts_of_a_pixel() -> None:
    grid = ImageGrid.square(24, 4.0)
    particles = particles_of(4, grid)
    true = shapes(2, grid, radius_angstrom=36)
    poses = Poses(
        class_index=np.array([0, 1, 0, 1]),
        psi_degrees=np.array([12.0, 100.0, -77.0, 3.0]),
        origin_angstrom=np.array([[0.0, 0.0], [1.3, -2.2], [4.7, 3.1], [-6.4, 0.9]]),
    )
    images = drawn_images(true, particles, poses, grid, noise.white_spectrum(grid, 1e-4))
    data = image_data(images, particles, grid)
    search = a_search(grid, psi_step=40, offset_range=6, offset_step=4)
    model = a_model(
        true,
        data,
        noise.white_spectrum(grid, 0.1),
        replace(search, poses=own_rotations(search.poses, keep_origin=True)),
        rotation=array_from_euler(0.0, 0.0, poses.psi_degrees),
        origin_angstrom=poses.origin_angstrom,
        keep_origin=True,
    )
    found = e_step(data, model)
    np.testing.assert_allclose(found.estimates.origin_angstrom, poses.origin_angstrom, atol=1e-9)
    np.testing.assert_array_equal(found.estimates.class_index, poses.class_index)
    # what is left is the edge that shifts by whole pixels cut off, far below the noise that is believed in
    assert found.estimates.residual.max() < 0.05


@pytest.mark.parametrize("side", [32, 33])
def test_class_angle_and_origin_of_clean_images_are_found(side: int) -> None:
    """The image is made by the conventions of the forward model: a point v lies at (A v) − origin."""
    grid = ImageGrid.square(side, 4.0)
    particles = particles_of(5, grid)
    true = shapes(3, grid, radius_angstrom=40)
    search = a_search(grid, psi_step=24, offset_range=8, offset_step=4)
    poses, _, _ = drawn_poses(5, search.poses, even_priors(3))
    images = drawn_images(true, particles, poses, grid, noise.white_spectrum(grid, 0.01))
    data = image_data(images, particles, grid)
    found = e_step(data, a_model(true, data, noise.white_spectrum(grid, 0.01), search)).estimates
    np.testing.assert_array_equal(found.class_index, poses.class_index)
    np.testing.assert_allclose(in_plane_degrees(found.rotation), poses.psi_degrees, atol=1e-9)
    np.testing.assert_allclose(found.origin_angstrom, poses.origin_angstrom, atol=1e-9)
    assert found.max_probability.min() > 0.99


def test_pruning_tells_the_mass_that_it_loses_and_keeps_the_likelihood() -> None:
    data, model = a_case()
    full = brute_force(data, model)
    pruned = e_step(data, replace(model, search=replace(model.search, kept_mass=0.999))).estimates
    # what is pruned is estimated at coarse steps
    np.testing.assert_allclose(pruned.log_likelihood, full.log_likelihood.numpy(), atol=0.1)
    assert (pruned.lost_mass > 0).all()
    assert (pruned.lost_mass < 0.003).all()
    assert (pruned.n_significant < 2 * 9 * 9).all()


def test_weights_that_are_kept_sum_to_one() -> None:
    data, model = a_case()
    sums = e_step(data, replace(model, search=replace(model.search, kept_mass=0.9)))
    assert float(sums.class_mass.sum()) == pytest.approx(6, abs=1e-4)
