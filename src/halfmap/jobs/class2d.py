"""``halfmap class2d``: class averages of particle images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfmap.classification.params import ClassificationParams
from halfmap.project.job import JobContext, JobType

_SWITCHES = {
    "ctf": "rlnDoCorrectCtf",
    "ctf_intact_first_peak": "rlnDoIgnoreCtfUntilFirstPeak",
    "norm_correction": "rlnDoCorrectNorm",
    "scale_correction": "rlnDoCorrectScale",
    "skip_alignment": "rlnDoSkipAlign",
    "skip_rotation": "rlnDoSkipRotate",
}
"""Parameters that are yes or no, and where an optimiser file says so."""


@dataclass(frozen=True, kw_only=True)
class Class2DJobParams(ClassificationParams):
    """Inputs and settings of ``halfmap class2d``."""

    particles: Path
    """STAR file of the particles."""

    start_from: Path | None = None
    """Earlier 2D classification, of halfmap or RELION, whose class averages, classes and poses are the first: its
    folder, or a file of one of its iterations. Or name it with --continue, which takes over its parameters too."""


def run(context: JobContext, params: Class2DJobParams) -> Path:
    """Classify, and return the path of the last ``run_itNNN_data.star``."""
    from halfmap.jobs.class2d_run import classify

    return classify(context, params)


def parameters_of_run(project: Path, path: Path) -> dict[str, Any]:
    """Return the parameters of a job that goes on from a classification of another program, or from some iteration.

    Parameters
    ----------
    project : the project's folder.
    path : of the classification, as `halfmap.io.relion_classes.read_class_run` takes it.

    Returns
    -------
    What the files of the iteration say; of a job of halfmap all that its ``job.json`` does, which RELION's files have
    no place for.

    Raises
    ------
    FormatError
        It is no 2D classification.
    """
    from halfmap.io.relion_classes import particle_table, read_class_run
    from halfmap.project.record import parameters_beside

    earlier = read_class_run(path, project=project)
    settings = earlier.settings or {}
    values: dict[str, Any] = {
        "particles": particle_table(path, project=project),
        "start_from": path,
        "classes": len(earlier.averages),
        "mask_diameter_angstrom": earlier.mask_diameter_angstrom,
        "regularisation": earlier.regularisation,
        "psi_step_degrees": earlier.psi_step_degrees,
        "offset_range": earlier.offset_range_angstrom,
        "offset_step": earlier.offset_step_angstrom,
        "max_alignment_resolution_angstrom": float(settings.get("rlnHighresLimitExpectation", "nan")),
        "min_alignment_resolution_angstrom": float(settings.get("rlnLowresLimitExpectation", "nan")),
        "mask": "zeros" if settings.get("rlnDoZeroMask", "1") == "1" else "noise",
    }
    for name, label in _SWITCHES.items():
        if label in settings:
            values[name] = settings[label] == "1"
    # what a file does not know, as iteration 0 of RELION the sampling, stays at its default
    known = {name: value for name, value in values.items() if not isinstance(value, float) or value > 0}
    if 0 <= earlier.perturbation_factor <= 1:
        known["perturbation"] = earlier.perturbation_factor
    return known | parameters_beside(path, JOB)


JOB = JobType(
    command="class2d",
    folder="Class2D",
    parameters=Class2DJobParams,
    run=run,
    summary="Classify particles in two dimensions",
    inputs=("particles", "start_from"),
    parameters_of_run=parameters_of_run,
)
