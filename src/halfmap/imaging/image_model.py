"""What the model expects a particle's image to be: transfer × projection at its pose.

The only place that turns the columns of particles and optics groups into CTFs and phases.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.optics_groups import OpticsGroups, TableWithOptics
from halfmap.errors import InconsistentDataError
from halfmap.fourier.band import FourierBand
from halfmap.fourier.slices import PaddedTransform
from halfmap.grid import ImageGrid
from halfmap.imaging.projection import magnified, project, project_images
from halfmap.optics.aberrations import magnify, odd_phase
from halfmap.optics.ctf import ctf
from halfmap.tensors import BandValues, Images

_DEFAULTS = {
    "defocus_angle_degrees": 0.0,
    "phase_shift_degrees": 0.0,
    "ctf_b_factor_angstrom2": 0.0,
    "ctf_scale": 1.0,
}


def contrast_transfer(rows: TableWithOptics, frequencies: Tensor, *, intact_first_peak: bool = False) -> Tensor:
    """Evaluate the contrast transfer of particles or micrographs: their CTF and the phases of odd aberrations.

    Parameters
    ----------
    rows : with the columns of `ctf_of_rows`
        Optional in the optics table: beam_tilt_mrad, odd_zernike.
    frequencies : shape (..., 2)
        Of a band (``band.frequencies``) or a grid (``grid.frequencies()``), (x, y) in 1/Å.
    intact_first_peak : as for `halfmap.optics.ctf.ctf`.

    Returns
    -------
    shape (N, ...)
        float32; complex64 where an optics group has odd aberrations.

    Raises
    ------
    InconsistentDataError
        A column is missing, or the optics table is empty.
    """
    return _with_odd_phases(ctf_of_rows(rows, frequencies, intact_first_peak=intact_first_peak), rows, frequencies)


def ctf_of_rows(rows: TableWithOptics, frequencies: Tensor, *, intact_first_peak: bool = False) -> Tensor:
    """Evaluate the CTF of particles or micrographs, which is real: odd aberrations stay in the images.

    Parameters
    ----------
    rows : with the columns defocus_u_angstrom and defocus_v_angstrom
        Optional: defocus_angle_degrees, phase_shift_degrees, ctf_b_factor_angstrom2, ctf_scale; in the
        optics table even_zernike, magnification_matrix.
    frequencies : as for `contrast_transfer`.
    intact_first_peak : as for `halfmap.optics.ctf.ctf`.

    Returns
    -------
    float32, shape (N, ...)

    Raises
    ------
    InconsistentDataError
        A column is missing, or the optics table is empty.

    Notes
    -----
    Premultiplying and phase flipping take this one, as in RELION: whoever uses the images later takes the odd
    phases from the optics table.
    """
    for name in ("defocus_u_angstrom", "defocus_v_angstrom"):
        if name not in rows:
            raise InconsistentDataError(f"A CTF must have the column {name}; got none; estimate the defocus first.")
    groups = np.asarray(rows["optics_group"])
    shape = (len(rows), *frequencies.shape[:-1])
    values = torch.ones(shape, dtype=torch.float32, device=frequencies.device)
    for number in np.unique(groups).tolist():
        mine = np.flatnonzero(groups == number)
        values[torch.from_numpy(mine)] = ctf(
            _magnified_frequencies(rows.optics, number, frequencies),
            defocus_u_angstrom=rows["defocus_u_angstrom"][mine],
            defocus_v_angstrom=rows["defocus_v_angstrom"][mine],
            defocus_angle_degrees=_column(rows, "defocus_angle_degrees", mine),
            phase_shift_degrees=_column(rows, "phase_shift_degrees", mine),
            b_factor_angstrom2=_column(rows, "ctf_b_factor_angstrom2", mine),
            scale=_column(rows, "ctf_scale", mine),
            voltage_kv=_optics_number(rows.optics, "voltage_kv", number),
            spherical_aberration_mm=_optics_number(rows.optics, "spherical_aberration_mm", number),
            amplitude_contrast=_optics_number(rows.optics, "amplitude_contrast", number),
            even_zernike=_optics_list(rows.optics, "even_zernike", number),
            intact_first_peak=intact_first_peak,
        )
    return values


def predict(particles: TableWithOptics, padded: PaddedTransform, band: FourierBand) -> BandValues:
    """Return the transforms that particles of a reference are expected to have.

    Parameters
    ----------
    particles : with rotation, origin_angstrom (zero if absent) and the columns of `contrast_transfer`
        All of the band's pixel size: take optics groups of other sizes separately.
    padded : the reference.
    band : of the images.

    Returns
    -------
    Complex, shape (N, K)
        T × slice, and CTF × T × slice for groups whose images are CTF-premultiplied.

    Raises
    ------
    InconsistentDataError
        A group has another pixel size than the band.
    """
    _check_pixel_size(particles, band.grid)
    transfer = _recorded_transfer(particles, band.frequencies)
    return project(
        padded,
        _magnified_rotations(particles),
        band,
        origin_angstrom=_origins(particles),
        transfer=transfer,
    )


def predict_images(particles: TableWithOptics, padded: PaddedTransform, grid: ImageGrid) -> Images:
    """Return the noise-free images of particles of a reference, shape (N, *grid.shape); see `predict`."""
    _check_pixel_size(particles, grid)
    return project_images(
        padded,
        _magnified_rotations(particles),
        grid,
        origin_angstrom=_origins(particles),
        transfer=_recorded_transfer(particles, grid.frequencies()),
    )


def _recorded_transfer(particles: TableWithOptics, frequencies: Tensor) -> Tensor:
    once = ctf_of_rows(particles, frequencies)
    recorded = once
    if "ctf_premultiplied" in particles.optics:
        premultiplied = torch.from_numpy(np.asarray(particles.optics_values("ctf_premultiplied"), dtype=bool))
        recorded = torch.where(premultiplied.reshape(-1, *(1,) * (once.dim() - 1)), once * once, once)
    return _with_odd_phases(recorded, particles, frequencies)


def _with_odd_phases(values: Tensor, rows: TableWithOptics, frequencies: Tensor) -> Tensor:
    """Multiply real values by the phases of odd aberrations; they stay real where no optics group has any."""
    groups = np.asarray(rows["optics_group"])
    result = values
    for number in np.unique(groups).tolist():
        phase = _odd_phase(rows.optics, number, _magnified_frequencies(rows.optics, number, frequencies))
        if phase is not None:
            result = result.to(torch.complex64)
            factor = torch.polar(torch.ones_like(phase), phase).to(torch.complex64)
            result[torch.from_numpy(np.flatnonzero(groups == number))] *= factor
    return result


def _magnified_rotations(particles: TableWithOptics) -> Tensor:
    rotations = torch.from_numpy(np.array(particles["rotation"], dtype=np.float64))
    if "magnification_matrix" not in particles.optics:
        return rotations
    groups = np.asarray(particles["optics_group"])
    for number in np.unique(groups).tolist():
        mine = torch.from_numpy(np.flatnonzero(groups == number))
        matrix = torch.from_numpy(np.array(particles.optics.values("magnification_matrix", [number])[0]))
        rotations[mine] = magnified(rotations[mine], matrix)
    return rotations


def _origins(particles: TableWithOptics) -> Tensor | None:
    if "origin_angstrom" not in particles:
        return None
    return torch.from_numpy(np.array(particles["origin_angstrom"], dtype=np.float64))


def _check_pixel_size(particles: TableWithOptics, grid: ImageGrid) -> None:
    if "pixel_size_angstrom" not in particles.optics:
        return
    sizes = np.unique(particles.optics_values("pixel_size_angstrom"))
    if len(sizes) and np.abs(sizes - grid.pixel_size_angstrom).max() > 1e-4 * grid.pixel_size_angstrom:
        raise InconsistentDataError(
            f"Particles must have the images' pixel size of {grid.pixel_size_angstrom:g} Å; "
            f"got {', '.join(f'{size:g}' for size in sizes)} Å; take optics groups of each size separately."
        )


def _magnified_frequencies(optics: OpticsGroups, number: int, frequencies: Tensor) -> Tensor:
    if "magnification_matrix" not in optics:
        return frequencies
    return magnify(frequencies, optics.values("magnification_matrix", [number])[0])


def _odd_phase(optics: OpticsGroups, number: int, frequencies: Tensor) -> Tensor | None:
    tilt = optics.values("beam_tilt_mrad", [number])[0] if "beam_tilt_mrad" in optics else None
    odd = _optics_list(optics, "odd_zernike", number)
    if (tilt is None or not np.any(tilt)) and not np.any(odd):
        return None
    return odd_phase(
        frequencies,
        odd_zernike=odd,
        beam_tilt_mrad=None if tilt is None else (float(tilt[0]), float(tilt[1])),
        voltage_kv=_optics_number(optics, "voltage_kv", number),
        spherical_aberration_mm=_optics_number(optics, "spherical_aberration_mm", number),
    )


def _optics_number(optics: OpticsGroups, name: str, number: int) -> float:
    if name not in optics:
        raise InconsistentDataError(f"The optics table must have the column {name}; got none; add it.")
    return float(optics.values(name, [number])[0])


def _optics_list(optics: OpticsGroups, name: str, number: int) -> NDArray[np.float64]:
    return optics.values(name, [number])[0] if name in optics else np.zeros(0)


def _column(rows: TableWithOptics, name: str, mine: NDArray[np.int64]) -> NDArray[np.float64] | float:
    return rows[name][mine] if name in rows else _DEFAULTS[name]
