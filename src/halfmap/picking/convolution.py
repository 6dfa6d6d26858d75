"""Convolutions of one work image with round kernels, through one padded transform."""

import math

import torch
from torch import Tensor


def smooth_length(least: int) -> int:
    """Return the smallest even number of at least that size with no prime factor above 5."""
    length = max(2, least + least % 2)
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 2


class RoundKernels:
    """Convolves images of one shape with kernels given by their transform along the radius.

    Images are padded with zeros by ``margin_pixel``, so kernels that reach no further do not wrap around.

    Parameters
    ----------
    shape : sides (y, x) of the images.
    margin_pixel : reach of the widest kernel.
    device : where the images lie.
    """

    def __init__(self, shape: tuple[int, int], margin_pixel: float, device: torch.device) -> None:
        self.shape = shape
        self.padded = tuple(smooth_length(side + math.ceil(margin_pixel)) for side in shape)
        self.frequency_y = torch.fft.fftfreq(self.padded[0], device=device, dtype=torch.float32)[:, None]
        self.frequency_x = torch.fft.rfftfreq(self.padded[1], device=device, dtype=torch.float32)

    def frequency(self) -> Tensor:
        """Return the spatial frequency of each coefficient, in cycles per pixel."""
        return torch.hypot(self.frequency_y, self.frequency_x)

    def forward(self, image: Tensor) -> Tensor:
        """Transform an image, shape (y, x)."""
        return torch.fft.rfft2(image, s=self.padded)

    def apply(self, transform: Tensor, kernel_rfft: Tensor) -> Tensor:
        """Return the image of a transform convolved with a kernel, shape (y, x)."""
        image = torch.fft.irfft2(transform * kernel_rfft, s=self.padded)
        return image[: self.shape[0], : self.shape[1]]

    def gaussian(self, sigma_pixel: float) -> Tensor:
        """Return the transform of a Gaussian of sum 1."""
        fall = -2.0 * (math.pi * sigma_pixel) ** 2
        return torch.exp(fall * self.frequency_y**2) * torch.exp(fall * self.frequency_x**2)

    def disc(self, diameter_pixel: float) -> Tensor:
        """Return the transform of a disc of sum 1: 2 J₁(q) / q with q = π d f."""
        q = (math.pi * diameter_pixel * self.frequency()).clamp_min(1e-6)
        return 2.0 * torch.special.bessel_j1(q) / q

    def sphere(self, diameter_pixel: float) -> Tensor:
        """Return the transform of a projected solid sphere of sum 1: 3 (sin q - q cos q) / q³."""
        q = math.pi * diameter_pixel * self.frequency()
        safe = q.clamp_min(0.02)
        exact = 3.0 * (torch.sin(safe) - safe * torch.cos(safe)) / safe**3
        return torch.where(q < 0.1, 1.0 - q**2 / 10.0, exact)

    def norm(self, kernel_rfft: Tensor) -> float:
        """Return the root of the summed squares of a kernel's pixels."""
        weight = torch.full((len(self.frequency_x),), 2.0, device=kernel_rfft.device)
        weight[0] = weight[-1] = 1.0
        power = (kernel_rfft.abs() ** 2 * weight).to(torch.float64).sum()
        return math.sqrt(float(power) / (self.padded[0] * self.padded[1]))
