"""``halfmap class3d``: particles parted among several maps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Gt

from halfmap.errors import InputError
from halfmap.project.job import JobContext, JobType
from halfmap.refinement.class3d.params import Classification3DParams


@dataclass(frozen=True, kw_only=True)
class Class3DJobParams(Classification3DParams):
    """Inputs and settings of ``halfmap class3d``."""

    particles: Path
    """STAR file of the particles."""

    reference: tuple[Path, ...]
    """Map to start from, or one for each class: maps, atomic models (.pdb, .cif), or folders of other jobs. Pixel size
    and box are fitted to the particles."""

    reference_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the references, instead of the one in their headers."""

    mask: Path | None = None
    """Soft solvent mask on the particles' grid, or the folder of the job that made it; else a sphere of the mask
    diameter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.reference) not in (1, self.classes):
            raise InputError(
                f"--reference must be given once, or once for each of {self.classes} classes; got "
                f"{len(self.reference)}; change --classes or the references."
            )


def _run(context: JobContext, params: Class3DJobParams) -> Path:
    from halfmap.jobs.class3d_run import classify

    return classify(context, params)


JOB = JobType(
    command="class3d",
    folder="Class3D",
    parameters=Class3DJobParams,
    run=_run,
    summary="Part particles among several maps, with or without aligning them",
    inputs=("particles", "reference", "mask"),
    outputs={"reference": "."},  # of several maps the choice is made, and told, where one is asked for
)
