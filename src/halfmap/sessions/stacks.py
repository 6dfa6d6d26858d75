"""From a table of particles to stacks that are whole: which are new, replaced, waited for, or gone."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError, HalfmapError, InconsistentDataError
from halfmap.io.mapped_stacks import can_be_mapped
from halfmap.io.mrc import split_image_name
from halfmap.io.mrc_header import MrcHeader, read_header
from halfmap.io.mrc_values import read_sections
from halfmap.sessions.index import OPTICS
from halfmap.sessions.observation import Quarantined, Signature, StackParticles, identities

PATIENCE = 3
"""Looks for which rows and stack may have changed one without the other, before they are taken together."""

_READ_AT_ONCE_BYTES = 1 << 25
_BACKGROUND_SHARE = 0.75  # of half the box, where the particle's diameter is not known
_KEPT = (
    "image_name", "micrograph_name", "position_pixel", "defocus_u_angstrom", "defocus_v_angstrom",
    "defocus_angle_degrees", "phase_shift_degrees", "ctf_max_resolution_angstrom", "figure_of_merit", "optics_group",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class TableRows:
    """The rows of a table that name one stack.

    Parameters
    ----------
    particles : they.
    section : 0-based place of each image in the stack.
    key : hash of the rows.
    """

    particles: ParticleSet
    section: NDArray[np.int64]
    key: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What the last look found of a stack: its state, the rows' hash, and for how many looks both were so."""

    signature: Signature | None
    key: str
    looks: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class StackLook:
    """Stacks after a look; the fields are those of `halfmap.sessions.observation.Observation`.

    Parameters
    ----------
    seen : by stack, to be handed to the next look.
    keys : hash of the rows of each stack that is taken.
    """

    stacks: dict[str, StackParticles]
    waiting: dict[str, Quarantined]
    seen: dict[str, Seen]
    keys: dict[str, str]
    notices: list[str] = field(default_factory=list)


def signature_of(path: Path) -> Signature:
    """Return what a file's state is told by.

    Raises
    ------
    OSError
        It is not there.
    """
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def rows_by_stack(particles: ParticleSet, base: str = "") -> dict[str, TableRows]:
    """Return the rows of a table by the stack that they name.

    Parameters
    ----------
    base : put before the names of stacks.

    Raises
    ------
    InconsistentDataError
        The table names no images.
    """
    if "image_name" not in particles:
        raise InconsistentDataError(
            "A table of particles must have the column rlnImageName; got none; export the particles."
        )
    places = [split_image_name(str(name)) for name in particles["image_name"].tolist()]
    stack = np.array([os.path.normpath(os.path.join(base, path)) for _, path in places], dtype=object)
    section = np.array([index for index, _ in places], dtype=np.int64)
    columns = {name: particles[name] for name in _KEPT if name in particles}
    if "micrograph_name" in columns:
        columns["micrograph_name"] = np.array([Path(str(one)).name for one in columns["micrograph_name"]], dtype=object)
    else:
        columns["micrograph_name"] = np.array([Path(one).stem for one in stack], dtype=object)
    optics = OpticsGroups(
        columns={name: particles.optics[name] for name in ("optics_group", *OPTICS) if name in particles.optics}
    )
    columns["uid"] = np.zeros(len(particles), dtype=np.int64)  # given with the stack's state, see `identities`
    slim = ParticleSet(columns=columns, optics=optics)
    names, inverse = np.unique(stack.astype(str), return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[order], np.arange(len(names) + 1))
    found = {}
    for number, name in enumerate(names.tolist()):
        rows = order[bounds[number] : bounds[number + 1]]
        part = slim.take(rows)
        found[name] = TableRows(particles=part, section=section[rows], key=_key(part, section[rows]))
    return found


