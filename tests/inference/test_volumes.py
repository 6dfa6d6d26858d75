"""The E-step on volumes: against brute force in double precision, and the same however it is divided."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.compute.in_process import InProcessExecutor
from halfmap.errors import InputError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.fourier.shells import n_shells
from halfmap.fourier.slices import PaddedGrid
from halfmap.geometry.rotations import angular_distance_degrees, random_rotations
from halfmap.geometry.symmetry import mates
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.imaging.back_projection import back_project
from halfmap.imaging.image_model import contrast_transfer
from halfmap.inference import expectation, maximisation, posterior, references
from halfmap.inference.expectation import Model
from halfmap.inference.image_data import ImageData
from halfmap.inference.priors import Priors
from halfmap.inference.sampling import PoseGrid, local_grid, orientation_grid, own_rotations
from halfmap.inference.sums import Sums
from support.model_images import (
    BruteForce,
    a_model,
    brute_force,
    coloured_spectrum,
    e_step,
    even_priors,
    fine_rotations,
    image_data,
    particles_of,
)
from support.volume_images import PADDING, Views, drawn_views, drawn_views_images, volumes, whole_search

N = 6
PIXEL = 4.0
ORIGINS = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, -8.0], [-4.0, 4.0], [0.0, 4.0], [0.0, 0.0]])


def a_grid(kind: str, perturbation: float = 0.2) -> PoseGrid:
    """A quarter of all rotations 60° apart, with finer ones; or those around each image's own, or its mates too."""
    offsets = {"offset_range_angstrom": 6.0, "offset_step_angstrom": 4.0, "perturbation": perturbation}
    if kind == "local":
        return local_grid(rotation_step_degrees=20.0, sigma_degrees=8.0, **offsets)
    if kind == "relaxed":
        related = mates("D2", "C1")
        return local_grid(rotation_step_degrees=20.0, sigma_degrees=8.0, mates=related, **offsets)
    return orientation_grid(healpix_order=0, symmetry=kind, **offsets)


def a_case(
    kind: str = "D2",
    *,
    side: int = 24,
    n_volumes: int = 2,
    mask: float | None = None,
    premultiplied: bool = False,
    origins: np.ndarray = ORIGINS,
    perturbation: float = 0.2,
    **search_settings: object,
) -> tuple[ImageData, Model]:
    """Six images; groups, micrographs and particles differ in noise, scale and norm."""
    grid = ImageGrid.square(side, PIXEL)
    particles = particles_of(N, grid, n_groups=2, n_micrographs=3, premultiplied=premultiplied)
    true = volumes(n_volumes, side, PIXEL)
    poses = a_grid(kind, perturbation)
    own = random_rotations(3, "own rotations", np.arange(N)) if poses.around_each else None
    views, _, _ = drawn_views(N, poses, even_priors(n_volumes), own=own)
    spectrum = torch.stack([coloured_spectrum(grid, 20.0), 2 * coloured_spectrum(grid, 20.0, rise=0.0)])
    images = drawn_views_images(true, particles, views, grid, spectrum[np.asarray(particles["optics_group"]) - 1])
    data = image_data(images, particles, grid, mask_diameter_angstrom=mask)
    priors = Priors(
        fractions=torch.tensor([0.3, 0.7] if n_volumes == 2 else [1.0], dtype=torch.float64),
        offset_sigma_angstrom=5.0,
        prior_offset_angstrom=torch.tensor([[1.0, -2.0], [0.0, 3.0]], dtype=torch.float64)[:n_volumes],
    )
    model = a_model(
        true + 0.1 * volumes(n_volumes, side, PIXEL, seed=5),
        data,
        spectrum,
        whole_search(grid, poses, **search_settings),
        padding=PADDING,
        priors=priors,
        origin_angstrom=origins,
        scale=np.array([0.8, 1.0, 1.3]),
        norm=np.array([1.0, 0.9, 1.0, 1.1, 1.0, 1.0]),
        scale_shell=5,
        rotation=None if own is None else own.numpy(),
    )
    return data, model


CASES: dict[str, dict] = {
    "two volumes": {},
    "one volume": {"n_volumes": 1, "perturbation": -0.4},
    "odd side": {"side": 25, "n_volumes": 1},
    "mask": {"mask": 80.0, "n_volumes": 1},
    "limits of resolution": {"min_shell": 2, "coarse_shell": 5, "fine_shell": 8, "shell": 10},
    "around each": {"kind": "local"},
    "around each, one volume, mask": {"kind": "local", "n_volumes": 1, "mask": 80.0, "coarse_shell": 6},
    "around each and its mates": {"kind": "relaxed", "n_volumes": 1},
}
each_case = pytest.mark.parametrize("name", CASES)


