"""Acquisition folders as Warp 1 and Warp 2 write them, of particles whose classes are known."""

import copy
import os
import shutil
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from halfmap import keyed_random
from halfmap.data.particles import ParticleSet
from halfmap.grid import ImageGrid
from halfmap.imaging.noise import white_spectrum
from halfmap.io import star
from halfmap.io.mrc import StackWriter
from support.model_images import Poses, drawn_images, particles_of, shapes

NET = "BoxNet2Mask_test"
PER_MICROGRAPH = 20
GRID = ImageGrid.square(32, 4.0)
RADIUS_ANGSTROM = 45.0

_SETTINGS = """<?xml version="1.0" encoding="utf-8"?>
<Settings>
{root}
  <Import>
    <Param Name="Folder" Value="." />
    <Param Name="BinTimes" Value="1" />
{imported}
  </Import>
  <Picking>
    <Param Name="ModelPath" Value="C:\\models\\{net}" />
    <Param Name="Diameter" Value="{diameter}" />
    <Param Name="MinimumScore" Value="{score}" />
    <Param Name="DoExport" Value="{export}" />
    <Param Name="BoxSize" Value="{box}" />
    <Param Name="Invert" Value="{invert}" />
  </Picking>
</Settings>
"""
_MOVIE = """<?xml version="1.0" encoding="utf-8"?>
<Movie DataDirectory="" UnselectFilter="False" UnselectManual="null" CTFResolutionEstimate="{resolution}"
 MeanFrameMovement="0.75">
  <CTF>
    <Param Name="Defocus" Value="{defocus}" />
    <Param Name="DefocusDelta" Value="0.1" />
    <Param Name="Voltage" Value="300" />
  </CTF>
</Movie>
"""
_LABELS = (
    "rlnCoordinateX", "rlnCoordinateY", "rlnMagnification", "rlnDetectorPixelSize", "rlnVoltage",
    "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnPhaseShift", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle",
    "rlnCtfMaxResolution", "rlnImageName", "rlnMicrographName",
)  # fmt: skip


