"""What `halfmap extract` is to cut out, and where: picks or particles joined to their micrographs by name."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from halfmap.data.micrographs import MicrographSet
from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.data.picks import Picks
from halfmap.errors import InconsistentDataError
from halfmap.extraction.recentring import recentred
from halfmap.extraction.windows import place
from halfmap.geometry.euler import array_from_euler
from halfmap.io import star
from halfmap.io.relion import read_particles
from halfmap.io.relion_picks import read_picks
from halfmap.jobs.micrograph_inputs import OpenedMicrographs, open_micrographs, open_micrographs_of
from halfmap.jobs.per_micrograph import Rejected, rejected_micrographs
from halfmap.project.job import JobContext

if TYPE_CHECKING:
    from halfmap.jobs.extract import ExtractJobParams

CTF_COLUMNS = (
    "defocus_u_angstrom",
    "defocus_v_angstrom",
    "defocus_angle_degrees",
    "phase_shift_degrees",
    "ctf_b_factor_angstrom2",
    "ctf_scale",
    "ctf_max_resolution_angstrom",
    "ctf_figure_of_merit",
)

DEFOCUS_SLOPES = ("halfmapDefocusSlopeX", "halfmapDefocusSlopeY")
"""Columns of micrographs: by how much the defocus grows along x and y, Å for each Å."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """What is to be cut out.

    Parameters
    ----------
    particles : one row for each window; `position_pixel` holds whole numbers, `origin_angstrom` what was cut off.
    opened : the micrographs they lie in.
    rows : for each of those micrographs the rows of its particles, int64.
    rejected : micrographs set aside.
    said : what the user should know about the join, a sentence each.
    """

    particles: ParticleSet
    opened: OpenedMicrographs
    rows: tuple[np.ndarray, ...]
    rejected: tuple[Rejected, ...]
    said: tuple[str, ...]


def gather(context: JobContext, params: "ExtractJobParams") -> Wanted:
    """Read the inputs and join them.

    Raises
    ------
    InconsistentDataError
        No pick or particle lies in a micrograph of the table, or a column that is needed is missing.
    """
    if params.reextract is not None:
        return _gather_again(context, params, params.reextract)
    if params.picks is None or params.micrographs is None:
        raise InconsistentDataError("extract must have picks and micrographs; got neither; give both.")
    opened = open_micrographs(context, params.micrographs)
    picks = read_picks(
        params.picks, [*opened.given_names, *(one.name for one in opened.rejected)], project_root=context.project
    )
    said = []
    if params.min_fom is not None:
        passing = picks.figure_of_merit > params.min_fom
        said.append(f"{passing.sum()} of {len(picks)} picks have a figure of merit above {params.min_fom:g}.")
        picks = picks.take(passing)
    rows, told = _joined(picks.micrograph_name, opened, params.picks, what="picks", searched=picks.micrographs)
    said += told
    order = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    of_micrograph = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    particles = _from_picks(picks.take(order), opened, of_micrograph, params.bias_pixel)
    ends = np.cumsum([len(r) for r in rows])
    return Wanted(
        particles=particles,
        opened=opened,
        rows=tuple(np.arange(end - len(r), end) for r, end in zip(rows, ends, strict=True)),
        rejected=opened.rejected,
        said=tuple(said),
    )


def _from_picks(
    picks: Picks, opened: OpenedMicrographs, of_micrograph: np.ndarray, bias: tuple[int, int]
) -> ParticleSet:
    """Turn picks into particles that know their micrograph's CTF and optics."""
    placement = place(picks.position_pixel + np.array(bias))
    micrographs = opened.micrographs
    pixel_size = opened.pixel_size_angstrom[of_micrograph]
    columns = {
        "uid": picks.uid,
        "micrograph_name": micrographs["micrograph_name"][of_micrograph],
        "optics_group": micrographs["optics_group"][of_micrograph],
        "position_pixel": placement.centre_pixel.astype(np.float64),
        "origin_angstrom": 0.0 - placement.remainder_pixel * pixel_size[:, None],
        "rotation": array_from_euler(0.0, 0.0, picks["psi_degrees"]),
        "figure_of_merit": picks.figure_of_merit,
        "class_number": picks["class_number"],
    }
    columns |= _ctf_columns(opened, of_micrograph, columns["position_pixel"])
    columns |= {name: values for name, values in picks.columns.items() if name not in Picks.KNOWN}
    return ParticleSet(columns=columns, optics=micrographs.optics)


