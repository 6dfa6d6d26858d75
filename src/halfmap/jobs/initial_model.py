"""``halfmap initial-model``: a first map from particles alone."""

from dataclasses import dataclass
from pathlib import Path

from halfmap.project.job import JobContext, JobType
from halfmap.refinement.initial_model.params import InitialModelParams


@dataclass(frozen=True, kw_only=True)
class InitialModelJobParams(InitialModelParams):
    """Inputs and settings of ``halfmap initial-model``."""

    particles: Path
    """STAR file of the particles."""


def _run(context: JobContext, params: InitialModelJobParams) -> Path:
    from halfmap.jobs.initial_model_run import make_model

    return make_model(context, params)


JOB = JobType(
    command="initial-model",
    folder="InitialModel",
    parameters=InitialModelJobParams,
    run=_run,
    summary="Make a first map from particles alone, its symmetry axes where the group has them",
    inputs=("particles",),
    outputs={"particles": "particles.star"},
)
