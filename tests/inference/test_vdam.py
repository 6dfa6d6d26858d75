import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.fourier.band import FourierBand
from halfmap.fourier.resample import phase_factors
from halfmap.grid import ImageGrid
from halfmap.inference import vdam
from halfmap.inference.vdam import Moments


def test_phases_of_200_minibatches_are_60_100_and_40() -> None:
    assert vdam.phases(200) == (60, 100, 40)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 100, 1000])
def test_phases_fill_a_run_of_any_length(n: int) -> None:
    assert sum(vdam.phases(n)) == n
    assert min(vdam.phases(n)) >= 0


@pytest.mark.parametrize(
    ("n_particles", "first", "last"),
    [(10_000, 200, 1000), (100_000, 500, 5000), (1_000_000, 5000, 50_000), (5_000_000, 10_000, 100_000)],
)
def test_minibatches_grow_as_relions_do(n_particles: int, first: int, last: int) -> None:
    sizes = [vdam.minibatch_size(iteration, 200, n_particles) for iteration in range(1, 201)]
    assert sizes[:60] == [first] * 60
    assert sizes[160:199] == [last] * 39
    assert sizes[109] == pytest.approx((first + last) / 2, abs=1)
    assert sizes == sorted(sizes)
    assert sizes[199] == n_particles


@pytest.mark.parametrize(("n_particles", "visits"), [(10_000, 12), (100_000, 6), (1_000_000, 6), (5_000_000, 3)])
def test_particles_are_visited_as_often_as_in_relion(n_particles: int, visits: float) -> None:
    assert vdam.total_visits(200, n_particles) / n_particles == pytest.approx(visits, abs=0.6)


def test_sizes_and_steps_that_are_asked_for_are_those_of_the_first_and_last_phase() -> None:
    sizes = [vdam.minibatch_size(iteration, 200, 10_000, vdam.Sizes(100, 3000)) for iteration in range(1, 201)]
    assert (sizes[:60], sizes[160:199], sizes[199]) == ([100] * 60, [3000] * 39, 10_000)
    assert sizes[109] == 1550
    assert vdam.minibatch_size(1, 200, 10_000, vdam.Sizes(last=3000)) == 200
    assert vdam.total_visits(200, 10_000, vdam.Sizes(100, 3000)) == sum(sizes)
    rows = vdam.minibatch(1, 3, np.arange(1, 10_001), 200, vdam.Sizes(100, 3000))
    assert len(rows) == 100
    steps = [vdam.step_size(iteration, 200, vdam.Steps(0.6, 0.2)) for iteration in (1, 85, 200)]
    assert steps == pytest.approx([0.6, 0.4, 0.2], abs=5e-4)


def test_a_minibatch_of_more_than_half_takes_all() -> None:
    assert vdam.minibatch_size(1, 200, 399) == 399
    assert vdam.minibatch_size(1, 200, 400) == 200


@pytest.mark.parametrize(("iteration", "step"), [(60, 0.894), (85, 0.6), (110, 0.306), (160, 0.3)])
def test_step_size_follows_relions_table(iteration: int, step: float) -> None:
    assert vdam.step_size(iteration, 200) == pytest.approx(step, abs=5e-4)


def test_step_size_starts_at_nine_tenths() -> None:
    assert vdam.step_size(1, 200) == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize(("iteration", "value"), [(1, 1.0), (60, 1.01), (85, 1.99), (200, 2.0)])
def test_regularisation_follows_relions_table(iteration: int, value: float) -> None:
    assert vdam.regularisation(iteration, 200, 2.0) == pytest.approx(value, abs=5e-3)


def test_regularisation_is_half_way_an_eighth_into_the_second_phase() -> None:
    ends = [vdam.regularisation(iteration, 200, 2.0) for iteration in (72, 73)]
    assert ends[0] < 1.5 < ends[1]


@pytest.mark.parametrize("n", [1, 3, 10_000])
def test_schedules_of_short_and_long_runs_end_at_their_limits(n: int) -> None:
    assert vdam.step_size(n, n) < 0.61
    assert 1 <= vdam.regularisation(n, n, 3.0) <= 3


def test_an_iteration_outside_the_run_is_refused() -> None:
    for iteration in (0, 201):
        with pytest.raises(InputError, match="between 1 and 200"):
            vdam.minibatch_size(iteration, 200, 10_000)
    with pytest.raises(InputError, match="at least 1"):
        vdam.phases(0)


UIDS = np.arange(5, 5 + 3 * 3001, 3)


