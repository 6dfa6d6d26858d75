"""The demonstration's map beside the truth, in either hand."""

import numpy as np
import pytest
import torch

from halfmap.data.volumes import Volume
from halfmap.grid import ImageGrid
from halfmap.jobs import demo_map_report
from halfmap.report.blocks import Report
from support.refinement_runs import PIXEL_SIZE, a_refinement_run, blobs

HALF_TURN = np.diag([-1.0, -1.0, 1.0])
APART_PIXEL = np.array([3.0, -2.0])


def truth_of(run, *, is_mirrored):
    """The particles of a run where another hand has picked them, and the map, twice as large and finely sampled."""
    particles = run.particles
    pixel_size = particles.optics_values("micrograph_pixel_size_angstrom")[:, None]
    turn = HALF_TURN if is_mirrored else np.eye(3)
    truth = particles.with_columns(
        position_pixel=particles["position_pixel"] + APART_PIXEL,
        origin_angstrom=particles["origin_angstrom"] + APART_PIXEL * pixel_size,
        rotation=turn @ particles["rotation"],
    )
    fine = blobs(ImageGrid.cubic(49, PIXEL_SIZE / 2))
    values = fine.values.flip((0, 1, 2)) if is_mirrored else fine.values
    return truth, Volume(values=values, grid=fine.grid)


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_map_of_either_hand_agrees_with_the_truth(is_mirrored):
    run = a_refinement_run(is_final=True)
    truth, reference = truth_of(run, is_mirrored=is_mirrored)
    rows = np.arange(len(truth))
    rows[:5] = -1
    found = demo_map_report.against_truth(run, truth, rows, reference)
    assert found.is_mirrored == is_mirrored
    assert len(found.errors.angle_degrees) == len(truth) - 5
    # poses are the true ones, written as float64: what is left is the arccosine near 1
    assert found.errors.angle_degrees.max() < 1e-3
    assert found.errors.shift_angstrom.max() < 1e-6
    expected = blobs(run.grid).values
    # interpolation, and the edge of the finer map's box
    assert torch.corrcoef(torch.stack([found.truth.values.flatten(), expected.flatten()]))[0, 1] > 0.98
    assert found.maps.truth[1:5].min() > 0.9


def test_sections_show_map_and_truth():
    run = a_refinement_run(is_final=True)
    truth, reference = truth_of(run, is_mirrored=True)
    found = demo_map_report.against_truth(run, truth, np.arange(len(truth)), reference)
    sections = (demo_map_report.map_section(run.joined, 12.0, found), demo_map_report.agreement_section(found))
    assert [len(block.pictures) for block in sections[0].blocks[:4]] == [3, 3, 6, 6]
    assert "mirror image" in sections[0].blocks[4].text
    assert "promised by the half maps" in Report(title="", sections=sections).to_html()
