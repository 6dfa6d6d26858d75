"""`FourierBand`: the coefficients of square images that take part in a sum, each counted once."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from halfmap.errors import InputError, ShapeError
from halfmap.fourier.shells import shell_index
from halfmap.grid import ImageGrid
from halfmap.tensors import BandValues, ImagesRfft


@dataclass(frozen=True, kw_only=True, eq=False)
class FourierBand:
    """The coefficients of a square image between two shells.

    Parameters
    ----------
    grid : of square images.
    min_shell : the first shell, at least 1.
    max_shell : the last shell, at most ``side // 2 - 1``; -1 means that one.
    device : where the index tensors live.

    Attributes
    ----------
    indices : int64, shape (K,)
        Position of each coefficient in a flattened half transform.
    wave_numbers : int64, shape (K, 2)
        (kx, ky), whole multiples of 1 / (side x pixel size).
    shell_of : int64, shape (K,)
    frequencies : float64, shape (K, 2)
        (x, y) in 1/Å.

    Raises
    ------
    ShapeError
        The grid is not that of square images.
    InputError
        The shells are out of order or beyond the grid.

    Notes
    -----
    A coefficient belongs to shell round(|k|). The half plane is kx > 0, and ky > 0 where kx = 0, so
    DC, the Nyquist frequency and redundant mates never belong and every coefficient stands for itself
    and its mate. The order is by shell, then ky, then kx: a lower resolution is a prefix.
    """

    grid: ImageGrid = field(kw_only=False)
    min_shell: int = 1
    max_shell: int = -1
    device: torch.device | str = "cpu"
    indices: Tensor = field(init=False, repr=False)
    wave_numbers: Tensor = field(init=False, repr=False)
    shell_of: Tensor = field(init=False, repr=False)
    frequencies: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.grid.ndim != 2:
            raise ShapeError(f"A band must be of square images; got a grid of shape {self.grid.shape}.")
        side = self.grid.side
        last = side // 2 - 1
        max_shell = last if self.max_shell == -1 else self.max_shell
        if not 1 <= self.min_shell <= max_shell <= last:
            raise InputError(
                f"A band's shells must satisfy 1 <= min_shell <= max_shell <= {last} on a side of {side} px; "
                f"got {self.min_shell} to {max_shell}."
            )
        shells = shell_index(self.grid)
        ky, kx = torch.meshgrid(
            torch.fft.fftfreq(side, d=1 / side).round().to(torch.int64), torch.arange(side // 2 + 1), indexing="ij"
        )
        inside = (shells >= self.min_shell) & (shells <= max_shell) & ((kx > 0) | (ky > 0))
        chosen = torch.nonzero(inside.reshape(-1)).flatten()
        # one sortable number: shell, then ky, then kx
        rank = (shells.reshape(-1)[chosen] * (2 * side) + ky.reshape(-1)[chosen] + side) * side
        chosen = chosen[torch.argsort(rank + kx.reshape(-1)[chosen])]
        numbers = torch.stack([kx.reshape(-1)[chosen], ky.reshape(-1)[chosen]], dim=-1)
        tensors = {
            "indices": chosen,
            "wave_numbers": numbers,
            "shell_of": shells.reshape(-1)[chosen],
            "frequencies": numbers.to(torch.float64) / (side * self.grid.pixel_size_angstrom),
        }
        object.__setattr__(self, "max_shell", max_shell)
        for name, tensor in tensors.items():
            object.__setattr__(self, name, tensor.to(self.device))

    def __len__(self) -> int:
        return int(self.indices.numel())

    @property
    def n_coefficients(self) -> int:
        """Number K of coefficients."""
        return len(self)

    @property
    def max_resolution_angstrom(self) -> float:
        """Resolution of the last shell in Å."""
        return self.grid.side * self.grid.pixel_size_angstrom / self.max_shell

    def to(self, device: torch.device | str) -> "FourierBand":
        """Return the band with its index tensors on another device."""
        return self if self.indices.device == torch.device(device) else replace(self, device=device)

    def head(self, shell: int) -> "FourierBand":
        """Return the band up to a lower shell: its values are the first of this band's.

        Raises
        ------
        InputError
            The shell lies outside this band.
        """
        if not self.min_shell <= shell <= self.max_shell:
            raise InputError(
                f"A prefix must end in one of the band's shells, {self.min_shell} to {self.max_shell}; got {shell}."
            )
        return replace(self, max_shell=shell)

    def for_grid(self, grid: ImageGrid) -> "FourierBand":
        """Return the band of images of another side or pixel size with the same limits in 1/Å.

        Notes
        -----
        Limits go to the nearest shell of the other grid and end where it ends.

        Raises
        ------
        InputError
            No shell of the other grid lies within the limits.
        """
        ratio = grid.side * grid.pixel_size_angstrom / (self.grid.side * self.grid.pixel_size_angstrom)
        first = max(1, round(self.min_shell * ratio))
        last = min(grid.side // 2 - 1, round(self.max_shell * ratio))
        if first > last:
            limits = [
                self.grid.side * self.grid.pixel_size_angstrom / shell for shell in (self.min_shell, self.max_shell)
            ]
            raise InputError(
                f"The other grid must reach into the band of {limits[0]:.1f} to {limits[1]:.1f} Å; "
                f"got a side of {grid.side} px of {grid.pixel_size_angstrom:g} Å."
            )
        return replace(self, grid=grid, min_shell=first, max_shell=last)

    def gather(self, transform: ImagesRfft) -> BandValues:
        """Take the band out of half transforms.

        Parameters
        ----------
        transform : shape (..., side, side // 2 + 1).

        Returns
        -------
        Shape (..., K), a copy.

        Raises
        ------
        ShapeError
            The transform is not of the band's grid.
        """
        if tuple(transform.shape[-2:]) != self.grid.rfft_shape:
            raise ShapeError(
                f"A half transform must end in the axes {self.grid.rfft_shape}; got shape {tuple(transform.shape)}."
            )
        return transform.flatten(-2).index_select(-1, self.indices)

    def scatter(self, values: BandValues) -> ImagesRfft:
        """Put band values into half transforms that are zero elsewhere.

        Parameters
        ----------
        values : real or complex, shape (..., K).

        Returns
        -------
        Shape (..., side, side // 2 + 1), with the conjugate mates on kx = 0 restored, so that the
        inverse transform is the real, band-limited image.
        """
        self._check(values)
        rows, columns = self.grid.rfft_shape
        on_axis = torch.nonzero(self.wave_numbers[:, 0] == 0).flatten()
        mates = (rows - self.wave_numbers[on_axis, 1]) * columns
        flat = values.new_zeros((*values.shape[:-1], rows * columns))
        flat = flat.index_copy(-1, self.indices, values)
        mate_values = values.index_select(-1, on_axis)
        flat = flat.index_copy(-1, mates, mate_values.conj().resolve_conj())
        return flat.unflatten(-1, (rows, columns))

    def as_real(self, values: BandValues) -> Tensor:
        """View complex band values as pairs of real numbers, so that a real dot product is Re Σ a conj b.

        Parameters
        ----------
        values : complex, shape (..., K).

        Returns
        -------
        Real, shape (..., 2K): real and imaginary parts in turn; shares memory where it can.
        """
        self._check(values)
        return torch.view_as_real(values.resolve_conj()).flatten(-2)

    def as_complex(self, values: Tensor) -> BandValues:
        """Undo `as_real`: shape (..., 2K) to (..., K).

        Raises
        ------
        ShapeError
            The last axis is not twice the band's length.
        """
        if values.shape[-1] != 2 * len(self):
            raise ShapeError(f"Paired band values must have {2 * len(self)} numbers; got {values.shape[-1]}.")
        return torch.view_as_complex(values.unflatten(-1, (-1, 2)).contiguous())

    def shell_sum(self, values: Tensor) -> Tensor:
        """Sum real band values over each shell.

        Parameters
        ----------
        values : real, shape (..., K).

        Returns
        -------
        float64, shape (..., max_shell + 1), each coefficient counted once; shells before the band hold 0.
        """
        self._check(values)
        sums = torch.zeros((*values.shape[:-1], self.max_shell + 1), dtype=torch.float64, device=values.device)
        return sums.index_add_(-1, self.shell_of, values.to(torch.float64))

    def _check(self, values: Tensor) -> None:
        if values.shape[-1] != len(self):
            raise ShapeError(f"Band values must have {len(self)} coefficients; got shape {tuple(values.shape)}.")
