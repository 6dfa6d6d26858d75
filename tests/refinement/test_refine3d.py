"""3D refinement as a step: halves that share nothing beyond the join, exact restarts, recovery, clear refusals."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap import keyed_random
from halfmap.compute.in_process import InProcessExecutor
from halfmap.data.half_sets import HalfSets
from halfmap.data.image_source import ArraySource
from halfmap.data.particles import ParticleSet
from halfmap.data.volumes import Volume
from halfmap.errors import HalfmapError, InconsistentDataError, InputError, ShapeError
from halfmap.fourier import shells
from halfmap.geometry import symmetry as groups
from halfmap.geometry.rotations import (
    euler_from_matrix,
    matrix_from_euler,
    matrix_from_rotation_vector,
    random_rotations,
)
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.io import states
from halfmap.refinement import refine3d
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.problem import RefinementProblem
from halfmap.refinement.search import first_order
from halfmap.refinement.state import RefinementState
from halfmap.units import Length
from support.model_images import particles_of
from support.volume_images import Views, drawn_views_images, volumes

PIXEL = 4.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Images of a map with blobs, half of them in each half."""

    true: Volume
    views: Views
    particles: ParticleSet
    images: np.ndarray
    grid: ImageGrid
    symmetry: str

    @property
    def half_sets(self) -> HalfSets:
        return HalfSets(particles=self.particles)

    def params(self, **settings: object) -> RefinementParams:
        given = {
            "mask_diameter_angstrom": 0.86 * self.grid.side * PIXEL,
            "symmetry": self.symmetry,
            "initial_low_pass_angstrom": 30.0,
            **settings,
        }
        return RefinementParams(**given)

    def problem(self, params: RefinementParams, executor: InProcessExecutor, **changes: object) -> RefinementProblem:
        images = changes.pop("images", self.images)
        half_sets = changes.pop("half_sets", self.half_sets)
        return RefinementProblem.of_halves(
            half_sets, ArraySource(images=images, grid=self.grid), params, executor, **changes
        )


@cache
def a_case(n: int = 40, side: int = 24, symmetry: str = "D2", pixel_variance: float = 0.003) -> Case:
    grid = ImageGrid.square(side, PIXEL)
    true = volumes(1, side, PIXEL, radius_angstrom=1.375 * side, symmetry=symmetry, blob_angstrom=4.0)
    views = Views(
        class_index=np.zeros(n, dtype=np.int64),
        rotation=random_rotations(1, "truth", np.arange(n)),
        origin_angstrom=PIXEL * keyed_random.normal(1, "true origins", np.arange(n), size=2),
    )
    particles = particles_of(n, grid, n_micrographs=3).with_columns(random_subset=1 + np.arange(n) % 2)
    images = drawn_views_images(true, particles, views, grid, noise.white_spectrum(grid, pixel_variance))
    return Case(
        true=Volume(values=true[0], grid=ImageGrid.cubic(side, PIXEL)),
        views=views,
        particles=particles,
        images=images.numpy(),
        grid=grid,
        symmetry=symmetry,
    )


@pytest.fixture
def executor() -> Iterator[InProcessExecutor]:
    with InProcessExecutor(n_threads=1) as one:
        yield one


def advanced(
    case: Case, params: RefinementParams, executor: InProcessExecutor, n: int = 1, **changes: object
) -> RefinementState:
    problem = case.problem(params, executor, **changes)
    state = refine3d.start(problem, params, [case.true], executor)
    for _ in range(n):
        state = refine3d.advance(problem, params, state, executor)
    return state


