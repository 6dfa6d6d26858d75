"""Micrographs and power spectra with the rings of a known CTF."""

import dataclasses

import numpy as np
import torch

from halfmap import keyed_random
from halfmap.ctf_estimation.fit import Lens
from halfmap.ctf_estimation.periodogram import PowerSpectra
from halfmap.ctf_estimation.rings import Microscope
from halfmap.grid import ImageGrid

TITAN = Microscope(voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.1)


def lens(
    defocus: float, *, astigmatism: float = 0.0, angle_degrees: float = 0.0, phase_shift_degrees: float = 0.0
) -> Lens:
    vector = astigmatism / 2 * np.exp(2j * np.radians(angle_degrees))
    return Lens(
        defocus_angstrom=defocus,
        astigmatism_x_angstrom=float(vector.real),
        astigmatism_y_angstrom=float(vector.imag),
        phase_shift_degrees=phase_shift_degrees,
    )


def frequencies(box: int, pixel_size: float) -> torch.Tensor:
    x = torch.fft.rfftfreq(box, d=pixel_size, dtype=torch.float64)
    y = torch.fft.fftfreq(box, d=pixel_size, dtype=torch.float64)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def thon_spectra(
    truth: Lens,
    *,
    box: int = 512,
    pixel_size: float = 1.5,
    depth: float = 0.3,
    b_factor: float = 80.0,
    n_windows: float = 100.0,
    offsets: tuple[float, ...] = (0.0,),
    seed: int = 1,
) -> PowerSpectra:
    """Return power spectra, one for each offset of the defocus, as means of ``n_windows`` independent ones: a hundred
    as of a micrograph of 4k × 4k pixels.
    """
    f = frequencies(box, pixel_size)
    s2 = f.square().sum(-1)
    gamma = truth.gamma(f.reshape(-1, 2), TITAN, torch.tensor(offsets, dtype=torch.float64)).reshape(-1, *s2.shape)
    expected = (
        (1 + 3 * torch.exp(-s2 / 0.002))
        * torch.exp(-s2)
        * (1 + depth * torch.exp(-b_factor * s2 / 2) * gamma.sin().square())
    )
    draws = keyed_random.normal(seed, "thon spectra", np.arange(len(offsets)), size=s2.shape)
    power = expected * (1 + torch.from_numpy(draws) / n_windows**0.5).clamp(min=0.05)
    return PowerSpectra(
        power=power, grid=ImageGrid.square(box, pixel_size), n_windows=np.full(len(offsets), int(n_windows))
    )


def thon_micrograph(
    truth: Lens, *, shape: tuple[int, int] = (900, 1000), pixel_size: float = 1.5, depth: float = 0.3, seed: int = 1
) -> np.ndarray:
    """Return white noise, part of it seen through a CTF; float32, shape (y, x)."""
    fx, fy = np.fft.rfftfreq(shape[1], pixel_size), np.fft.fftfreq(shape[0], pixel_size)
    f = torch.from_numpy(np.stack(np.meshgrid(fx, fy), axis=-1))
    ctf = -truth.gamma(f.reshape(-1, 2), TITAN, torch.zeros(1, dtype=torch.float64)).sin().reshape(f.shape[:2]).numpy()
    grain = keyed_random.normal(seed, "grain", 0, size=shape)
    seen = np.fft.irfft2(np.fft.rfft2(grain) * ctf, s=shape)
    noise = keyed_random.normal(seed, "noise", 0, size=shape)
    return (100 + 3 * (noise + depth**0.5 * seen)).astype(np.float32)


def tilted_film(
    truth: Lens,
    gradient: tuple[float, float],
    *,
    shape: tuple[int, int] = (900, 1000),
    pixel_size: float = 2.0,
    depth: float = 0.3,
    seed: int = 1,
) -> np.ndarray:
    """Return a film whose defocus grows along x and y by so much, from that of the lens in the middle.

    Nine images of one film at as many defoci, between which each pixel is interpolated.
    """
    y, x = np.meshgrid(*(pixel_size * (np.arange(n) - n / 2) for n in shape), indexing="ij")
    rise = gradient[0] * x + gradient[1] * y
    knots = np.linspace(rise.min(), rise.max() + 1.0, 9)
    parts = [
        thon_micrograph(
            dataclasses.replace(truth, defocus_angstrom=truth.defocus_angstrom + knot),
            shape=shape, pixel_size=pixel_size, depth=depth, seed=seed,
        )
        for knot in knots
    ]  # fmt: skip
    place = (rise - knots[0]) / (knots[1] - knots[0])
    below = np.clip(place.astype(int), 0, 7)
    stack = np.stack(parts)
    low, high = (np.take_along_axis(stack, (below + k)[None], axis=0)[0] for k in (0, 1))
    share = place - below
    return (low * (1 - share) + high * share).astype(np.float32)
