import numpy as np
import pytest

from halfmap import keyed_random
from halfmap.picking.network.calibration import calibrate, to_own_share


def peaks(labelled_share, n=6000):
    """Scores of which half are particles', their true log-odds 2 s, a share of the particles labelled."""
    z = keyed_random.normal(1, "test scores", np.arange(n))
    is_particle = np.arange(n) % 2 == 0
    score = z + np.where(is_particle, 1.0, -1.0)  # two normals at ±1: log-odds 2 s
    chance = keyed_random.uniform(1, "test labels", np.arange(n))
    return score, is_particle & (chance < labelled_share), is_particle


@pytest.mark.parametrize("labelled_share", [1.0, 0.5, 0.2])
def test_log_odds_come_true_whatever_share_is_labelled(labelled_share):
    score, labelled, is_particle = peaks(labelled_share)
    fit = calibrate(score, labelled, labelled_share)
    odds = fit.slope * score + fit.shift
    even = np.abs(odds) < 0.5
    # at a fifth labelled the plateau itself is known to a tenth, which moves the shift by 0.2
    assert 0.35 < is_particle[even].mean() < 0.65
    assert fit.labelled_share == pytest.approx(labelled_share, rel=0.15)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_guess_of_the_labelled_share_hardly_moves_even_odds(factor):
    score, labelled, _ = peaks(0.4)
    right, wrong = calibrate(score, labelled, 0.4), calibrate(score, labelled, 0.4 * factor)
    assert abs(-right.shift / right.slope + wrong.shift / wrong.slope) < 0.1  # of a deviation of 1


def test_separable_scores_give_a_finite_slope():
    score = np.concatenate([np.full(50, -3.0), np.full(50, 3.0)])
    fit = calibrate(score, score > 0, 1.0)
    assert 0.5 < fit.slope < 20
    assert abs(fit.shift / fit.slope) < 1.0


def test_peaks_all_labelled_or_none_do_not_fail():
    score = np.linspace(-2, 2, 40)
    for labelled in (np.ones(40, dtype=bool), np.zeros(40, dtype=bool)):
        fit = calibrate(score, labelled, 0.5)
        assert np.isfinite([fit.slope, fit.shift, fit.labelled_share]).all()


@pytest.mark.parametrize(("learned", "told"), [(0.0, 0.0), (0.6, 0.6), (3.0, 1.5)])
def test_peaks_that_have_taught_count_but_do_not_make_the_others_surer(learned, told):
    score, labelled, is_particle = peaks(1.0)
    taught = np.arange(len(score)) >= 600
    shown = score + np.where(is_particle & taught, learned / 2, 0.0)
    fit = calibrate(shown, labelled, 1.0, has_taught=taught)
    assert fit.taught_shift < told + 0.2
    even = np.abs(fit.slope * score + fit.shift) < 0.5
    assert 0.35 < is_particle[even].mean() < 0.65


def field(n_particles, n_others=4000):
    """Log-odds of peaks as of a micrograph where a fifth are particles, and which of them are."""
    z = keyed_random.normal(2, "test scores", np.arange(n_particles + n_others))
    is_particle = np.arange(len(z)) < n_particles
    return 2 * (1.5 * z + np.where(is_particle, 2.25, -2.25)) + np.log(0.2 / 0.8), is_particle


@pytest.mark.parametrize("n_particles", [120, 1000, 6000])
def test_log_odds_come_true_whatever_share_of_the_peaks_are_particles(n_particles):
    log_odds, is_particle = field(n_particles)
    even = np.abs(log_odds + to_own_share(log_odds, 0.2)) < 0.7
    assert 0.35 < is_particle[even].mean() < 0.65


def test_where_the_share_is_the_usual_one_nothing_changes():
    assert abs(to_own_share(field(1000)[0], 0.2)) < 0.1


def test_without_a_particle_nothing_is_likely():
    log_odds, _ = field(0)
    assert (log_odds > 0).sum() > 10
    assert (log_odds + to_own_share(log_odds, 0.2) > 0).sum() <= 1


def test_sure_peaks_alone_move_no_further_than_half_a_peak_allows():
    assert to_own_share(np.full(50, 30.0), 0.5) == pytest.approx(np.log(99))
    assert to_own_share(np.full(50, -30.0), 0.5) == pytest.approx(-np.log(99))
    assert to_own_share(np.zeros(0), 0.2) == 0.0