def test_minibatches_hold_distinct_rows_in_order_of_their_stated_number() -> None:
    for iteration in (1, 7, 16, 80, 160, 199, 200):
        rows = vdam.minibatch(3, iteration, UIDS, 200)
        assert len(rows) == vdam.minibatch_size(iteration, 200, len(UIDS))
        assert (np.diff(rows) > 0).all()


def test_all_particles_are_visited_before_any_is_seen_twice_more_than_another() -> None:
    visits = np.zeros(len(UIDS), dtype=int)
    for iteration in range(1, 120):
        visits[vdam.minibatch(3, iteration, UIDS, 200)] += 1
        assert visits.max() - visits.min() <= 2
    assert visits.min() >= 10


def test_minibatches_depend_on_uids_not_on_rows() -> None:
    turned = UIDS[::-1].copy()
    for iteration in (4, 16, 100):
        taken = UIDS[vdam.minibatch(3, iteration, UIDS, 200)]
        assert set(taken) == set(turned[vdam.minibatch(3, iteration, turned, 200)])


def test_minibatches_differ_between_seeds_and_orders() -> None:
    first = [set(vdam.minibatch(seed, 1, UIDS, 200)) for seed in (1, 2)]
    assert len(first[0] & first[1]) < 50
    again = set(vdam.minibatch(1, 16, UIDS, 200))  # the second order begins after 3001 of 200 each
    assert len(first[0] & again) < 150


def test_pseudo_halves_are_even_and_fixed() -> None:
    halves = vdam.pseudo_halves(1, UIDS)
    assert set(halves) == {0, 1}
    assert halves.mean() == pytest.approx(0.5, abs=0.03)
    assert (vdam.pseudo_halves(1, UIDS[::-1]) == halves[::-1]).all()


GRID = ImageGrid.square(24, 2.0)
BAND = FourierBand(GRID)


def _noise(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=shape) + 1j * rng.normal(size=shape)).to(torch.complex64)


class Problem:
    """Images of known classes and poses: data = C A + noise of variance σ² of one real component."""

    def __init__(self, *, signal: float, sigma: float = 1.0, shares: tuple[float, ...] = (0.6, 0.3, 0.1)) -> None:
        rng = np.random.default_rng(7)
        self.n, self.n_classes, self.sigma = 1200, len(shares), sigma
        falling = torch.exp(-BAND.shell_of / 3.0).to(torch.complex64) * (BAND.shell_of <= 7)
        self.truth = _noise(rng, self.n_classes, len(BAND)) * falling * signal * sigma
        self.labels = torch.from_numpy(np.sort(rng.choice(self.n_classes, size=self.n, p=shares)))
        self.shares = torch.tensor(shares, dtype=torch.float64)
        defocus = torch.from_numpy(rng.uniform(0.8, 1.2, size=self.n))
        self.ctf = torch.cos(0.03 * defocus[:, None] * BAND.shell_of.double() ** 2).float()
        self.images = self.ctf * self.truth[self.labels] + sigma * _noise(rng, self.n, len(BAND))
        self.half = torch.from_numpy(rng.integers(0, 2, size=self.n))

    def sums(self, rows: Tensor, references: Tensor, width: int = len(BAND)) -> tuple[Tensor, Tensor]:
        ctf = self.ctf[rows, :width]
        residual = ctf * (self.images[rows, :width] - ctf * references[self.labels[rows], :width])
        index = self.half[rows] * self.n_classes + self.labels[rows]
        gradients = torch.zeros(2 * self.n_classes, width, dtype=torch.complex64).index_add_(
            0, index, residual / self.sigma**2
        )
        curvatures = torch.zeros(2 * self.n_classes, width).index_add_(0, index, ctf**2 / self.sigma**2)
        return gradients.unflatten(0, (2, -1)), curvatures.unflatten(0, (2, -1))

    def run(self, n_minibatches: int = 150, size: int = 120, **options: float) -> vdam.Update:
        references = torch.zeros_like(self.truth)
        moments = Moments.none(self.n_classes, len(BAND))
        order = torch.from_numpy(np.random.default_rng(1).permutation(self.n))
        for number in range(n_minibatches):
            rows = order.roll(-size * number)[:size].sort().values
            result = self.update(rows, references, moments, **options)
            references, moments = result.references, result.moments
        return result

    def update(self, rows: Tensor, references: Tensor, moments: Moments, **options: float) -> vdam.Update:
        gradients, curvatures = self.sums(rows, references)
        return vdam.update(
            references,
            gradients,
            curvatures,
            moments,
            fractions=self.shares,
            shell_of=BAND.shell_of,
            **{"step": 0.3, "regularisation": 2.0, **options},
        )

    def wiener(self, regularisation: float) -> Tensor:
        gradients, curvatures = self.sums(torch.arange(self.n), torch.zeros_like(self.truth))
        variance = BAND.shell_sum(self.truth.abs().square())[..., BAND.shell_of] / 2
        variance = variance / torch.bincount(BAND.shell_of)[BAND.shell_of]
        return gradients.sum(0) / (curvatures.sum(0) + 1 / (regularisation * variance.clamp_min(1e-9))).float()

    def error(self, references: Tensor) -> Tensor:
        return (references - self.truth).abs().square().sum(-1) / self.truth.abs().square().sum(-1)


