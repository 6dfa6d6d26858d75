"""Micrographs of dark rods in any direction, positions and angles known; pixels of 5 Å keep them small."""

from dataclasses import dataclass

import numpy as np

from halfmap import keyed_random
from support.blob_micrographs import PIXEL_SIZE, noise, spread_positions

LENGTH, WIDTH = 200.0, 60.0
"""Of the rods, in Å."""


def rods(shape: tuple[int, int], positions: np.ndarray, psi_degrees: np.ndarray) -> np.ndarray:
    """Projected rods with round ends, 1 at most; at psi 0 they lie along x, and psi turns them as RELION's does."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    image = np.zeros(shape)
    for (px, py), psi in zip(positions, np.radians(psi_degrees), strict=True):
        along = np.cos(psi) * (x - px) - np.sin(psi) * (y - py)
        across = np.sin(psi) * (x - px) + np.cos(psi) * (y - py)
        beyond = np.clip(np.abs(along) - (LENGTH - WIDTH) / 2 / PIXEL_SIZE, 0, None)
        radius = WIDTH / 2 / PIXEL_SIZE
        image += np.sqrt(np.clip(radius**2 - beyond**2 - across**2, 0, None)) / radius
    return image


@dataclass(frozen=True, kw_only=True, eq=False)
class RodMicrograph:
    """A micrograph, where its rods lie, and how they are turned."""

    image: np.ndarray
    positions: np.ndarray
    psi_degrees: np.ndarray


def rod_micrograph(shape: tuple[int, int], n: int, *, contrast: float, seed: int = 1) -> RodMicrograph:
    """Dark rods on white noise of variance 1 about 100, float32."""
    positions = spread_positions(shape, n, (LENGTH + 10) / PIXEL_SIZE, seed=seed)
    psi = 360 * keyed_random.uniform(seed, "rod directions", np.arange(len(positions)), size=1)[:, 0]
    image = 100 + noise(shape, seed=seed) - contrast * rods(shape, positions, psi)
    return RodMicrograph(image=image.astype(np.float32), positions=positions, psi_degrees=psi)


def rod_reference(side: int = 64) -> np.ndarray:
    """One bright rod along x at the centre pixel, float32."""
    return rods((side, side), np.array([[side // 2, side // 2]]), np.zeros(1)).astype(np.float32)