def _gather_again(context: JobContext, params: "ExtractJobParams", path: Path) -> Wanted:
    particles = read_particles(path)
    for column, label in (("micrograph_name", "rlnMicrographName"), ("position_pixel", "rlnCoordinateX")):
        if column not in particles:
            raise InconsistentDataError(
                f"{path} must have the column _{label}; got none; particles can be extracted again only where their "
                "micrograph and coordinates are known."
            )
    names = [str(name) for name in dict.fromkeys(particles["micrograph_name"])]
    said: list[str] = []
    if params.micrographs is not None:
        opened = open_micrographs(context, params.micrographs)
    else:
        opened, sentence = open_micrographs_of(context, path, particles)
        said.append(sentence)
    rows, told = _joined(particles["micrograph_name"], opened, path, what="particles", searched=names)
    said += told
    if params.micrograph_ctf:
        particles = _with_micrograph_ctf(particles, opened, rows)
    pixel_size = np.full(len(particles), np.nan)
    for one, size in zip(rows, opened.pixel_size_angstrom, strict=True):
        pixel_size[one] = size
    origin = particles["origin_angstrom"] if "origin_angstrom" in particles else np.zeros((len(particles), 2))
    if params.reset_offsets:
        origin = np.zeros_like(origin)
    if "image_name" in particles:
        # Programs that leave fractions here cut the image at the whole pixel below; the offset belongs to that image.
        position = np.trunc(particles["position_pixel"])
    else:
        placement = place(particles["position_pixel"])
        position = placement.centre_pixel.astype(np.float64)
        origin = origin - placement.remainder_pixel * pixel_size[:, None]
    if params.recenter_angstrom is not None:
        position, origin = recentred(
            position,
            origin,
            particles.columns.get("rotation"),
            centre_angstrom=params.recenter_angstrom,
            micrograph_pixel_size_angstrom=pixel_size,
        )
    particles = particles.with_columns(
        position_pixel=position + np.array(params.bias_pixel),
        origin_angstrom=origin,
        micrograph_name=_located(particles["micrograph_name"], opened, rows),
    )
    return Wanted(
        particles=replace(particles, optics=_optics_of(particles, pixel_size)),
        opened=opened,
        rows=tuple(rows),
        rejected=opened.rejected,
        said=tuple(said),
    )


def _joined(
    names: np.ndarray, opened: OpenedMicrographs, path: Path, *, what: str, searched: Iterable[str]
) -> tuple[list[np.ndarray], list[str]]:
    """Return the rows of each usable micrograph, by its exact name, and what did not match."""
    at = {name: index for names in (opened.names, opened.given_names) for index, name in enumerate(names)}
    index = np.array([at.get(str(name), -1) for name in names], dtype=np.int64)
    order = np.argsort(index, kind="stable")
    cuts = np.searchsorted(index[order], np.arange(len(opened.names) + 1))
    rows = [order[cuts[i] : cuts[i + 1]] for i in range(len(opened.names))]
    set_aside = {one.name for one in opened.rejected}
    unknown = sorted({str(name) for name in names[index < 0]} - set_aside)
    empty = [name for name, one in zip(opened.names, rows, strict=True) if not len(one)]
    if not (index >= 0).any():
        raise InconsistentDataError(
            f"The {what} of {path} must lie in micrographs of the table; got none that do: it names "
            f"{_some(unknown) or 'no micrograph'}, the table {_some(opened.names)}; make the names equal."
        )
    said = []
    if empty:
        said.append(f"{len(empty)} micrographs have no {what}: {_some(empty)}.")
    if unknown:
        n = int(np.isin(np.asarray(names, dtype=str), unknown).sum())
        said.append(f"{n} {what} lie in {len(unknown)} micrographs that the table does not have: {_some(unknown)}.")
    if lost := int(np.isin(np.asarray(names, dtype=str), sorted(set_aside)).sum()) if set_aside else 0:
        said.append(f"{lost} {what} lie in {len(set_aside)} micrographs that were set aside.")
    return rows, said