def test_minibatches_end_at_the_wiener_filtered_averages_of_all_particles() -> None:
    problem = Problem(signal=0.5)
    found, optimum = problem.run().references, problem.wiener(2.0)
    # ten remembered mini-batches of a tenth weigh unevenly, worth about half of all particles
    assert (problem.error(found) < 1.5 * problem.error(optimum) + 0.02).all()
    distance = (found - optimum).abs().square().sum(-1) / optimum.abs().square().sum(-1)
    assert (distance < torch.tensor([0.06, 0.06, 0.15])).all()


def test_all_particles_and_a_whole_step_give_the_average_itself_when_t_is_large() -> None:
    problem = Problem(signal=3.0)
    rows = torch.arange(problem.n)
    start = _noise(np.random.default_rng(1), *problem.truth.shape)
    result = problem.update(
        rows, start, Moments.none(3, len(BAND)), step=1.0, regularisation=1e9, momentum=0.0, curvature_floor=1e-6
    )
    gradients, curvatures = problem.sums(rows, torch.zeros_like(start))
    average = gradients.sum(0) / curvatures.sum(0)
    seen = (result.signal_to_noise[..., BAND.shell_of] > 0) & (curvatures.sum(0) > 1)
    # a class of share π goes 1 − exp(−19 π) of the way
    left = torch.exp(-19 * problem.shares)[:, None].float() * start
    wanted = average * (1 - torch.exp(-19 * problem.shares)[:, None].float()) + left
    assert torch.allclose(result.references[seen], wanted[seen], rtol=1e-3, atol=1e-4)
    assert seen.float().mean() > 0.4


def test_the_fixed_point_does_not_depend_on_the_start() -> None:
    problem = Problem(signal=0.5)
    rows = torch.arange(problem.n)
    ends = []
    for seed in (1, 2):
        references = _noise(np.random.default_rng(seed), *problem.truth.shape)
        for _ in range(60):
            references = problem.update(rows, references, Moments.none(3, len(BAND)), step=0.9, momentum=0.0).references
        ends.append(references)
    # float32 sums over 1200 images
    assert torch.allclose(ends[0], ends[1], atol=1e-4)


@pytest.mark.parametrize("regularisation", [1.0, 2.0, 4.0])
def test_noise_leaves_nothing_behind(regularisation: float) -> None:
    problem = Problem(signal=0.0)
    result = problem.run(regularisation=regularisation)
    reliability = regularisation * result.signal_to_noise
    beyond = (reliability / (1 + reliability))[:, 3:]  # the first shells have a handful of coefficients
    assert beyond.mean() < 0.15
    average = result.moments.first.sum(0) / result.moments.second.sum(0)
    assert result.references.abs().square().sum() < 0.1 * average.abs().square().sum()


def test_strong_signal_is_kept_and_what_lies_beyond_is_not() -> None:
    problem = Problem(signal=2.0)
    result = problem.run()
    reliability = 2 * result.signal_to_noise / (1 + 2 * result.signal_to_noise)
    assert (reliability[0, 1:4] > 0.98).all()
    assert reliability[:, 9:].mean() < 0.2


def test_coefficients_that_were_seen_less_are_trusted_less() -> None:
    problem = Problem(signal=0.5)
    along_x = BAND.wave_numbers[:, 0].abs() > BAND.wave_numbers[:, 1].abs()
    problem.ctf = torch.where(along_x, 0.2, 1.0).expand(problem.n, -1)
    problem.images = problem.ctf * problem.truth[problem.labels] + _noise(
        np.random.default_rng(3), problem.n, len(BAND)
    )
    found = problem.run(regularisation=1.0).references
    kept = (found * problem.truth.conj()).real.abs() / problem.truth.abs().square().clamp_min(1e-9)
    shell = (BAND.shell_of == 5) | (BAND.shell_of == 4)
    assert kept[0, shell & ~along_x].mean() > 0.8
    # 25 times less is known of the others; noise makes single ones larger
    assert found[0, shell & along_x].abs().square().mean() < 0.6 * found[0, shell & ~along_x].abs().square().mean()


