"""Power spectra of micrographs: averages over overlapping windows."""

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.errors import InputError
from halfmap.grid import ImageGrid

FINEST_PIXEL_ANGSTROM = 1.4
"""Finer detail than twice this tells nothing of the defocus, and costs the size of the windows."""

_OVERLAP = 2  # windows begin at every half of their side
_PIXELS_AT_ONCE = 2**22
_OUTLIER_DEVIATIONS = 6.0


@dataclass(frozen=True, kw_only=True, eq=False)
class PowerSpectra:
    """Power spectra of one image, or of parts of it.

    Parameters
    ----------
    power : float64, shape (k, y, x // 2 + 1), as half transforms lie; DC is 0.
    grid : square; its pixel size tells the frequencies.
    n_windows : that each is the mean of, int64, shape (k,).
    """

    power: Tensor
    grid: ImageGrid
    n_windows: NDArray[np.int64]

    def of(self, group: int) -> "PowerSpectra":
        """Return one of them alone."""
        return PowerSpectra(
            power=self.power[group : group + 1], grid=self.grid, n_windows=self.n_windows[group : group + 1]
        )


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Where the windows lie.

    Parameters
    ----------
    side_pixel : of a window, in pixels of the image.
    corners : (x, y) of their first pixels.
    box_pixel : side of the spectrum that is kept of each.
    """

    side_pixel: int
    corners: tuple[tuple[int, int], ...]
    box_pixel: int

    @property
    def centres_pixel(self) -> NDArray[np.float64]:
        """(x, y) of the middles, shape (n, 2)."""
        return np.array(self.corners, dtype=np.float64) + self.side_pixel // 2


def windows_of(shape: tuple[int, int], pixel_size_angstrom: float, box_pixel: int) -> Windows:
    """Lay overlapping windows over an image.

    Parameters
    ----------
    shape : of the image, (y, x).
    pixel_size_angstrom : of the image.
    box_pixel : side of the spectrum, at pixels of 1.4 Å or the image's own, whichever is larger.

    Raises
    ------
    InputError
        The image is smaller than a window.
    """
    scale = max(1.0, FINEST_PIXEL_ANGSTROM / pixel_size_angstrom)
    side = box_pixel if scale == 1 else _fast_side(box_pixel * scale, min(shape))
    if side > min(shape):
        raise InputError(
            f"A micrograph must be at least as large as the windows of {side} px; got {shape[1]}×{shape[0]} px; "
            f"give a smaller --box than {box_pixel}."
        )
    starts = [_starts(length, side) for length in shape]
    corners = tuple((x, y) for y in starts[0] for x in starts[1])
    return Windows(side_pixel=side, corners=corners, box_pixel=box_pixel)


def power_spectra(
    image: Tensor, windows: Windows, *, pixel_size_angstrom: float, groups: NDArray[np.int64] | None = None
) -> PowerSpectra:
    """Average the power spectra of windows.

    Parameters
    ----------
    image : float32, shape (y, x).
    windows : where they lie.
    pixel_size_angstrom : of the image.
    groups : which spectrum each window adds to, from 0, negative for none; None for one of all.

    Raises
    ------
    InputError
        The image is constant.

    Notes
    -----
    Welch's method with a Hann window. Each window is freed of its mean and weighted by the inverse of its variance, so
    that ice and carbon in a few of them do not drown the others. Pixels beyond six deviations are set to that value.
    Reference: Welch 1967, IEEE Trans. Audio Electroacoust. 15.
    """
    clipped = _without_outliers(image)
    side, box = windows.side_pixel, windows.box_pixel
    labels = np.zeros(len(windows.corners), dtype=np.int64) if groups is None else groups
    n_groups = int(labels.max()) + 1
    taper = torch.hann_window(side, dtype=torch.float32, device=image.device)
    taper = taper[:, None] * taper[None, :]
    total = torch.zeros((n_groups, box, box // 2 + 1), dtype=torch.float64)
    counts = np.bincount(labels[labels >= 0], minlength=n_groups)
    chosen = np.flatnonzero(labels >= 0)
    at_once = max(1, _PIXELS_AT_ONCE // side**2)
    for start in range(0, len(chosen), at_once):
        some = chosen[start : start + at_once]
        cut = torch.stack([clipped[y : y + side, x : x + side] for x, y in (windows.corners[i] for i in some)])
        cut -= cut.mean(dim=(1, 2), keepdim=True)
        variance = torch.linalg.vector_norm(cut, dim=(1, 2), keepdim=True).square() / side**2
        transform = _cropped(torch.fft.rfft2(cut.mul_(taper)), box)
        power = transform.real.square().addcmul_(transform.imag, transform.imag)
        power /= variance.clamp(min=torch.finfo(torch.float32).tiny)
        total.index_add_(0, torch.from_numpy(labels[some]), power.double().cpu())
    total /= torch.from_numpy(np.maximum(counts, 1))[:, None, None]
    total[:, 0, 0] = 0.0
    grid = ImageGrid.square(box, pixel_size_angstrom * side / box)
    return PowerSpectra(power=total, grid=grid, n_windows=counts)


def given_spectrum(image: Tensor, *, pixel_size_angstrom: float) -> PowerSpectra:
    """Take a spectrum that motion correction has left: the mean amplitudes of a movie's frames.

    Parameters
    ----------
    image : shape (n, n), with zero frequency at the pixel (n // 2, n // 2), n even.
    pixel_size_angstrom : half the finest resolution it holds.

    Raises
    ------
    InputError
        It is not square with even sides, or holds what is no amplitude.

    Notes
    -----
    RELION's ``rlnCtfPowerSpectrum``, which holds amplitudes.
    """
    n = image.shape[-1]
    if image.dim() != 2 or image.shape[0] != n or n % 2 or n < 64:
        raise InputError(
            f"A given power spectrum must be square with even sides of 64 px or more; got {tuple(image.shape)}; use "
            "--no-given-spectra."
        )
    if not bool(torch.isfinite(image).all()) or bool((image < 0).any()) or not bool((image > 0).any()):
        raise InputError(
            "A given power spectrum must hold amplitudes, not negative; got others; use --no-given-spectra."
        )
    power = torch.fft.ifftshift(image.double(), dim=(-2, -1))[:, : n // 2 + 1].square()
    power[0, 0] = 0.0
    grid = ImageGrid.square(n, pixel_size_angstrom)
    return PowerSpectra(power=power[None], grid=grid, n_windows=np.ones(1, dtype=np.int64))


def _starts(length: int, side: int) -> list[int]:
    n = math.ceil((length - side) / (side / _OVERLAP)) + 1
    return [int(start) for start in np.rint(np.linspace(0, length - side, n))]


def _fast_side(length: float, most: int) -> int:
    """Return the even side, as near to a length as it comes, that is quickly transformed; not above ``most``."""
    half = length / 2
    below, above = scipy.fft.prev_fast_len(int(half), real=True), scipy.fft.next_fast_len(math.ceil(half), real=True)
    return 2 * (above if above - half < half - below and 2 * above <= most else below)


def _cropped(transform: Tensor, box: int) -> Tensor:
    half = box // 2
    return torch.cat([transform[:, :half, : half + 1], transform[:, transform.shape[1] - half :, : half + 1]], dim=1)


def _without_outliers(image: Tensor) -> Tensor:
    sample = image.flatten()[:: max(1, image.numel() // 100_000)].double()
    middle = sample.median()
    deviation = 1.4826 * (sample - middle).abs().median()
    if not float(deviation) > 0:
        deviation = sample.std()
    if not float(image.max()) > float(image.min()):
        raise InputError(
            f"A micrograph must vary; got the value {float(image.flatten()[0]):g} in every pixel; remove it."
        )
    reach = _OUTLIER_DEVIATIONS * (float(deviation) or float(image.double().std()))
    return image.clamp(float(middle) - reach, float(middle) + reach)
