"""Geometry and CTF of the series of Warp and M in plain numpy: an oracle that shares no code with halfmap."""

import itertools

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator


def spline(values, x, y, z):
    """Value at (x, y, z) of a grid (z, y, x) with nodes on [0, 1], by natural cubic splines."""
    values = np.asarray(values, dtype=float)
    for coordinate in (x, y, z):
        n = values.shape[-1]
        nodes = np.linspace(0, 1, n)
        values = CubicSpline(nodes, values, axis=-1, bc_type="natural")(coordinate) if n > 1 else values[..., 0]
    return float(values)


def four_linear(values, coordinates):
    """Value at (x, y, z, w) of a grid (w, z, y, x), linear in every axis."""
    values = np.asarray(values, dtype=float)
    corners = []
    for coordinate, n in zip(coordinates, reversed(values.shape), strict=True):
        g = coordinate * (n - 1)
        low = min(max(int(g), 0), n - 1)
        high = min(low + 1, n - 1)
        corners.append(((low, 1 - (g - low)), (high, g - low)))
    total = 0.0
    for (x, wx), (y, wy), (z, wz), (w, ww) in itertools.product(*corners):
        total += values[w, z, y, x] * wx * wy * wz * ww
    return total


def about(axis, degrees):
    """Right-handed rotation about x, y or z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array(
        {
            "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
            "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
            "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
        }[axis]
    )


def tilt_matrix(tilt, axis):
    """Appendix A.1 of the notes on M: rows written out."""
    c, s = np.cos(np.deg2rad(tilt)), np.sin(np.deg2rad(tilt))
    ca, sa = np.cos(np.deg2rad(axis)), np.sin(np.deg2rad(axis))
    return np.array([[ca * c, -sa, -ca * s], [sa * c, ca, -sa * s], [s, 0, c]])


def on_path(samples, time):
    n = len(samples)
    return samples[0] if n == 1 else PchipInterpolator(np.linspace(0, 1, n), samples)(time)


def times_of(dose):
    dose = np.asarray(dose, dtype=float)
    image = np.arange(len(dose)) / max(len(dose) - 1, 1)
    span = dose.max() - dose.min()
    return image, (dose - dose.min()) / span if span > 0 else np.zeros(len(dose))


def view_of_tilt_series(model, samples, rotation):
    """Position, depth and rotation in each tilt of one particle with constant rotation."""
    image_time, dose_time = times_of(model["dose"])
    volume, image = np.array(model["volume"]), np.array(model["image"])
    positions, depths, rotations = [], [], []
    for t, tilt in enumerate(model["tilt"]):
        c = np.asarray(on_path(np.asarray(samples), dose_time[t]))
        warp = [four_linear(grid, (*(c / volume), dose_time[t])) for grid in model["volume_warp"]]
        x = c - volume / 2 + warp
        angle = tilt + model["level_y"]
        matrix = tilt_matrix(angle, model["axis"][t]) @ about("x", model["level_x"])
        y = matrix @ x
        depth = y[2]
        if model["inverted"]:
            flipped = tilt_matrix(-angle, model["axis"][t]) @ about("x", -model["level_x"])
            depth = (flipped @ (x * [1, 1, -1]))[2]
        place = y[:2] + model["offset"][t] + image / 2
        moved = [spline(grid, *(place / image), image_time[t]) for grid in model["movement"]]
        stage = [spline(grid, *(c[:2] / volume[:2]), image_time[t]) for grid in model["stage"]]
        turn = about("z", stage[2]) @ about("y", stage[1]) @ about("x", stage[0])
        positions.append(place - moved)
        depths.append(depth)
        rotations.append(turn @ matrix @ rotation)
    return np.array(positions), np.array(depths), np.array(rotations)


def view_of_frame_series(model, samples, rotation):
    """Position, depth and rotation in each frame of one particle with constant rotation."""
    image_time, dose_time = times_of(model["dose"])
    image = np.array(model["image"])
    positions, depths, rotations = [], [], []
    for f in range(len(model["dose"])):
        c = np.asarray(on_path(np.asarray(samples), dose_time[f]))
        where = c[:2] / image
        of_movie = f / max(model["n_frames_of_movie"] - 1, 1)
        place = c[:2].copy()
        for grids in (model["movement"], model["local_movement"]):
            place -= [spline(grid, *where, of_movie) for grid in grids]
        for grids in model["pyramid"]:
            place -= [spline(grid, *where, image_time[f]) for grid in grids]
        stage = [spline(grid, *where, image_time[f]) for grid in model["stage"]]
        positions.append(place)
        depths.append(c[2])
        rotations.append(about("z", stage[2]) @ about("y", stage[1]) @ about("x", stage[0]) @ rotation)
    return np.array(positions), np.array(depths), np.array(rotations)


def radial(n, m, rho):
    """Radial part of a Zernike polynomial of a positive m, written out for the orders that series have."""
    return {
        (1, 1): rho,
        (2, 0): 2 * rho**2 - 1,
        (2, 2): rho**2,
        (3, 1): 3 * rho**3 - 2 * rho,
        (3, 3): rho**3,
        (4, 0): 6 * rho**4 - 6 * rho**2 + 1,
        (4, 2): 4 * rho**4 - 3 * rho**2,
        (4, 4): rho**4,
        (5, 1): 10 * rho**5 - 12 * rho**3 + 3 * rho,
        (5, 3): 5 * rho**5 - 4 * rho**3,
        (5, 5): rho**5,
    }[n, m]


EVEN = ((2, -2), (2, 0), (2, 2), (4, -4), (4, -2), (4, 0), (4, 2), (4, 4))
ODD = ((1, -1), (1, 1), (3, -3), (3, -1), (3, 1), (3, 3), (5, -5), (5, -3), (5, -1), (5, 1), (5, 3), (5, 5))


def zernike_sum(coefficients, orders, frequencies):
    rho, alpha = np.hypot(*frequencies.T), np.arctan2(frequencies[:, 1], frequencies[:, 0])
    total = np.zeros(len(frequencies))
    for coefficient, (n, m) in zip(coefficients, orders, strict=True):
        total += coefficient * radial(n, abs(m), rho) * (np.sin(-m * alpha) if m < 0 else np.cos(m * alpha))
    return total


def ctf_of(frequencies, *, defocus, astigmatism, angle, phase_shift, cs_mm, voltage_kv, contrast, even):
    """CTF (K,) by the formula in the notes on M: angles and phase shift in degrees, lengths in Å."""
    volts = voltage_kv * 1e3
    wavelength = 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))
    s, alpha = np.hypot(*frequencies.T), np.arctan2(frequencies[:, 1], frequencies[:, 0])
    delta = -(defocus + astigmatism / 2 * np.cos(2 * (alpha - np.deg2rad(angle))))
    gamma = np.pi * wavelength * delta * s**2 + np.pi / 2 * cs_mm * 1e7 * wavelength**3 * s**4
    gamma += -np.deg2rad(phase_shift) - np.arctan(contrast / np.sqrt(1 - contrast**2))
    return -np.sin(gamma + zernike_sum(even, EVEN, frequencies))
