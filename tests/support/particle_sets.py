"""Builders of particles, micrographs and picks; small, seeded, complete."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from halfmap.data.micrographs import MicrographSet
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.data.picks import Picks
from halfmap.geometry.rotations import matrix_from_euler


def some_optics(
    n: int = 1, *, pixel_size_angstrom: float = 1.5, image_size_pixel: int = 64, **columns: ArrayLike
) -> OpticsGroups:
    """Return optics groups numbered from 1, 300 kV, Cs 2.7 mm; ``columns`` add or replace."""
    return OpticsGroups(
        columns={
            "name": np.array([f"opticsGroup{number + 1}" for number in range(n)], dtype=object),
            "optics_group": np.arange(1, n + 1),
            "voltage_kv": np.full(n, 300.0),
            "spherical_aberration_mm": np.full(n, 2.7),
            "amplitude_contrast": np.full(n, 0.1),
            "micrograph_pixel_size_angstrom": np.full(n, pixel_size_angstrom),
            "pixel_size_angstrom": np.full(n, pixel_size_angstrom),
            "image_size_pixel": np.full(n, image_size_pixel),
            "image_dimensionality": np.full(n, 2),
            "ctf_premultiplied": np.zeros(n, dtype=bool),
            **columns,
        }
    )


def a_particle_set(
    n: int = 12,
    *,
    seed: int = 1,
    n_optics_groups: int = 1,
    n_micrographs: int = 3,
    stack: str = "stack.mrcs",
    **columns: ArrayLike,
) -> ParticleSet:
    """Return particles with poses, positions and CTF; ``columns`` add or replace."""
    random = np.random.default_rng(seed)
    rot, tilt, psi = random.uniform([-180, 0, -180], [180, 180, 180], (n, 3)).T
    defocus = random.uniform(8000, 25000, n)
    numbers = np.arange(n)
    return ParticleSet(
        columns={
            "position_pixel": random.uniform(50, 950, (n, 2)).round(3),
            "figure_of_merit": random.uniform(0.1, 2.0, n).round(4),
            "class_number": 1 + numbers % 2,
            "rotation": matrix_from_euler(rot, tilt, psi).numpy(),
            "origin_angstrom": random.uniform(-4, 4, (n, 2)),
            "image_name": np.array([f"{number + 1:06d}@{stack}" for number in numbers], dtype=object),
            "micrograph_name": micrograph_names(n_micrographs)[numbers % n_micrographs],
            "optics_group": 1 + numbers % n_optics_groups,
            "defocus_u_angstrom": defocus,
            "defocus_v_angstrom": defocus - random.uniform(0, 400, n),
            "defocus_angle_degrees": random.uniform(-90, 90, n),
            "phase_shift_degrees": np.zeros(n),
            "random_subset": 1 + numbers % 2,
            **columns,
        },
        optics=some_optics(n_optics_groups),
    )


def a_micrograph_set(
    n: int = 3, *, seed: int = 2, pixel_size_angstrom: float = 1.5, **columns: ArrayLike
) -> MicrographSet:
    """Return micrographs with a CTF; ``columns`` add or replace."""
    random = np.random.default_rng(seed)
    defocus = random.uniform(8000, 25000, n)
    optics = some_optics(pixel_size_angstrom=pixel_size_angstrom)
    return MicrographSet(
        columns={
            "micrograph_name": micrograph_names(n),
            "optics_group": np.ones(n, dtype=np.int64),
            "defocus_u_angstrom": defocus,
            "defocus_v_angstrom": defocus - 100.0,
            "defocus_angle_degrees": random.uniform(-90, 90, n),
            "ctf_figure_of_merit": np.full(n, 0.85),
            **columns,
        },
        optics=optics.without_columns(
            "pixel_size_angstrom", "image_size_pixel", "image_dimensionality", "ctf_premultiplied"
        ),
    )


def some_picks(
    n: int = 10, *, seed: int = 3, n_micrographs: int = 3, searched: Sequence[str] = (), **columns: ArrayLike
) -> Picks:
    """Return picks spread over micrographs; ``searched`` names further micrographs without any."""
    random = np.random.default_rng(seed)
    return Picks(
        columns={
            "micrograph_name": micrograph_names(n_micrographs)[np.arange(n) % n_micrographs],
            "position_pixel": random.uniform(50, 950, (n, 2)),
            "figure_of_merit": random.uniform(0, 3, n),
            **columns,
        },
        source="test",
        micrographs=tuple(searched),
    )


def micrograph_names(n: int) -> np.ndarray:
    """Return names as the motion correction job gives them."""
    return np.array([f"MotionCorr/job002/Movies/mic_{number + 1}.mrc" for number in range(n)], dtype=object)
