"""How much a wrong defocus, pixel size or B-factor costs when particles found by a template are refined.

    python benchmarks/template_robustness.py

The case is that of template_refinement.py: 30 particles whose truth is known, displaced from it by 1.16°, 1.2 px and
88 Å. Here they are projections of the template itself, padded four times, in white noise, so that what is wrong is the
one thing that a line names. Then the particles of the simulated micrograph, in boxes and micrographs of other sizes.
"""

import numpy as np
import torch
from template_refinement import PIXEL_SIZE, SETTINGS, SIDE, Case, at_truth, read_case
from torch import Tensor

from halfmap import keyed_random
from halfmap.compute.allocator import keep_large_blocks
from halfmap.geometry.rotations import rotation_vector_from_matrix
from halfmap.grid import ImageGrid
from halfmap.template_matching.boxes import Candidates
from halfmap.template_matching.filters import filter_micrograph
from halfmap.template_matching.model import BoxModel
from halfmap.template_matching.params import RefineTemplateParams
from halfmap.template_matching.polish import ParticleStates
from halfmap.template_matching.refine import refine_boxes, refine_particles
from halfmap.template_matching.search import Statistics
from halfmap.template_matching.template import prepare_template

BOX = 144
WIDE = {"defocus_min_angstrom": -400.0, "defocus_max_angstrom": 400.0}


class Simulated:
    """Boxes of the case's particles, and what is known of them."""

    def __init__(self, case: Case) -> None:
        grid = ImageGrid.square(BOX, PIXEL_SIZE)
        cube = ImageGrid.cubic(SIDE, PIXEL_SIZE)
        self.case, self.template = case, prepare_template(case.template, cube)
        curves = filter_micrograph(case.micrograph, RefineTemplateParams()).curves
        self.model = BoxModel.of(self.template, curves, grid)
        self.fine = self.model.with_template(prepare_template(case.template, cube, padding=4))
        self.amplitude = at_truth(case, self.template, BOX).amplitude[:, None].to(torch.float32)
        whole = case.position.to(torch.int64)
        self.true = ParticleStates(
            rotations=case.true_rotations,
            shifts_angstrom=(case.true_position - whole) * PIXEL_SIZE,
            defocus_angstrom=case.true_defocus,
        )

    def observed(self, *, pixel_size_angstrom: float = PIXEL_SIZE, b_factor_angstrom2: float = 0.0) -> Tensor:
        """Return boxes of particles with another pixel size and a higher B-factor than the template's, in noise."""
        model = self.fine.with_pixel_size(pixel_size_angstrom).with_b_factor(b_factor_angstrom2)
        true = self.true
        optics = self.case.optics.with_defocus_added(true.defocus_angstrom)
        signal = model.projections(optics, true.rotations, true.shifts_angstrom) * self.amplitude
        noise = keyed_random.normal(2, "noise", np.arange(len(signal)), size=(signal.shape[1], 2))
        return signal + torch.view_as_complex(torch.from_numpy(noise)).to(torch.complex64)

    def row(self, name: str, observed: Tensor, *, defocus_error_angstrom: float = 0.0, **settings: float) -> str:
        """Refine, and return a line of the table."""
        case, true = self.case, self.true
        known = ParticleStates(
            rotations=case.rotations,
            shifts_angstrom=torch.zeros_like(case.position),
            defocus_angstrom=case.known_defocus + defocus_error_angstrom,
        )
        params = RefineTemplateParams(**{**SETTINGS, **settings})
        statistics = Statistics.neutral(len(known), BOX - SIDE + 1)
        result = refine_boxes(self.model, observed, case.optics, known, statistics, params)
        states, found = result.states, result.fit
        turn = torch.rad2deg(rotation_vector_from_matrix(states.rotations @ true.rotations.mT).norm(dim=-1))
        away = (states.shifts_angstrom - true.shifts_angstrom).norm(dim=-1) / PIXEL_SIZE
        blur = (states.defocus_angstrom - true.defocus_angstrom).abs()
        size = result.pixel_size_offset_angstrom / PIXEL_SIZE * 100
        return (
            f"{name:46s} {float(turn.mean()):6.3f} {float(away.mean()):6.3f} {float(blur.mean()):6.0f} "
            f"{float(found.score.mean()):7.2f} {float(size.mean()):7.2f} ± {float(size.std()):.2f}"
        )


def sizes(case: Case) -> None:
    """Print how scores and poses depend on box and micrograph."""
    template = prepare_template(case.template, ImageGrid.cubic(SIDE, PIXEL_SIZE))
    params = RefineTemplateParams(**SETTINGS)
    inside = ((case.true_position > 110) & (case.true_position < 700)).all(-1)
    rows = torch.nonzero(inside).flatten()
    known = case.candidates(BOX)
    print(
        f"\n{len(rows)} particles of the micrograph; mean score, and rms differences of score, pose and position from "
        "the first line"
    )
    first = None
    for box, side in ((144, 1024), (136, 1024), (160, 1024), (192, 1024), (144, 900), (144, 810)):
        name = f"box {box}, micrograph {side}²"
        candidates = Candidates(
            position_pixel=known.position_pixel[rows], rotations=known.rotations[rows], optics=known.optics.take(rows),
            statistics=Statistics.neutral(len(rows), box - SIDE + 1),
        )  # fmt: skip
        found = refine_particles(case.micrograph[:side, :side], PIXEL_SIZE, candidates, template, box, params)
        first = first or found
        turn = torch.rad2deg(rotation_vector_from_matrix(found.rotations @ first.rotations.mT).norm(dim=-1))
        away = (found.position_pixel - first.position_pixel).norm(dim=-1)
        rms = [float(one.square().mean().sqrt()) for one in (found.mip - first.mip, turn, away)]
        print(f"{name:46s} {float(found.mip.mean()):7.3f} {rms[0]:7.3f} {rms[1]:6.3f}° {rms[2]:6.3f} px")


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    keep_large_blocks()
    case = read_case()
    scene = Simulated(case)
    plain = scene.observed()
    print("what is wrong; mean errors of angle (°), position (px), defocus (Å); mean score; pixel size found (%)")
    print(scene.row("nothing", plain))
    for error in (-300.0, -200.0, -100.0, 100.0, 200.0, 300.0):
        print(scene.row(f"defocus by {error:+.0f} Å, ±200 Å searched", plain, defocus_error_angstrom=error))
    for error in (-300.0, 300.0):
        name = f"defocus by {error:+.0f} Å, ±400 Å searched"
        print(scene.row(name, plain, defocus_error_angstrom=error, **WIDE))
    search = {
        "pixel_size_min_angstrom": -0.03, "pixel_size_max_angstrom": 0.03, "pixel_size_step_angstrom": 0.005,
    }  # fmt: skip
    for percent in (-1.0, -0.5, 0.5, 1.0):
        # pixels that are larger than it is said show the particle smaller, in those that are said
        observed = scene.observed(pixel_size_angstrom=PIXEL_SIZE / (1 + percent / 100))
        print(scene.row(f"pixel size by {percent:+.1f} %", observed))
        print(scene.row(f"pixel size by {percent:+.1f} %, ±1.5 % searched", observed, **search))
    for b_factor in (20.0, 40.0, 80.0):
        print(scene.row(f"B-factor by {b_factor:.0f} Å²", scene.observed(b_factor_angstrom2=b_factor)))
    sizes(case)


if __name__ == "__main__":
    main()