def assert_identical(one: object, two: object, place: str = "state") -> None:
    """Compare everything in two states bit for bit, but how long iterations took."""
    if is_dataclass(one):
        assert type(one) is type(two)
        for field in fields(one):
            assert_identical(getattr(one, field.name), getattr(two, field.name), f"{place}.{field.name}")
    elif isinstance(one, Mapping):
        assert isinstance(two, Mapping)
        assert one.keys() == two.keys()
        for name in one:
            if name != "seconds":
                assert_identical(one[name], two[name], f"{place}.{name}")
    elif isinstance(one, tuple):
        assert isinstance(two, tuple)
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_identical(a, b, f"{place}[{i}]")
    elif isinstance(one, Tensor):
        assert isinstance(two, Tensor)
        assert one.dtype == two.dtype, place
        assert one.numpy().tobytes() == two.numpy().tobytes(), place
    elif isinstance(one, np.ndarray):
        assert isinstance(two, np.ndarray)
        assert one.dtype == two.dtype, place
        assert one.tobytes() == two.tobytes(), place
    else:
        assert one == two or (one != one and two != two), place  # nan


def with_noise_for_half_two(case: Case, pixel_variance: float = 0.3) -> np.ndarray:
    """Return the images, those of the second half replaced by noise."""
    images = case.images.copy()
    second = case.half_sets.rows[1]
    drawn = noise.draw(9, "instead of half two", second + 1, case.grid, noise.white_spectrum(case.grid, pixel_variance))
    images[second] = drawn.numpy().astype(np.float32)
    return images


@pytest.mark.parametrize("absolute_greyscale", [False, True])
def test_nothing_of_half_one_depends_on_images_of_half_two_where_nothing_is_joined(
    absolute_greyscale: bool, executor: InProcessExecutor
) -> None:
    case = a_case()
    params = case.params(join_resolution_angstrom=1e12, absolute_greyscale=absolute_greyscale)
    first, second = case.half_sets.rows
    one = advanced(case, params, executor)
    two = advanced(case, params, executor, images=with_noise_for_half_two(case))
    assert one.join_shell == 0
    for name in ("unregularised", "noise_variance", "error_variance", "completeness", "offset_sigma_angstrom"):
        assert_identical(getattr(one.halves[0], name), getattr(two.halves[0], name), name)
    # scales of micrographs too, of their particles in this half alone
    np.testing.assert_array_equal(one.halves[0].scale, two.halves[0].scale)
    for field in fields(one.orientations):
        a, b = getattr(one.orientations, field.name), getattr(two.orientations, field.name)
        assert a[first].tobytes() == b[first].tobytes(), field.name
    assert not torch.equal(one.halves[1].unregularised, two.halves[1].unregularised)
    assert not np.array_equal(one.orientations.rotation[second], two.orientations.rotation[second])


def test_the_start_of_half_one_does_not_know_images_of_half_two(executor: InProcessExecutor) -> None:
    case = a_case()
    params = case.params()
    one, two = (
        refine3d.start(case.problem(params, executor, images=images), params, [case.true], executor)
        for images in (case.images, with_noise_for_half_two(case))
    )
    assert_identical(one.halves[0], two.halves[0])
    ratio = two.halves[1].noise_variance / one.halves[1].noise_variance
    assert float(ratio[:, 3:].min()) > 10  # noise a hundred times as strong


def test_images_of_half_two_change_the_map_of_half_one_up_to_the_join_alone(executor: InProcessExecutor) -> None:
    case = a_case()
    params = case.params(join_resolution_angstrom=32.0)
    one = advanced(case, params, executor)
    two = advanced(case, params, executor, images=with_noise_for_half_two(case, 0.01))
    assert one.join_shell == two.join_shell == 3
    grid = case.true.grid
    a, b = (grid.rfft(state.halves[0].unregularised.double()) for state in (one, two))
    change = shells.radial_sum((a - b).abs().square(), grid) / shells.radial_sum(a.abs().square(), grid)
    assert float(change[1:3].min()) > 1e-2
    # a map is cut out of a padded box, which mixes neighbouring shells
    assert float(change[8:11].max()) < 0.05 * float(change[1:3].min())


