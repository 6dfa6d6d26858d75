"""Steps of a series: never worse, in agreement with automatic differentiation, refused where nothing can be fitted."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from halfmap.data.image_series import SeriesWeights
from halfmap.errors import ComputeError, InputError
from halfmap.fourier import slices
from halfmap.imaging.series_transfer import image_weights
from halfmap.multiparticle import solve
from halfmap.multiparticle.fit import MOST_DAMPING, Parameters, descend, memory_bytes, moved, visit
from halfmap.multiparticle.joint import JointObjective, descend_jointly
from halfmap.multiparticle.parameter_layout import Layout
from halfmap.multiparticle.params import ParameterChoice
from halfmap.multiparticle.schedule import Schedule, fractions, shell_at
from halfmap.multiparticle.series_model import BATCH_BYTES, SpeciesModel
from halfmap.splines.grids import SplineGrid
from support.made_tensors import MadeTensors
from support.tilt_windows import EVERYTHING, DrawnImages, scene, tilt_series, with_rows

ONE = Schedule(sub_iterations=1, steps=4, ctf_resolution_angstrom=30.0)


@pytest.fixture(scope="module")
def drawn():
    return scene(n=10, n_tilts=7, box=24, snr=0.3)


@pytest.fixture(scope="module")
def fitted(drawn):
    return drawn.fit(schedule=ONE)


def test_each_kept_step_is_better_than_the_one_before(fitted):
    objectives = [step.objective for step in fitted.steps]
    assert len(objectives) >= 3
    assert all(after < before for before, after in pairwise(objectives))
    assert fitted.visited.objective < fitted.objective_before


def test_gradient_of_the_normal_equations_is_that_of_automatic_differentiation(drawn, fitted):
    start = drawn.start_of(fitted)
    objective = JointObjective(fitted.comparison, start)
    vector = torch.zeros(fitted.comparison.layouts[0].n_parameters, dtype=torch.float64, requires_grad=True)
    value = objective(vector)
    here = visit(fitted.comparison, start)
    assert float(value) == pytest.approx(here.objective, rel=1e-6)
    own = here.equations.particles[0].gradient.flatten()
    expected = torch.cat([here.equations.gradient, own]) * objective.units
    torch.testing.assert_close(vector.grad, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_joint_descent_ends_in_the_same_minimum():
    few = scene(n=5, n_tilts=4, box=24, snr=0.3)
    fit = few.fit(ParameterChoice(positions=True, angles=True, defocus=True), ONE)
    start = few.start_of(fit)
    objective = JointObjective(fit.comparison, start)
    vector, value = descend_jointly(objective, fit.comparison.layouts[0].n_parameters, max_iterations=50)
    here = descend(fit.comparison, fit.visited, 5)
    assert value == pytest.approx(here.objective, abs=0.5)  # half a nat: what an error bar is worth
    joint = moved(start, fit.comparison.layouts, *objective.split(vector))
    for one, other in zip(few.errors(joint), few.errors(here.parameters), strict=True):
        assert one == pytest.approx(other, rel=0.1)


def test_a_step_that_makes_images_less_likely_is_not_kept(drawn, fitted, monkeypatch):
    tried = []

    def backwards(equations, damping=0.0):
        tried.append(damping)
        shared, own = solve.minimum(solve.damped(equations, damping))
        return -shared, tuple(-part for part in own)

    here = visit(fitted.comparison, drawn.start_of(fitted))
    monkeypatch.setattr("halfmap.multiparticle.fit.solve.step", backwards)
    monkeypatch.setattr("halfmap.multiparticle.normal_equations.NormalEquations.predicted_change", lambda *_: -100.0)
    after = descend(fitted.comparison, here, 3)
    assert after.parameters is here.parameters
    assert tried[0] == 0.0
    assert tried[-1] > MOST_DAMPING


def test_a_half_set_does_not_see_the_other_half_of_the_references(drawn, fitted):
    series, state = drawn.start
    first, second = state.references.halves
    other = slices.PaddedTransform(values=second.values * 1.7, grid=second.grid)
    changed = dataclasses.replace(state.references, halves=(first, other))
    here = drawn.start_of(fitted)
    there = Parameters(
        series=series,
        species=(dataclasses.replace(state, references=changed),),
        shared=here.shared,
        own=here.own,
    )
    looks = [fitted.comparison.looked_at(place)[0].products for place in (here, there)]
    of_first = state.subset == 1
    assert torch.equal(looks[0].cross[of_first], looks[1].cross[of_first])
    assert torch.allclose(looks[1].cross[~of_first], 1.7 * looks[0].cross[~of_first], rtol=1e-4)


def test_a_coarse_species_has_no_say_in_the_ctf(drawn):
    coarse = dataclasses.replace(ONE, ctf_resolution_angstrom=5.0)
    fit = drawn.fit(schedule=coarse)
    layout = fit.comparison.layouts[0]
    of_defocus = torch.tensor([name.startswith("defocus") for name in layout.names])
    assert bool((fit.visited.parameters.shared[of_defocus].abs() < 1e-9).all())
    assert float(fit.visited.parameters.shared[~of_defocus].abs().max()) > 0.5


def test_memory_follows_from_shapes(drawn, fitted):
    here, layouts = fitted.visited, fitted.comparison.layouts
    products = here.looks[0].products
    arrays = [getattr(products, field.name) for field in dataclasses.fields(products)]
    equations = here.equations.particles[0]
    arrays += [here.designs[0].particle, equations.hessian, equations.cross, here.equations.hessian]
    kept = sum(array.numel() * array.element_size() for array in arrays)
    stated = memory_bytes(drawn.start[0], layouts) - BATCH_BYTES
    assert 2 * kept < stated < 8 * kept  # two places, and what is made on the way
    twice = [Layout(drawn.start[0], 20, 1, layouts[0].choice)]
    half = [Layout(drawn.start[0], 0, 1, layouts[0].choice)]
    parts = [memory_bytes(drawn.start[0], these) - BATCH_BYTES for these in (half, layouts, twice)]
    assert parts[2] - parts[1] == parts[1] - parts[0]  # linear in particles


def test_memory_counts_the_weights_of_nodes_in_every_view(drawn):
    series, _ = drawn.start
    growth = []
    for nodes in ("3x3", "6x6"):
        one, two = (Layout(series, n, 1, ParameterChoice(image_warp=nodes, positions=True)) for n in (1, 2))
        coupling = 2 * one.n_particle * one.n_shared
        growth.append((memory_bytes(series, [two]) - memory_bytes(series, [one])) // 16 - coupling)
    assert growth[1] - growth[0] == len(series) * 2 * (36 - 9)  # of movements along x and along y


def test_weights_of_places_are_worked_out_for_the_particles_of_a_batch_in_one_image(drawn):
    series, state = drawn.start
    place = SplineGrid(values=torch.tensor([[[0.5, 1.0]]], dtype=torch.float64))
    series = series.with_values(weights=SeriesWeights(scale_of_place=place))
    band, rows = drawn.images.bands[0], torch.tensor([1, 4, 7])
    with MadeTensors(len(band)) as made:
        model = SpeciesModel(series, state, band, drawn.images.centre_angstrom[0], torch.ones(10, 7, dtype=torch.bool))
        shown = model.modelled(2, rows, ())
    assert made.largest < 10 * len(band)  # particles, let alone particles × images
    weights = image_weights(series, model.seen, band.frequencies)
    plain = SpeciesModel(drawn.start[0], state, band, drawn.images.centre_angstrom[0], model.counted)
    unweighted = image_weights(drawn.start[0], model.seen, band.frequencies)
    expected = plain.modelled(2, rows, ())[:, 0] * weights[rows, 2] / unweighted[2]
    torch.testing.assert_close(shown[:, 0], expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def test_two_species_fit_one_series_together(drawn, fitted):
    series, state = drawn.start
    halves = [with_rows(state, rows) for rows in (slice(0, 6), slice(6, 10))]
    observed, centre = drawn.images.observed[0], drawn.images.centre_angstrom[0]
    images = DrawnImages(
        [observed[:6], observed[6:]], drawn.images.bands * 2, [centre[:6], centre[6:]], drawn.images.used
    )
    both = dataclasses.replace(drawn, images=images)
    together = both.fit(schedule=ONE, states=tuple(halves))
    alone = fitted
    # the noise and the scales of each species are estimated from fewer particles
    for one, other in zip(
        (together.visited.parameters.shared, torch.cat(together.visited.parameters.own)),
        (alone.visited.parameters.shared, alone.visited.parameters.own[0]),
        strict=True,
    ):
        scale = float(other.abs().max())
        assert float((one - other).abs().max()) < 0.15 * scale
    assert series is not together.visited.parameters.series


def test_images_that_are_not_used_change_nothing(drawn):
    series, _ = drawn.start
    used = np.ones(7, dtype=bool)
    used[3] = False
    observed = drawn.images.observed[0].clone()
    observed[:, 3] = 1e6
    images = DrawnImages([observed], drawn.images.bands, drawn.images.centre_angstrom, used)
    fit = dataclasses.replace(drawn, images=images).fit(schedule=ONE, series=series.with_values(is_used=used))
    assert not bool(fit.visited.looks[0].counted[:, 3].any())
    errors = drawn.local_errors(fit.visited.parameters)[:, used]
    assert float(torch.rad2deg(errors[..., 2:5]).square().sum(-1).mean().sqrt()) < 2.0


def test_references_that_are_not_in_the_images_are_refused(drawn):
    images = DrawnImages(
        [-drawn.images.observed[0]], drawn.images.bands, drawn.images.centre_angstrom, drawn.images.used
    )
    with pytest.raises(InputError, match="must resemble the references"):
        dataclasses.replace(drawn, images=images).fit(schedule=ONE)


def test_particles_outside_of_all_images_are_refused(drawn):
    _, state = drawn.start
    away = dataclasses.replace(state, position_angstrom=state.position_angstrom + 1e5)
    with pytest.raises((ComputeError, InputError)):
        drawn.fit(schedule=ONE, states=(away,))


def test_a_joint_fit_refuses_what_it_cannot_differentiate(drawn):
    choice = ParameterChoice(magnification=True)
    fit = drawn.fit(choice=choice, schedule=ONE)
    with pytest.raises(InputError, match="can not differentiate"):
        JointObjective(fit.comparison, drawn.start_of(fit))


def test_searches_find_shifts_of_images_that_steps_cannot_reach():
    far = scene(n=20, n_tilts=7, box=32, snr=0.1, turn=2.0, move=2.0, true_series=tilt_series(7))
    series, _ = far.true
    shift = 12.0 * torch.from_numpy(np.random.default_rng(3).normal(size=(2, 7)))
    far_series = series.with_values(
        movement_x_angstrom=dataclasses.replace(
            series.movement_x_angstrom, values=series.movement_x_angstrom.values + shift[0, :, None, None]
        ),
        movement_y_angstrom=dataclasses.replace(
            series.movement_y_angstrom, values=series.movement_y_angstrom.values + shift[1, :, None, None]
        ),
    )
    searching = Schedule(sub_iterations=3, steps=2, search_angstrom=35.0)
    fit = far.fit(choice=dataclasses.replace(EVERYTHING, defocus=False), schedule=searching, series=far_series)
    assert far.errors(fit.visited.parameters)[1] < 1.0  # Å; the images were 17 Å off


def test_the_resolution_grows_evenly_and_leaves_something_to_compare():
    assert fractions(Schedule(sub_iterations=3, first_fraction=0.5)) == [0.5, 0.75, 1.0]
    assert fractions(Schedule(sub_iterations=1)) == [1.0]
    assert [shell_at(12, fraction) for fraction in (0.1, 0.5, 1.0)] == [3, 6, 12]
    assert shell_at(2, 0.5) == 2


def test_particles_that_are_not_there_are_set_aside_and_do_not_harm_the_rest():
    full = scene(n=16, n_tilts=9, box=32, snr=0.1)
    there = torch.arange(16) % 4 != 3
    observed = full.images.observed[0].clone()
    observed[~there] -= full.clean[~there]  # noise alone is left
    images = DrawnImages([observed], full.images.bands, full.images.centre_angstrom, full.images.used)
    fit = dataclasses.replace(full, images=images).fit()
    assert torch.equal(fit.set_aside[0], ~there)
    assert float(fit.gain[0][there].min()) > 50
    assert float(fit.gain[0][~there].max()) < -50
    # a quarter of the particles lowered the scale of all; without them it is right
    assert float(fit.visited.looks[0].scale.mean()) == pytest.approx(1.0, abs=0.05)
    assert not bool(full.fit().set_aside[0].any())
