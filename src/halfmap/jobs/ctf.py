"""``halfmap ctf``: defocus, astigmatism and phase shift of micrographs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from halfmap.ctf_estimation.params import CtfEstimationParams
from halfmap.errors import InputError
from halfmap.project.job import JobContext, JobType


@dataclass(frozen=True, kw_only=True)
class CtfJobParams(CtfEstimationParams):
    """Inputs and settings of ``halfmap ctf``."""

    micrographs: tuple[Path, ...]
    """STAR file of micrographs, or micrographs themselves, or a folder of them; or tilt series: RELION's
    tomograms.star, or Warp's .xml of each."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the micrographs. Default: that of their table, or of the first one's header."""

    voltage_kv: Annotated[float, Gt(0)] | None = None
    """Acceleration voltage. Default: that of the table."""

    spherical_aberration_mm: Annotated[float, Ge(0)] | None = None
    """Spherical aberration. Default: that of the table."""

    amplitude_contrast: Annotated[float, Ge(0), Lt(1)] | None = None
    """Fraction of amplitude contrast. Default: that of the table."""

    known_phase_shift_degrees: float = 0.0
    """Phase shift of a phase plate, where it is not looked for."""

    patches: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] = (1, 1)
    """Fit the defocus of so many patches along x and y, and a plane through them: a tilted or bent sample."""

    given_spectra: bool = True
    """Use the power spectra that motion correction left (rlnCtfPowerSpectrum), where the table names them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.phase_shift and self.known_phase_shift_degrees != 0:
            raise InputError(
                f"--known-phase-shift must not go with --phase-shift; got {self.known_phase_shift_degrees:g}°; "
                "leave one out."
            )
        if self.patches != (1, 1) and self.patches[0] * self.patches[1] < 4:
            raise InputError(
                f"--patches must be 1,1 or four or more together; got {self.patches[0]},{self.patches[1]}; give 3,3."
            )


def run(context: JobContext, params: CtfJobParams) -> Path:
    """Estimate, and return the path of ``micrographs_ctf.star``, or of the table of tilt series."""
    from halfmap.jobs.ctf_run import estimate_all
    from halfmap.jobs.ctf_tilts import are_tilt_series, estimate_all_series

    if are_tilt_series(params.micrographs):
        return estimate_all_series(context, params)
    return estimate_all(context, params)


JOB = JobType(
    command="ctf",
    folder="CtfFind",
    parameters=CtfJobParams,
    run=run,
    summary="Estimate defocus, astigmatism and phase shift of micrographs",
    inputs=("micrographs",),
)
