"""Leopard-EM 1.2's own refinement of ../shared/data/oracles/leopard12, pose by pose and score by score."""

import numpy as np
import pytest
import torch

from halfmap.geometry.rotations import angular_distance_degrees, matrix_from_euler
from halfmap.grid import ImageGrid
from halfmap.io import images, leopard, mrc
from halfmap.template_matching.boxes import Candidates
from halfmap.template_matching.leopard_compat import CubicTemplate, refine_as_leopard
from halfmap.template_matching.model import ParticleOptics, cut_boxes
from halfmap.template_matching.params import RefineTemplateParams
from halfmap.template_matching.search import Statistics
from support.shared_data import shared_data

pytestmark = pytest.mark.oracle

BOX, WINDOW = 144, 17


@pytest.mark.parametrize("n", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_poses_are_the_same_and_z_within_a_thousandth(n):
    folder = shared_data("oracles/leopard12")
    before = leopard.LeopardColumns.read(folder / "stack_perturbed.csv")
    after = leopard.LeopardColumns.read(folder / "refined_leopard.csv")

    def numbers(table, name):
        return torch.from_numpy(table.numbers(name)[:n])

    def poses(table, prefix=""):
        return matrix_from_euler(*(numbers(table, prefix + name) for name in ("phi", "theta", "psi")))

    known = numbers(before, "relative_defocus")
    zero = torch.zeros(n, dtype=torch.float64)
    corners = torch.stack([numbers(before, f"pos_{axis}") for axis in "xy"], dim=-1).to(torch.int64) - WINDOW // 2
    maps = [
        cut_boxes(torch.from_numpy(images.read_micrograph(folder / "match" / f"corr_{name}.mrc").copy()), corners, 17)
        for name in ("average", "variance")
    ]
    candidates = Candidates(
        position_pixel=torch.stack([numbers(before, f"pos_{axis}_img") for axis in "xy"], dim=-1),
        rotations=poses(before),
        optics=ParticleOptics(
            defocus_u_angstrom=numbers(before, "defocus_u") + known,
            defocus_v_angstrom=numbers(before, "defocus_v") + known,
            defocus_angle_degrees=numbers(before, "astigmatism_angle"),
            voltage_kv=numbers(before, "voltage"),
            spherical_aberration_mm=numbers(before, "spherical_aberration"),
            amplitude_contrast=numbers(before, "amplitude_contrast_ratio"),
            phase_shift_degrees=zero,
            b_factor_angstrom2=zero,
        ),
        statistics=Statistics(mean=maps[0], deviation=maps[1]),
    )
    template = CubicTemplate.of(mrc.read_volume(folder / "template.mrc", 2.0).values, ImageGrid.cubic(128, 2.0))
    params = RefineTemplateParams(
        compat="leopard", tilt_step_degrees=0.5, psi_step_degrees=0.5,
        defocus_min_angstrom=-200, defocus_max_angstrom=200, defocus_step_angstrom=50,
    )  # fmt: skip
    micrograph = torch.from_numpy(images.read_micrograph(folder / "micrograph.mrc").copy())
    found = refine_as_leopard(micrograph, candidates, template, BOX, params)
    # the file has angles to five figures
    assert float(angular_distance_degrees(found.rotations, poses(after, "refined_")).max()) < 1e-3
    for i, axis in enumerate("xy"):
        assert torch.equal(found.position_pixel[:, i], numbers(after, f"refined_pos_{axis}_img"))
    assert torch.equal(found.defocus_offset_angstrom + known, numbers(after, "refined_relative_defocus"))
    np.testing.assert_allclose(found.z, numbers(after, "refined_scaled_mip"), atol=1e-3)