def test_a_state_that_was_saved_goes_on_bit_for_bit(tmp_path: Path, executor: InProcessExecutor) -> None:
    case = a_case()
    params = case.params(max_iterations=4)
    problem = case.problem(params, executor)
    state = refine3d.start(problem, params, [case.true], executor)
    n = 0
    while not refine3d.is_done(params, state):
        path = tmp_path / f"{n}.safetensors"
        states.save(path, state)
        loaded = states.load(path, RefinementState)
        assert_identical(state, loaded)
        state = refine3d.advance(problem, params, state, executor)
        assert_identical(state, refine3d.advance(problem, params, loaded, executor))
        n += 1
    assert n == 4
    assert state.outcome == "iteration limit"


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_iterations_are_done_than_asked_for(most: int, executor: InProcessExecutor) -> None:
    case = a_case()
    params = case.params(max_iterations=most)
    problem = case.problem(params, executor)
    state = refine3d.start(problem, params, [case.true], executor)
    while not refine3d.is_done(params, state):
        assert not bool(state.joined.any())
        state = refine3d.advance(problem, params, state, executor)
    assert state.iteration == most
    assert len(state.history["iteration"]) == most
    assert bool(state.joined.any())
    assert refine3d.finish(problem, params, state).joined is not None


def test_the_first_iteration_does_not_ask_for_the_grey_scale_of_the_reference(executor: InProcessExecutor) -> None:
    case = a_case()
    params = case.params()
    found = []
    for factor in (1.0, 50.0):
        problem = case.problem(params, executor)
        reference = Volume(values=factor * case.true.values, grid=case.true.grid)
        state = refine3d.start(problem, params, [reference], executor)
        found.append(refine3d.advance(problem, params, state, executor))
    np.testing.assert_array_equal(found[0].orientations.rotation, found[1].orientations.rotation)
    np.testing.assert_array_equal(found[0].orientations.origin_angstrom, found[1].orientations.origin_angstrom)
    a, b = (state.halves[0].unregularised for state in found)
    assert float((a - b).abs().max()) < 1e-3 * float(a.abs().max())  # single precision in posteriors


def test_each_half_may_have_a_reference_of_its_own(executor: InProcessExecutor) -> None:
    case = a_case()
    params = case.params()
    problem = case.problem(params, executor)
    other = Volume(values=case.true.values.flip(0), grid=case.true.grid)
    state = refine3d.start(problem, params, [case.true, other], executor)
    same = refine3d.start(problem, params, [case.true], executor)
    assert torch.equal(state.halves[0].reference, same.halves[0].reference)
    assert torch.equal(same.halves[0].reference, same.halves[1].reference)
    assert not torch.equal(state.halves[0].reference, state.halves[1].reference)


@cache
def recovered() -> tuple[Case, list[RefinementState], list[float]]:
    """Return a case, its states and the median angle errors in degrees, of six iterations."""
    case = a_case(150, 32)
    params = case.params(max_iterations=6)
    found, errors = [], []
    with InProcessExecutor(n_threads=1) as executor:
        problem = case.problem(params, executor)
        state = refine3d.start(problem, params, [case.true], executor)
        while not refine3d.is_done(params, state):
            state = refine3d.advance(problem, params, state, executor)
            found.append(state)
            away = groups.distance_degrees(
                torch.from_numpy(state.orientations.rotation), case.views.rotation, case.symmetry
            )
            errors.append(float(away.median()))
    return case, found, errors


def test_poses_are_recovered_to_less_than_a_step() -> None:
    case, found, errors = recovered()
    assert len(found) <= 6
    assert errors[-1] < 7.5  # degrees: the fine step of the first sampling, which six iterations do not leave
    assert errors[-1] < errors[0] / 2
    away = np.linalg.norm(found[-1].orientations.origin_angstrom - case.views.origin_angstrom, axis=1)
    assert float(np.median(away)) < 4.0  # Å: one step