def test_rare_classes_move_less() -> None:
    problem = Problem(signal=3.0, shares=(0.34, 0.33, 0.33))
    problem.shares = torch.tensor([0.5, 0.05, 0.001], dtype=torch.float64)
    start = torch.zeros_like(problem.truth)
    result = problem.update(torch.arange(problem.n), start, Moments.none(3, len(BAND)))
    went = result.references.abs().square().sum(-1) / problem.truth.abs().square().sum(-1)
    assert went[0] > 1.5 * went[1] > 20 * went[2] > 0
    assert float(went[2].sqrt()) == pytest.approx(0.3 * (1 - np.exp(-0.019)), rel=0.1)


def test_classes_without_particles_stay_without_becoming_nan() -> None:
    problem = Problem(signal=1.0)
    problem.labels = problem.labels.clamp_max(1)
    problem.shares = torch.tensor([0.7, 0.3, 0.0], dtype=torch.float64)
    start = problem.truth.clone()
    result = problem.update(torch.arange(problem.n), start, Moments.none(3, len(BAND)))
    assert torch.equal(result.references[2], start[2])
    assert bool(torch.isfinite(torch.view_as_real(result.references)).all())
    assert float(result.misfit[2]) == 0


def test_grey_scale_of_images_changes_nothing_but_the_grey_scale() -> None:
    dark, bright = Problem(signal=0.5, sigma=1e-3), Problem(signal=0.5, sigma=50.0)
    found = [problem.run(n_minibatches=20).references / problem.sigma for problem in (dark, bright)]
    assert torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_a_narrow_band_updates_its_prefix_as_a_problem_of_its_own() -> None:
    problem = Problem(signal=1.0)
    head = BAND.head(5)
    rows, zero = torch.arange(problem.n), torch.zeros_like(problem.truth)
    gradients, curvatures = problem.sums(rows, zero, len(head))
    options = {"step": 0.5, "regularisation": 2.0, "fractions": problem.shares}
    whole = vdam.update(zero, gradients, curvatures, Moments.none(3, len(BAND)), shell_of=BAND.shell_of, **options)
    alone = vdam.update(
        zero[:, : len(head)], gradients, curvatures, Moments.none(3, len(head)), shell_of=head.shell_of, **options
    )
    assert torch.equal(whole.references[:, : len(head)], alone.references)
    assert not whole.references[:, len(head) :].any()


def test_moving_the_moments_moves_what_they_lead_to() -> None:
    problem = Problem(signal=1.0)
    shifts = torch.tensor([[3.0, -2.0], [0.0, 4.0], [-6.0, 2.0]], dtype=torch.float64)
    phases = phase_factors(BAND.frequencies, shifts).to(torch.complex64)
    result = problem.run(n_minibatches=12)
    nothing = torch.zeros(2, 3, len(BAND))
    options = {"step": 0.5, "regularisation": 2.0, "fractions": problem.shares, "shell_of": BAND.shell_of}
    stays = vdam.update(result.references, nothing + 0j, nothing, result.moments, **options)
    moved = vdam.update(result.references * phases, nothing + 0j, nothing, result.moments.shifted(phases), **options)
    assert torch.allclose(moved.references, stays.references * phases, atol=1e-5)
    assert torch.allclose(moved.signal_to_noise, stays.signal_to_noise, rtol=1e-4)


def test_misfit_is_what_the_likelihood_can_still_gain() -> None:
    problem = Problem(signal=3.0)
    rows = torch.arange(problem.n)
    far = problem.update(rows, torch.zeros_like(problem.truth), Moments.none(3, len(BAND)), momentum=0.0)
    near = problem.update(rows, problem.wiener(2.0), Moments.none(3, len(BAND)), momentum=0.0)
    assert (near.misfit < 0.02 * far.misfit).all()


def test_wrong_shapes_and_settings_are_refused() -> None:
    problem = Problem(signal=1.0)
    gradients, curvatures = problem.sums(torch.arange(10), problem.truth)
    moments = Moments.none(3, len(BAND))
    good = {"step": 0.3, "regularisation": 2.0, "fractions": problem.shares, "shell_of": BAND.shell_of}
    with pytest.raises(ShapeError, match="curvatures must have shape"):
        vdam.update(problem.truth, gradients, curvatures[:, :2], moments, **good)
    with pytest.raises(ShapeError, match="fractions must have shape"):
        vdam.update(problem.truth, gradients, curvatures, moments, **{**good, "fractions": torch.ones(2)})
    with pytest.raises(InputError, match="A step must lie"):
        vdam.update(problem.truth, gradients, curvatures, moments, **{**good, "step": 0.0})
    with pytest.raises(ShapeError, match="Moments"):
        Moments(first=gradients[0], second=curvatures)