class LiveFolder:
    """A folder that fills as Warp fills one.

    Parameters
    ----------
    path : the folder.
    version : 1 or 2 of Warp.
    n_micrographs : that there are in the end, of 20 particles each.
    n_classes : different images that particles show.
    deviation : of the noise, in units of the images' own.
    """

    def __init__(
        self,
        path: Path,
        *,
        version: int = 1,
        n_micrographs: int = 10,
        n_classes: int = 3,
        deviation: float = 1.0,
        bright: bool = True,
        seed: int = 1,
    ) -> None:
        self.path, self.version, self.bright = path, version, bright
        (path / "particles").mkdir(parents=True, exist_ok=True)
        self.classes, self.truth, self.particles, images = _made(n_micrographs, n_classes, deviation, seed)
        self.images = images * (1 if bright else -1)
        self.rows: dict[str, list[list[str]]] = {}
        self.tables = 0
        self.write_settings()

    def copied(self, path: Path) -> "LiveFolder":
        """Return a copy of the folder as it is now, with all times."""
        shutil.copytree(self.path, path)
        found = copy.copy(self)
        found.path, found.rows = path, dict(self.rows)
        return found

    def write_settings(self, **changed: object) -> None:
        """Write ``previous.settings``."""
        values = {"net": NET, "diameter": 100, "score": 0.95, "export": True, "box": GRID.side, "invert": self.bright}
        two = self.version == 2
        root = "" if two else '  <Param Name="PixelSizeX" Value="2.0" />\n  <Param Name="PixelSizeY" Value="2.0" />'
        imported = '    <Param Name="PixelSize" Value="2.0" />' if two else ""
        text = _SETTINGS.format(root=root, imported=imported, **(values | changed))
        (self.path / "previous.settings").write_text(text)

    def name(self, number: int) -> str:
        """Return the stack of a micrograph."""
        return f"particles/mic{number:03d}_{NET}.mrcs"

    def particle_rows(self, number: int) -> NDArray[np.int64]:
        """Return which particles a micrograph has."""
        return np.arange(number * PER_MICROGRAPH, (number + 1) * PER_MICROGRAPH)

    def process(self, number: int, *, keep: int = PER_MICROGRAPH, moved: float = 0.0) -> None:
        """Write a micrograph's stack, XML and, for the next table, its rows."""
        rows = self.particle_rows(number)[:keep]
        path = self.path / self.name(number)
        with StackWriter(path, GRID, keep, float16=self.version == 2) as writer:
            writer.write(self.images[rows])
        stamp = 1_700_000_000 + 60 * number + self.tables
        os.utime(path, (stamp, stamp))
        self.add_rows(number, keep=keep, moved=moved)
        (self.path / f"mic{number:03d}.xml").write_text(_MOVIE.format(resolution=3.5 + number % 3, defocus=1.2))

    def add_rows(self, number: int, *, keep: int = PER_MICROGRAPH, moved: float = 0.0) -> None:
        """Put a micrograph's rows into the next table, in place of those it had."""
        found = []
        for place, row in enumerate(self.particle_rows(number)[:keep].tolist()):
            one = {name: self.particles[name][row] for name in ("defocus_u_angstrom", "defocus_v_angstrom")}
            angle = self.particles["defocus_angle_degrees"][row]
            optics, pixel = self.particles.optics, GRID.pixel_size_angstrom
            found.append(
                [
                    f"{100 + 7 * place + moved:.2f}", f"{200 + 3 * place:.2f}", "10000.0", str(pixel),
                    f"{optics['voltage_kv'][0]}", f"{optics['spherical_aberration_mm'][0]}",
                    f"{optics['amplitude_contrast'][0]}", "30.0" if self.phase_plate else "0.0",
                    f"{one['defocus_u_angstrom']:.1f}", f"{one['defocus_v_angstrom']:.1f}", f"{angle:.2f}", "4.0",
                    f"{place + 1:07d}@{self.name(number)}", f"mic{number:03d}.mrc",
                ]
            )  # fmt: skip
        self.rows[f"mic{number:03d}"] = found

    phase_plate = False

    @property
    def table(self) -> Path:
        """The table of all particles."""
        return self.path / f"allparticles_{NET}.star"

    def write_table(self) -> None:
        """Write the table anew beside the old one, remove the old one, and move the new one into its place."""
        self.tables += 1
        rows = [row for name in self.rows for row in self.rows[name]]
        columns = {label: star.compact_text([row[k] for row in rows]) for k, label in enumerate(_LABELS)}
        temporary = self.path / f"{self.table.name}_mic"
        star.write(temporary, [star.StarTable(name="", columns=columns)])
        self.table.unlink(missing_ok=True)
        temporary.rename(self.table)

    def arrive(self, numbers: range) -> None:
        """Process micrographs and write the table."""
        for number in numbers:
            self.process(number)
        self.write_table()


@cache
def _made(
    n_micrographs: int, n_classes: int, deviation: float, seed: int
) -> tuple[NDArray[np.int64], Tensor, ParticleSet, NDArray[np.float32]]:
    """Return classes, what they look like, particles and their images."""
    n = n_micrographs * PER_MICROGRAPH
    draws = keyed_random.uniform(seed, "live folder", np.arange(n), size=4)
    classes = (draws[:, 0] * n_classes).astype(np.int64)
    truth = shapes(n_classes, GRID, radius_angstrom=RADIUS_ANGSTROM, seed=seed)
    truth = truth / truth.std()
    particles = particles_of(n, GRID, seed=seed, n_micrographs=n_micrographs)
    poses = Poses(class_index=classes, psi_degrees=360 * draws[:, 1], origin_angstrom=8 * (draws[:, 2:] - 0.5))
    images = drawn_images(truth, particles, poses, GRID, white_spectrum(GRID, deviation**2), seed=seed)
    return classes, truth, particles, images.numpy()
