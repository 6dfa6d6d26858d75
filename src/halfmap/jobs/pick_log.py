"""``halfmap pick log``: particles as blobs of a given size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Gt

from halfmap.picking.params import LogPickParams
from halfmap.project.job import JobContext, JobType


@dataclass(frozen=True, kw_only=True)
class PickLogJobParams(LogPickParams):
    """Inputs and settings of ``halfmap pick log``."""

    micrographs: Path
    """STAR file of the micrographs."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the micrographs. Default: that of their table; older tables do not know it."""


def run(context: JobContext, params: PickLogJobParams) -> Path:
    """Pick, and return the path of ``autopick.star``."""
    from halfmap.jobs.picking import pick_all
    from halfmap.picking.log import pick

    return pick_all(
        context,
        params.micrographs,
        pick,
        params,
        pixel_size_angstrom=params.pixel_size_angstrom,
        radius_angstrom=(params.min_diameter_angstrom + params.max_diameter_angstrom) / 4,
        title="Blob picking",
    )


JOB = JobType(
    command="pick log",
    folder="AutoPick",
    parameters=PickLogJobParams,
    run=run,
    summary="Find particles as blobs of a given size, without a reference",
    inputs=("micrographs",),
)
