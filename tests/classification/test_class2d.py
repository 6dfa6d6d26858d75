"""The step as a whole: what its iterations hand on to one another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from halfmap.classification import class2d, decisions, revival
from halfmap.classification.params import ClassificationParams
from halfmap.classification.problem import ClassificationProblem
from halfmap.classification.revival import Replacement
from halfmap.classification.state import ClassificationState
from halfmap.compute.in_process import InProcessExecutor
from halfmap.data.image_source import ArraySource
from halfmap.data.table import Table
from halfmap.grid import ImageGrid
from halfmap.imaging import noise
from halfmap.units import Length
from support.model_images import particles_of, shapes

GRID = ImageGrid.square(32, 4.0)
PARAMS = ClassificationParams(
    classes=3,
    mask_diameter_angstrom=96.0,
    algorithm="em",
    iterations=6,
    psi_step_degrees=15.0,
    offset_range=Length(4.0, in_pixels=True),
    offset_step=Length(2.0, in_pixels=True),
)


def a_problem(executor: InProcessExecutor, params: ClassificationParams, *, n: int = 60) -> ClassificationProblem:
    """Put two shapes, a third of a box beside its centre, into noise."""
    particles = particles_of(n, GRID, seed=3)
    kinds = torch.roll(shapes(2, GRID, radius_angstrom=20.0), 3, dims=-1)
    white = noise.draw(3, "noise", particles.uid, GRID, noise.white_spectrum(GRID, 1.0))
    images = 2 * kinds[torch.arange(n) % 2] / kinds.std() + white
    return ClassificationProblem.of(particles, ArraySource(images=images.numpy(), grid=GRID), params, executor)


def states_of(params: ClassificationParams) -> list[ClassificationState]:
    with InProcessExecutor() as executor:
        problem = a_problem(executor, params)
        states = [class2d.start(problem, params, executor)]
        while states[-1].outcome == "running":
            states.append(class2d.advance(problem, params, states[-1], executor))
    return states


def test_a_run_that_ends_keeps_its_classes_as_they_were_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins are made while there is time for them to part, and never of what is counted and shown in the end."""
    monkeypatch.setattr(revival, "is_time", lambda *_: True)
    monkeypatch.setattr(revival, "replacement", lambda *_, **__: Replacement(dead=0, donor=1))
    monkeypatch.setattr(decisions, "nothing_changes", lambda history: len(history) == 3)
    states = states_of(PARAMS)
    np.testing.assert_array_equal(states[-1].history["revived_classes"], [1, 1, 0])
    assert states[-1].outcome == "converged"
    shares = [state.references.fractions for state in states]
    assert float(shares[2][0]) == float(shares[2][1])
    assert float(shares[3][0]) != float(shares[3][1])


def test_the_end_is_decided_by_what_was_revived_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []

    def asked(history: Table) -> bool:
        seen.append(history["revived_classes"].tolist())
        return False

    monkeypatch.setattr(revival, "is_time", lambda *_: True)
    monkeypatch.setattr(revival, "replacement", lambda *_, **__: Replacement(dead=0, donor=1))
    monkeypatch.setattr(decisions, "nothing_changes", asked)
    states_of(PARAMS)
    assert seen[:3] == [[0], [1, 0], [1, 1, 0]]


def test_centring_moves_averages_with_and_without_prior_alike() -> None:
    """The averages that a run leaves are those without prior; origins of the particles follow the others."""
    with InProcessExecutor() as executor:
        problem = a_problem(executor, PARAMS)
        state = class2d.start(problem, PARAMS, executor)
        beside = torch.roll(shapes(PARAMS.classes, GRID, radius_angstrom=20.0), (2, -3), dims=(-2, -1))
        references = replace(state.references, unmasked=beside, masked=beside, plain=beside)
        moved, _, _ = class2d._centred(problem, PARAMS, state, references, None, state.assignments)
    assert not torch.equal(moved.unmasked, beside)
    assert torch.equal(moved.plain, moved.unmasked)
