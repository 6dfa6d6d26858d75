"""Particles that a template has found, as the jobs that go on with them take them: micrograph by micrograph."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.errors import FormatError, InputError
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.io import images, leopard
from halfmap.io.leopard import LeopardColumns
from halfmap.io.relion_paths import resolve_paths
from halfmap.jobs.leopard_inputs import SAME_PIXEL_SIZE
from halfmap.jobs.micrograph_inputs import read_finite
from halfmap.jobs.per_micrograph import Rejected, check_rejections
from halfmap.jobs.read_files import check_files_unchanged
from halfmap.jobs.star_particles import columns_of_star
from halfmap.project.job import JobContext
from halfmap.template_matching.aberrations import NO_ABERRATIONS, Aberrations
from halfmap.template_matching.boxes import Candidates
from halfmap.template_matching.model import ParticleOptics, cut_boxes
from halfmap.template_matching.search import Statistics

PARTICLES_PER_TASK = 64
"""Particles of one micrograph that are treated together: reading and filtering it once costs little beside them."""

VOLTAGES_KV = (40.0, 1500.0)
"""What electron microscopes have; a voltage in volts lies far above."""

OUTSIDE = 1e10
"""Standard deviation of scores where there are none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundParticles:
    """Particles of one micrograph.

    Parameters
    ----------
    micrograph, mean, deviation : files, absolute; None for maps that are not used.
    rows : of the table.
    key : tells micrographs apart.
    pixel_size_angstrom : of the micrograph.
    position_pixel : centre of each particle.
    rotations, optics : of the particles.
    aberrations : of the optics group that they share.
    """

    micrograph: Path
    mean: Path | None
    deviation: Path | None
    rows: NDArray[np.int64]
    key: int
    pixel_size_angstrom: float
    position_pixel: Tensor
    rotations: Tensor
    optics: ParticleOptics
    aberrations: Aberrations = NO_ABERRATIONS

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: Tensor) -> "FoundParticles":
        """Return some of the particles, by their numbers among these."""
        return replace(
            self,
            rows=self.rows[which.numpy()],
            position_pixel=self.position_pixel[which],
            rotations=self.rotations[which],
            optics=self.optics.take(which),
        )

    def candidates(self, side: int, window: int, *, as_leopard: bool = False) -> Candidates:
        """Return the particles with the statistics about each, cut out of the maps of the search.

        Parameters
        ----------
        side : of the template of that search. A map holds, at the template's first pixel, what belongs to a particle
            in its middle.
        window : side of what is cut out, in pixels.
        as_leopard : find nothing beyond the rim of the maps, as Leopard-EM does; else its values go on there.

        Raises
        ------
        FormatError
            A map cannot be read, or holds values that are no numbers or no standard deviations.
        """
        return Candidates(
            position_pixel=self.position_pixel,
            rotations=self.rotations,
            optics=self.optics,
            statistics=self._statistics(side, window, as_leopard),
            aberrations=self.aberrations,
        )

    def _statistics(self, side: int, window: int, as_leopard: bool) -> Statistics:
        if self.mean is None or self.deviation is None:
            return Statistics.neutral(len(self), window)
        mean, deviation = (read_finite(path) for path in (self.mean, self.deviation))
        corners = self.position_pixel.round().to(torch.int64) - side // 2 - window // 2
        if as_leopard:
            inside = cut_boxes(torch.ones_like(mean), corners, window) > 0
            outside = torch.where(inside, 0.0, OUTSIDE)
            cut = [cut_boxes(mean, corners, window), cut_boxes(deviation, corners, window) + outside]
            return self._checked(*cut)
        steps = torch.arange(window)
        y, x = ((corners[:, axis, None] + steps).clamp(0, mean.shape[1 - axis] - 1) for axis in (1, 0))
        cut = [values[y[:, :, None], x[:, None, :]] for values in (mean, deviation)]
        return self._checked(*cut)

    def _checked(self, mean: Tensor, deviation: Tensor) -> Statistics:
        if not bool((deviation > 0).all()):
            assert self.deviation is not None
            raise FormatError(
                self.deviation,
                expected="standard deviations above 0 about the particles",
                found=f"{float(deviation.min()):g}",
                remedy="search again, or give --statistics none",
            )
        return Statistics(mean=mean, deviation=deviation)


def read_table(context: JobContext, path: Path) -> LeopardColumns:
    """Read the table of the particles: of Leopard-EM (CSV), or of RELION (STAR).

    Raises
    ------
    FormatError, InputError, InconsistentDataError
        It is none, lists no particle, or lacks a column.
    """
    if path.suffix.lower() == ".star":
        return columns_of_star(context, path)
    table = LeopardColumns.read(path)
    if not len(table):
        raise InputError(f"{path} must list particles; got none; choose a file with rows.")
    return table


