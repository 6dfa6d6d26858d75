"""What a particle table must say before its images are read: CTF, mask, number of classes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.micrographs import MicrographSet
from halfmap.data.optics_groups import TableWithOptics
from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError, InputError
from halfmap.grid import ImageGrid

LEAST_MASK_PIXEL = 8
"""Narrowest mask: less shows no particle."""

_IN_MICROMETRES_BELOW = 10.0
_LARGEST_DEFOCUS_ANGSTROM = 1e6
_LEAST_VOLTAGE_KV, _LARGEST_VOLTAGE_KV = 10.0, 5000.0


def check_has_images(path: Path, particles: ParticleSet) -> None:
    """Refuse a table without rows or without image names.

    Raises
    ------
    InputError
        There are no particles.
    InconsistentDataError
        They have no images.
    """
    if not len(particles):
        raise InputError(f"{path} must list particles; got none; choose a file with rows.")
    if "image_name" not in particles:
        raise InconsistentDataError(
            f"{path} must have the column _rlnImageName; got none; extract the particles first, or choose the table of "
            "their images."
        )


def copies(particles: ParticleSet) -> list[str]:
    """Return whether some images are named by several rows, or some uids borne by several images, a sentence each."""
    names, images = np.unique(particles["image_name"].astype(str), return_inverse=True)
    n_rows = len(particles)
    said = []
    if n := n_rows - len(names):
        said.append(
            f"Each row should name an image of its own; got {n} of {n_rows} that name one which an earlier row names: "
            "it counts as often as it is named; remove the copies with `halfmap select duplicates` unless they are "
            "meant."
        )
    uids = np.unique(particles.uid)
    n = len(np.unique(np.stack([particles.uid, images]), axis=1).T) - len(uids)
    if n and "tilt_index" not in particles:
        said.append(
            f"Images should have uids of their own; got {n} of {len(names)} with the uid of another image, as if they "
            "were one particle: they share a half and their random numbers; remove the column _halfmapUid to have new "
            "ones, unless they are meant."
        )
    return said


def check_classes(n_classes: int | None, n_particles: int) -> None:
    """Refuse more classes than particles.

    Raises
    ------
    InputError
        There are.
    """
    if n_classes is not None and n_classes > n_particles:
        raise InputError(
            f"--classes must not exceed the number of particles; got {n_classes} classes for {n_particles} particles; "
            "ask for fewer classes, a hundred particles or more for each."
        )


def check_mask(mask_diameter_angstrom: float, grids: Mapping[int, ImageGrid]) -> None:
    """Refuse a mask that does not fit into the images, or holds next to none of them.

    Parameters
    ----------
    mask_diameter_angstrom : of the circular mask.
    grids : group number → grid of its images.

    Raises
    ------
    InputError
        The mask is wider than the box of a group, or narrower than 8 pixels.
    """
    group, grid = min(grids.items(), key=lambda item: _width(item[1]))
    if mask_diameter_angstrom > _width(grid):
        raise InputError(
            f"--mask-diameter must not exceed the box; got {mask_diameter_angstrom:g} Å for images of {grid.side} px "
            f"of {grid.pixel_size_angstrom:.5g} Å in optics group {group}; choose at most {_floor(_width(grid))} Å, "
            "or extract larger images."
        )
    pixel = max(grid.pixel_size_angstrom for grid in grids.values())
    if mask_diameter_angstrom < LEAST_MASK_PIXEL * pixel:
        raise InputError(
            f"--mask-diameter must span at least {LEAST_MASK_PIXEL} px; got {mask_diameter_angstrom:g} Å where a pixel "
            f"is {pixel:.5g} Å; give the particle's diameter in Å, not in nm."
        )


def _width(grid: ImageGrid) -> float:
    return grid.side * grid.pixel_size_angstrom


def _floor(width: float) -> str:
    return f"{np.floor(width * 10 + 1e-6) / 10:g}"


def check_ctf(path: Path, table: TableWithOptics) -> tuple[str, ...]:
    """Look whether the CTF of every particle or micrograph is known, in the right units.

    Parameters
    ----------
    path : the table's file, to be named.
    table : of particles or micrographs.

    Returns
    -------
    What is odd but possible, a sentence each.

    Raises
    ------
    InconsistentDataError
        A column is missing or holds what no microscope has.
    """
    _check_columns(path, table)
    used = table.optics.only(np.unique(table["optics_group"]))
    what = "micrographs" if isinstance(table, MicrographSet) else "particles"
    return (*_check_defocus(path, table, what), *_check_optics(path, used.numbers, used.columns))


def _check_columns(path: Path, table: TableWithOptics) -> None:
    wanted = (
        ("defocus_u_angstrom", "rlnDefocusU", table),
        ("defocus_v_angstrom", "rlnDefocusV", table),
        ("voltage_kv", "rlnVoltage", table.optics),
        ("spherical_aberration_mm", "rlnSphericalAberration", table.optics),
        ("amplitude_contrast", "rlnAmplitudeContrast", table.optics),
    )
    missing = [f"_{label}" for column, label, place in wanted if column not in place]
    if missing:
        raise InconsistentDataError(
            f"{path} must have the columns of the CTF; got no {', '.join(missing)}; add them, or leave the CTF "
            "uncorrected with --no-ctf."
        )


def _check_defocus(path: Path, table: TableWithOptics, what: str) -> list[str]:
    low, high = table["defocus_u_angstrom"], table["defocus_v_angstrom"]
    mean = (low + high) / 2
    largest, typical = float(np.abs(mean).max()), float(np.median(np.abs(mean)))
    remedy = "correct _rlnDefocusU and _rlnDefocusV, or leave the CTF uncorrected with --no-ctf"
    if largest == 0:
        raise InconsistentDataError(f"The defocus of the {what} of {path} must not be 0; got 0 for all; {remedy}.")
    if largest < _IN_MICROMETRES_BELOW:
        raise InconsistentDataError(
            f"The defocus of the {what} of {path} must be in Å; got at most {largest:g}, which looks like µm; "
            "multiply _rlnDefocusU and _rlnDefocusV by 10000."
        )
    if typical > _LARGEST_DEFOCUS_ANGSTROM:
        raise InconsistentDataError(
            f"The defocus of the {what} of {path} must be in Å and below 100 µm; got a median of {typical:g} Å; "
            f"{remedy}."
        )
    odd = (mean <= 0) | (mean > _LARGEST_DEFOCUS_ANGSTROM)
    if not odd.any():
        return []
    return [
        f"The defocus of {what} should lie between 0 and 100 µm; got {mean[odd].min():g} to {mean[odd].max():g} Å "
        f"for {int(odd.sum())} of {len(mean)} {what} of {path}; remove them with `halfmap select values` if that is "
        "a failed fit."
    ]


def _check_optics(path: Path, numbers: NDArray[np.int64], columns: Mapping[str, NDArray]) -> list[str]:
    warnings = []
    for row, number in enumerate(numbers.tolist()):
        voltage = float(columns["voltage_kv"][row])
        if not _LEAST_VOLTAGE_KV <= voltage <= _LARGEST_VOLTAGE_KV:
            raise InconsistentDataError(
                f"The voltage of optics group {number} of {path} must be in kV, such as 300; got {voltage:g}; correct "
                "_rlnVoltage."
            )
        contrast = float(columns["amplitude_contrast"][row])
        if not 0 <= contrast < 1:
            raise InconsistentDataError(
                f"The amplitude contrast of optics group {number} of {path} must be from 0 to 1, such as 0.1; got "
                f"{contrast:g}; correct _rlnAmplitudeContrast."
            )
        aberration = float(columns["spherical_aberration_mm"][row])
        if aberration < 0 or aberration > 100:
            raise InconsistentDataError(
                f"The spherical aberration of optics group {number} of {path} must be in mm, such as 2.7; got "
                f"{aberration:g}; correct _rlnSphericalAberration."
            )
        if aberration == 0:
            warnings.append(
                f"The spherical aberration of optics group {number} of {path} should be that of the microscope; got 0 "
                "mm; correct _rlnSphericalAberration unless the microscope has a Cs corrector."
            )
    return warnings
