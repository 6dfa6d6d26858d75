"""Classes begun anew: from parts of the largest, tried beside what there is, and kept where images fit them better."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap import keyed_random
from halfmap.compute.in_process import InProcessExecutor
from halfmap.data.image_source import ArraySource
from halfmap.geometry.rotations import random_rotations
from halfmap.geometry.shapes import raised_cosine_edge
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.refinement.initial_model import ab_initio
from halfmap.refinement.initial_model.params import InitialModelParams
from halfmap.refinement.initial_model.parting import with_parted_class
from halfmap.refinement.initial_model.schedule import class_trial
from support.model_images import particles_of
from support.volume_images import Views, drawn_views_images, volumes

PIXEL, SIDE = 5.0, 24


def small(**given):
    return InitialModelParams(**{"mask_diameter_angstrom": 110.0, "minibatches": 10, "classes": 2, **given})


def started(true, n, params, executor, pixel_variance=0.01):
    """Return the problem, its first state, and the class of each image of half as many particles of either map."""
    grid = ImageGrid.square(SIDE, PIXEL)
    views = Views(
        class_index=np.arange(n, dtype=np.int64) % len(true),
        rotation=random_rotations(1, "truth", np.arange(n)),
        origin_angstrom=4.0 * keyed_random.normal(1, "true origins", np.arange(n), size=2),
    )
    particles = particles_of(n, grid, n_micrographs=3)
    images = drawn_views_images(true, particles, views, grid, noise.white_spectrum(grid, pixel_variance))
    problem = ab_initio.problem_of(particles, ArraySource(images=images.numpy(), grid=grid), params, executor)
    return problem, ab_initio.start(problem, params), views.class_index


def correlation(one, other):
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_small_classes_begin_anew_from_parts_of_the_largest():
    params = small(classes=4)
    true = volumes(1, SIDE, PIXEL, radius_angstrom=48.0, blob_angstrom=6.0, seed=3)
    with InProcessExecutor(n_threads=1) as executor:
        problem, state, _ = started(true, 60, params, executor)
        found = replace(state.assignments, seen_in=np.ones(60, dtype=np.int64))
        state = replace(
            state,
            iteration=2,
            references=torch.stack([true[0] * 0.5, true[0], true[0] * 0.0, true[0] * 0.0]),
            fractions=torch.tensor([0.3, 0.6, 0.04, 0.06], dtype=torch.float64),
            assignments=replace(found, class_index=np.ones(60, dtype=np.int64)),
        )
        parted = with_parted_class(problem, params, state, executor)
    assert parted is not None
    assert parted.iteration == state.iteration
    assert torch.equal(parted.references[0], state.references[0])  # neither large nor small
    assert parted.fractions.tolist() == pytest.approx([0.3, 0.7 / 3, 0.7 / 3, 0.7 / 3])
    parts = parted.references[1:]
    for c, values in enumerate(parts):
        assert correlation(values, true[0]) > 0.8
        assert correlation(values, parts[c - 1]) < 0.999


def test_a_class_of_fewer_particles_than_parts_is_not_parted():
    """A part of none has no map: initial models of 12 particles in 10 classes ended there."""
    params = small(classes=4)
    with InProcessExecutor(n_threads=1) as executor:
        problem, state, _ = started(volumes(1, SIDE, PIXEL, radius_angstrom=48.0), 12, params, executor)
        found = replace(state.assignments, seen_in=np.ones(12, dtype=np.int64), class_index=np.arange(12) % 4)
        shares = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)
        state = replace(state, fractions=shares, assignments=found, iteration=2)
        assert with_parted_class(problem, params, state, executor) is None


def test_structures_part_where_one_class_had_taken_all():
    """Without a trial the class that was left with hardly a particle stayed so, and 0.53 were in their class."""
    params, n = small(), 120
    whole, other = (volumes(1, SIDE, PIXEL, radius_angstrom=48.0, blob_angstrom=6.0, seed=seed)[0] for seed in (2, 9))
    x, y, _ = ImageGrid.cubic(SIDE, PIXEL).positions(dtype=torch.float32).unbind(-1)
    true = torch.stack([whole, whole * raised_cosine_edge(torch.minimum(x, y), 10.0)])
    with InProcessExecutor(n_threads=1) as executor:
        problem, state, truth = started(true, n, params, executor)
        state = replace(
            state,
            iteration=class_trial(params)[0],
            references=torch.stack([true.mean(0), other]),
            fractions=torch.tensor([0.9, 0.1], dtype=torch.float64),
            assignments=replace(state.assignments, seen_in=np.ones(n, dtype=np.int64)),
        )
        while state.iteration < class_trial(params)[1]:
            state = ab_initio.advance(problem, params, state, executor)
    found = state.assignments.class_index
    assert max((found == truth).mean(), (found != truth).mean()) > 0.95
