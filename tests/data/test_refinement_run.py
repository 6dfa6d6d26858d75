"""A 3D refinement as one noun: what it holds together, and what follows for the map of all particles."""

from dataclasses import replace

import numpy as np
import pytest

from halfmap.data.class_averages import NoiseModel
from halfmap.data.volumes import Volume
from halfmap.errors import InconsistentDataError, ShapeError
from halfmap.grid import ImageGrid
from support.refinement_runs import a_refinement_run


def test_fsc_of_a_half_to_the_truth_gives_the_ssnr_of_the_joined_map():
    run = a_refinement_run()
    fsc = np.full(run.n_shells, 0.6)
    joined = replace(run, used_fsc=fsc).joined_ssnr()
    # A half map of signal-to-noise ratio s has F = s / (1 + s); the mean of two has 2 s.
    half = 0.6 / 0.4
    to_truth = np.sqrt(2 * half / (1 + 2 * half))
    np.testing.assert_allclose(joined, to_truth / (1 - to_truth), rtol=1e-12)


def test_joined_ssnr_is_finite_where_the_fsc_is_one_or_negative_or_unknown():
    run = a_refinement_run()
    fsc = np.zeros(run.n_shells)
    fsc[:3] = (1.0, -0.2, np.nan)
    ssnr = replace(run, used_fsc=fsc, regularisation=2.0).joined_ssnr()
    assert ssnr[0] == pytest.approx(2 * 999)
    assert np.isfinite(ssnr).all()
    assert (ssnr > 0).all()


def test_errors_of_halves_become_those_of_their_weighted_mean():
    run = a_refinement_run()
    first, second = (
        replace(half, error_variance=np.full(run.n_shells, value))
        for half, value in zip(run.halves, (2.0, 6.0), strict=True)
    )
    np.testing.assert_allclose(replace(run, halves=(first, second)).joined_error_variance(), 1.5)
    silent = replace(first, error_variance=np.zeros(run.n_shells))
    assert (replace(run, halves=(silent, silent)).joined_error_variance() == 0).all()


def test_noise_of_both_halves_is_averaged_and_what_one_half_knows_is_kept():
    run = a_refinement_run()
    shells = run.n_shells
    noise = [
        NoiseModel(
            optics_group=np.array(groups),
            noise_variance=np.full((len(groups), shells), value),
            group_name=np.array(names, dtype=object),
            group_scale=np.full(len(names), value),
        )
        for groups, names, value in (([1, 2], ["a", "b"], 1.0), ([2], ["b", "c"], 3.0))
    ]
    halves = tuple(replace(half, noise=one) for half, one in zip(run.halves, noise, strict=True))
    joined = replace(run, halves=halves).joined_noise()
    assert joined.optics_group.tolist() == [1, 2]
    assert joined.noise_variance[:, 0].tolist() == [1.0, 2.0]
    assert dict(zip(joined.group_name, joined.group_scale, strict=True)) == {"a": 1.0, "b": 2.0, "c": 3.0}


def test_particles_of_a_half_are_those_of_its_subset():
    run = a_refinement_run(n_particles=10)
    assert run.particles_of(2)["random_subset"].tolist() == [2] * 4
    assert len(run.particles_of(1)) + len(run.particles_of(2)) == 10


def test_maps_and_curves_of_other_shapes_and_particles_without_half_are_refused():
    run = a_refinement_run()
    other = Volume(values=run.halves[0].map.values, grid=ImageGrid.cubic(run.grid.side, 3.0))
    with pytest.raises(ShapeError, match="grid of half 1; got another for the joined map"):
        replace(run, joined=other)
    with pytest.raises(ShapeError, match="grid of half 1; got another for half 2"):
        replace(run, halves=(run.halves[0], replace(run.halves[1], map=other, unregularised=None)))
    with pytest.raises(ShapeError, match="Both maps of a half must have one grid"):
        replace(run.halves[0], map=other)
    with pytest.raises(ShapeError, match="fsc must have a value for each of the 13 shells"):
        replace(run, fsc=run.fsc[:-1])
    with pytest.raises(ShapeError, match="ssnr of a half must have a value for each of the 13 shells"):
        replace(run.halves[0], ssnr=run.fsc[:-1])
    with pytest.raises(InconsistentDataError, match="got 60 of 60 that have not"):
        run.with_particles(run.particles.with_columns(random_subset=0))
