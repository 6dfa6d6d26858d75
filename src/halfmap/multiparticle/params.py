"""What multi-particle refinement fits, and how far it expects each parameter to be off."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from halfmap.errors import InputError

Positive = Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class GeometryChoice:
    """Which parameters of place and orientation are fitted.

    Raises
    ------
    InputError
        A grid is not written as numbers of nodes.
    """

    image_warp: str | None = None
    """Movement within each image: nodes in x and y as 6x4, for every tilt; of frame series the first grid of a pyramid
    that trades time for space."""

    volume_warp: str | None = None
    """Warp of a tilt series' volume: nodes in x, y, z and dose as 3x3x2x10; the first in dose stays."""

    stage_angles: bool = False
    """Angles of the stage, for each tilt."""

    doming: bool = False
    """How frames bow: defocus and angles on 3 by 3 nodes, for each frame."""

    positions: bool = False
    """Positions of particles; of frame series in the plane."""

    angles: bool = False
    """Orientations of particles."""

    def __post_init__(self) -> None:
        self.image_warp_nodes  # noqa: B018 - refused here, before any work
        self.volume_warp_nodes  # noqa: B018

    @property
    def image_warp_nodes(self) -> tuple[int, int] | None:
        """Numbers of nodes in x and y."""
        if self.image_warp is None:
            return None
        x, y = nodes_from_text(self.image_warp, 2)
        return x, y

    @property
    def volume_warp_nodes(self) -> tuple[int, int, int, int] | None:
        """Numbers of nodes in x, y, z and dose."""
        if self.volume_warp is None:
            return None
        x, y, z, dose = nodes_from_text(self.volume_warp, 4)
        if dose < 2:
            raise InputError(
                f"A volume warp must have at least 2 nodes in dose, since the first stays; got {self.volume_warp}; "
                f"write {x}x{y}x{z}x10."
            )
        return x, y, z, dose


@dataclass(frozen=True, kw_only=True)
class OpticsChoice:
    """Which parameters of the microscope are fitted."""

    defocus: bool = False
    """Defocus: of each tilt; of frame series each particle's own."""

    astigmatism: bool = False
    """Astigmatism: of each tilt; of frame series on 3 by 3 nodes."""

    phase_shift: bool = False
    """Phase shift of a phase plate: of each tilt; of frame series one."""

    spherical_aberration: bool = False
    """Spherical aberration, a stand-in for the pixel size: one for a tilt series; of frame series on 3 by 3 nodes."""

    magnification: bool = False
    """Anisotropic magnification, one matrix for a series."""

    odd_zernike_order: Literal[0, 3, 5] = 0
    """Odd aberrations up to this order: 3 has 6 coefficients, 5 has 12, 0 none."""

    even_zernike_order: Literal[0, 2, 4] = 0
    """Even aberrations up to this order: 2 has 3 coefficients, 4 has 8, 0 none."""


@dataclass(frozen=True, kw_only=True)
class ParameterChoice(GeometryChoice, OpticsChoice):
    """Which parameters are fitted."""


@dataclass(frozen=True, kw_only=True)
class PriorWidths:
    """Standard deviations by which parameters are expected to differ from where a fit starts.

    Notes
    -----
    A step is between images that follow one another in dose, a bend a second difference between neighbours in space.
    Defaults lie above what M found in a tilt series of good quality: movements of 1.5 and 3.3 Å, volume warps of 2 to
    3 Å, stage angles of 1.6, 0.6 and 0.6°, defoci that differ by 400 Å.
    """

    image_warp_angstrom: Positive = 10.0
    """Movement of a tilt at a node."""

    image_warp_step_angstrom: Positive = 10.0
    """Between tilts that follow one another in dose."""

    image_warp_bend_angstrom: Positive = 5.0
    """Bend of a tilt's movement over neighbouring nodes."""

    frame_movement_angstrom: Positive = 5.0
    """Movement of a frame at a node of a pyramid's grid."""

    frame_movement_step_angstrom: Positive = 2.0
    """Between neighbours in time on a pyramid's grid."""

    frame_movement_bend_angstrom: Positive = 3.0
    """Bend of a frame's movement over neighbouring nodes."""

    volume_warp_angstrom: Positive = 10.0
    """Warp of the volume at a node."""

    volume_warp_step_angstrom: Positive = 5.0
    """Between neighbours in dose."""

    volume_warp_bend_angstrom: Positive = 5.0
    """Bend over neighbouring nodes."""

    stage_angle_degrees: Positive = 2.0
    """Angle of the stage, and of frames that bow."""

    stage_angle_step_degrees: Positive = 2.0
    """Between images that follow one another in dose."""

    doming_angstrom: Positive = 200.0
    """Defocus of a frame at a node."""

    doming_step_angstrom: Positive = 100.0
    """Between frames that follow one another."""

    position_angstrom: Positive = 5.0
    """Position of a particle along each axis."""

    position_step_angstrom: Positive = 5.0
    """Between temporal samples that follow one another."""

    angle_degrees: Positive = 5.0
    """Turn of a particle about each axis."""

    angle_step_degrees: Positive = 3.0
    """Between temporal samples that follow one another."""

    defocus_angstrom: Positive = 2000.0
    """Defocus of a tilt or of a frame series' particle."""

    defocus_step_angstrom: Positive = 2000.0
    """Between tilts that follow one another in dose."""

    astigmatism_angstrom: Positive = 500.0
    """Each of the two components of U − V."""

    phase_shift_degrees: Positive = 30.0
    """Phase shift of a phase plate."""

    spherical_aberration_mm: Positive = 0.5
    """Spherical aberration."""

    magnification: Positive = 0.02
    """Each entry of the matrix."""

    aberration_rad: Positive = 1.0
    """Phase that each independent aberration turns up to 3 Å, rms over the frequencies."""


def nodes_from_text(text: str, n_axes: int) -> tuple[int, ...]:
    """Read numbers of nodes as 6x4.

    Raises
    ------
    InputError
        The text does not hold as many numbers above 0 as the grid has axes.
    """
    parts = re.split(r"[x×]", text.strip())
    if len(parts) != n_axes or not all(re.fullmatch(r"[1-9]\d*", part.strip()) for part in parts):
        example = "x".join(("3", "3", "2", "10")[:n_axes])
        raise InputError(f"A grid must be {n_axes} numbers of nodes such as {example}; got {text!r}; write {example}.")
    return tuple(int(part) for part in parts)
