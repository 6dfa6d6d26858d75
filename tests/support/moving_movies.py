"""Movies of known motion."""

import numpy as np
import torch

from halfmap.data.image_series import FrameSeries, SeriesOptics
from halfmap.grid import ImageGrid
from halfmap.imaging.frame_average import movement_pixel
from halfmap.kernels.spline_displacement import read_displaced
from halfmap.motion_correction.align import trajectories
from halfmap.splines.grids import SplineGrid

PIXEL_ANGSTROM, SIDE, N = 1.5, 256, 10
GRID = ImageGrid.square(SIDE, PIXEL_ANGSTROM)
OPTICS = SeriesOptics(pixel_size_angstrom=PIXEL_ANGSTROM)
DOSE = 2.0 * np.arange(N)
PLACES = np.stack(np.meshgrid(*[np.linspace(0.1, 0.9, 5)] * 2), axis=-1).reshape(-1, 2)


def true_series(*, local_pixel: float) -> FrameSeries:
    generator = np.random.default_rng(5)
    steps = generator.normal([1.0, -0.5], 1.0, (N, 2))
    whole = np.cumsum(steps, axis=0) * PIXEL_ANGSTROM
    doming = (np.linspace(-1, 1, 3)[None, :, None] + np.zeros((1, 1, 3))) * np.linspace(0, 1, 4)[:, None, None]
    local = torch.from_numpy(doming * local_pixel * PIXEL_ANGSTROM)
    return FrameSeries(
        name="movie",
        image_size_angstrom=(SIDE * PIXEL_ANGSTROM, SIDE * PIXEL_ANGSTROM),
        dose_e_per_angstrom2=DOSE,
        is_used=np.ones(N, dtype=bool),
        optics=OPTICS,
        movement_x_angstrom=SplineGrid(values=torch.from_numpy(whole[:, 0]).reshape(-1, 1, 1)),
        movement_y_angstrom=SplineGrid(values=torch.from_numpy(whole[:, 1]).reshape(-1, 1, 1)),
        local_movement_x_angstrom=SplineGrid(values=local.transpose(1, 2)),
        local_movement_y_angstrom=SplineGrid(values=local),
    )


def specimen() -> np.ndarray:
    """Blobs of a particle's size in white grain: what repeats from frame to frame."""
    generator = np.random.default_rng(3)
    k = torch.from_numpy(np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]))
    transform = torch.fft.rfft2(torch.from_numpy(generator.normal(0, 1, (SIDE, SIDE)))) * torch.exp(-60 * k**2)
    image = torch.fft.irfft2(transform, s=(SIDE, SIDE)).numpy()
    return (image / image.std()).astype(np.float32)


def movie(series: FrameSeries, *, noise: float = 3.0, seed: int = 1) -> np.ndarray:
    """Frames of mean 10: content of place p lies at p − movement(p), to first order in the motion's slope."""
    generator = np.random.default_rng(seed)
    image, frames = specimen(), []
    for number in range(N):
        x, y = (field.numpy() for field in movement_pixel(series, number, GRID))
        moved = np.empty_like(image)
        k_y, k_x = np.cos(2 * np.pi * np.fft.fftfreq(SIDE)), np.cos(2 * np.pi * np.fft.rfftfreq(SIDE))
        spline = np.fft.irfft2(np.fft.rfft2(image) * (3 / (2 + k_y[:, None])) * (3 / (2 + k_x[None])), s=image.shape)
        read_displaced(spline.astype(np.float32), -x, -y, np.float32(0), np.float32(0), moved)
        frames.append(10 + moved + generator.normal(0, noise, image.shape))
    return np.stack(frames).astype(np.float32)


def residual_pixel(found: FrameSeries, true: FrameSeries) -> float:
    """Motion that is left, without what is constant at a place, which nothing tells."""
    left = (trajectories(found, PLACES) - trajectories(true, PLACES)) / PIXEL_ANGSTROM
    left = left[:, true.is_used & found.is_used]
    return float(np.sqrt(((left - left.mean(axis=1, keepdims=True)) ** 2).mean()))


def drifting_beads(side: int, drift_pixel: np.ndarray) -> np.ndarray:
    """Counts of frames through which beads drift as they are, by minus ``drift_pixel`` (n, 2), in and out of sight."""
    generator = np.random.default_rng(0)
    field, margin = side + 64, 32
    beads = np.zeros((field, field))
    beads[tuple(generator.integers(0, field, (2, field * field // 1200)))] = 1
    k_y, k_x = np.fft.fftfreq(field)[:, None], np.fft.rfftfreq(field)[None]
    transform = np.fft.rfft2(beads) * np.exp(-2 * np.pi**2 * 16 * (k_x**2 + k_y**2))  # 4 pixels wide
    transform *= 20 / np.fft.irfft2(transform).max()
    frames = []
    for x, y in drift_pixel:
        moved = 1 + np.fft.irfft2(transform * np.exp(2j * np.pi * (k_x * x + k_y * y)))
        frames.append(generator.poisson(0.3 * moved[margin:-margin, margin:-margin].clip(min=0)))
    return np.stack(frames).astype(np.float32)