def pixel_sizes(table: LeopardColumns) -> NDArray[np.float64]:
    """Return the pixel size of each particle's micrograph, in Å, as refined before.

    Raises
    ------
    FormatError
        One is not above 0, or another than most.
    """
    # those of the micrographs, and what a search for them may have made of them
    recorded, sizes = table.best("pixel_size"), table.best("pixel_size", "refined_pixel_size")
    least = min(recorded.min(), sizes.min())
    if not least > 0:
        raise FormatError(table.path, expected="pixel sizes above 0", found=f"{least:g}", remedy="mend the column")
    usual = float(np.median(recorded))
    apart = np.abs(recorded / usual - 1)
    if apart.max() > SAME_PIXEL_SIZE:
        row = int(apart.argmax())
        raise FormatError(
            table.path,
            line=row + 2,
            expected=f"the pixel size that most particles have, {usual:g} Å",
            found=f"{recorded[row]:g} Å",
            remedy="give particles of different pixel sizes to different jobs, each with a template of that size",
        )
    return sizes


def found_particles(
    context: JobContext, table: LeopardColumns, side: int, *, use_maps: bool
) -> tuple[list[FoundParticles], dict[int, Rejected]]:
    """Return the particles in parts, and the rows that cannot take part with the reason.

    Parameters
    ----------
    side : of the template of the search.
    use_maps : whether scores are held against the maps of the search that the table names.

    Raises
    ------
    FormatError, InputError
        A column or a map is at fault, or a map is missing.
    JobFailed
        More than a tenth of the particles cannot take part.
    ProjectError
        The job goes on, and a micrograph or a map has changed since it began.
    """
    sizes = pixel_sizes(table)
    names = [str(name) for name in table.columns["micrograph_path"]]
    root = resolve_paths(table.path, context.project, names)
    position = np.stack([table.best(f"pos_{axis}_img", f"refined_pos_{axis}_img") for axis in "xy"], axis=-1)
    angles = (table.best(name, f"refined_{name}") for name in ("phi", "theta", "psi"))
    rotations = matrix_from_euler(*(torch.from_numpy(angle) for angle in angles))
    optics = _optics(table)
    aberrations = [Aberrations(**vars(stored)) for stored in table.aberrations()]
    maps = [_map_paths(context, table, kind, use_maps) for kind in ("average", "variance")]
    parts: list[FoundParticles] = []
    rejected: dict[int, Rejected] = {}
    by_name: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        by_name.setdefault(name, []).append(row)
    for key, (name, of_name) in enumerate(by_name.items()):
        rows = np.array(of_name)
        try:
            height, width = images.shape_and_pixel_size(root / name)[0]
        except (FormatError, InputError) as error:
            rejected |= {int(row): Rejected(name=f"row {row + 2}", reason=str(error)) for row in rows}
            continue
        inside = ((position[rows] > -0.5) & (position[rows] < (width - 0.5, height - 0.5))).all(axis=-1)
        for row in rows[~inside].tolist():
            x, y = position[row]
            rejected[row] = Rejected(
                name=f"row {row + 2}",
                reason=f"the particle lies outside the micrograph of {width}×{height} px, at ({x:g}, {y:g})",
            )
        rows = rows[inside]
        # a micrograph may have been searched more than once
        searches: dict[tuple[Path | None, Path | None, Aberrations], list[int]] = {}
        for row in rows.tolist():
            searches.setdefault((maps[0][row], maps[1][row], aberrations[row]), []).append(row)
        for (mean, deviation, shared), found in searches.items():
            for path in (mean, deviation):
                if path is not None:
                    _check_map(path, (height, width), side)
            for first in range(0, len(found), PARTICLES_PER_TASK):
                part = np.array(found[first : first + PARTICLES_PER_TASK])
                parts.append(
                    FoundParticles(
                        micrograph=root / name,
                        mean=mean,
                        deviation=deviation,
                        rows=part,
                        key=key,
                        pixel_size_angstrom=float(np.median(sizes)),
                        position_pixel=torch.from_numpy(position[part]),
                        rotations=rotations[part],
                        optics=optics.take(torch.from_numpy(part)),
                        aberrations=shared,
                    )
                )
    for _, one in sorted(rejected.items()):
        context.log(f"set aside {one.name}: {one.reason}")
    check_rejections(list(rejected.values()), len(table), "particles")
    files = [path for part in parts for path in (part.micrograph, part.mean, part.deviation)]
    check_files_unchanged(context, [path for path in files if path is not None])
    return parts, rejected


def most_pixels(found: Sequence[FoundParticles]) -> int:
    """Return the number of pixels of the largest micrograph."""
    shapes = [images.shape_and_pixel_size(path)[0] for path in dict.fromkeys(part.micrograph for part in found)]
    return max((height * width for height, width in shapes), default=0)


