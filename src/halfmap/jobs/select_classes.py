"""``halfmap select classes``: keep the particles of some classes of a 2D classification."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from halfmap.errors import FormatError
from halfmap.project.job import JobContext, JobType
from halfmap.selection.params import ClassesParams

if TYPE_CHECKING:
    import numpy as np

    from halfmap.data.class_averages import ClassRun
    from halfmap.data.particles import ParticleSet


@dataclass(frozen=True, kw_only=True)
class SelectClassesParams(ClassesParams):
    """Inputs and settings of ``halfmap select classes``."""

    classification: Path
    """Folder of a 2D classification of halfmap or RELION, or a file of one of its iterations, as its
    _optimiser.star."""

    selection: Path | None = None
    """A backup_selection.star made from this classification: only what it selects may be kept."""


def _run(context: JobContext, params: SelectClassesParams) -> Path:
    import numpy as np
    import torch

    from halfmap.classification.centring import centre_of_mass_angstrom
    from halfmap.io import relion, star
    from halfmap.io.relion_classes import read_class_run, write_class_averages
    from halfmap.jobs.select import in_project
    from halfmap.jobs.select_classes_report import page
    from halfmap.selection.classes import choose, particles_of, recentred, regrouped

    run = read_class_run(params.classification, project=context.project)
    earlier = None if params.selection is None else _read_selection(params.selection)
    if params.is_scored:
        run = _scored(context, run)
    averages, everything = run.averages, _as_in_its_file(run)
    choice = choose(averages, params, earlier=earlier)
    numbers = averages["class_number"]
    for number in sorted(set(params.classes) & set(numbers[averages["n_particles"] == 0].tolist())):
        context.progress.message(f"Class {number} has no particles and is left out.")
    keep = particles_of(run.particles, numbers[choice.kept])
    chosen, particles = averages.take(choice.kept), everything.take(keep)
    if params.recenter:
        images = torch.from_numpy(np.array(chosen["average"]))
        centres = centre_of_mass_angstrom(images, chosen.grid, run.mask_diameter_angstrom).numpy()
        chosen, particles = recentred(chosen, particles, centres)
        far = float(np.hypot(*centres.T).max())
        context.progress.message(
            f"Centres of mass of the averages lay up to {far:.1f} Å from the centres of their boxes."
        )
    if params.regroup is not None:
        particles = particles.with_columns(group_name=run.particles["group_name"][keep])
        scale = dict(zip(run.noise.group_name.tolist(), run.noise.group_scale.tolist(), strict=True))
        particles = regrouped(particles, scale, number=params.regroup)
        n_groups = len(set(particles["group_name"]))
        context.progress.message(f"Particles are in {n_groups} groups instead of {len(run.noise.group_name)}.")

    write_class_averages(context.folder / "class_averages.star", chosen, relative=context.relative)
    marks = np.array([str(int(kept)) for kept in choice.kept], dtype=object)
    table = star.StarTable(name="", columns={"rlnSelected": marks})
    star.write(context.folder / "backup_selection.star", [star.with_version(table)])
    source = params.classification
    output = context.folder / "particles.star"
    relion.write_particles(output, in_project(context, source, particles).without_unused_optics())
    if not keep.all():
        removed = in_project(context, source, everything.take(~keep)).without_unused_optics()
        relion.write_particles(context.folder / "particles_removed.star", removed)
    context.progress.message(
        f"{keep.sum()} of {len(keep)} particles from {choice.kept.sum()} of {len(averages)} classes."
    )
    context.report(page(run, choice, keep, shown=chosen))
    return output


def _read_selection(path: Path) -> "np.ndarray":
    """Return which classes an earlier selection holds, bool, shape (n,)."""
    from halfmap.io import star

    table = next((table for table in star.read(path) if "rlnSelected" in table), None)
    if table is None:
        raise FormatError(
            path,
            expected="the column _rlnSelected, 0 or 1 for each class",
            found="none",
            remedy="name the backup_selection.star of an earlier selection",
        )
    return table.integers("rlnSelected") != 0


def _scored(context: JobContext, run: "ClassRun") -> "ClassRun":
    """Return the run with scores of its classes: its own, else those of the class ranker."""
    import numpy as np

    if "score" in run.averages and np.isfinite(run.averages["score"]).any():
        context.progress.message("Classes have scores already; they are taken as they are.")
        return run
    from halfmap.classification.ranking.scores import score

    scores = score(run.averages, mask_diameter_angstrom=run.mask_diameter_angstrom)
    context.progress.message(f"The class ranker scored {len(scores)} classes.")
    return run.with_averages(run.averages.with_columns(score=scores))


def _as_in_its_file(run: "ClassRun") -> "ParticleSet":
    """Return the particles without the names of groups that the file does not hold."""
    particles = run.particles
    return particles if "rlnGroupName" in particles.label_order else particles.without_columns("group_name")


JOB = JobType(
    command="select classes",
    folder="Select",
    parameters=SelectClassesParams,
    run=_run,
    summary="Keep the particles of some classes of a 2D classification",
    inputs=("classification", "selection"),
)