@dataclass(frozen=True, kw_only=True, eq=False)
class Solved:
    data: ImageData
    model: Model
    exact: BruteForce
    sums: Sums


@cache
def solved(name: str) -> Solved:
    data, model = a_case(**CASES[name])
    return Solved(data=data, model=model, exact=brute_force(data, model), sums=e_step(data, model))


@each_case
def test_likelihood_and_certainty_are_those_of_all_poses_by_brute_force(name: str) -> None:
    case = solved(name)
    found = case.sums.estimates
    # of some thousand nats in single precision
    np.testing.assert_allclose(found.log_likelihood, case.exact.log_likelihood.numpy(), atol=2e-3, rtol=0)
    exact = case.exact.posterior.flatten(1).amax(1).numpy()
    np.testing.assert_allclose(found.max_probability, exact, atol=1e-3)
    assert exact.max() > 2 / case.exact.posterior[0].numel()  # they tell something
    assert np.abs(found.lost_mass).max() < 1e-6


@each_case
def test_best_pose_is_that_of_brute_force(name: str) -> None:
    case = solved(name)
    found, poses = case.sums.estimates, case.model.search.poses
    _, _, R, T = case.exact.posterior.shape
    best = case.exact.posterior.flatten(1).argmax(1)
    np.testing.assert_array_equal(found.row, np.arange(N))
    np.testing.assert_array_equal(found.class_index, (best // (R * T)).numpy())
    turns = fine_rotations(case.model, N)[torch.arange(N), (best // T) % R]
    np.testing.assert_allclose(found.rotation, turns.numpy(), atol=1e-12)
    shifts = poses.fine_shifts_angstrom[best % T].numpy()
    np.testing.assert_allclose(found.origin_angstrom, ORIGINS + shifts, atol=1e-9)


def expected_slices(case: Solved) -> tuple[Tensor, Tensor]:
    """Return data and weight of each volume as double precision inserts them."""
    grid = case.data.grid
    band = FourierBand(grid).head(case.model.search.shell)
    padded = PaddedGrid(ImageGrid.cubic(grid.side, grid.pixel_size_angstrom), padding=PADDING)
    rotations = fine_rotations(case.model, N)
    found = [
        slices.insert(case.exact.data[:, c], case.exact.weight[:, c], rotations, band, padded)
        for c in range(len(case.model.references))
    ]
    return torch.stack([data for data, _ in found]), torch.stack([weight for _, weight in found])


@each_case
def test_sums_of_slices_are_the_posterior_means_of_back_projected_images(name: str) -> None:
    case = solved(name)
    for found, exact in zip((case.sums.slices.data, case.sums.slices.weight), expected_slices(case), strict=True):
        assert found.shape == (1, *exact.shape)
        # single precision, and posteriors from scores of a thousand nats in it
        assert float((found[0] - exact).abs().max()) < 1e-3 * float(exact.abs().max())


@each_case
def test_residuals_masses_and_offsets_are_those_of_brute_force(name: str) -> None:
    case = solved(name)
    sums = case.sums
    weight = case.exact.posterior.sum(2)  # (n, C, T)
    np.testing.assert_allclose(sums.class_mass[0], weight.sum((0, 2)), atol=1e-3)
    origins = torch.from_numpy(ORIGINS)[:, None] + case.model.search.poses.fine_shifts_angstrom
    np.testing.assert_allclose(sums.offset, torch.einsum("nct,ntd->cd", weight, origins), atol=3e-2)
    np.testing.assert_allclose(
        sums.offset_square, torch.einsum("nct,nt->c", weight, origins.square().sum(-1)), rtol=2e-3, atol=1e-2
    )
    power = torch.zeros_like(sums.residual_power).index_add_(0, torch.from_numpy(case.data.group), case.exact.residual)
    np.testing.assert_allclose(sums.residual_power, power, atol=3e-5 * float(power.max()))
    count = torch.bincount(FourierBand(case.data.grid).shell_of, minlength=n_shells(case.data.grid)).double()
    np.testing.assert_array_equal(sums.residual_count, count * torch.from_numpy(np.bincount(case.data.group))[:, None])


def test_an_image_of_known_pose_is_back_projected_there() -> None:
    """Origin of parts of a pixel included: the sums of one image are `back_project` of it."""
    data, model = a_case(n_volumes=1)
    own = random_rotations(8, "known", np.arange(N))
    origins = np.array([[0.0, 0.0], [1.3, -2.2], [4.7, 3.1], [-6.4, 0.9], [2.0, 2.0], [0.5, -7.7]])
    poses = own_rotations(model.search.poses, keep_origin=True)
    known = replace(
        model,
        search=replace(model.search, poses=poses),
        rotation=own.numpy(),
        origin_angstrom=origins,
        keep_origin=True,
        scale=np.ones(3),
        norm=np.ones(N),
    )
    band = FourierBand(data.grid)
    padded = PaddedGrid(ImageGrid.cubic(24, PIXEL), padding=PADDING)
    for row in (0, 3):
        sums = e_step(data, known, np.array([row]))
        image = torch.from_numpy(data.source.read(data.index[[row]])).double()
        # an origin is applied in whole pixels first, with nothing from outside
        moved = torch.zeros_like(image)
        x, y = np.rint(origins[row] / PIXEL).astype(int)
        moved[:, max(0, y) : 24 + min(0, y), max(0, x) : 24 + min(0, x)] = image[
            :, max(0, -y) : 24 - max(0, y), max(0, -x) : 24 - max(0, x)
        ]
        values = band.gather(data.grid.rfft(moved))
        expected = back_project(
            values,
            own[[row]],
            band,
            padded,
            origin_angstrom=torch.from_numpy(origins[[row]] - np.array([[x, y]]) * PIXEL),
            transfer=contrast_transfer(data.particles.take(np.array([row])), band.frequencies).double(),
            noise_variance=known.noise_variance[data.group[row]][band.shell_of],
        )
        np.testing.assert_allclose(sums.estimates.rotation, own[[row]].numpy(), atol=1e-12)
        np.testing.assert_allclose(sums.estimates.origin_angstrom, origins[[row]], atol=1e-9)
        for found, exact in zip((sums.slices.data[0, 0], sums.slices.weight[0, 0]), expected, strict=True):
            assert float((found - exact).abs().max()) < 1e-5 * float(exact.abs().max())  # single precision


def _same(first: Sums, second: Sums, *, relative: float) -> None:
    for name in ("class_mass", "offset", "residual_power", "scale_cross", "scale_square"):
        a, b = getattr(first, name), getattr(second, name)
        assert float((a - b).abs().max()) <= relative * float(a.abs().max()), name
    for a, b in ((first.slices.data, second.slices.data), (first.slices.weight, second.slices.weight)):
        assert float((a - b).abs().max()) <= relative * float(a.abs().max())
    for name in ("row", "class_index", "rotation", "origin_angstrom", "n_significant"):
        np.testing.assert_array_equal(getattr(first.estimates, name), getattr(second.estimates, name), err_msg=name)
    np.testing.assert_allclose(first.estimates.log_likelihood, second.estimates.log_likelihood, atol=2e-3)
    np.testing.assert_allclose(first.estimates.lost_mass, second.estimates.lost_mass, atol=1e-5)


DIVISIONS = {
    "two images in a chunk": [(expectation, "_MOST_IN_CHUNK_OF_VOLUMES", 2), (expectation, "_IMAGES_AT_ONCE", 1)],
    "one slice at a time": [(references, "SLICE_BYTES", 1), (posterior, "SLICE_BYTES", 1)],
    "one image refined at a time": [(posterior, "POSES_AT_ONCE", 1)],
    "a few slices, images and poses": [
        (references, "SLICE_BYTES", 1 << 17),
        (posterior, "SLICE_BYTES", 1 << 21),
        (posterior, "POSES_AT_ONCE", 2000),
    ],
}


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("kind", ["D2", "local"])
def test_sums_do_not_depend_on_how_images_and_slices_are_divided(
    kind: str, division: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model = a_case(kind, mask=80.0, kept_mass=0.99, coarse_shell=6)
    whole = e_step(data, model)
    for module, name, value in DIVISIONS[division]:
        monkeypatch.setattr(module, name, value)
    _same(whole, e_step(data, model), relative=1e-5)  # single precision, other order


@pytest.mark.parametrize("kind", ["D2", "local"])
def test_two_threads_give_the_sums_of_one(kind: str) -> None:
    data, model = a_case(kind, kept_mass=0.99)
    found = []
    for n_threads in (1, 2):
        with InProcessExecutor(n_threads=n_threads) as executor:
            found.append(expectation.expect(executor.broadcast(data), model, data, np.arange(N), executor))
    _same(*found, relative=1e-5)  # a matrix product of two threads may round otherwise


@pytest.mark.parametrize("kind", ["D2", "local"])
def test_particles_find_the_same_whatever_others_there_are(kind: str) -> None:
    data, model = a_case(kind)
    together = e_step(data, model).estimates
    for rows in (np.array([4]), np.array([1, 5])):
        alone = e_step(data, model, rows).estimates
        np.testing.assert_array_equal(alone.row, rows)
        np.testing.assert_array_equal(alone.rotation, together.rotation[rows])
        np.testing.assert_array_equal(alone.origin_angstrom, together.origin_angstrom[rows])
        np.testing.assert_allclose(alone.log_likelihood, together.log_likelihood[rows], atol=2e-3)


@pytest.mark.parametrize("kind", ["D2", "local"])
def test_premultiplied_images_give_the_posterior_and_the_slices_of_plain_ones(kind: str) -> None:
    # moving by whole pixels cuts off an edge, which differs
    (plain, model), (done, _) = (a_case(kind, origins=np.zeros((N, 2)), premultiplied=which) for which in (False, True))
    one, two = e_step(plain, model), e_step(done, model)
    for a, b in (
        (one.slices.data, two.slices.data),
        (one.slices.weight, two.slices.weight),
        (one.class_mass, two.class_mass),
        (one.scale_cross, two.scale_cross),
        (one.scale_square, two.scale_square),
    ):
        assert float((a - b).abs().max()) <= 1e-3 * float(a.abs().max())
    np.testing.assert_allclose(one.estimates.max_probability, two.estimates.max_probability, atol=1e-3)
    np.testing.assert_array_equal(one.estimates.rotation, two.estimates.rotation)


@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("mask", [None, 80.0])
def test_residuals_at_the_truth_tell_the_noise(premultiplied: bool, mask: float | None) -> None:
    """Of 200 images at known poses, each group's σ² in every shell."""
    grid = ImageGrid.square(24, PIXEL)
    n = 200
    particles = particles_of(n, grid, n_groups=2, n_micrographs=4, premultiplied=premultiplied)
    true = volumes(1, 24, PIXEL, radius_angstrom=26)
    own = random_rotations(5, "known", np.arange(n))
    views = Views(class_index=np.zeros(n, dtype=int), rotation=own, origin_angstrom=np.zeros((n, 2)))
    spectrum = torch.stack([coloured_spectrum(grid, 5.0), 2 * coloured_spectrum(grid, 5.0, rise=0.5)])
    images = drawn_views_images(true, particles, views, grid, spectrum[np.asarray(particles["optics_group"]) - 1])
    data = image_data(images, particles, grid, mask_diameter_angstrom=mask)
    search = whole_search(grid, own_rotations(a_grid("local"), keep_origin=True))
    model = a_model(true, data, spectrum, search, padding=PADDING, rotation=own.numpy(), keep_origin=True)
    sums = e_step(data, model)
    found = maximisation.noise_variance(sums.residual_power, sums.residual_count, spectrum, mask_power=data.mask_power)
    inside = slice(3, FourierBand(grid).max_shell + 1)
    # 100 images of 10 coefficients or more in a shell: 3 %, four times that; a mask leaves fewer free ones, and the
    # mean of C² in a shell stands for all that a premultiplied image has lost
    allowed = 0.12 if mask is None else 0.18
    np.testing.assert_allclose((found / spectrum)[:, inside], 1.0, atol=allowed if not premultiplied else 0.3)
    assert sums.estimates.residual.mean() == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize("kind", ["C4", "local"])
def test_class_rotation_and_origin_of_clean_images_are_found(kind: str, side: int) -> None:
    """Images are made by the forward model: a point v lies at (A v) − origin."""
    grid = ImageGrid.square(side, PIXEL)
    n = 5
    particles = particles_of(n, grid)
    true = volumes(2, side, PIXEL, radius_angstrom=44)
    poses = a_grid(kind)
    own = random_rotations(3, "own rotations", np.arange(n)) if kind == "local" else None
    views, _, _ = drawn_views(n, poses, even_priors(2), own=own)
    spectrum = noise.white_spectrum(grid, 0.01)
    data = image_data(drawn_views_images(true, particles, views, grid, spectrum), particles, grid)
    rotation = None if own is None else own.numpy()
    model = a_model(true, data, spectrum, whole_search(grid, poses), padding=PADDING, rotation=rotation)
    found = e_step(data, model).estimates
    np.testing.assert_array_equal(found.class_index, views.class_index)
    away = angular_distance_degrees(torch.from_numpy(found.rotation), views.rotation)
    assert float(away.max()) < 1e-5
    np.testing.assert_allclose(found.origin_angstrom, views.origin_angstrom, atol=1e-9)
    assert found.max_probability.min() > 0.99


def test_pruning_tells_the_mass_that_it_loses_and_keeps_the_likelihood() -> None:
    for name in ("two volumes", "around each"):
        case = solved(name)
        search = replace(case.model.search, kept_mass=0.999)
        pruned = e_step(case.data, replace(case.model, search=search)).estimates
        # what is pruned is estimated at coarse steps
        np.testing.assert_allclose(pruned.log_likelihood, case.exact.log_likelihood.numpy(), atol=0.1)
        assert (pruned.lost_mass > 0).all()
        assert (pruned.lost_mass < 0.003).all()


def test_a_search_around_each_rotation_must_know_them() -> None:
    data, model = a_case("local")
    with pytest.raises(InputError, match="must know them; got none; give"):
        e_step(data, replace(model, rotation=None))
