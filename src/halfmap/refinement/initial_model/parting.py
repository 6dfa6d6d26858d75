"""A class parted: where one class takes nearly all particles, how the others begin anew from parts of it."""

from dataclasses import replace

import numpy as np
import torch

from halfmap import keyed_random
from halfmap.compute.executor import Executor
from halfmap.inference import expectation
from halfmap.refinement.initial_model.maps import filtered_map, halves_of, kept_shares, pseudo_fsc, solvent_sphere
from halfmap.refinement.initial_model.params import InitialModelParams
from halfmap.refinement.initial_model.schedule import minibatch
from halfmap.refinement.initial_model.search import model_of, search_of
from halfmap.refinement.initial_model.state import InitialModelState
from halfmap.refinement.volume_problem import VolumeProblem

LEAST_SHARE = 0.5
"""Share of the particles below which a class begins anew, relative to what it would have were all alike."""


def with_parted_class(
    problem: VolumeProblem, params: InitialModelParams, state: InitialModelState, executor: Executor
) -> InitialModelState | None:
    """Return the state with its largest class parted: small classes begin anew, each from a part of its particles.

    Returns
    -------
    None where the largest class has too few particles for a part to have one each.

    Notes
    -----
    Its particles, no more than a mini-batch has, are drawn into parts, their poses found in its map alone, and each
    part makes a map with the details of the next mini-batch. Small classes are those with less than half of what they
    would have were all alike; where there are none, the smallest.
    """
    shares, iteration, n = state.fractions, state.iteration, len(problem.particles)
    largest = int(shares.argmax())
    others = [c for c in range(params.classes) if c != largest]
    small = [c for c in others if shares[c] < LEAST_SHARE / params.classes] or [
        min(others, key=shares.tolist().__getitem__)
    ]
    parts = [largest, *small]
    now, following = minibatch(params, iteration, n), minibatch(params, iteration + 1, n)
    search = search_of(problem, params, now, state.perturbation)
    found = state.assignments
    members = np.flatnonzero((found.class_index == largest) & (found.seen_in > 0))
    if len(members) < len(parts):
        return None
    uids = problem.particles.uid[members]
    order = keyed_random.order(params.seed, "parts of a class", uids, iteration=iteration)[: now.n_particles]
    model = model_of(problem, params, replace(state, references=state.references[largest, None]), search)
    data, weight = state.data.clone(), state.weight.clone()
    for number, c in enumerate(parts):
        rows = np.sort(members[order[number :: len(parts)]])
        sums = expectation.expect(problem.sent, model, problem.data, rows, executor)
        data[:, c], weight[:, c] = sums.slices.data[:, 0], sums.slices.weight[:, 0]
    symmetry = problem.symmetry if now.has_symmetry else "C1"
    halves = [halves_of(problem, data[:, c], weight[:, c], symmetry) for c in parts]
    sphere = solvent_sphere(problem, params, halves[0], following)
    fsc = torch.stack([pseudo_fsc(problem, one, sphere, search.shell) for one in halves])
    alike = torch.full((len(parts),), 1 / len(parts), dtype=torch.float64)
    kept = kept_shares(alike, fsc)
    references, fractions = state.references.clone(), shares.clone()
    for c, one in zip(parts, halves, strict=True):
        references[c] = filtered_map(problem, one, sphere, kept, following)
    fractions[parts] = shares[parts].sum() * alike
    return replace(state, references=references, data=data, weight=weight, fractions=fractions)