def looked_at(
    folder: Path,
    rows: Mapping[str, TableRows],
    stacks: Mapping[str, StackParticles],
    keys: Mapping[str, str],
    seen: Mapping[str, Seen],
    waiting: Mapping[str, Quarantined],
    *,
    exact: bool,
    diameter_angstrom: float,
    again: bool = True,
) -> StackLook:
    """Look at the stacks that a table names.

    Parameters
    ----------
    rows : of the table.
    stacks, keys, seen, waiting : of the look before.
    exact : whether a stack holds as many images as the table has rows of it.
    diameter_angstrom : of particles, beside which images are measured; 0: not known.
    again : whether stacks that are taken already are looked at too.

    Notes
    -----
    A stack is taken when its file is as long as its header says, holds all images that are named, and has not changed
    since the last look, or another stack is younger. Warp writes a table and its stacks one after the other, in either
    order: rows and stack of a micrograph that is processed again are replaced together, or after some looks if only one
    of them has changed.
    """
    look = StackLook(stacks={}, waiting={}, seen={}, keys={})
    signatures: dict[str, Signature | None] = {}
    for name in rows:
        if again or name not in stacks or keys.get(name) != rows[name].key:
            try:
                signatures[name] = signature_of(folder / name)
            except OSError as error:
                signatures[name] = None
                _wait(look, waiting, name, f"its stack cannot be read: {error.strerror}")
        else:
            signatures[name] = stacks[name].signature
    youngest = max((one[0] for one in signatures.values() if one is not None), default=0)
    for name, table in rows.items():
        signature, taken, before = signatures[name], stacks.get(name), seen.get(name)
        same = before is not None and before.signature == signature and before.key == table.key
        looks = before.looks + 1 if same and before is not None else 1
        look.seen[name] = Seen(signature=signature, key=table.key, looks=looks)
        if taken is not None:
            look.stacks[name], look.keys[name] = taken, keys[name]
        if signature is None:
            continue
        new_stack, new_rows = taken is None or taken.signature != signature, keys.get(name) != table.key
        if not (new_stack or new_rows):
            continue
        if taken is not None and new_stack != new_rows and looks < PATIENCE:
            _wait(look, waiting, name, "its rows and its stack are not of the same time yet")
            continue
        if looks < 2 and signature[0] >= youngest:
            _wait(look, waiting, name, "its stack may still grow")
            continue
        try:
            look.stacks[name] = measured(folder, name, signature, table, exact=exact, diameter=diameter_angstrom)
        except (HalfmapError, OSError) as error:
            _wait(look, waiting, name, str(error))
            continue
        look.keys[name] = table.key
        if taken is not None:
            look.notices.append(
                f"{name} was processed again: its {len(taken)} particles are replaced by {len(table.section)}."
            )
    gone = [name for name in stacks if name not in rows]
    if gone:
        lost = sum(len(stacks[name]) for name in gone)
        look.notices.append(f"The table has lost {len(gone)} stacks, as {gone[0]}, with {lost} particles.")
    return look


def measured(
    folder: Path, name: str, signature: Signature, table: TableRows, *, exact: bool, diameter: float
) -> StackParticles:
    """Read a stack's images once: whether they are usable, and how bright and noisy their backgrounds are.

    Raises
    ------
    FormatError
        The stack is not complete, has another number of images, or cannot be mapped into memory.
    """
    from halfmap.jobs.particle_checks import ImageChecks, check_images  # loads torch

    header = read_header(folder / name)
    n = header.shape[0]
    expected = len(table.section) if exact else int(table.section.max()) + 1
    if n < int(table.section.max()) + 1 or (exact and n != expected):
        raise FormatError(
            header.path, expected=f"{expected} images, as the table has", found=f"{n}", remedy="wait for the rest"
        )
    if not can_be_mapped(header):
        raise FormatError(
            header.path, expected="plain real images", found=f"mode {header.mode}", remedy="convert it to mode 2"
        )
    pixel = float(table.particles.optics["pixel_size_angstrom"][0])
    radius = 0.6 * diameter / pixel if diameter > 0 else np.inf
    radius = min(radius, _BACKGROUND_SHARE * header.shape[1] / 2) if not np.isfinite(radius) else radius
    radius = min(radius, 0.5 * header.shape[1] - 1)
    sections, inverse = np.unique(table.section, return_inverse=True)
    at_once = max(1, _READ_AT_ONCE_BYTES // max(header.section_bytes, 1))
    parts = [
        check_images(_float32(header, sections[start : start + at_once]), radius)
        for start in range(0, len(sections), at_once)
    ]
    checks = ImageChecks.concatenate(parts).take(inverse)
    if signature_of(folder / name) != signature:
        raise FormatError(header.path, expected="a stack at rest", found="one that changed", remedy="wait for the end")
    return StackParticles(
        stack=name,
        signature=signature,
        particles=table.particles.with_columns(uid=identities(table.particles, table.section, signature)),
        section=table.section,
        shape=(header.shape[1], header.shape[2]),
        background_mean=checks.background_mean,
        background_deviation=checks.background_deviation,
        problem=checks.problem,
    )


def _float32(header: MrcHeader, sections: NDArray[np.int64]) -> NDArray[np.float32]:
    return read_sections(header, sections).astype(np.float32)


def _wait(look: StackLook, waiting: Mapping[str, Quarantined], name: str, reason: str) -> None:
    before = waiting.get(name)
    look.waiting[name] = Quarantined(name=name, reason=reason, tries=1 + (before.tries if before else 0))


def _key(particles: ParticleSet, section: NDArray[np.int64]) -> str:
    digest = blake2b(section.tobytes(), digest_size=8)
    for name in _KEPT:
        if name in particles:
            values = particles[name]
            digest.update("\0".join(values.tolist()).encode() if values.dtype == object else values.tobytes())
    return digest.hexdigest()