def test_the_joined_map_is_the_true_one_and_better_than_halves() -> None:
    case, found, _ = recovered()
    grid, last = case.true.grid, found[-1]
    true = grid.rfft(case.true.values.double())
    joined = shells.fsc(grid.rfft(last.joined.double()), true, grid)
    half = shells.fsc(grid.rfft(last.halves[0].unregularised.double()), true, grid)
    told = last.fsc.clamp(min=0)
    inside = slice(3, int(last.history["shell"][-1]))
    assert float(joined[1:8].min()) > 0.9
    assert float(joined[inside].mean()) > float(half[inside].mean())
    # what the halves promise of the joined map; poses, which both halves got from one reference, cost both alike
    promised = (2 * told / (1 + told)).sqrt()
    assert float((promised - joined)[1:8].abs().max()) < 0.1


def test_history_and_decisions_say_what_was_done() -> None:
    _, found, _ = recovered()
    last = found[-1]
    assert last.history["iteration"].tolist() == list(range(1, len(found) + 1))
    lengths = {len(column) for column in last.history.values()}
    assert lengths == {len(found)}
    assert np.isnan(last.history["rotation_change_degrees"][0])
    assert np.isfinite(last.history["rotation_change_degrees"][1:]).all()
    assert (np.diff(last.history["mean_max_probability"][1:]) > -0.05).all()
    assert [state.outcome for state in found[:-1]] == ["running"] * (len(found) - 1)
    assert last.history["lost_mass"].max() < 0.02
    steps = [state.sampling.perturbation for state in found]
    assert len(set(steps)) == len(found)


def test_a_local_search_from_known_poses_brings_them_nearer(executor: InProcessExecutor) -> None:
    case = a_case(60, 32)
    vectors = torch.from_numpy(keyed_random.normal(3, "false angles", np.arange(60), size=3)) * np.radians(4.0)
    start = matrix_from_rotation_vector(vectors) @ case.views.rotation
    particles = case.particles.with_columns(
        rotation=start.numpy(), origin_angstrom=np.array(case.views.origin_angstrom)
    )
    params = case.params(healpix_order=4, local_from_order=3, absolute_greyscale=True, initial_low_pass_angstrom=12.0)
    state = advanced(case, params, executor, n=2, half_sets=HalfSets(particles=particles))
    assert state.history["is_local"].tolist() == [1.0, 1.0]
    before, after = (
        float(groups.distance_degrees(rotation, case.views.rotation, "D2").median())
        for rotation in (start, torch.from_numpy(state.orientations.rotation))
    )
    assert after < 0.6 * before


def test_relaxed_symmetry_finds_poses_that_are_at_a_wrong_mate(executor: InProcessExecutor) -> None:
    n, side, relaxed = 40, 32, "D2"
    case = a_case(n, side)
    grid = case.true.grid
    # nearly symmetric: one more blob, which tells the mates apart
    (whole,) = volumes(1, side, PIXEL, radius_angstrom=1.375 * side, symmetry=relaxed, blob_angstrom=4.0)
    away = grid.positions() - torch.tensor([12.0, 20.0, 9.0], dtype=torch.float64)
    true = whole + 0.3 * torch.exp(-away.square().sum(-1) / 72.0).float()
    spectrum = noise.white_spectrum(case.grid, 0.003)
    images = drawn_views_images(true[None], case.particles, case.views, case.grid, spectrum)
    related = groups.operators(relaxed)
    start = case.views.rotation @ related[torch.arange(n) % len(related)]
    particles = case.particles.with_columns(
        rotation=start.numpy(), origin_angstrom=np.array(case.views.origin_angstrom)
    )
    found = {}
    for asked in (None, relaxed):
        params = RefinementParams(
            mask_diameter_angstrom=110.0,
            relax_symmetry=asked,
            initial_low_pass_angstrom=14.0,
            healpix_order=4,
            absolute_greyscale=True,
            offset_range=Length.parse("2px"),
        )
        problem = case.problem(params, executor, images=images.numpy(), half_sets=HalfSets(particles=particles))
        state = refine3d.start(problem, params, [Volume(values=true, grid=grid)], executor)
        state = refine3d.advance(problem, params, state, executor)
        rotation = torch.from_numpy(state.orientations.rotation)
        found[asked] = float((groups.distance_degrees(rotation, case.views.rotation, "C1") < 10).double().mean())
    assert found[None] <= 1 / len(related) + 0.02  # mates are 180° apart, and a local search reaches 11°
    assert found[relaxed] > 0.95


