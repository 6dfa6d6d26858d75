"""The template: a density whose projections are looked for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid
from halfmap.tensors import BandValues, Rotations, Volumes


@dataclass(frozen=True, kw_only=True, eq=False)
class Template:
    """A template made ready for central slices.

    Parameters
    ----------
    transform : padded and corrected for the interpolation.
    """

    transform: slices.PaddedTransform

    @property
    def grid(self) -> ImageGrid:
        """Of the template, cubic."""
        return self.transform.grid.grid

    @property
    def side(self) -> int:
        """Side of the template, in pixels."""
        return self.grid.side

    def to(self, device: torch.device | str) -> "Template":
        """Return the template on another device."""
        return Template(transform=self.transform.to(device))

    def with_pixel_size(self, pixel_size_angstrom: float) -> "Template":
        """Return the same density with another size of its voxels: the particle grows or shrinks, nothing else."""
        grid = ImageGrid.cubic(self.side, pixel_size_angstrom)
        padded = slices.PaddedGrid(grid, padding=self.transform.grid.padding)
        return Template(transform=slices.PaddedTransform(values=self.transform.values, grid=padded))

    def slices(self, rotations: Rotations, band: FourierBand) -> BandValues:
        """Return transforms of projections, complex, shape (..., K); see `halfmap.fourier.slices.extract`."""
        return slices.extract(self.transform, rotations, band)


def prepare_template(values: Volumes, grid: ImageGrid, *, padding: int = 2) -> Template:
    """Make a template ready.

    Parameters
    ----------
    values : shape (z, y, x), density positive, centred.
    grid : of the template.
    padding : see `halfmap.fourier.slices.prepare`.

    Raises
    ------
    ShapeError
        The template is no cube of an even side.
    InputError
        Its values are not finite, all alike, or negative where it is densest.
    """
    check_template(values, grid)
    return Template(transform=slices.prepare(values.to(torch.float32), grid, padding))


def check_template(values: Volumes, grid: ImageGrid) -> None:
    """Raise unless values are those of a template; see `prepare_template`."""
    if len(set(grid.shape)) != 1 or grid.ndim != 3 or grid.shape[0] % 2:
        raise ShapeError(
            f"A template must be a cube of an even side; got {'×'.join(map(str, grid.shape[::-1]))} px; crop or pad it "
            "with `halfmap volume crop`."
        )
    if not bool(torch.isfinite(values).all()):
        raise InputError("A template must hold finite values; got some that are not; make it again.")
    skew = _skew(values)
    if skew is None:
        raise InputError("A template must hold a density; got values that are all alike; choose another file.")
    if skew < 0:
        raise InputError(
            "A template's density must be positive; got one whose strongest values are negative; invert it."
        )


def _skew(values: Tensor) -> float | None:
    """Return the third moment about the mean, which has the sign of the density; None where nothing varies."""
    deviation = values.to(torch.float64) - values.to(torch.float64).mean()
    return None if not bool(deviation.any()) else float(deviation.pow(3).mean())
