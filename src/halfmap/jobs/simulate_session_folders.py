"""Acquisition folders as Warp, WarpTools and RELION write them, micrograph by micrograph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from halfmap.data.micrographs import MicrographSet
from halfmap.data.particles import ParticleSet
from halfmap.grid import ImageGrid
from halfmap.io import atomic, relion, relion_3_0, star, warp_xml
from halfmap.io.images import write_png
from halfmap.io.mrc import StackWriter, write_image
from halfmap.io.warp_params import put, set_params
from halfmap.report.pictures import shrink, to_grey

NET = "BoxNet2Mask_20180918"

_FINEST_ANGSTROM, _FINEST_PIXEL = 3.5, 2.2
_SPREAD_ANGSTROM, _FILTER_ANGSTROM = 3.0, 2.5
_THUMBNAIL_PIXEL = 384
_PROCESSED, _FILTERED_OUT = 1, 4  # ProcessingStatus of WarpTools
_ABSENT = 0.02  # share of the interval for which a table is away while it is replaced
_LAG = 0.1  # share of the interval by which a table follows the stacks


@dataclass(frozen=True, kw_only=True, eq=False)
class ProcessedMicrograph:
    """What processing has found in a micrograph.

    Parameters
    ----------
    name : without folder and ending.
    particles : with place, defocus and optics; without names of images.
    images : of them, float32, shape (n, side, side).
    resolution_angstrom, motion_angstrom : of the micrograph.
    is_good : whether it passes the filter of the settings.
    """

    name: str
    particles: ParticleSet
    images: NDArray[np.float32]
    resolution_angstrom: float
    motion_angstrom: float
    is_good: bool

    @property
    def defocus_angstrom(self) -> tuple[float, float, float]:
        """Mean of U, mean of V in Å, and the angle in degrees."""
        values = [self.particles[f"defocus_{name}"] for name in ("u_angstrom", "v_angstrom", "angle_degrees")]
        u, v, angle = (float(one.mean()) for one in values)
        return u, v, angle


def resolution_of_fit_angstrom(share: float, pixel_size_angstrom: float) -> float:
    """Return the resolution of a CTF fit such that five of six pass the filter, for shares from 0 to 1."""
    return max(_FINEST_ANGSTROM, _FINEST_PIXEL * pixel_size_angstrom) + _SPREAD_ANGSTROM * share


def worst_resolution_angstrom(pixel_size_angstrom: float) -> float:
    """Return the filter on the resolution of CTF fits."""
    return max(_FINEST_ANGSTROM, _FINEST_PIXEL * pixel_size_angstrom) + _FILTER_ANGSTROM


class AcquisitionFolder(Protocol):
    """A folder that fills."""

    @property
    def table(self) -> Path:
        """The table of all particles."""

    def begin(self) -> None:
        """Write what there is before the first micrograph."""

    def average_path(self, name: str) -> Path:
        """Return where a micrograph's image goes."""

    def process(self, micrograph: ProcessedMicrograph, share: float = 1.0) -> None:
        """Write a micrograph's stack, a share of its bytes, and then tables that name all of it."""

    def complete(self, name: str) -> None:
        """Write the rest of a stack."""


class _Stacks:
    """Stacks that are written in place, so that a reader may find them half written."""

    def __init__(self, scratch: Path, grid: ImageGrid, float16: bool) -> None:
        self._scratch, self._grid, self._float16 = scratch, grid, float16
        self._rest: dict[str, tuple[Path, bytes]] = {}

    def write(self, path: Path, micrograph: ProcessedMicrograph, share: float) -> None:
        with StackWriter(self._scratch, self._grid, len(micrograph.images), float16=self._float16) as writer:
            writer.write(micrograph.images)
        content = self._scratch.read_bytes()
        self._scratch.unlink()
        written = round(share * len(content))
        path.write_bytes(content[:written])
        if written < len(content):
            self._rest[micrograph.name] = (path, content[written:])

    def complete(self, name: str) -> None:
        path, rest = self._rest.pop(name)
        with path.open("ab") as stream:
            stream.write(rest)