def _located(names: np.ndarray, opened: OpenedMicrographs, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return the names with those of usable micrographs as we write them."""
    located = names.copy()
    for name, one in zip(opened.names, rows, strict=True):
        located[one] = name
    return located


def _some(names: Sequence[str], n: int = 3) -> str:
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")


def _with_micrograph_ctf(particles: ParticleSet, opened: OpenedMicrographs, rows: Sequence[np.ndarray]) -> ParticleSet:
    """Return particles with the CTF and optics of their micrographs; those in none are not extracted anyway."""
    of_micrograph = np.zeros(len(particles), dtype=np.int64)
    for index, one in enumerate(rows):
        of_micrograph[one] = index
    micrographs = opened.micrographs
    columns = _ctf_columns(opened, of_micrograph, particles["position_pixel"])
    groups = micrographs["optics_group"][of_micrograph]
    return replace(particles.with_columns(**columns, optics_group=groups), optics=micrographs.optics)


def _ctf_columns(
    opened: OpenedMicrographs, of_micrograph: np.ndarray, position_pixel: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the CTF of particles: their micrographs', with the defocus on the plane that `halfmap ctf` has fitted.

    Parameters
    ----------
    of_micrograph : shape (n,), rows of the micrographs.
    position_pixel : shape (n, 2).
    """
    micrographs = opened.micrographs
    columns = {name: micrographs[name][of_micrograph] for name in CTF_COLUMNS if name in micrographs}
    if all(name in micrographs for name in DEFOCUS_SLOPES):
        sides = np.array([shape[::-1] for shape in opened.shapes], dtype=np.float64)[of_micrograph]
        away = (position_pixel - (sides - 1) / 2) * opened.pixel_size_angstrom[of_micrograph, None]
        slope = _defocus_slopes(micrographs)[of_micrograph]
        for name in ("defocus_u_angstrom", "defocus_v_angstrom"):
            columns[name] = columns[name] + (away * slope).sum(axis=1)
    return columns


def _defocus_slopes(micrographs: MicrographSet) -> np.ndarray:
    """Return how the defocus of micrographs grows along x and y, float64, shape (n, 2)."""
    slopes = np.full((len(micrographs), 2), np.nan)
    for axis, name in enumerate(DEFOCUS_SLOPES):
        for row, text in enumerate(micrographs[name]):
            with suppress(ValueError):
                slopes[row, axis] = float(text)
            if not np.isfinite(slopes[row, axis]):
                raise InconsistentDataError(
                    f"{name} must be a finite number; got {text} for {micrographs['micrograph_name'][row]}; estimate "
                    "its CTF again by `halfmap ctf`, or take the column out to give particles their micrograph's "
                    "defocus."
                )
    return slopes


def _optics_of(particles: ParticleSet, pixel_size: np.ndarray) -> OpticsGroups:
    """Return the particles' optics with the pixel size of the micrographs that each group's particles lie in."""
    sizes = np.full(len(particles.optics), np.nan)
    for row, number in enumerate(particles.optics.numbers):
        found = np.unique(pixel_size[(particles["optics_group"] == number) & np.isfinite(pixel_size)])
        if len(found) > 1:
            raise InconsistentDataError(
                f"Micrographs of one optics group must have one pixel size; got {found[0]:g} and {found[1]:g} Å in "
                f"group {number}; give them groups of their own."
            )
        # A group without a particle in any micrograph is left out of the output anyway.
        sizes[row] = found[0] if len(found) else 1.0
    return particles.optics.with_columns(micrograph_pixel_size_angstrom=sizes)


def check_ctf_is_known(params: "ExtractJobParams", particles: ParticleSet) -> None:
    """Look for the columns that a CTF cannot do without.

    Raises
    ------
    InconsistentDataError
        One is missing; its file and label are named.
    """
    path = params.micrographs if params.reextract is None or params.micrograph_ctf else params.reextract
    for column, label in (("defocus_u_angstrom", "rlnDefocusU"), ("defocus_v_angstrom", "rlnDefocusV")):
        _require(column in particles, path, label)
    for column, label in (
        ("voltage_kv", "rlnVoltage"),
        ("spherical_aberration_mm", "rlnSphericalAberration"),
        ("amplitude_contrast", "rlnAmplitudeContrast"),
    ):
        _require(column in particles.optics, path, label)


def _require(is_there: bool, path: Path | None, label: str) -> None:
    if not is_there:
        raise InconsistentDataError(
            f"{path} must have the column _{label} for --premultiply-ctf and --phase-flip; got none; add the column, "
            "or leave these out."
        )


def write_rejected(
    context: JobContext,
    particles: ParticleSet,
    reasons: Sequence[tuple[int, str]],
    micrographs: Sequence[Rejected],
) -> str:
    """Write ``rejected.star``: the particles set aside with their reason, and the micrographs.

    Returns
    -------
    Its path as users know it; empty where nothing was set aside.
    """
    tables = []
    if reasons:
        rows = np.array([row for row, _ in reasons], dtype=np.int64)
        position = particles["position_pixel"][rows]
        tables.append(
            star.StarTable(
                name="particles",
                columns={
                    "rlnMicrographName": particles["micrograph_name"][rows],
                    "rlnCoordinateX": position[:, 0].astype(str),
                    "rlnCoordinateY": position[:, 1].astype(str),
                    "halfmapUid": particles.uid[rows].astype(str),
                    "halfmapReason": np.array([reason for _, reason in reasons]),
                },
            )
        )
    if micrographs:
        tables.append(rejected_micrographs(micrographs))
    if not tables:
        return ""
    path = context.folder / "rejected.star"
    star.write(path, tables)
    return context.relative(path)
