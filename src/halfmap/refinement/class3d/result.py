"""What a 3D classification leaves: its maps, particles and noise, as nouns."""

import numpy as np

from halfmap.data.class3d_run import Class3DRun
from halfmap.data.class_averages import NoiseModel
from halfmap.data.volumes import Volume
from halfmap.refinement import decisions
from halfmap.refinement.class3d.params import Classification3DParams
from halfmap.refinement.class3d.state import Classification3DState
from halfmap.refinement.volume_problem import VolumeProblem


def class3d_run(problem: VolumeProblem, params: Classification3DParams, state: Classification3DState) -> Class3DRun:
    """Return a state as what files, reports and other steps take; any iteration from the first on will do."""
    found, maps = state.assignments, state.maps
    pixel = problem.grid.pixel_size_angstrom
    particles = problem.particles.with_columns(
        class_number=found.class_index + 1,
        rotation=found.rotation,
        origin_angstrom=found.origin_angstrom,
        norm_correction=found.norm,
        max_probability=found.max_probability,
        log_likelihood=found.log_likelihood,
        n_significant=found.n_significant,
        group_name=problem.group_names[problem.data.micrograph],
    )
    resolved = np.array([decisions.resolution_shell(ssnr / (1 + ssnr)) for ssnr in maps.ssnr], dtype=np.float64)
    return Class3DRun(
        particles=particles,
        maps=tuple(Volume(values=values, grid=problem.volume_grid) for values in maps.references),
        fractions=maps.fractions.numpy(),
        ssnr=maps.ssnr.numpy(),
        error_variance=maps.error_variance.numpy(),
        completeness=maps.completeness.numpy(),
        resolution_angstrom=np.where(resolved > 0, problem.field_angstrom / np.maximum(resolved, 1), np.inf),
        noise=NoiseModel(
            optics_group=problem.optics_numbers,
            noise_variance=state.noise_variance.numpy(),
            group_name=problem.group_names,
            group_scale=state.scale,
        ),
        symmetry=problem.symmetry,
        mask_diameter_angstrom=params.mask_diameter_angstrom,
        iteration=state.iteration,
        healpix_order=params.healpix_order,
        is_local=params.local,
        offset_range_angstrom=params.offset_range.to_angstrom(pixel),
        offset_step_angstrom=params.offset_step.to_angstrom(pixel),
        offset_sigma_angstrom=state.offset_sigma_angstrom,
        current_size_pixel=2 * int(state.history["shell"][-1]),
        regularisation=params.regularisation,
        padding=1 if params.skip_padding else 2,
        perturbation=state.perturbation,
        is_final=state.outcome != "running",
        seed=params.seed,
        history=state.history_table,
        settings={
            "rlnDoCorrectCtf": str(int(params.ctf)),
            "rlnDoIgnoreCtfUntilFirstPeak": str(int(params.ctf_intact_first_peak)),
            "rlnDoCorrectNorm": str(int(params.norm_correction)),
            "rlnDoCorrectScale": str(int(params.scale_correction)),
            "rlnDoSkipAlign": str(int(params.skip_alignment)),
            "rlnAdaptiveOversampleFraction": f"{params.kept_mass:g}",
            "rlnWidthMaskEdge": f"{params.mask_edge_pixel:g}",
        },
    )
