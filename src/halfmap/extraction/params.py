"""What can be set about extraction."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from halfmap.errors import InputError
from halfmap.units import Length


@dataclass(frozen=True, kw_only=True)
class ExtractParams:
    """How windows are cut out of micrographs and become particle images."""

    box_pixel: Annotated[int, Ge(8)] = 128
    """Side of the window in micrograph pixels, even. 1.5 to 2 times the particle's diameter is usual."""

    rescale_pixel: Annotated[int, Ge(8)] | None = None
    """Side of the particle image after Fourier cropping the window, even. Default: not rescaled."""

    crop_pixel: Annotated[int, Ge(8)] | None = None
    """Side to which the rescaled image is cropped about its centre, even. Default: not cropped."""

    invert_contrast: bool = True
    """Multiply by -1, so that particles become bright."""

    normalise: bool = True
    """Bring the background, outside the background circle, to mean 0 and standard deviation 1."""

    background_diameter: Length | None = None
    """Diameter of the circle outside which pixels count as background; px are the micrograph's. Default: 75 % of the
    box."""

    ramp: bool = True
    """Subtract the plane that fits the background best, before normalising."""

    white_dust: Annotated[float, Gt(0)] | None = None
    """Replace pixels brighter in the micrograph than this many background standard deviations by noise (5 is usual)."""

    black_dust: Annotated[float, Gt(0)] | None = None
    """Replace pixels darker in the micrograph than this many background standard deviations by noise (5 is usual)."""

    min_fom: float | None = None
    """Leave out picks whose figure of merit (FOM) is not above this value."""

    bias_pixel: tuple[int, int] = (0, 0)
    """Whole pixels (x,y) added to every coordinate."""

    max_outside: Annotated[float, Ge(0), Le(1)] = 1.0
    """Set aside particles of whose window more than this fraction lies outside the micrograph."""

    premultiply_ctf: bool = False
    """Multiply the particles by their CTF."""

    phase_flip: bool = False
    """Multiply the particles by the sign of their CTF."""

    ctf_intact_first_peak: bool = False
    """Leave the CTF at 1 up to its first peak, when premultiplying or phase flipping."""

    premultiply_box_pixel: Annotated[int, Ge(8)] | None = None
    """Side of the larger window in which the CTF is applied, even; brings delocalised signal back. Default: box."""

    float16: bool = True
    """Write 16-bit floating point stacks (MRC mode 12), half the size; RELION 3.1 needs --no-float16."""

    seed: int = 1
    """Seed of the noise that replaces dust."""

    def __post_init__(self) -> None:
        for flag, side in (
            ("--box", self.box_pixel),
            ("--rescale", self.rescale_pixel),
            ("--crop", self.crop_pixel),
            ("--premultiply-box", self.premultiply_box_pixel),
        ):
            if side is not None and side % 2:
                raise InputError(f"{flag} must be even; got {side}; use {side + 1}.")
        if self.crop_pixel is not None and self.crop_pixel > (self.rescale_pixel or self.box_pixel):
            raise InputError(
                f"--crop must not exceed the image; got {self.crop_pixel} px for an image of "
                f"{self.rescale_pixel or self.box_pixel} px; choose a smaller one or a larger --box."
            )
        if self.premultiply_ctf and self.phase_flip:
            raise InputError("--premultiply-ctf must not go with --phase-flip; got both; choose one.")
        if self.premultiply_box_pixel is not None:
            if not (self.premultiply_ctf or self.phase_flip):
                raise InputError(
                    "--premultiply-box must have a CTF; got neither --premultiply-ctf nor --phase-flip; add it."
                )
            if self.premultiply_box_pixel < self.box_pixel:
                raise InputError(
                    f"--premultiply-box must be at least the box; got {self.premultiply_box_pixel} px for a box of "
                    f"{self.box_pixel} px; use {self.box_pixel} or more."
                )

    @property
    def image_side(self) -> int:
        """Side of the images written, in their own pixels."""
        return self.crop_pixel or self.rescale_pixel or self.box_pixel

    def image_pixel_size_angstrom(self, micrograph_pixel_size_angstrom: float) -> float:
        """Return the pixel size of the images written, in Å."""
        return micrograph_pixel_size_angstrom * self.box_pixel / (self.rescale_pixel or self.box_pixel)

    def background_radius_pixel(self, micrograph_pixel_size_angstrom: float) -> int:
        """Return the radius of the background circle in pixels of the rescaled image, truncated as RELION does.

        Raises
        ------
        InputError
            The circle leaves no background inside the image written.
        """
        diameter = (
            0.75 * self.box_pixel
            if self.background_diameter is None
            else self.background_diameter.to_pixel(micrograph_pixel_size_angstrom)
        )
        radius = int(0.5 * diameter * (self.rescale_pixel or self.box_pixel) / self.box_pixel)
        if not 0 < radius < self.image_side * 2**0.5 / 2 - 1:
            raise InputError(
                f"--background-diameter must leave pixels outside the circle; got a radius of {radius} px in an "
                f"image of {self.image_side} px; choose a smaller circle or a larger --box."
            )
        return radius