def test_searches_around_given_angles_stay_near_them(executor: InProcessExecutor) -> None:
    case = a_case(60, 32)
    vectors = torch.from_numpy(keyed_random.normal(3, "false angles", np.arange(60), size=3)) * np.radians(4.0)
    start = (matrix_from_rotation_vector(vectors) @ case.views.rotation).numpy()
    elsewhere = random_rotations(5, "other angles", np.arange(60)).numpy()
    origin = np.array(case.views.origin_angstrom)
    own = case.particles.with_columns(rotation=start, origin_angstrom=origin)
    both = case.particles.with_columns(rotation=elsewhere, prior_rotation=start, origin_angstrom=origin)
    params = case.params(sigma_angles_degrees=8.0, initial_low_pass_angstrom=20.0)
    found = []
    for particles in (own, both):
        state = advanced(case, params, executor, n=2, half_sets=HalfSets(particles=particles))
        assert state.history["is_local"].tolist() == [0.0, 0.0]
        rotation = torch.from_numpy(state.orientations.rotation)
        # three spreads, half a coarse step of perturbation and a quarter for finer ones, along each axis
        assert float(groups.distance_degrees(rotation, torch.from_numpy(start), "C1").max()) < 3 * 8 * 2**0.5 + 20
        found.append(rotation)
        before, after = (
            float(groups.distance_degrees(one, case.views.rotation, "D2").median())
            for one in (torch.from_numpy(start), rotation)
        )
        assert after < before
    assert torch.equal(found[0], found[1])


def test_rot_is_found_where_tilt_and_psi_alone_are_known(executor: InProcessExecutor) -> None:
    case = a_case(40, 24)
    off = 4.0 * keyed_random.normal(3, "false tilts", np.arange(40), size=2)
    known = euler_from_matrix(case.views.rotation).numpy()[:, 1:] + off
    known[:, 0] = known[:, 0].clip(1.0, 179.0)  # so that a rotation has this tilt and psi again
    origin = np.array(case.views.origin_angstrom)
    priors = case.particles.with_columns(prior_tilt_psi_degrees=known, origin_angstrom=origin)
    rotated = case.particles.with_columns(
        rotation=matrix_from_euler(77.0, *known.T).numpy(),
        origin_angstrom=origin,  # a rot that means nothing
    )
    params = case.params(
        sigma_angles_degrees=8.0, free_rot=True, absolute_greyscale=True, initial_low_pass_angstrom=12.0
    )
    found = []
    for particles in (priors, rotated):
        state = advanced(case, params, executor, n=1, half_sets=HalfSets(particles=particles))
        rotation = torch.from_numpy(state.orientations.rotation)
        errors = groups.distance_degrees(rotation, case.views.rotation, "D2")
        assert float((errors < 12).double().mean()) > 0.9  # steps are 7.5°; an eighth of random rots are within 12°
        found.append(rotation)
    torch.testing.assert_close(found[0], found[1], atol=1e-9, rtol=0)


def test_searches_of_all_rots_must_not_begin_locally_nor_without_tilts(executor: InProcessExecutor) -> None:
    case = a_case()
    with pytest.raises(InputError, match="--free-rot must come with --sigma-angles"):
        case.params(free_rot=True)
    params = case.params(free_rot=True, sigma_angles_degrees=1.0)  # so narrow that steps would be those of local ones
    assert first_order(params, "D2") == (3, False)
    with pytest.raises(InputError, match="around a known tilt and psi; got particles without any"):
        refine3d.start(case.problem(params, executor), params, [case.true], executor)
    params = case.params(free_rot=True, sigma_angles_degrees=5.0, healpix_order=4)
    with pytest.raises(InputError, match="must not be local from the start; got order 4"):
        refine3d.start(case.problem(params, executor), params, [case.true], executor)


