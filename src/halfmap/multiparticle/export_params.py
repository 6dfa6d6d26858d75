"""The settings of exporting particles of series."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge


@dataclass(frozen=True, kw_only=True)
class ExportParams:
    """How particles are cut out for other programs."""

    image_pixel_size_angstrom: Annotated[float, Ge(0)] = 0.0
    """Pixel size of the images or sub-tomograms; 0 for that of the species."""

    image_box_pixel: Annotated[int, Ge(0)] = 0
    """Their side in pixels; 0 for twice the species' diameter."""

    premultiply_ctf: bool = True
    """Whether images are multiplied by their CTF, fading with dose included, before they are cut to the box."""

    pose_dose_e_per_angstrom2: Annotated[float, Ge(-1)] = -1.0
    """Dose at which poses are taken where a table has one for all tilts; -1 for the mean over images."""
