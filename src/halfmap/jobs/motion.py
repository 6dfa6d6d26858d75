"""``halfmap motion``: motion correction of raw movies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from halfmap.errors import InputError
from halfmap.motion_correction.params import MotionParams
from halfmap.project.job import JobContext, JobType

MOVIES_FILE = "movies.toml"
"""What a folder of raw movies holds for ``halfmap live``: a pattern of their paths and parameters of the jobs."""


@dataclass(frozen=True, kw_only=True)
class MotionJobParams(MotionParams):
    """Inputs and settings of ``halfmap motion``."""

    movies: tuple[Path, ...]
    """STAR file of movies (RELION's movies.star), or movies themselves, MRC, TIFF or EER, or a folder of them."""

    gain: Path | None = None
    """Gain reference by which frames are multiplied; of EER movies in MRC or TIFF, by which they are divided."""

    gain_flip_x: bool = False
    """Flip the gain left to right."""

    gain_flip_y: bool = False
    """Flip the gain upside down."""

    gain_transpose: bool = False
    """Swap rows and columns of the gain, after the flips."""

    check_gain: bool = True
    """Stop where the first movie shows that the gain lies another way round."""

    defects: Path | None = None
    """Bad pixels: a list (.txt) or a map that is not 0 where they are."""

    hot_pixels: bool = True
    """Fill pixels whose sum lies six deviations above the rest."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the frames as read. Default: that of the table, or of the first movie's header."""

    voltage_kv: Annotated[float, Gt(0)] | None = None
    """Acceleration voltage. Default: that of the table, or 300."""

    spherical_aberration_mm: Annotated[float, Ge(0)] | None = None
    """Spherical aberration, written on. Default: that of the table, or 2.7."""

    amplitude_contrast: Annotated[float, Ge(0), Lt(1)] | None = None
    """Fraction of amplitude contrast, written on. Default: that of the table, or 0.1."""

    dose_per_frame_e_per_angstrom2: Annotated[float, Gt(0)] | None = None
    """Dose of a frame as read; of EER movies, of a fraction. Without it there are no exposure weights."""

    pre_exposure_e_per_angstrom2: Annotated[float, Ge(0)] = 0.0
    """Dose before the first frame."""

    dose_weighting: bool = True
    """Weight frames by their exposure; --no-dose-weighting leaves plain sums."""

    bin: Annotated[float, Ge(1)] = 1.0
    """Bin the sums by this factor, in Fourier space."""

    eer_frames_per_fraction: Annotated[int, Ge(1)] = 10
    """Raw frames of an EER movie in one fraction."""

    eer_fractions: Annotated[int, Ge(1)] | None = None
    """Fractions of an EER movie, instead of the raw frames in each."""

    eer_upsampling: Annotated[int, Ge(1)] = 1
    """1 for the pixels of an EER movie's sensor, 2 or 4 for finer ones."""

    save_halves: bool = False
    """Write sums of odd and of even frames."""

    save_unweighted: bool = True
    """Write sums without exposure weights beside those with them."""

    spectrum_pixel: Annotated[int, Ge(128)] = 512
    """Side of the power spectrum that is kept for the CTF."""

    spectrum_dose_e_per_angstrom2: Annotated[float, Gt(0)] = 4.0
    """Dose of the aligned frames that are added before their power is taken. Without a dose per frame, four frames."""

    def __post_init__(self) -> None:
        if self.gain is None and (self.gain_flip_x or self.gain_flip_y or self.gain_transpose):
            raise InputError(
                "--gain-flip-x, --gain-flip-y and --gain-transpose must go with a gain; got none; give --gain."
            )


def run(context: JobContext, params: MotionJobParams) -> Path:
    """Correct motion, and return the path of ``corrected_micrographs.star``."""
    from halfmap.jobs.motion_run import correct_all

    return correct_all(context, params)


JOB = JobType(
    command="motion",
    folder="MotionCorr",
    parameters=MotionJobParams,
    run=run,
    summary="Correct the motion of raw movies, and add up their frames",
    inputs=("movies", "gain", "defects"),
)
