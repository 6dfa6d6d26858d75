"""`ImageGrid`: the one place that knows how arrays, positions and transforms lie to one another."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from halfmap.errors import InputError, ShapeError

if TYPE_CHECKING:  # tables and files know of grids, and need not wait for torch to load
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ImageGrid:
    """A sampling of space: the sides of an image or volume and the size of its pixel.

    Parameters
    ----------
    shape : sides in array order, ``(y, x)`` for images, ``(z, y, x)`` for volumes; each at least 2.
    pixel_size_angstrom : side of one pixel or voxel.

    Notes
    -----
    The centre is voxel ``n // 2`` of each axis. Transforms are divided by the number of pixels on the
    way forward, hold half of the x axis with DC at index 0, and have their phase origin at the centre
    voxel. Arrays are ordered (z, y, x); vectors have components (x, y, z).
    """

    shape: tuple[int, ...]
    pixel_size_angstrom: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(side) for side in self.shape))
        if len(self.shape) not in (2, 3) or min(self.shape) < 2:
            raise ShapeError(f"A grid must have two or three sides of at least 2; got {self.shape}.")
        if not (self.pixel_size_angstrom > 0 and self.pixel_size_angstrom < float("inf")):
            raise InputError(
                f"A pixel size must be positive; got {self.pixel_size_angstrom} Å; give it with --pixel-size."
            )

    @classmethod
    def square(cls, side: int, pixel_size_angstrom: float) -> "ImageGrid":
        """Return the grid of a square image."""
        return cls(shape=(side, side), pixel_size_angstrom=pixel_size_angstrom)

    @classmethod
    def cubic(cls, side: int, pixel_size_angstrom: float) -> "ImageGrid":
        """Return the grid of a cubic volume."""
        return cls(shape=(side, side, side), pixel_size_angstrom=pixel_size_angstrom)

    @property
    def ndim(self) -> int:
        """Number of axes, 2 or 3."""
        return len(self.shape)

    @property
    def n_pixels(self) -> int:
        """Number of pixels or voxels."""
        total = 1
        for side in self.shape:
            total *= side
        return total

    @property
    def side(self) -> int:
        """Side of a square or cubic grid.

        Raises
        ------
        ShapeError
            The sides differ.
        """
        if len(set(self.shape)) != 1:
            raise ShapeError(f"The grid must have equal sides; got {self.shape}; crop or pad it first.")
        return self.shape[0]

    @property
    def rfft_shape(self) -> tuple[int, ...]:
        """Shape of a half transform."""
        return (*self.shape[:-1], self.shape[-1] // 2 + 1)

    @property
    def centre(self) -> tuple[int, ...]:
        """Index of the centre voxel, in array order."""
        return tuple(side // 2 for side in self.shape)

    def with_shape(self, shape: tuple[int, ...]) -> "ImageGrid":
        """Return the grid of other sides and the same pixel size."""
        return ImageGrid(shape=shape, pixel_size_angstrom=self.pixel_size_angstrom)

    def check(self, array: "Tensor", name: str = "array") -> None:
        """Raise `ShapeError` unless the last axes of ``array`` are this grid's."""
        if tuple(array.shape[-self.ndim :]) != self.shape:
            raise ShapeError(f"{name} must end in the axes {self.shape}; got shape {tuple(array.shape)}.")

    def rfft(self, array: "Tensor") -> "Tensor":
        """Transform real arrays.

        Parameters
        ----------
        array : real, shape (..., *self.shape).

        Returns
        -------
        Complex, shape (..., *self.rfft_shape): divided by the number of pixels, DC at index 0, phase
        origin at the centre voxel.
        """
        import torch

        self.check(array)
        axes = tuple(range(-self.ndim, 0))
        return torch.fft.rfftn(torch.fft.ifftshift(array, dim=axes), dim=axes, norm="forward")

    def irfft(self, transform: "Tensor") -> "Tensor":
        """Invert `rfft`.

        Parameters
        ----------
        transform : complex, shape (..., *self.rfft_shape).

        Returns
        -------
        Real, shape (..., *self.shape).

        Raises
        ------
        ShapeError
            The last axes are not those of the grid's half transform.
        """
        import torch

        if tuple(transform.shape[-self.ndim :]) != self.rfft_shape:
            raise ShapeError(
                f"A half transform must end in the axes {self.rfft_shape}; got shape {tuple(transform.shape)}."
            )
        axes = tuple(range(-self.ndim, 0))
        return torch.fft.fftshift(torch.fft.irfftn(transform, s=self.shape, dim=axes, norm="forward"), dim=axes)

    def positions(self, *, device: "torch.device | str" = "cpu", dtype: "torch.dtype | None" = None) -> "Tensor":
        """Return each voxel's vector from the centre, in Å; float64 where no type is given.

        Returns
        -------
        Shape (*self.shape, ndim); the last axis holds (x, y) or (x, y, z).
        """
        import torch

        axes = [
            (torch.arange(side, device=device, dtype=dtype or torch.float64) - side // 2) * self.pixel_size_angstrom
            for side in self.shape
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)

    def radii(self, *, device: "torch.device | str" = "cpu", dtype: "torch.dtype | None" = None) -> "Tensor":
        """Return each voxel's distance from the centre in Å, shape ``self.shape``; type as of `positions`."""
        return self.positions(device=device, dtype=dtype).norm(dim=-1)

    def frequencies(self, *, device: "torch.device | str" = "cpu", dtype: "torch.dtype | None" = None) -> "Tensor":
        """Return the spatial frequency of each coefficient of a half transform, in 1/Å; type as of `positions`.

        Returns
        -------
        Shape (*self.rfft_shape, ndim); the last axis holds (x, y) or (x, y, z). The Nyquist frequency
        of an even side is negative on the full axes and positive on the halved one.
        """
        import torch

        spacing = self.pixel_size_angstrom
        dtype = dtype or torch.float64
        axes = [torch.fft.fftfreq(side, d=spacing, device=device, dtype=dtype) for side in self.shape[:-1]]
        axes.append(torch.fft.rfftfreq(self.shape[-1], d=spacing, device=device, dtype=dtype))
        return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
