"""``halfmap refine3d``: two independent half-maps of a particle, and what they tell."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Gt

from halfmap.project.job import JobContext, JobType
from halfmap.refinement.params import RefinementParams


@dataclass(frozen=True, kw_only=True)
class Refine3DJobParams(RefinementParams):
    """Inputs and settings of ``halfmap refine3d``."""

    particles: Path
    """STAR file of the particles."""

    reference: Path
    """Map to start from: a map, one of two half-maps, an atomic model (.pdb, .cif), or the folder of another job. Its
    pixel size and box are fitted to the particles."""

    reference_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the reference, instead of the one in its header."""

    invert_reference: bool = False
    """The reference's density is dark: change its sign."""

    mask: Path | None = None
    """Soft solvent mask on the particles' grid, or the folder of the job that made it; else a sphere of the mask
    diameter. It is also that of post-processing."""

    mtf: Path | None = None
    """STAR file with the MTF of the detector, for post-processing."""

    local_resolution: bool = True
    """Measure the local resolution at the end, and filter the map by it."""


def _run(context: JobContext, params: Refine3DJobParams) -> Path:
    from halfmap.jobs.refine3d_run import refine

    return refine(context, params)


JOB = JobType(
    command="refine3d",
    folder="Refine3D",
    parameters=Refine3DJobParams,
    run=_run,
    summary="Refine a map from particles in two independent halves, to the sharpened map",
    inputs=("particles", "reference", "mask", "mtf"),
)
