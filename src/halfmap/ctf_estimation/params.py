"""What can be set about the estimation of the CTF."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from halfmap.errors import InputError

FINEST_PIXELS = 2.1
"""Finest detail that pixels hold, in their size."""


@dataclass(frozen=True, kw_only=True)
class CtfEstimationParams:
    """How the CTF is found in a power spectrum."""

    min_resolution_angstrom: Annotated[float, Gt(0)] = 30.0
    """Coarsest detail that is fitted. There, the shapes of particles outweigh the rings."""

    max_resolution_angstrom: Annotated[float, Gt(0)] = 5.0
    """Finest detail that is looked at while searching."""

    extend: bool = True
    """Fit on to finer detail than --max-resolution, as far as rings are seen: it tells defocus from phase shift, and
    small astigmatism from none."""

    min_defocus_angstrom: Annotated[float, Gt(0)] = 5_000.0
    """Least underfocus that is tried; the refinement may go somewhat below."""

    max_defocus_angstrom: Annotated[float, Gt(0)] = 50_000.0
    """Greatest underfocus that is tried."""

    max_astigmatism_angstrom: Annotated[float, Ge(0)] = 3_000.0
    """Greatest difference of the two defoci that is tried."""

    astigmatism: bool = True
    """Fit two defoci and the direction of the first, not a single one."""

    box_pixel: Annotated[int, Ge(128), Le(4096)] = 512
    """Side of the power spectrum, even. Windows of the micrograph are this large, in pixels of 1.4 Å where its own are
    finer. A large defocus at a fine resolution needs a larger one."""

    phase_shift: bool = False
    """Find the phase shift of a phase plate, too."""

    min_phase_shift_degrees: float = 0.0
    """Least phase shift that is tried with --phase-shift."""

    max_phase_shift_degrees: float = 180.0
    """Greatest phase shift that is tried with --phase-shift."""

    def __post_init__(self) -> None:
        if self.max_resolution_angstrom >= self.min_resolution_angstrom:
            raise InputError(
                "--max-resolution must be a smaller number of Å than --min-resolution; got "
                f"{self.max_resolution_angstrom:g} and {self.min_resolution_angstrom:g} Å; swap them."
            )
        if self.min_defocus_angstrom >= self.max_defocus_angstrom:
            raise InputError(
                f"--min-defocus must be less than --max-defocus; got {self.min_defocus_angstrom:g} and "
                f"{self.max_defocus_angstrom:g} Å; swap them."
            )
        if self.phase_shift and self.min_phase_shift_degrees >= self.max_phase_shift_degrees:
            raise InputError(
                f"--min-phase-shift must be less than --max-phase-shift; got {self.min_phase_shift_degrees:g} and "
                f"{self.max_phase_shift_degrees:g}°; swap them."
            )
        if self.box_pixel % 2:
            raise InputError(f"--box must be even; got {self.box_pixel}; use {self.box_pixel + 1}.")


def check_resolution(pixel_size_angstrom: float, params: CtfEstimationParams) -> None:
    """Refuse resolutions that pixels do not hold.

    Raises
    ------
    InputError
        The finest detail asked for is finer than 2.1 pixels.
    """
    if params.max_resolution_angstrom < FINEST_PIXELS * pixel_size_angstrom:
        raise InputError(
            f"--max-resolution must be {FINEST_PIXELS:g} pixels of {pixel_size_angstrom:g} Å or more, "
            f"{FINEST_PIXELS * pixel_size_angstrom:.2f} Å; got {params.max_resolution_angstrom:g} Å; raise it."
        )
