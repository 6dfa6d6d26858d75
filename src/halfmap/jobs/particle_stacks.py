"""Which files the images of a particle table lie in, looked at by their headers alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.grid import ImageGrid
from halfmap.io.mrc import split_image_name
from halfmap.io.mrc_header import MrcHeader, read_header
from halfmap.io.mrc_values import refuse_complex
from halfmap.io.relion_paths import resolve_paths

LARGEST_DIFFERENCE = 0.02
"""Relative difference of two pixel sizes up to which they are taken for the same."""

_NAMED_FILES = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleStacks:
    """The files of a particle table.

    Parameters
    ----------
    root : folder that the table's names start from.
    paths : the files, in the order of their first image.
    headers : of the files; None where one cannot be read.
    reasons : why it cannot, empty where it can.
    file, section : of each particle, the number of its file and its 0-based number there; int64, shape (n,).
    """

    root: Path
    paths: tuple[Path, ...]
    headers: tuple[MrcHeader | None, ...]
    reasons: tuple[str, ...]
    file: NDArray[np.int64]
    section: NDArray[np.int64]

    @property
    def is_readable(self) -> NDArray[np.bool_]:
        """Which particles lie in a readable file, shape (n,)."""
        good = np.array([header is not None for header in self.headers])
        readable: NDArray[np.bool_] = good[self.file]
        return readable


def find_stacks(path: Path, project: Path, particles: ParticleSet) -> ParticleStacks:
    """Find the files of a particle table and read their headers.

    Parameters
    ----------
    path : the table's file.
    project : the project folder.
    particles : the table, with rows and image names.

    Raises
    ------
    InputError
        A name cannot be parsed, a file is missing, or a number lies beyond its stack.
    FormatError
        None of the files exists.
    """
    names = [str(name) for name in particles["image_name"]]
    numbers: dict[str, int] = {}
    file = np.empty(len(names), dtype=np.int64)
    section = np.empty(len(names), dtype=np.int64)
    for row, name in enumerate(names):
        section[row], file_name = split_image_name(name)
        file[row] = numbers.setdefault(file_name, len(numbers))
    root = resolve_paths(path, project, numbers)
    paths = tuple(root / name for name in numbers)
    _refuse_missing(path, root, list(numbers), paths, file)
    headers: list[MrcHeader | None] = []
    reasons: list[str] = []
    for one in paths:
        try:
            header = read_header(one)
            refuse_complex(header)
            _refuse_other_axes(header)
        except (FormatError, InputError) as error:
            headers.append(None)
            reasons.append(str(error))
        else:
            headers.append(header)
            reasons.append("")
    lengths = np.array([np.iinfo(np.int64).max if header is None else header.shape[0] for header in headers])
    beyond = np.flatnonzero(section >= lengths[file])
    if len(beyond):
        first = int(beyond[0])
        raise InputError(
            f"{names[first]} must be one of the {lengths[file[first]]} images of {paths[file[first]]}; got a number "
            f"beyond the stack ({len(beyond)} such names); check that {path} belongs to the stacks."
        )
    stacked = np.array([header is not None and header.shape[0] > 1 for header in headers])
    unnumbered = [row for row in np.flatnonzero(stacked[file]).tolist() if "@" not in names[row]]
    if unnumbered:
        first = unnumbered[0]
        raise InputError(
            f"{names[first]} must be a single image; got {lengths[file[first]]} sections in {paths[file[first]]} "
            f"({len(unnumbered)} such names); name one image as 000001@file: volumes cannot be used here."
        )
    return ParticleStacks(
        root=root, paths=paths, headers=tuple(headers), reasons=tuple(reasons), file=file, section=section
    )


def _refuse_missing(
    path: Path, root: Path, names: Sequence[str], paths: Sequence[Path], file: NDArray[np.int64]
) -> None:
    missing = [number for number, one in enumerate(paths) if not one.is_file()]
    if not missing:
        return
    lost = int(np.isin(file, missing).sum())
    listed = ", ".join(names[number] for number in missing[:_NAMED_FILES])
    more = f" and {len(missing) - _NAMED_FILES} more" if len(missing) > _NAMED_FILES else ""
    raise InputError(
        f"The {len(paths)} stacks that {path} names must exist; got {len(missing)} below {root} that do not, with "
        f"{lost} of {len(file)} particles: {listed}{more}; bring them back, or remove their particles from the table."
    )


def _refuse_other_axes(header: MrcHeader) -> None:
    if header.axis_order != (1, 2, 3):
        raise FormatError(
            header.path,
            expected="a stack stored by columns, rows and sections",
            found=f"the axis order {header.axis_order}",
            remedy="write the stack again with its axes as x, y and image",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupGrids:
    """The grids of the optics groups that particles belong to.

    Parameters
    ----------
    grids : group number → sides and pixel size of its images.
    warnings : what is odd about them, a sentence each.
    """

    grids: dict[int, ImageGrid]
    warnings: tuple[str, ...]


def grids_of_groups(path: Path, particles: ParticleSet, stacks: ParticleStacks) -> GroupGrids:
    """Compare what the optics table says of the images with what the files' headers say.

    Parameters
    ----------
    path : the table's file, to be named.
    particles : the table.
    stacks : its files.

    Raises
    ------
    InconsistentDataError
        Images of one optics group differ in size or pixel size, are not square, have another size than the optics
        table says, are volumes; or a pixel size is not positive or nowhere to be found.
    """
    optics = particles.optics
    grids: dict[int, ImageGrid] = {}
    warnings: list[str] = []
    readable = stacks.is_readable
    for number in np.unique(particles["optics_group"]).tolist():
        mine = readable & (particles["optics_group"] == number)
        found = [header for one in np.unique(stacks.file[mine]) if (header := stacks.headers[one]) is not None]
        if not found:
            continue
        row = int(optics.rows_of([number])[0]) if len(optics) else -1
        stated = {name: optics[name][row] for name in optics.columns} if row >= 0 else {}
        name = _group_name(number, stated)
        if int(stated.get("image_dimensionality", 2)) == 3:
            raise InconsistentDataError(
                f"Particles must be images; got volumes (_rlnImageDimensionality 3) in {name} of {path}; choose the "
                "table of their two-dimensional images."
            )
        side = _common_side(path, name, found, stated)
        size, warning = _pixel_size(path, name, found, stated)
        if warning:
            warnings.append(warning)
        grids[number] = ImageGrid.square(side, size)
    return GroupGrids(grids=grids, warnings=tuple(warnings))


def _group_name(number: int, stated: dict[str, object]) -> str:
    return f"optics group {number}" + (f" ({stated['name']})" if "name" in stated else "")


def _common_side(path: Path, name: str, headers: Sequence[MrcHeader], stated: dict[str, object]) -> int:
    first = headers[0]
    for header in headers:
        if header.shape[1:] != first.shape[1:]:
            raise InconsistentDataError(
                f"Images of {name} of {path} must have one size; got {_sides(first)} in {first.path} and "
                f"{_sides(header)} in {header.path}; give them optics groups of their own."
            )
    if first.shape[1] != first.shape[2]:
        raise InconsistentDataError(
            f"Images of {name} of {path} must be square; got {_sides(first)} in {first.path}; extract them again."
        )
    side = stated.get("image_size_pixel")
    if side is not None and int(str(side)) != first.shape[2]:
        raise InconsistentDataError(
            f"Images of {name} of {path} must have the {side} × {side} pixels of _rlnImageSize; got {_sides(first)} in "
            f"{first.path}; check that the table belongs to the stacks, or correct _rlnImageSize and "
            "_rlnImagePixelSize."
        )
    return first.shape[2]


def _sides(header: MrcHeader) -> str:
    return f"{header.shape[2]} × {header.shape[1]} pixels"


def _pixel_size(
    path: Path, name: str, headers: Sequence[MrcHeader], stated: dict[str, object]
) -> tuple[float, str | None]:
    """Return the pixel size of a group, and what is odd about it."""
    sizes = {header.pixel_size_angstrom: header for header in headers if header.pixel_size_angstrom is not None}
    if sizes and max(sizes) > min(sizes) * (1 + LARGEST_DIFFERENCE):
        low, high = min(sizes), max(sizes)
        raise InconsistentDataError(
            f"Images of {name} of {path} must have one pixel size; got {low:.5g} Å in the header of {sizes[low].path} "
            f"and {high:.5g} Å in that of {sizes[high].path}; give them optics groups of their own."
        )
    header_size = next(iter(sizes), None)
    if "pixel_size_angstrom" not in stated:
        if header_size is None:
            raise InconsistentDataError(
                f"The pixel size of {name} of {path} must be known; got none in its table and none in the header of "
                f"{headers[0].path}; add the column _rlnImagePixelSize to the optics table."
            )
        return header_size, (
            f"{path} states no pixel size for {name}: the {header_size:.5g} Å of the header of "
            f"{sizes[header_size].path} are taken; add _rlnImagePixelSize if they are wrong."
        )
    size = float(str(stated["pixel_size_angstrom"]))
    if not 0 < size < np.inf:
        raise InconsistentDataError(
            f"The pixel size of {name} of {path} must be positive; got {size:g} Å; correct _rlnImagePixelSize."
        )
    if header_size is not None and abs(size / header_size - 1) > LARGEST_DIFFERENCE:
        return size, (
            f"The pixel size of {name} of {path} should be that of its stacks; got {size:.5g} Å in the table and "
            f"{header_size:.5g} Å in the header of {sizes[header_size].path}"
            + (", which may stand for an unknown one" if header_size == 1 else "")
            + "; the table's is used: correct _rlnImagePixelSize if it is the wrong one."
        )
    return size, None