class WarpFolder:
    """A processing folder of Warp 1, Warp 2 or WarpTools.

    Parameters
    ----------
    path : the folder.
    layout : ``warp1``, ``warp2`` or ``warptools``.
    grid : of the images.
    diameter_angstrom : of the particles.
    float16 : of the stacks; Warp 1 writes 32 bits.
    wait : is called with a share of the interval between micrographs.
    """

    def __init__(
        self,
        path: Path,
        *,
        layout: str,
        grid: ImageGrid,
        diameter_angstrom: float,
        float16: bool,
        wait: Callable[[float], None],
    ) -> None:
        self.path, self.layout, self._grid, self._wait = path, layout, grid, wait
        self._diameter = diameter_angstrom
        self._stacks = _Stacks(path.parent / ".stack.mrcs", grid, float16 and layout != "warp1")
        self._micrographs: dict[str, ProcessedMicrograph] = {}
        self._rows: dict[str, ParticleSet] = {}

    @property
    def table(self) -> Path:
        """The table of all particles."""
        return self.path / ("particles.star" if self.layout == "warptools" else f"allparticles_{NET}.star")

    def begin(self) -> None:
        """Write the settings."""
        for name in ("average", "particles", "thumbnails"):
            (self.path / name).mkdir(parents=True)
        number = warp_xml.text_of_number
        path = self.path / ("warp_frameseries.settings" if self.layout == "warptools" else "previous.settings")
        document = warp_xml.XmlDocument.new("Settings", path)
        pixel = number(self._grid.pixel_size_angstrom)
        root = {"ProcessCTF": "True", "ProcessMovement": "True", "ProcessPicking": "True"}
        imported = {"Extension": "*.tif", "BinTimes": "0"}
        if self.layout == "warp1":
            root |= {"PixelSizeX": pixel, "PixelSizeY": pixel, "PixelSizeAngle": "0"}
        else:
            imported["PixelSize"] = pixel
        set_params(document, root)
        sections = {
            "Import": imported,
            "Picking": {
                "ModelPath": NET,
                "Diameter": number(self._diameter),
                "MinimumScore": "0.95",
                "DoExport": "True",
                "BoxSize": str(self._grid.side),
                "Invert": "True",
                "Normalize": "True",
            },
            "Filter": {"ResolutionMax": number(worst_resolution_angstrom(self._grid.pixel_size_angstrom))},
        }
        for name, params in sections.items():
            put(document, name, warp_xml.text_of_params(name, params))
        document.write(path)

    def average_path(self, name: str) -> Path:
        """Return where a micrograph's image goes."""
        return self.path / "average" / f"{name}.mrc"

    def process(self, micrograph: ProcessedMicrograph, share: float = 1.0) -> None:
        """Write a micrograph's stack, a share of its bytes, its metadata, and then tables that name all of it."""
        suffix = "" if self.layout == "warptools" else f"_{NET}"
        name = f"particles/{micrograph.name}{suffix}.mrcs"
        self._stacks.write(self.path / name, micrograph, share)
        self._micrographs[micrograph.name] = micrograph
        self._rows[micrograph.name] = named(micrograph, name, f"{micrograph.name}.mrc")
        self._write_metadata(micrograph)
        self._wait(_LAG)
        if self.layout == "warptools":
            relion.write_particles(self.table, ParticleSet.concatenate(list(self._rows.values())))
            atomic.write_json(self.path / "processed_items.json", [_item(one) for one in self._micrographs.values()])
            return
        good = {key: rows for key, rows in self._rows.items() if self._micrographs[key].is_good}
        for table, rows in ((self.table, self._rows), (self.path / f"goodparticles_{NET}.star", good)):
            if rows:
                self._replace(table, rows, micrograph.name)

    def complete(self, name: str) -> None:
        """Write the rest of a stack."""
        self._stacks.complete(name)

    def _replace(self, table: Path, rows: Mapping[str, ParticleSet], name: str) -> None:
        """Write a whole table beside the old one, delete that, and a little later move the new one into its place."""
        new = self.path / f"{table.name}_{name}"
        relion_3_0.write_particles(new, ParticleSet.concatenate(list(rows.values())))
        table.unlink(missing_ok=True)
        self._wait(_ABSENT)
        new.rename(table)

    def _write_metadata(self, micrograph: ProcessedMicrograph) -> None:
        """Write a micrograph's XML in place."""
        number, optics = warp_xml.text_of_number, micrograph.particles.optics
        u, v, angle = micrograph.defocus_angstrom
        ctf = {
            "PixelSize": self._grid.pixel_size_angstrom,
            "Defocus": 0.5e-4 * (u + v),
            "DefocusDelta": 1e-4 * (u - v),
            "DefocusAngle": angle,
            "PhaseShift": float(micrograph.particles["phase_shift_degrees"].mean()) / 180,
            "Voltage": float(optics["voltage_kv"][0]),
            "Cs": float(optics["spherical_aberration_mm"][0]),
            "Amplitude": float(optics["amplitude_contrast"][0]),
        }
        section = warp_xml.text_of_params("CTF", {key: number(value) for key, value in ctf.items()})
        text = (
            '<?xml version="1.0" encoding="utf-8"?>\n<Movie DataDirectory="" '
            f'UnselectFilter="{warp_xml.text_of_flag(not micrograph.is_good)}" UnselectManual="null" '
            f'CTFResolutionEstimate="{number(micrograph.resolution_angstrom)}" '
            f'MeanFrameMovement="{number(micrograph.motion_angstrom)}">\n\t{section}\n</Movie>\n'
        )
        (self.path / f"{micrograph.name}.xml").write_text(text, encoding="utf-8")


