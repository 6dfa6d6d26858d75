"""M's score: its formula by hand, its gradient, and that it leads to the same place."""

import math

import numpy as np
import pytest
import torch

from halfmap.fourier import slices
from halfmap.imaging.projection import shift_phases
from halfmap.imaging.series_transfer import ctf_values, image_ctf, image_weights
from halfmap.multiparticle.joint import descend_jointly
from halfmap.multiparticle.m_ncc import MObjective, m_score
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.schedule import Schedule
from support.tilt_windows import scene, tilt_series

POSES = ParameterChoice(positions=True, angles=True)


@pytest.fixture(scope="module")
def drawn():
    return scene(n=6, n_tilts=4, box=24, snr=0.5, true_series=tilt_series(4))


@pytest.fixture(scope="module")
def fitted(drawn):
    return drawn.fit(POSES, Schedule(sub_iterations=1, steps=4))


def test_score_is_the_correlation_of_filtered_images_with_whitened_slices(drawn, fitted):
    found = m_score(fitted.comparison, drawn.start_of(fitted))
    series, state = drawn.start
    band, observed = drawn.images.bands[0], drawn.images.observed[0]
    seen = drawn.seen(series, state)
    ctf = ctf_values(series, image_ctf(series, state.position_angstrom, seen), band.frequencies)
    weight = image_weights(series, seen, band.frequencies)
    power = torch.stack([band.shell_sum(observed[:, t].abs().square()).sum(0) for t in range(4)])
    spectrum = (power / band.shell_sum(torch.ones(len(band))))[:, 1:]
    spectrum = (spectrum / spectrum.mean(1, keepdim=True))[:, band.shell_of - 1]
    x = observed * ctf * weight
    shift = seen.position_angstrom - drawn.images.centre_angstrom[0]
    view = slices.extract(state.references.halves[0], seen.rotation, band)
    y = view * shift_phases(band.frequencies, shift) * weight / spectrum
    cross = (x * y.conj()).real.sum(-1)
    expected = cross.sum() / (x.abs().square().sum() * y.abs().square().sum()).sqrt()
    assert found.value == pytest.approx(100 * 6 * 4 * float(expected), rel=1e-4)
    one = cross[2].sum() / (x[2].abs().square().sum() * y[2].abs().square().sum()).sqrt()
    assert float(found.of_particles[2]) == pytest.approx(100 * 4 * float(one), rel=1e-4)
    assert found.of_images.shape == (4,)


def test_gradient_of_the_score_is_that_of_differences(drawn, fitted):
    objective = MObjective(fitted.comparison, drawn.start_of(fitted))
    vector = torch.zeros(6 * 6, dtype=torch.float64, requires_grad=True)
    objective(vector)
    for number in (0, 2, 20, 35):  # Å and degrees
        step = torch.zeros(36, dtype=torch.float64)
        step[number] = 0.02
        difference = (objective(step) - objective(-step)) / 0.04
        # slices are interpolated linearly, so slopes jump a little
        assert float(vector.grad[number]) == pytest.approx(
            float(difference), rel=0.05, abs=0.02 * float(vector.grad.abs().max())
        )


def test_score_of_a_drawn_series_is_the_number_that_it_was(drawn, fitted):
    found = m_score(fitted.comparison, drawn.start_of(fitted))
    # float32 sums in another order differ by 1e-6; anything else is another score
    assert found.value == pytest.approx(685.97, rel=1e-4)
    assert found.of_images.tolist() == pytest.approx([152.685, 189.311, 165.881, 125.571], rel=1e-4)


def test_a_fit_by_the_score_raises_it_and_sets_no_particle_aside(drawn):
    found = drawn.fit(POSES, Schedule(sub_iterations=1, objective="m_ncc"))
    assert found.objective_after < found.objective_before < 0
    best = found.visited.parameters
    assert found.objective_after == pytest.approx(-m_score(found.comparison, best).value)
    assert all(
        one < 0.6 * at_first
        for one, at_first in zip(drawn.errors(best)[:2], drawn.errors(drawn.start_of(found)), strict=False)
    )
    assert not found.set_aside[0].any()


def test_a_fit_by_the_score_leaves_the_ctf_alone_where_images_are_too_coarse(drawn):
    choice = ParameterChoice(positions=True, defocus=True)
    coarse = Schedule(sub_iterations=1, objective="m_ncc", ctf_resolution_angstrom=1.0)
    fine = Schedule(sub_iterations=1, objective="m_ncc", ctf_resolution_angstrom=30.0)
    start = drawn.start[0].defocus_angstrom.values
    assert torch.equal(drawn.fit(choice, coarse).visited.parameters.series.defocus_angstrom.values, start)
    assert not torch.equal(drawn.fit(choice, fine).visited.parameters.series.defocus_angstrom.values, start)


def test_score_and_likelihood_agree_on_where_particles_are(drawn, fitted):
    start = drawn.start_of(fitted)
    objective = MObjective(fitted.comparison, start)
    vector, value = descend_jointly(objective, 36, max_iterations=6)
    assert value < float(objective(torch.zeros(36, dtype=torch.float64)))
    before, after = drawn.errors(start), drawn.errors(objective.place(vector))
    by_likelihood = drawn.errors(fitted.visited.parameters)
    assert after[0] < 0.6 * before[0]
    assert after[1] < 0.4 * before[1]
    assert after[0] < 2.5 * by_likelihood[0]
    assert not math.isnan(value)
    assert np.isfinite(after).all()
