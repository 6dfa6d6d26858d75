"""How well and how fast particles found by a template are refined, beside Leopard-EM where it can be imported.

    python benchmarks/template_refinement.py                 ours, in Leopard-EM's way and in our own
    python benchmarks/template_refinement.py --leopard-em    and Leopard-EM itself on the same particles
    python benchmarks/template_refinement.py --box 134       a box in which positions move by 3 px, not by 8
    python benchmarks/template_refinement.py --repeats 5     and 5 times 30 particles at the same poses in new noise

The case is the simulated one of ../shared/data/oracles/leopard12: 30 particles whose truth is known, displaced from it
by 1.16°, 1.2 px and 88 Å. Errors stand beside the Cramér–Rao bound at the truth: the mean error of an unbiased estimate
whose covariance is the bound, by 4000 draws for each particle, of a template padded four times. CPU times are of one
thread, of the search and the climb alone: without imports, without reading, filtering and preparing the template on
either side.

Leopard-EM: pip install leopard-em==1.2 'torch-motion-correction<0.1'; without CUDA it needs the stand-ins below.
"""

import argparse
import csv
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import torch
import yaml
from torch import Tensor

from halfmap import keyed_random
from halfmap.compute.allocator import keep_large_blocks
from halfmap.geometry.rotations import (
    angular_distance_degrees,
    matrix_from_euler,
    rotation_vector_from_matrix,
)
from halfmap.grid import ImageGrid
from halfmap.io import images, leopard, leopard_config, mrc
from halfmap.template_matching.boxes import Candidates
from halfmap.template_matching.filters import filter_micrograph
from halfmap.template_matching.leopard_compat import CubicTemplate, refine_as_leopard
from halfmap.template_matching.model import BoxModel, ParticleOptics, cut_boxes
from halfmap.template_matching.params import RefineTemplateParams
from halfmap.template_matching.polish import Fit, ParticleStates, fit
from halfmap.template_matching.refine import Refined, refine_boxes, refine_particles
from halfmap.template_matching.search import Statistics
from halfmap.template_matching.template import Template, prepare_template

CASE = Path(__file__).parents[2] / "shared" / "data" / "oracles" / "leopard12"
PIXEL_SIZE, SIDE, OUTSIDE = 2.0, 128, 1e10
SETTINGS = {
    "tilt_step_degrees": 0.5, "psi_step_degrees": 0.5, "defocus_min_angstrom": -200.0, "defocus_max_angstrom": 200.0,
    "defocus_step_angstrom": 50.0,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """The simulated particles, and their truth."""

    micrograph: Tensor
    template: Tensor
    table: leopard.LeopardColumns
    position: Tensor
    rotations: Tensor
    optics: ParticleOptics
    known_defocus: Tensor
    true_position: Tensor
    true_rotations: Tensor
    true_defocus: Tensor
    mean: Tensor
    deviation: Tensor

    def candidates(self, box: int) -> Candidates:
        """Return the displaced particles."""
        window = box - SIDE + 1
        corners = self.position.to(torch.int64) - SIDE // 2 - window // 2
        inside = cut_boxes(torch.ones_like(self.mean), corners, window) > 0
        statistics = Statistics(
            mean=cut_boxes(self.mean, corners, window),
            deviation=cut_boxes(self.deviation, corners, window) + torch.where(inside, 0.0, OUTSIDE),
        )
        return Candidates(
            position_pixel=self.position,
            rotations=self.rotations,
            optics=self.optics.with_defocus_added(self.known_defocus),
            statistics=statistics,
        )


def read_case() -> Case:
    """Read the case."""
    with open(CASE / "ground_truth.csv") as stream:
        rows = list(csv.DictReader(stream))
    truth = {name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64) for name in rows[0]}
    table = leopard.LeopardColumns.read(CASE / "stack_perturbed.csv")
    numbers = {name: torch.from_numpy(table.numbers(name)) for name in leopard.NEEDED if name != "micrograph_path"}
    zero = torch.zeros(len(table), dtype=torch.float64)
    return Case(
        micrograph=torch.from_numpy(images.read_micrograph(CASE / "micrograph.mrc").copy()),
        template=mrc.read_volume(CASE / "template.mrc", PIXEL_SIZE).values,
        table=table,
        position=torch.stack([numbers["pos_x_img"], numbers["pos_y_img"]], dim=-1),
        rotations=matrix_from_euler(*(numbers[name] for name in ("phi", "theta", "psi"))),
        optics=ParticleOptics(
            defocus_u_angstrom=numbers["defocus_u"],
            defocus_v_angstrom=numbers["defocus_v"],
            defocus_angle_degrees=numbers["astigmatism_angle"],
            voltage_kv=numbers["voltage"],
            spherical_aberration_mm=numbers["spherical_aberration"],
            amplitude_contrast=numbers["amplitude_contrast_ratio"],
            phase_shift_degrees=zero,
            b_factor_angstrom2=zero,
        ),
        known_defocus=numbers["relative_defocus"],
        true_position=torch.stack([truth["cx"], truth["cy"]], dim=-1),
        true_rotations=matrix_from_euler(*(truth[name] for name in ("phi", "theta", "psi"))),
        true_defocus=truth["ddf"],
        mean=torch.from_numpy(images.read_micrograph(CASE / "match" / "corr_average.mrc").copy()),
        deviation=torch.from_numpy(images.read_micrograph(CASE / "match" / "corr_variance.mrc").copy()),
    )