class RelionFolder:
    """A RELION project; parameters as those of `WarpFolder`."""

    def __init__(self, path: Path, *, grid: ImageGrid, float16: bool, wait: Callable[[float], None]) -> None:
        self.path, self._wait = path, wait
        self._stacks = _Stacks(path.parent / ".stack.mrcs", grid, float16)
        self._micrographs: dict[str, ProcessedMicrograph] = {}
        self._rows: dict[str, ParticleSet] = {}

    @property
    def table(self) -> Path:
        """The table of all particles."""
        return self.path / "Extract" / "job004" / "particles.star"

    def begin(self) -> None:
        """Make the folders of the jobs, and the list of jobs that marks a project."""
        for name in ("MotionCorr/job002/Movies", "CtfFind/job003", "Extract/job004/Movies"):
            (self.path / name).mkdir(parents=True)
        general = star.StarTable(
            name="pipeline_general", columns={"rlnPipeLineJobCounter": star.compact_text(["5"])}, is_loop=False
        )
        star.write(self.path / "default_pipeline.star", [general])

    def average_path(self, name: str) -> Path:
        """Return where a micrograph's image goes."""
        return self.path / "MotionCorr" / "job002" / "Movies" / f"{name}.mrc"

    def process(self, micrograph: ProcessedMicrograph, share: float = 1.0) -> None:
        """Write a micrograph's stack, a share of its bytes, and then tables that name all of it."""
        stack = self.table.parent / "Movies" / f"{micrograph.name}.mrcs"
        self._stacks.write(stack, micrograph, share)
        self._micrographs[micrograph.name] = micrograph
        image = self.average_path(micrograph.name).relative_to(self.path).as_posix()
        self._rows[micrograph.name] = named(micrograph, stack.relative_to(self.path).as_posix(), image)
        self._wait(_LAG)
        relion.write_micrographs(self.path / "CtfFind" / "job003" / "micrographs_ctf.star", self._micrograph_table())
        relion.write_particles(self.table, ParticleSet.concatenate(list(self._rows.values())))

    def complete(self, name: str) -> None:
        """Write the rest of a stack."""
        self._stacks.complete(name)

    def _micrograph_table(self) -> MicrographSet:
        all_of_them = list(self._micrographs.values())
        optics = all_of_them[0].particles.optics
        pixel = optics["pixel_size_angstrom"]
        lenses = np.array([one.defocus_angstrom for one in all_of_them])
        names = [self.average_path(one.name).relative_to(self.path).as_posix() for one in all_of_them]
        return MicrographSet(
            columns={
                "micrograph_name": np.array(names, dtype=object),
                "optics_group": np.ones(len(names), dtype=np.int64),
                "defocus_u_angstrom": lenses[:, 0],
                "defocus_v_angstrom": lenses[:, 1],
                "defocus_angle_degrees": lenses[:, 2],
                "ctf_max_resolution_angstrom": np.array([one.resolution_angstrom for one in all_of_them]),
            },
            optics=optics.without_columns(
                "pixel_size_angstrom", "image_size_pixel", "image_dimensionality", "ctf_premultiplied"
            ).with_columns(micrograph_pixel_size_angstrom=pixel, original_pixel_size_angstrom=pixel),
        )


def named(micrograph: ProcessedMicrograph, stack: str, image: str) -> ParticleSet:
    """Return a micrograph's particles with the names of their images, counted from 1."""
    n = len(micrograph.particles)
    names = np.array([f"{place + 1:07d}@{stack}" for place in range(n)], dtype=object)
    return micrograph.particles.with_columns(
        image_name=names, micrograph_name=np.full(n, image, dtype=object)
    ).without_columns("uid")


def write_micrograph(
    folder: AcquisitionFolder, name: str, image: NDArray[np.float32], pixel_size_angstrom: float
) -> None:
    """Write a micrograph's image, and its thumbnail where there is a folder for them."""
    path = folder.average_path(name)
    write_image(path, image, ImageGrid(shape=image.shape, pixel_size_angstrom=pixel_size_angstrom))
    thumbnails = path.parent.parent / "thumbnails"
    if thumbnails.is_dir():
        write_png(thumbnails / f"{name}.png", to_grey(shrink(image, _THUMBNAIL_PIXEL)))


def _item(micrograph: ProcessedMicrograph) -> dict[str, object]:
    """Return a micrograph's entry in WarpTools' list of processed items; defocus in µm."""
    u, v, _ = micrograph.defocus_angstrom
    return {
        "Path": f"{micrograph.name}.mrc",
        "ProcessingStatus": _PROCESSED if micrograph.is_good else _FILTERED_OUT,
        "Defocus": 0.5e-4 * (u + v),
        "Resolution": micrograph.resolution_angstrom,
        "Motion": micrograph.motion_angstrom,
        "Particles": len(micrograph.particles),
    }
