"""The task of ``halfmap ctf``: one micrograph, from its file to its CTF."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from halfmap.compute.device import task_device
from halfmap.ctf_estimation.estimate import CtfEstimate, estimate
from halfmap.ctf_estimation.local import LocalDefocus, local_defocus, patches_of
from halfmap.ctf_estimation.params import CtfEstimationParams
from halfmap.ctf_estimation.periodogram import PowerSpectra, given_spectrum, power_spectra, windows_of
from halfmap.ctf_estimation.picture import spectrum_picture
from halfmap.ctf_estimation.rings import Microscope
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.io import images, mrc
from halfmap.io.atomic import replacing
from halfmap.jobs.micrograph_inputs import read_finite
from halfmap.report.pictures import Picture, grey_between

CARD_SIDE, DETAIL_SIDE = 220, 512
"""Sides of pictures on the page, in their pixels."""

_GREY_LIMITS = (-2.0, 2.5)
_SHOWN_BEYOND = 1.15


@dataclass(frozen=True, kw_only=True, eq=False)
class CtfTask:
    """One micrograph.

    Parameters
    ----------
    name : of the micrograph.
    path : its file, absolute.
    spectrum : the power spectrum that motion correction left of it; None to make one.
    picture : where the picture of its spectrum goes, absolute: an MRC file, with a PNG beside it.
    pixel_size_angstrom : of the micrograph.
    microscope, params : of the estimation.
    phase_shift_degrees : where it is not looked for.
    patches : along x and y.
    detail : whether its picture is shown large.
    """

    name: str
    path: Path
    spectrum: Path | None
    picture: Path
    pixel_size_angstrom: float
    microscope: Microscope
    params: CtfEstimationParams
    phase_shift_degrees: float
    patches: tuple[int, int]
    detail: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class CtfMicrograph:
    """What is found out about a micrograph.

    Parameters
    ----------
    estimate : its CTF.
    local : the defocus of its patches; None without patches.
    card, detail : JPEG pictures of its spectrum, uint8, shape (n,); no detail where None.
    """

    estimate: CtfEstimate
    local: LocalDefocus | None
    card: np.ndarray
    detail: np.ndarray | None


def estimate_micrograph(task: CtfTask) -> CtfMicrograph:
    """Estimate the CTF of a micrograph and draw its spectrum.

    Raises
    ------
    FormatError
        A file cannot be read or holds values that are no numbers.
    InputError
        The micrograph is constant or too small, or the resolution limits lie beyond its pixels.
    """
    local = None
    if task.spectrum is None or task.patches != (1, 1):
        image = read_finite(task.path).to(task_device())
        shape = (image.shape[0], image.shape[1])
        windows = windows_of(shape, task.pixel_size_angstrom, task.params.box_pixel)
        groups = patches_of(windows, shape, task.patches)
        if len(np.unique(groups)) < task.patches[0] * task.patches[1]:
            raise InputError(
                f"Each of --patches must hold a window of {windows.side_pixel} px; got {task.patches[0]},"
                f"{task.patches[1]} patches of {shape[1]}×{shape[0]} px; give fewer, or a smaller --box."
            )
    if task.spectrum is None:
        spectra = power_spectra(image, windows, pixel_size_angstrom=task.pixel_size_angstrom)
    else:
        spectra = _given(task.spectrum)
    found = estimate(spectra, task.microscope, task.params, phase_shift_degrees=task.phase_shift_degrees)
    if task.patches != (1, 1) and not found.failure:
        parts = power_spectra(image, windows, pixel_size_angstrom=task.pixel_size_angstrom, groups=groups)
        middle = (np.array(shape[::-1]) - 1) / 2
        position = np.array(
            [windows.centres_pixel[groups == patch].mean(axis=0) for patch in range(task.patches[0] * task.patches[1])]
        )
        local = local_defocus(
            parts,
            (position - middle) * task.pixel_size_angstrom,
            task.microscope,
            found.lens,
            task.params,
            max_resolution_angstrom=1 / found.fitted_limits[1],
        )
    drawn = spectrum_picture(spectra, task.microscope, found.lens)
    mrc.write_image(task.picture, drawn, spectra.grid)
    picture = _picture(drawn, spectra.grid, found)
    with replacing(task.picture.with_name(task.picture.stem + ".png")) as temporary:
        temporary.write_bytes(picture.data)
    return CtfMicrograph(
        estimate=found,
        local=local,
        card=_reduced(picture, CARD_SIDE),
        detail=_reduced(picture, DETAIL_SIDE) if task.detail else None,
    )


def drawn_spectrum(drawn: np.ndarray, grid: ImageGrid, found: CtfEstimate) -> np.ndarray:
    """Return a picture for the page of a spectrum as `spectrum_picture` draws it: a JPEG, uint8, shape (n,)."""
    return _reduced(_picture(drawn, grid, found), CARD_SIDE)


def _picture(drawn: np.ndarray, grid: ImageGrid, found: CtfEstimate) -> Picture:
    return Picture.png(grey_between(_shown_part(drawn, grid, found), *_GREY_LIMITS))


def _reduced(picture: Picture, side: int) -> np.ndarray:
    return np.frombuffer(picture.reduced(min(1.0, side / picture.shape[0])).data, dtype=np.uint8).copy()


def _given(path: Path) -> PowerSpectra:
    _, pixel_size = images.shape_and_pixel_size(path)
    if pixel_size is None:
        raise InputError(f"A given power spectrum must have a pixel size; got none in {path}; use --no-given-spectra.")
    return given_spectrum(torch.from_numpy(images.read_micrograph(path)), pixel_size_angstrom=pixel_size)


def _shown_part(drawn: np.ndarray, grid: ImageGrid, found: CtfEstimate) -> np.ndarray:
    """Return the part of a spectrum in which rings are fitted or seen, and a little beyond."""
    finest = min(found.max_resolution_angstrom, 1 / found.fitted_limits[1])
    half = int(np.ceil(_SHOWN_BEYOND * grid.side * grid.pixel_size_angstrom / finest))
    centre = grid.side // 2
    half = min(half, centre)
    return drawn[centre - half : centre + half, centre - half : centre + half]