def test_a_spread_of_angles_asks_for_steps_as_fine_and_for_angles(executor: InProcessExecutor) -> None:
    case = a_case()
    params = case.params(sigma_angles_degrees=2.0)
    with pytest.raises(InputError, match="--sigma-angles must be around known angles"):
        refine3d.start(case.problem(params, executor), params, [case.true], executor)
    known = HalfSets(particles=case.particles.with_columns(rotation=case.views.rotation.numpy()))
    state = refine3d.start(case.problem(params, executor, half_sets=known), params, [case.true], executor)
    assert state.sampling.rotation_step_degrees <= 2.0
    assert state.sampling.is_local


WRONG: dict[str, tuple[dict, dict, type[HalfmapError], str]] = {
    "mask larger than the box": ({"mask_diameter_angstrom": 200.0}, {}, InputError, "at most the box of 96 Å"),
    "unknown symmetry": ({"symmetry": "Q3"}, {}, InputError, "symmetry must be one of"),
    "unknown relaxed symmetry": ({"relax_symmetry": "Q3"}, {}, InputError, "symmetry must be one of"),
    "FSC without a mask": ({"solvent_flattened_fsc": True}, {}, InputError, "must have a mask; got none"),
    "mask of another box": (
        {},
        {"solvent_mask": torch.ones(32, 32, 32)},
        ShapeError,
        r"must have shape \(24, 24, 24\); got \(32, 32, 32\)",
    ),
    "too few images": (
        {},
        {"images": np.zeros((7, 24, 24), dtype=np.float32)},
        InputError,
        "one image for each of 40 particles; got 7",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_problems_are_refused(name: str, executor: InProcessExecutor) -> None:
    settings, changes, error, words = WRONG[name]
    case = a_case()
    with pytest.raises(error, match=words):
        case.problem(case.params(**settings), executor, **changes)


def test_particles_without_halves_are_refused() -> None:
    with pytest.raises(InconsistentDataError, match="must be 1 or 2"):
        HalfSets(particles=a_case().particles.with_columns(random_subset=np.zeros(40, dtype=np.int64)))


@pytest.mark.parametrize(
    ("side", "values", "words"),
    [
        pytest.param(32, None, "on the maps' grid", id="another box"),
        pytest.param(24, torch.zeros(24, 24, 24), "finite, different grey values", id="empty"),
        pytest.param(24, torch.full((24, 24, 24), 3.0), "finite, different grey values", id="one grey value"),
        pytest.param(24, torch.full((24, 24, 24), torch.nan), "finite, different grey values", id="not finite"),
    ],
)
def test_wrong_references_are_refused(
    side: int, values: Tensor | None, words: str, executor: InProcessExecutor
) -> None:
    case = a_case()
    params = case.params()
    given = volumes(1, side, PIXEL)[0] if values is None else values
    volume = Volume(values=given, grid=ImageGrid.cubic(side, PIXEL))
    with pytest.raises(InputError, match=words):
        refine3d.start(case.problem(params, executor), params, [volume], executor)


@pytest.mark.parametrize("n", [0, 3])
def test_another_number_of_references_than_one_or_two_is_refused(n: int, executor: InProcessExecutor) -> None:
    case = a_case()
    params = case.params()
    with pytest.raises(InputError, match=f"one for each half; got {n}"):
        refine3d.start(case.problem(params, executor), params, [case.true] * n, executor)


def test_local_searches_from_the_start_must_know_angles(executor: InProcessExecutor) -> None:
    case = a_case()
    params = case.params(healpix_order=4)
    with pytest.raises(InputError, match="must begin at known angles"):
        refine3d.start(case.problem(params, executor), params, [case.true], executor)
    assert "rotation" not in case.particles


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_resolution_angstrom": 70.0}, "finer than the reference's low-pass"),
        ({"initial_low_pass_angstrom": 10.0, "max_resolution_angstrom": 10.0}, "finer than the reference's low-pass"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        RefinementParams(mask_diameter_angstrom=80.0, **settings)