def _optics(table: LeopardColumns) -> ParticleOptics:
    """Return the CTF of each particle, with the defocus refined so far."""
    offset = table.best("relative_defocus", "refined_relative_defocus")
    voltage = table.best("voltage")
    wrong = np.flatnonzero((voltage < VOLTAGES_KV[0]) | (voltage > VOLTAGES_KV[1]))
    if len(wrong):
        raise FormatError(
            table.path,
            line=int(wrong[0]) + 2,
            expected=f"a voltage of {VOLTAGES_KV[0]:g} to {VOLTAGES_KV[1]:g} kV",
            found=f"{voltage[wrong[0]]:g}",
            remedy="mend the value, which is in kV",
        )
    zero = np.zeros(len(table))
    values = {
        "defocus_u_angstrom": table.best("defocus_u") + offset,
        "defocus_v_angstrom": table.best("defocus_v") + offset,
        "defocus_angle_degrees": table.best("astigmatism_angle"),
        "voltage_kv": voltage,
        "spherical_aberration_mm": table.best("spherical_aberration"),
        "amplitude_contrast": table.best("amplitude_contrast_ratio"),
        "phase_shift_degrees": table.best("phase_shift") if "phase_shift" in table else zero,
        "b_factor_angstrom2": table.best("ctf_B_factor") if "ctf_B_factor" in table else zero,
    }
    return ParticleOptics(**{field.name: torch.from_numpy(values[field.name]) for field in fields(ParticleOptics)})


def _map_paths(context: JobContext, table: LeopardColumns, kind: str, use_maps: bool) -> Sequence[Path | None]:
    """Return the map of the mean or of the standard deviation of each particle, all of which exist.

    Raises
    ------
    InputError
        One is missing, or the table names none.
    """
    if not use_maps:
        return [None] * len(table)
    column = f"correlation_{kind}_path"
    named = [text.strip() for text in table.columns.get(column, [""] * len(table))]
    remedy = "mend the column, or give --statistics none to have scores in standard deviations of white noise"
    if "" in named:
        raise InputError(
            f"{table.path} must name the maps of the search in column {column}; got none in line "
            f"{named.index('') + 2}; {remedy}."
        )
    try:
        root = resolve_paths(table.path, context.project, named)
        missing = next((name for name in dict.fromkeys(named) if not (root / name).is_file()), None)
    except FormatError as error:
        raise InputError(f"The maps in column {column} must be there; {error}; {remedy}.") from error
    if missing is not None:
        raise InputError(f"The maps in column {column} must be there; got no file {root / missing}; {remedy}.")
    return [root / name for name in named]


def _check_map(path: Path, micrograph: tuple[int, int], side: int) -> None:
    """Raise unless a map is as large as that of a search of a micrograph, (y, x), with a template of that side.

    A search may have left out the last row or column of a micrograph of an odd side.
    """
    shape, _ = images.shape_and_pixel_size(path)
    wanted = tuple(length - side + 1 for length in micrograph)
    even = tuple(length // 2 * 2 - side + 1 for length in micrograph)
    if any(length not in known for length, *known in zip(shape, wanted, even, strict=True)):
        raise FormatError(
            path,
            expected=f"a map of {wanted[1]}×{wanted[0]} px, as a template of {side} px makes it in a micrograph of "
            f"{micrograph[1]}×{micrograph[0]} px",
            found=f"{shape[1]}×{shape[0]} px",
            remedy="give the template of that search, or --statistics none to have scores in standard deviations of "
            "white noise",
        )


def paths_from_project(context: JobContext, table: LeopardColumns) -> dict[str, list[str]]:
    """Return the columns of paths, but that of the template, so that they hold from the project."""
    names = [name for name in leopard.MATCH_COLUMNS if name.endswith("_path") and name in table]
    return {name: _from_project(context, table, table.columns[name]) for name in names if name != "template_path"}


def _from_project(context: JobContext, table: LeopardColumns, names: Sequence[str]) -> list[str]:
    """Return paths of the table so that they hold from the project, where the files are there."""
    try:
        root = resolve_paths(table.path, context.project, [name for name in names if name.strip()])
    except FormatError:
        return list(names)
    return [context.relative(root / name) if name.strip() else name for name in names]


def search_side(context: JobContext, table: LeopardColumns) -> int:
    """Return the side of the template of the search, which its maps are smaller than the micrograph by, but 1.

    Raises
    ------
    FormatError, InputError
        The micrograph or the map of the first particle is missing.
    """
    names = [str(name) for name in table.columns["micrograph_path"]]
    micrograph = resolve_paths(table.path, context.project, names) / names[0]
    mean = _map_paths(context, table, "average", use_maps=True)[0]
    assert mean is not None
    (height, _), _ = images.shape_and_pixel_size(micrograph)
    (places, _), _ = images.shape_and_pixel_size(mean)
    # even; a search may have left out the last row of an odd micrograph
    return (height - places + 1) // 2 * 2
