"""``halfmap simulate micrographs``: micrographs whose truth is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from halfmap.jobs.simulation_inputs import SpecimenParams, check_fractions, references
from halfmap.project.job import JobContext, JobType
from halfmap.simulation.params import MicrographSimulationParams

if TYPE_CHECKING:
    from halfmap.data.micrographs import MicrographSet
    from halfmap.data.optics_groups import OpticsGroups
    from halfmap.data.particles import ParticleSet
    from halfmap.jobs.simulate_one_micrograph import SimulatedMicrograph
    from halfmap.report.blocks import Report

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class SimulateMicrographsParams(SpecimenParams, MicrographSimulationParams):
    """Inputs and settings of ``halfmap simulate micrographs``."""


def run(context: JobContext, params: SimulateMicrographsParams) -> Path:
    """Simulate, and return the path of ``micrographs_ctf.star``.

    Raises
    ------
    JobFailed
        A micrograph could not be simulated.
    """
    import numpy as np

    from halfmap.data.optics_groups import OpticsGroups
    from halfmap.data.picks import Picks
    from halfmap.errors import JobFailed
    from halfmap.io import relion
    from halfmap.io.mrc import write_volume
    from halfmap.jobs import simulate_one_micrograph as one
    from halfmap.jobs.per_micrograph import Rejected, forget_states, resumable_map
    from halfmap.simulation.layout import PARTICLE
    from halfmap.simulation.micrographs import References

    check_fractions(params.class_fractions, len(params.names))
    made = references(params, [params.pixel_size_angstrom], params.b_factor_angstrom2, context.progress.message)[0]
    for number, reference in enumerate(made, start=1):
        write_volume(context.folder / f"reference_class{number:03d}.mrc", reference.potential)
    broken = [reference.broken() for reference in made] if params.has("junk") else []
    handle = context.executor.broadcast(References(whole=made, broken=broken))
    context.expect_memory(one.memory_bytes(params), "one micrograph in each worker")
    paths = [context.folder / "Micrographs" / f"mic{number + 1:05d}.mrc" for number in range(params.number)]
    names = [context.relative(path) for path in paths]
    tasks = [
        one.MicrographTask(number=number, path=path, params=params, references=handle)
        for number, path in enumerate(paths)
    ]
    results: list[SimulatedMicrograph] = []
    for result in resumable_map(
        context,
        one.simulate_micrograph,
        tasks,
        names=names,
        result_type=one.SimulatedMicrograph,
        label="Simulating micrographs",
    ):
        if isinstance(result, Rejected):
            raise JobFailed(
                f"Every micrograph must be simulated; got '{result.reason}' for {result.name}; mend the cause."
            )
        results.append(result)

    optics = OpticsGroups(
        columns={
            "optics_group": np.array([1]),
            "name": np.array(["opticsGroup1"], dtype=object),
            "voltage_kv": np.array([params.voltage_kv]),
            "spherical_aberration_mm": np.array([params.spherical_aberration_mm]),
            "amplitude_contrast": np.array([params.amplitude_contrast]),
            "micrograph_pixel_size_angstrom": np.array([params.pixel_size_angstrom]),
            "original_pixel_size_angstrom": np.array([params.pixel_size_angstrom]),
        }
    )
    micrographs = _micrograph_table(params, names, results, optics)
    truth = _truth_table(params, names, results, optics)
    output = context.folder / "micrographs_ctf.star"
    relion.write_micrographs(output, micrographs)
    relion.write_particles(context.folder / "ground_truth.star", truth)
    found = truth.take(truth["halfmapKind"] == PARTICLE)
    picks = Picks(
        columns={
            "uid": found.uid,
            "micrograph_name": found["micrograph_name"],
            "position_pixel": found["position_pixel"],
            "figure_of_merit": found["figure_of_merit"],
            "class_number": found["class_number"],
        },
        source="ground truth",
        micrographs=tuple(names),
    )
    relion.write_autopick(context.folder, picks, project_root=context.project)
    n_junk = len(truth) - len(found)
    context.progress.message(
        f"Simulated {params.number} micrographs with {len(found)} particles and {n_junk} pieces of junk."
    )
    context.report(_page(params, paths, names, results, truth, [r.diameter_angstrom for r in made]))
    forget_states(context)
    return output


def _micrograph_table(
    params: SimulateMicrographsParams,
    names: Sequence[str],
    results: "Sequence[SimulatedMicrograph]",
    optics: "OpticsGroups",
) -> "MicrographSet":
    """Return the table of the micrographs; resolution and merit are those of a good CTF fit, none was made."""
    import numpy as np

    from halfmap import keyed_random
    from halfmap.data.micrographs import MicrographSet

    n = len(names)
    fit = keyed_random.uniform(params.seed, "ctf fit", np.arange(n), size=2)
    u = np.array([result.defocus[0] for result in results])
    v = np.array([result.defocus[1] for result in results])
    return MicrographSet(
        columns={
            "micrograph_name": np.array(names, dtype=object),
            "optics_group": np.ones(n, dtype=np.int64),
            "defocus_u_angstrom": u,
            "defocus_v_angstrom": v,
            "defocus_angle_degrees": np.array([result.defocus[2] for result in results]),
            "ctf_astigmatism_angstrom": u - v,
            "phase_shift_degrees": np.full(n, params.phase_shift_degrees),
            "ctf_max_resolution_angstrom": np.maximum(3.5 + 1.5 * fit[:, 0], 2.2 * params.pixel_size_angstrom),
            "ctf_figure_of_merit": 0.12 + 0.1 * fit[:, 1],
        },
        optics=optics,
    )


def _truth_table(
    params: SimulateMicrographsParams,
    names: Sequence[str],
    results: "Sequence[SimulatedMicrograph]",
    optics: "OpticsGroups",
) -> "ParticleSet":
    """Return what lies in the micrographs, one item a row."""
    import numpy as np

    from halfmap.data.particles import ParticleSet
    from halfmap.simulation.layout import PARTICLE

    counts = [len(result.kind) for result in results]
    defocus = np.repeat(np.array([result.defocus for result in results]), counts, axis=0).reshape(-1, 3)
    kind = np.concatenate([result.kind for result in results]).astype(object)
    n = len(kind)
    return ParticleSet(
        columns={
            "micrograph_name": np.repeat(np.array(names, dtype=object), counts),
            "position_pixel": np.concatenate([result.position_pixel for result in results]),
            "rotation": np.concatenate([result.rotation for result in results]),
            "origin_angstrom": np.zeros((n, 2)),
            "class_number": np.concatenate([result.class_number for result in results]),
            "figure_of_merit": (kind == PARTICLE).astype(np.float64),
            "optics_group": np.ones(n, dtype=np.int64),
            "defocus_u_angstrom": defocus[:, 0],
            "defocus_v_angstrom": defocus[:, 1],
            "defocus_angle_degrees": defocus[:, 2],
            "phase_shift_degrees": np.full(n, params.phase_shift_degrees),
            "halfmapKind": kind,
            "halfmapIsJunk": np.where(kind == PARTICLE, "0", "1").astype(object),
        },
        optics=optics,
    )


def _page(
    params: SimulateMicrographsParams,
    paths: Sequence[Path],
    names: Sequence[str],
    results: "Sequence[SimulatedMicrograph]",
    truth: "ParticleSet",
    diameters_angstrom: Sequence[float],
) -> "Report":
    import numpy as np

    from halfmap.io.mrc import read_image
    from halfmap.report.blocks import Axis, Facts, Histogram, Overlay, Report, Section, Table

    shown = np.unique(np.linspace(0, len(paths) - 1, _SHOWN).astype(np.int64))
    overlays = []
    for number in shown.tolist():
        here = truth.take(truth["micrograph_name"] == names[number])
        overlays.append(
            Overlay.of(
                read_image(paths[number]),
                here["position_pixel"],
                radius_pixel=0.5 * max(diameters_angstrom) / params.pixel_size_angstrom,
                values=here["figure_of_merit"],
                value_label="1: particle, 0: junk",
                title=names[number],
            )
        )
    is_particle = truth["halfmapIsJunk"] == "0"
    defocus = np.array([0.5 * (result.defocus[0] + result.defocus[1]) for result in results])
    rows = [
        (
            name,
            int(np.sum(is_particle[truth["micrograph_name"] == name])),
            float(mean),
            "yes" if result.has_carbon else "no",
            result.n_crystals,
            float(result.mean_count),
        )
        for name, mean, result in zip(names, defocus, results, strict=True)
    ]
    return Report(
        title="Simulated micrographs",
        summary=f"{len(names)} micrographs of {', '.join(params.names)}, as recorded: particles dark.",
        facts=Facts(
            facts=(
                ("micrographs", len(names)),
                ("particles", int(is_particle.sum())),
                ("junk", int((~is_particle).sum())),
                ("dose", params.dose_e_per_angstrom2, "e/Å²"),
                ("pixel size", params.pixel_size_angstrom, "Å"),
            )
        ),
        sections=(
            Section(title="Micrographs", blocks=overlays, intro="Circles: what truly lies there."),
            Section(
                title="Truth",
                blocks=(
                    Histogram.of(defocus, title="Defocus", x=Axis(label="mean defocus", unit="Å")),
                    Table(
                        title="Micrographs",
                        columns=(
                            "micrograph",
                            "particles",
                            "defocus (Å)",
                            "carbon",
                            "ice crystals",
                            "electrons a pixel",
                        ),
                        rows=rows,
                    ),
                ),
            ),
        ),
    )


JOB = JobType(
    command="simulate micrographs",
    folder="Simulate",
    parameters=SimulateMicrographsParams,
    run=run,
    summary="Make micrographs whose truth is known",
    inputs=("model", "map"),
)
