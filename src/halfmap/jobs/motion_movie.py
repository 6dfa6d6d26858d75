"""The task of ``halfmap motion``: one movie, from its frames to its sums."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from halfmap.ctf_estimation.periodogram import FINEST_PIXEL_ANGSTROM, PowerSpectra, power_spectra, windows_of
from halfmap.data.image_series import FrameSeries, SeriesOptics
from halfmap.data.image_source import Float32Array
from halfmap.errors import InputError
from halfmap.fourier.resample import rescale, rescaled_grid
from halfmap.fourier.shells import radial_mean
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from halfmap.io.frames import MovieSource
from halfmap.io.relion_motion_writer import write_motion
from halfmap.io.warp_series import write_series
from halfmap.jobs.motion import MotionJobParams
from halfmap.motion_correction.align import MovieMotion, align, totals, trajectories
from halfmap.motion_correction.spectra import MOST_GROUPS, MOST_KEPT_BYTES
from halfmap.motion_correction.sums import FRAMES_IN_MEMORY, ExposureWeights, MovedFrame, Sums, moved_frames
from halfmap.report.pictures import micrograph_picture

PICTURE_SIDE = 512
"""Side of pictures on the page, in their pixels."""

_FRAMES_OF_SPECTRUM = 4
_MODEL_ERROR_PIXEL = 0.2
_MOST_HOT = 0.01
_COPIES_OF_KEPT = 3
_LEAST_SIDE_PIXEL = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class MotionTask:
    """One movie.

    Parameters
    ----------
    name : of the movie.
    source : its frames.
    stem : where its results go, absolute, without ending.
    optics : of the movie, with the pixel size of its frames.
    params : of the job.
    general : what the file of its motion says besides.
    """

    name: str
    source: MovieSource
    stem: Path
    optics: SeriesOptics
    params: MotionJobParams
    general: tuple[tuple[str, str], ...]

    def path(self, suffix: str) -> Path:
        """Return where a result goes."""
        return self.stem.with_name(self.stem.name + suffix)


@dataclass(frozen=True, kw_only=True, eq=False)
class MovieResult:
    """What is found out about a movie.

    Parameters
    ----------
    total_angstrom, early_angstrom, late_angstrom : motion of the whole frame, added up; NaN for early and late where
        doses are not known.
    trajectory_angstrom : (P, n, 2), of the patches.
    patch_centre : (P, 2), 0 to 1.
    agreement : (n,), correlation of each frame with the sum of the others.
    bad_frames : numbers from 0 and reasons.
    concerns : what speaks against it.
    n_hot_pixels : that were filled.
    frequency, power_before, power_after : (r,), in 1/Å, mean power on rings of the sum without and with correction.
    picture : JPEG of the sum, uint8, shape (n,).
    """

    total_angstrom: float
    early_angstrom: float
    late_angstrom: float
    trajectory_angstrom: np.ndarray
    patch_centre: np.ndarray
    agreement: np.ndarray
    bad_frames: tuple[tuple[int, str], ...]
    concerns: tuple[str, ...]
    n_hot_pixels: int
    frequency: np.ndarray
    power_before: np.ndarray
    power_after: np.ndarray
    picture: np.ndarray


def memory_bytes(source: MovieSource) -> int:
    """Bound on the memory that one movie needs."""
    kept = min(MOST_KEPT_BYTES, 8 * source.grid.n_pixels * min(len(source), MOST_GROUPS))
    return 4 * FRAMES_IN_MEMORY * source.grid.n_pixels + _COPIES_OF_KEPT * kept


def correct_movie(task: MotionTask) -> MovieResult:
    """Find the motion of a movie, and write sums, power spectrum and the file of its motion.

    Raises
    ------
    FormatError, InputError, InconsistentDataError
        The movie is at fault.
    """
    params, source = task.params, task.source
    raw_total = source.raw_total()
    concerns = []
    if params.hot_pixels:
        source = source.with_hot_pixels(raw_total=raw_total)
        if len(source.hot_pixels) > _MOST_HOT * source.grid.n_pixels:
            concerns.append(f"{len(source.hot_pixels)} hot pixels")
    grid = binned_grid(source.grid, params.bin)
    plain = source.total(raw_total)
    if not np.isfinite(plain).all():
        raise InputError(
            f"Frames must hold numbers; got {int((~np.isfinite(plain)).sum())} pixels with others; leave --hot-pixels "
            "on, which fills them, or list them as --defects."
        )
    unaligned = torch.from_numpy(plain)
    if grid != source.grid:
        unaligned, _ = rescale(unaligned, source.grid, grid.shape)
    frequency, before = _profile(unaligned.numpy(), grid, params.spectrum_pixel)
    motion = align(source, params)
    series = _series(task, source, motion)
    sums, spectrum = _summed(task, source, series, grid)
    _, after = _profile(sums.plain, grid, params.spectrum_pixel)
    _write(task, sums, spectrum)
    error = write_motion(task.path(".star"), series, general=dict(task.general), binning=params.bin)
    _write_item(task, series)
    if error > _MODEL_ERROR_PIXEL:
        concerns.append(f"RELION's model of local motion is {error:.2f} px off")
    if motion.concern:
        concerns.append(motion.concern)
    total, early, late = totals(series)
    picture = micrograph_picture(sums.plain, max_side=PICTURE_SIDE)
    return MovieResult(
        total_angstrom=total,
        early_angstrom=early,
        late_angstrom=late,
        trajectory_angstrom=trajectories(series, motion.patch_centre),
        patch_centre=motion.patch_centre,
        agreement=motion.agreement,
        bad_frames=motion.reasons,
        concerns=tuple(concerns),
        n_hot_pixels=len(source.hot_pixels),
        frequency=frequency,
        power_before=before,
        power_after=after,
        picture=np.frombuffer(picture.data, dtype=np.uint8).copy(),
    )


def _series(task: MotionTask, source: MovieSource, motion: MovieMotion) -> FrameSeries:
    params = task.params
    dose = params.dose_per_frame_e_per_angstrom2 or 0.0
    before = params.pre_exposure_e_per_angstrom2 + dose * np.arange(len(source), dtype=np.float64)
    return motion.series(task.stem.name, source.grid.shape[::-1], task.optics, before, movie_name=task.name)


def binned_grid(grid: ImageGrid, factor: float) -> ImageGrid:
    """Return the grid of the sums: even sides, as near to the factor as they come.

    Raises
    ------
    InputError
        Hardly anything would be left.
    """
    if factor == 1:
        return grid
    sides = tuple(2 * round(side / factor / 2) for side in grid.shape)
    if min(sides) < _LEAST_SIDE_PIXEL:
        raise InputError(
            f"--bin must leave {_LEAST_SIDE_PIXEL} pixels along each side; got {sides[1]} × {sides[0]} of "
            f"{grid.shape[1]} × {grid.shape[0]} by {factor:g}; give a smaller one."
        )
    return rescaled_grid(grid, sides)


def _summed(task: MotionTask, source: MovieSource, series: FrameSeries, grid: ImageGrid) -> tuple[Sums, PowerSpectra]:
    params = task.params
    dose = params.dose_per_frame_e_per_angstrom2
    weights = None
    if params.dose_weighting and dose is not None:
        weights = ExposureWeights.of(
            series, grid, dose_per_frame_e_per_angstrom2=dose, voltage_kv=task.optics.voltage_kv
        )
    sums = Sums(grid, weights, halves=params.save_halves)
    at_once = _FRAMES_OF_SPECTRUM if dose is None else max(1, round(params.spectrum_dose_e_per_angstrom2 / dose))
    spectrum = _Spectrum(grid, params.spectrum_pixel, at_once)
    for frame in moved_frames(source, series, grid):
        sums.add(frame)
        spectrum.add(frame)
    return sums, spectrum.mean()


def _write(task: MotionTask, sums: Sums, spectrum: PowerSpectra) -> None:
    params = task.params
    grid = binned_grid(task.source.grid, params.bin)
    weighted = sums.weighted()
    mrc.write_image(task.path(".mrc"), sums.plain if weighted is None else weighted, grid)
    if weighted is not None and params.save_unweighted:
        mrc.write_image(task.path("_noDW.mrc"), sums.plain, grid)
    for suffix, half in zip(("_ODD.mrc", "_EVN.mrc"), sums.odd_and_even() or (), strict=False):
        mrc.write_image(task.path(suffix), half, grid)
    mrc.write_image(task.path("_PS.mrc"), _amplitudes(spectrum.power[0]), spectrum.grid)


def _write_item(task: MotionTask, series: FrameSeries) -> None:
    """Write the motion as Warp and M have it, grids and all."""
    path = task.path(".xml")
    path.unlink(missing_ok=True)  # of an interrupted run; nothing of it is to be kept
    folder = os.path.relpath(task.source.path.parent, path.parent)
    write_series(path, replace(series, movie_name=task.source.path.name, further={"DataDirectory": folder}))


def _box(grid: ImageGrid, box_pixel: int) -> int:
    """Return the largest even side of a spectrum for which windows fit into an image."""
    scale = max(1.0, FINEST_PIXEL_ANGSTROM / grid.pixel_size_angstrom)
    return min(box_pixel, 2 * int((min(grid.shape) - 2) / scale / 2))


class _Spectrum:
    """The mean power of aligned frames, a few added at a time."""

    def __init__(self, grid: ImageGrid, box_pixel: int, at_once: int) -> None:
        self.grid, self.at_once = grid, at_once
        self.windows = windows_of((grid.shape[0], grid.shape[1]), grid.pixel_size_angstrom, _box(grid, box_pixel))
        self.found: PowerSpectra | None = None
        self.waiting: Float32Array | None = None
        self.n_waiting = self.n = 0

    def add(self, frame: MovedFrame) -> None:
        self.waiting = frame.image.copy() if self.waiting is None else self.waiting + frame.image
        self.n_waiting += 1
        if self.n_waiting == self.at_once:
            self._take()

    def _take(self) -> None:
        if self.waiting is None:
            return
        size = self.grid.pixel_size_angstrom
        one = power_spectra(torch.from_numpy(self.waiting), self.windows, pixel_size_angstrom=size)
        self.found = one if self.found is None else replace(one, power=one.power + self.found.power)
        self.n += 1
        self.waiting, self.n_waiting = None, 0

    def mean(self) -> PowerSpectra:
        """Return the mean power."""
        if self.found is None or self.n_waiting > self.at_once // 2:
            self._take()
        assert self.found is not None
        return replace(self.found, power=self.found.power / self.n)


def _amplitudes(power: torch.Tensor) -> Float32Array:
    """Return the roots of a half transform of power, zero frequency in the middle, shape (n, n)."""
    half = power.sqrt()
    n = half.shape[0]
    rest = half[:, 1 : n - n // 2].flip(-1)
    mates = torch.roll(rest.flip(0), 1, dims=0)
    full: Float32Array = torch.fft.fftshift(torch.cat([half, mates], dim=1)).float().numpy()
    return full


def _profile(image: Float32Array, grid: ImageGrid, box_pixel: int) -> tuple[np.ndarray, np.ndarray]:
    windows = windows_of((grid.shape[0], grid.shape[1]), grid.pixel_size_angstrom, _box(grid, box_pixel))
    found = power_spectra(torch.from_numpy(image), windows, pixel_size_angstrom=grid.pixel_size_angstrom)
    mean = radial_mean(found.power[0], found.grid).numpy()
    frequency = np.arange(len(mean)) / (found.grid.side * found.grid.pixel_size_angstrom)
    return frequency, mean