def at_truth(case: Case, template: Template, box: int) -> Fit:
    """Return the fit at the true poses, sub-pixel positions and defoci."""
    grid = ImageGrid.square(box, PIXEL_SIZE)
    filtered = filter_micrograph(case.micrograph, RefineTemplateParams())
    model = BoxModel.of(template, filtered.curves, grid)
    whole = case.position.to(torch.int64)
    observed = model.observed(cut_boxes(filtered.values, whole - box // 2, box))
    states = ParticleStates(
        rotations=case.true_rotations,
        shifts_angstrom=(case.true_position - whole) * PIXEL_SIZE,
        defocus_angstrom=case.true_defocus,
    )
    return fit(model, observed, case.optics, states, by_differences=True)


def bound(case: Case, box: int) -> tuple[float, float, float]:
    """Return the mean errors of angle (°), position (px) and defocus (Å) that the Cramér–Rao bound allows."""
    fine = prepare_template(case.template, ImageGrid.cubic(SIDE, PIXEL_SIZE), padding=4)
    covariance = at_truth(case, fine, box).covariance()
    drawn = torch.from_numpy(keyed_random.normal(1, "bound", np.arange(len(covariance)), size=(4000, 6)))
    errors = drawn @ torch.linalg.cholesky(covariance).mT
    return (
        float(torch.rad2deg(errors[..., 3:].norm(dim=-1)).mean()),
        float(errors[..., :2].norm(dim=-1).mean()) / PIXEL_SIZE,
        float(errors[..., 2].abs().mean()),
    )


def row(name: str, case: Case, rotations: Tensor, position: Tensor, defocus: Tensor) -> str:
    """Return a line of the table of errors."""
    angle = angular_distance_degrees(rotations, case.true_rotations)
    away = (position - case.true_position).norm(dim=-1)
    return (
        f"{name:34s} {float(angle.mean()):7.3f} {float(angle.median()):7.3f} {float(away.mean()):7.3f} "
        f"{float((defocus - case.true_defocus).abs().mean()):7.1f}"
    )


def pulls(case: Case, refined: Refined) -> Tensor:
    """Return the root mean square of errors over stated uncertainties, of the six parameters."""
    turn = torch.rad2deg(rotation_vector_from_matrix(refined.rotations @ case.true_rotations.mT))
    away = (refined.position_pixel - case.true_position) * PIXEL_SIZE
    defocus = refined.defocus_offset_angstrom + case.known_defocus - case.true_defocus
    errors = torch.cat([away, defocus[:, None], turn], dim=-1)
    return (errors / refined.uncertainty).square().mean(0).sqrt()


def repeated(case: Case, template: Template, box: int, n: int) -> None:
    """Print how the climb does on projections of the template itself in white noise, from the displaced poses."""
    grid = ImageGrid.square(box, PIXEL_SIZE)
    curves = filter_micrograph(case.micrograph, RefineTemplateParams()).curves
    fine = prepare_template(case.template, ImageGrid.cubic(SIDE, PIXEL_SIZE), padding=4)
    model = BoxModel.of(fine, curves, grid)
    whole = case.position.to(torch.int64)
    true = ParticleStates(
        rotations=case.true_rotations,
        shifts_angstrom=(case.true_position - whole) * PIXEL_SIZE,
        defocus_angstrom=case.true_defocus,
    )
    ctf, _ = case.optics.with_defocus_added(true.defocus_angstrom).ctf(model.band.frequencies)
    signal = model.slices(true.rotations) * ctf * model.gain
    signal = signal * at_truth(case, template, box).amplitude[:, None].to(torch.float32)
    turns = (true.shifts_angstrom @ model.band.frequencies.T) * (-2 * np.pi)
    signal = signal * torch.polar(torch.ones(()), turns.to(torch.float32))
    known = ParticleStates(
        rotations=case.rotations, shifts_angstrom=torch.zeros_like(case.position), defocus_angstrom=case.known_defocus
    )
    window = box - SIDE + 1
    own = RefineTemplateParams(**SETTINGS)
    rough, squares, angles, gains = model.with_template(template), [], [], []
    for repeat in range(n):
        noise = keyed_random.normal(2, "noise", np.arange(len(known)), iteration=repeat, size=(len(model.band), 2))
        observed = signal + torch.view_as_complex(torch.from_numpy(noise)).to(torch.complex64)
        _, states, found, *_ = refine_boxes(
            rough, observed, case.optics, known, Statistics.neutral(len(known), window), own
        )
        turn = rotation_vector_from_matrix(states.rotations @ true.rotations.mT)
        away = states.shifts_angstrom - true.shifts_angstrom
        errors = torch.cat([away, (states.defocus_angstrom - true.defocus_angstrom)[:, None], turn], dim=-1)
        variance = found.covariance(n_fitted=7).diagonal(dim1=-2, dim2=-1)
        squares.append(errors.square() / variance)
        angles.append(torch.rad2deg(turn.norm(dim=-1)))
        gains.append(found.score.square() - fit(rough, observed, case.optics, true).score.square())
    print(f"\n{n} times {len(known)} projections of the template in white noise: angle "
          f"{float(torch.cat(angles).mean()):.3f}°, z² − z²(truth) {float(torch.cat(gains).mean()):.2f}, "
          "errors / stated uncertainties "
          + " ".join(f"{value:.2f}" for value in torch.cat(squares).mean(0).sqrt().tolist()))  # fmt: skip


def run_leopard_em(case: Case, box: int, n: int) -> tuple[float, dict]:
    """Run Leopard-EM's own core on the first particles; return its CPU seconds and its results."""
    os.environ["LEOPARDEM_DISABLE_TORCH_COMPILATION"] = "1"
    from leopard_em.pydantic_models.managers import RefineTemplateManager

    # no-op stand-ins for streams, which a machine without CUDA lacks
    torch.cuda.Stream = lambda *_, **__: SimpleNamespace(synchronize=lambda: None)
    torch.cuda.stream = lambda _: nullcontext()
    config = yaml.safe_load(leopard_config.default_text("refine_template"))
    config["template_volume_path"] = "template.mrc"
    config["particle_stack"] |= {"df_path": "stack_perturbed.csv", "extracted_box_size": [box, box],
                                 "original_template_size": [SIDE, SIDE]}  # fmt: skip
    config["defocus_refinement_config"] |= {"defocus_min": -200.0, "defocus_max": 200.0, "defocus_step": 50.0}
    config["orientation_refinement_config"] |= {"psi_step_fine": 0.5, "theta_step_fine": 0.5}
    config["computational_config"] = {"gpu_ids": "cpu", "num_cpus": 1}
    before = Path.cwd()
    with TemporaryDirectory() as folder:
        for path in CASE.iterdir():
            (Path(folder) / path.name).symlink_to(path)
        os.chdir(folder)
        try:
            (Path(folder) / "c.yaml").write_text(yaml.safe_dump(config))
            arguments = RefineTemplateManager.from_yaml("c.yaml").make_backend_core_function_kwargs()
        finally:
            os.chdir(before)
    core = sys.modules["leopard_em.backend.core_refine_template"]
    devices = arguments.pop("device")
    per_particle = {"particle_stack_dft", "euler_angles", "defocus_u", "defocus_v", "defocus_angle",
                    "projective_filters", "corr_mean", "corr_std"}  # fmt: skip
    arguments = {name: value[:n] if name in per_particle else value for name, value in arguments.items()}
    split = core.construct_multi_gpu_refine_template_kwargs(
        **arguments, batch_size=32, devices=list(devices)[:1], num_cuda_streams=1
    )[0]
    results: dict = {}
    began = time.process_time()
    core._core_refine_template_single_gpu(results, 0, **split)
    return time.process_time() - began, next(iter(results.values()))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--box", type=int, default=144)
    parser.add_argument("--particles", type=int, default=6, help="particles that speeds are measured on")
    parser.add_argument("--leopard-em", action="store_true")
    parser.add_argument("--repeats", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    case, box = read_case(), options.box
    # first, as it comes: with the allocator's settings of halfmap's jobs it is faster too
    peer = run_leopard_em(case, box, options.particles) if options.leopard_em else None
    keep_large_blocks()
    grid = ImageGrid.cubic(SIDE, PIXEL_SIZE)
    template, cubic = prepare_template(case.template, grid), CubicTemplate.of(case.template, grid)
    candidates = case.candidates(box)
    few = torch.arange(options.particles)
    some = Candidates(
        position_pixel=candidates.position_pixel[few],
        rotations=candidates.rotations[few],
        optics=candidates.optics.take(few),
        statistics=Statistics(mean=candidates.statistics.mean[few], deviation=candidates.statistics.deviation[few]),
    )
    own = RefineTemplateParams(**SETTINGS)
    alike = RefineTemplateParams(**SETTINGS, compat="leopard")
    refine_as_leopard(case.micrograph, some, cubic, box, alike)  # compiles
    refine_particles(case.micrograph, PIXEL_SIZE, some, template, box, own)
    began = time.process_time()
    filter_micrograph(case.micrograph, own)
    filtering = time.process_time() - began

    print(f"box {box} px; errors of {len(case.table)} particles: angle mean, median (°), position (px), defocus (Å)")
    print(row("before", case, case.rotations, case.position, case.known_defocus))
    theirs = leopard.LeopardColumns.read(CASE / "refined_leopard.csv")
    position = torch.stack([torch.from_numpy(theirs.numbers(f"refined_pos_{a}_img")) for a in "xy"], dim=-1)
    angles = [torch.from_numpy(theirs.numbers(f"refined_{name}")) for name in ("phi", "theta", "psi")]
    defocus = torch.from_numpy(theirs.numbers("refined_relative_defocus"))
    print(row("Leopard-EM 1.2, box 144", case, matrix_from_euler(*angles), position, defocus))
    like = refine_as_leopard(case.micrograph, candidates, cubic, box, alike)
    print(row("--compat leopard", case, like.rotations, like.position_pixel,
              like.defocus_offset_angstrom + case.known_defocus))  # fmt: skip
    refined = refine_particles(case.micrograph, PIXEL_SIZE, candidates, template, box, own)
    print(row("refine-template", case, refined.rotations, refined.position_pixel,
              refined.defocus_offset_angstrom + case.known_defocus))  # fmt: skip
    angle, away, blur = bound(case, box)
    print(f"{'Cramér–Rao bound at the truth':34s} {angle:7.3f} {'':7s} {away:7.3f} {blur:7.1f}")
    same = angular_distance_degrees(like.rotations, matrix_from_euler(*angles)) < 0.01
    same &= (like.position_pixel - position).norm(dim=-1) < 0.5
    same &= (like.defocus_offset_angstrom + case.known_defocus - defocus).abs() < 1
    z = torch.from_numpy(theirs.numbers("refined_scaled_mip"))
    print(f"--compat leopard against Leopard-EM's file: same pose {int(same.sum())} of {len(same)}, "
          f"largest |Δz| {float((like.z - z).abs().max()):.5f}")  # fmt: skip
    truth = at_truth(case, template, box)
    gain = refined.mip.square() - truth.score.square()
    print(f"mean score {float(refined.mip.mean()):.3f}, at the truth {float(truth.score.mean()):.3f}; "
          f"z² − z²(truth) {float(gain.mean()):.2f}; mean z {float(refined.z.mean()):.3f}")  # fmt: skip
    print("errors / stated uncertainties (x, y, defocus, two tilts, psi):",
          " ".join(f"{value:.2f}" for value in pulls(case, refined).tolist()))  # fmt: skip

    if options.repeats:
        repeated(case, template, box, options.repeats)

    print(f"\nCPU seconds of {options.particles} particles, one thread")
    ours: dict[str, float] = {}
    for name, run in (
        ("--compat leopard", lambda: refine_as_leopard(case.micrograph, some, cubic, box, alike)),
        ("refine-template", lambda: refine_particles(case.micrograph, PIXEL_SIZE, some, template, box, own)),
    ):
        began = time.process_time()
        result = run()
        spent = time.process_time() - began - filtering
        ours[name] = spent
        n = int(result.n_correlations.sum())
        window = (box - SIDE + 1) ** 2 if name.startswith("--") else 49
        print(f"{name:20s} {spent:8.2f} s, {1e3 * spent / len(few):8.1f} ms a particle, "
              f"{n / window / spent:8.0f} correlations a second")  # fmt: skip
    if peer is not None:
        spent, result = peer
        n = options.particles * 77 * 9
        print(f"{'Leopard-EM 1.2':20s} {spent:8.2f} s, {1e3 * spent / len(few):8.1f} ms a particle, "
              f"{n / spent:8.0f} correlations a second")  # fmt: skip
        print(f"largest |Δz| of --compat leopard: "
              f"{float(np.abs(np.asarray(result['refined_z_score']) - like.z[few].numpy()).max()):.5f}")  # fmt: skip
        print("times less CPU:", ", ".join(f"{name} {spent / value:.1f}" for name, value in ours.items()))


if __name__ == "__main__":
    main()
