"""Tiny projects as Warp leaves them, with half-maps and particles, written file by file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from halfmap import keyed_random
from halfmap.data.image_series import SeriesOptics, TiltSeries
from halfmap.data.volumes import Volume
from halfmap.fourier import filters
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid
from halfmap.io import mrc, warp_xml
from halfmap.io.tomostar import Tomostar, write_tomostar
from halfmap.io.warp_series import write_series
from halfmap.io.warp_settings import WarpSettings, write_settings

PIXEL = 4.0
DIAMETER = 80
VOLUME_PIXEL = (250.0, 250.0, 100.0)
TILTS = (-40.0, -20.0, 0.0, 20.0, 40.0)


def series(name: str, tilts: tuple[float, ...] = TILTS) -> TiltSeries:
    n = len(tilts)
    return TiltSeries(
        name=name,
        image_size_angstrom=(1000.0, 1000.0),
        volume_size_angstrom=(1000.0, 1000.0, 400.0),
        dose_e_per_angstrom2=3.0 * np.arange(n),
        is_used=np.ones(n, dtype=bool),
        optics=SeriesOptics(pixel_size_angstrom=PIXEL),
        tilt_angle_degrees=np.array(tilts),
        axis_angle_degrees=np.full(n, -85.0),
        axis_offset_angstrom=np.zeros((n, 2)),
        movie_names=tuple(f"../frames/{name}_{number}.tif" for number in range(n)),
    )


def write_item(folder: Path, one: TiltSeries, **attributes: str) -> None:
    """Write metadata, tomostar and the raw movies of a tilt series; attributes go into the metadata's root."""
    path = folder / "warp_tiltseries" / f"{one.name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_series(path, one)
    if attributes:
        document = warp_xml.read(path)
        for name, value in {"UnselectManual": "", **attributes}.items():
            document.set_attribute(document.root, name, value)
        document.write(path)
    (folder / "frames").mkdir(exist_ok=True)
    for name in one.movie_names:
        (folder / "frames" / Path(name).name).write_bytes(f"raw data of {name}".encode())
    (folder / "tomostar").mkdir(exist_ok=True)
    tilts = Tomostar(
        movie_names=one.movie_names,
        tilt_angle_degrees=one.tilt_angle_degrees,
        axis_angle_degrees=one.axis_angle_degrees,
        dose_e_per_angstrom2=one.dose_e_per_angstrom2,
        axis_offset_angstrom=one.axis_offset_angstrom,
    )
    write_tomostar(folder / "tomostar" / f"{one.name}.tomostar", tilts)


def write_project(folder: Path, names: tuple[str, ...] = ("TS_1", "TS_2", "TS_3")) -> Path:
    """Write a project of tilt series and return its settings."""
    for name in names:
        write_item(folder, series(name))
    path = folder / "tilts.settings"
    settings = WarpSettings(
        pixel_size_angstrom=PIXEL,
        data_folder="tomostar",
        processing_folder="warp_tiltseries",
        extension="*.tomostar",
        tomo_dimensions_pixel=VOLUME_PIXEL,
    )
    write_settings(path, settings)
    return path


def write_averages(folder: Path, names: tuple[str, ...]) -> None:
    """Write an aligned image of each tilt: noise."""
    grid = ImageGrid.square(250, PIXEL)
    for place, name in enumerate(names):
        for tilt, movie in enumerate(series(name).movie_names):
            noise = keyed_random.normal(2, "tilts", np.array([10 * place + tilt]), size=grid.shape)[0]
            mrc.write_image(folder / "frames" / "average" / f"{Path(movie).stem}.mrc", 100 + 10 * noise, grid)


def half_maps(seed: int = 1) -> tuple[Volume, Volume]:
    """Return halves of one structure of 50 Å that reaches 14 Å, with noise of their own."""
    grid = ImageGrid.cubic(40, PIXEL)

    def noise(number: int) -> torch.Tensor:
        return torch.from_numpy(keyed_random.normal(seed, "half maps", np.array([number]), size=grid.shape)[0])

    body = soft_sphere(grid, 24.0, 8.0).double() * (2.0 * noise(0) + 2.0)
    signal = filters.apply_filter(body, grid, filters.low_pass(grid, 14.0, dtype=torch.float64))
    first, second = (Volume(values=(signal + 0.3 * noise(number)).float(), grid=grid) for number in (1, 2))
    return first, second


def write_half_maps(folder: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "run_half1_class001_unfil.mrc", folder / "run_half2_class001_unfil.mrc"
    for path, volume in zip(paths, half_maps(), strict=True):
        mrc.write_volume(path, volume)
    return paths


def write_particles(path: Path, names: tuple[str, ...], *, per_item: int = 4, first: int = 0) -> Path:
    """Write particles as RELION has them: coordinates in pixels of 4 Å, shifts in Å."""
    rows = []
    for name in names:
        for number in range(first, first + per_item):
            x, y, z = 30 + 40 * (number % 5), 40 + 40 * (number // 5), 50
            rows.append(
                f"{name} {x} {y} {z} 2.0 -4.0 0.0 {30 * number} {10 + 20 * number} {5 * number} {number % 2 + 1} 1"
            )
    axes = "XYZ"
    labels = [
        "rlnTomoName",
        *(f"rlnCoordinate{axis}" for axis in axes),
        *(f"rlnOrigin{axis}Angst" for axis in axes),
        *("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnRandomSubset", "rlnOpticsGroup"),
    ]
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnTomoTiltSeriesPixelSize #2\n1 4.0\n\n"
    header = "\n".join(f"_{label} #{number}" for number, label in enumerate(labels, 1))
    path.write_text(f"{optics}\ndata_particles\n\nloop_\n{header}\n" + "\n".join(rows) + "\n")
    return path


def one_tilt(name: str) -> TiltSeries:
    return series(name, (0.0,))


def without_images(name: str) -> TiltSeries:
    return replace(series(name), is_used=np.zeros(len(TILTS), dtype=bool))
