"""Micrographs of dark balls and shells on noise, positions known; pixels of 5 Å keep them small."""

import numpy as np

from halfmap import keyed_random

PIXEL_SIZE = 5.0


def noise(shape: tuple[int, int], *, seed: int = 1, colour: float = 0.0) -> np.ndarray:
    """White noise of variance 1, or coloured: power 1 + colour / (1 + (120 Å f)²), scaled to variance 1."""
    white = keyed_random.normal(seed, "blob micrograph noise", np.array([0]), size=shape)[0]
    fy, fx = np.fft.fftfreq(shape[0], PIXEL_SIZE)[:, None], np.fft.rfftfreq(shape[1], PIXEL_SIZE)
    power = 1 + colour / (1 + 120.0**2 * (fx**2 + fy**2))
    image = np.fft.irfft2(np.fft.rfft2(white) * np.sqrt(power), s=shape)
    return image / image.std()


def spread_positions(shape: tuple[int, int], n: int, distance_pixel: float, *, seed: int = 1) -> np.ndarray:
    """At most n positions (x, y), nearer neither to one another nor to the edge than a distance and its half."""
    drawn = keyed_random.uniform(seed, "blob positions", np.arange(50 * n), size=2)
    margin = distance_pixel / 2
    drawn = margin + drawn * (np.array(shape[::-1]) - 1 - 2 * margin)
    kept: list[np.ndarray] = []
    for position in drawn:
        if len(kept) < n and all(np.hypot(*(position - other)) >= distance_pixel for other in kept):
            kept.append(position)
    return np.array(kept).reshape(-1, 2)


def density(
    shape: tuple[int, int], positions: np.ndarray, diameter_pixel: float, *, hollow: bool = False
) -> np.ndarray:
    """Projected balls or shells (inner diameter 0.7 of the outer), 1 at most, exact at sub-pixel positions."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for px, py in positions:
        r2 = (x - px) ** 2 + (y - py) ** 2
        outer, inner = diameter_pixel / 2, 0.35 * diameter_pixel
        ball = np.sqrt(np.clip(outer**2 - r2, 0, None))
        if hollow:
            ball = (ball - np.sqrt(np.clip(inner**2 - r2, 0, None))) / np.sqrt(outer**2 - inner**2)
        else:
            ball = ball / outer
        image += ball
    return image


def micrograph(
    shape: tuple[int, int],
    positions: np.ndarray,
    diameter_pixel: float,
    *,
    contrast: float = 1.0,
    hollow: bool = False,
    seed: int = 1,
    colour: float = 0.0,
) -> np.ndarray:
    """Dark particles on noise of variance 1 about 100, float32; their mean is damped as by defocus."""
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    transfer = 1 - 0.9 * np.exp(-2 * (np.pi * 0.5 * diameter_pixel) ** 2 * (fx**2 + fy**2))
    particles = np.fft.irfft2(
        np.fft.rfft2(density(shape, positions, diameter_pixel, hollow=hollow)) * transfer, s=shape
    )
    return (100 + noise(shape, seed=seed, colour=colour) - contrast * particles).astype(np.float32)
