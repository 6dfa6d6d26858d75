"""What a refinement leaves: its maps, particles and noise, as nouns."""

import numpy as np
from torch import Tensor

from halfmap.data.class_averages import NoiseModel
from halfmap.data.refinement_run import RefinedHalf, RefinementRun
from halfmap.data.volumes import Volume
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.problem import RefinementProblem
from halfmap.refinement.state import HalfMap, RefinementState


def refinement_run(problem: RefinementProblem, params: RefinementParams, state: RefinementState) -> RefinementRun:
    """Return a state as what files, reports and other steps take; any iteration will do."""
    found = state.orientations
    is_final = state.outcome != "running"
    particles = problem.particles.with_columns(
        rotation=found.rotation,
        origin_angstrom=found.origin_angstrom,
        norm_correction=found.norm,
        max_probability=found.max_probability,
        log_likelihood=found.log_likelihood,
        n_significant=found.n_significant,
        group_name=problem.group_names[problem.data.micrograph],
    )
    resolution = state.history["resolution_angstrom"][-1] if state.iteration else np.inf
    used_shell = int(state.history["shell"][-1]) if state.iteration else state.shell
    return RefinementRun(
        particles=particles,
        halves=(_half(problem, state, state.halves[0]), _half(problem, state, state.halves[1])),
        joined=Volume(values=state.joined, grid=problem.volume_grid) if is_final else None,
        fsc=state.fsc.numpy(),
        used_fsc=state.used_fsc.numpy(),
        symmetry=problem.symmetry,
        mask_diameter_angstrom=params.mask_diameter_angstrom,
        iteration=state.iteration,
        healpix_order=state.sampling.healpix_order,
        is_local=state.sampling.is_local,
        offset_range_angstrom=state.sampling.offset_range_angstrom,
        offset_step_angstrom=state.sampling.offset_step_angstrom,
        rotation_accuracy_degrees=state.rotation_accuracy_degrees,
        offset_accuracy_angstrom=state.offset_accuracy_angstrom,
        resolution_angstrom=float(resolution),
        current_size_pixel=2 * used_shell,
        regularisation=params.regularisation,
        padding=1 if params.skip_padding else 2,
        join_resolution_angstrom=_angstrom(problem, state.join_shell),
        perturbation=state.sampling.perturbation,
        perturbation_factor=params.perturbation,
        is_final=is_final,
        seed=params.seed,
        settings={
            "rlnDoCorrectCtf": str(int(params.ctf)),
            "rlnDoIgnoreCtfUntilFirstPeak": str(int(params.ctf_intact_first_peak)),
            "rlnDoCorrectNorm": str(int(params.norm_correction)),
            "rlnDoCorrectScale": str(int(params.scale_correction)),
            "rlnDoSolventFscCorrection": str(int(params.solvent_flattened_fsc)),
            "rlnAdaptiveOversampleFraction": f"{params.kept_mass:g}",
            "rlnWidthMaskEdge": f"{params.mask_edge_pixel:g}",
        },
        history=state.history_table,
    )


def _half(problem: RefinementProblem, state: RefinementState, half: HalfMap) -> RefinedHalf:
    def volume(values: Tensor) -> Volume:
        return Volume(values=values, grid=problem.volume_grid)

    return RefinedHalf(
        map=volume(half.reference),
        unregularised=volume(half.unregularised) if state.iteration else None,
        noise=NoiseModel(
            optics_group=problem.optics_numbers,
            noise_variance=half.noise_variance.numpy(),
            group_name=problem.group_names,
            group_scale=half.scale,
        ),
        ssnr=half.ssnr.numpy(),
        error_variance=half.error_variance.numpy(),
        completeness=half.completeness.numpy(),
        offset_sigma_angstrom=half.offset_sigma_angstrom,
    )


def _angstrom(problem: RefinementProblem, shell: int) -> float:
    return problem.grid.side * problem.grid.pixel_size_angstrom / shell if shell else float("inf")
