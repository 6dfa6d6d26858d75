"""Half maps, masks and MTF curves as jobs are given them: found, read, and checked by name."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from halfmap.errors import FormatError, InputError
from halfmap.jobs.map_inputs import has_pixel_size, read_map

if TYPE_CHECKING:
    from halfmap.data.volumes import Volume
    from halfmap.grid import ImageGrid
    from halfmap.postprocessing.concerns import Concern
    from halfmap.postprocessing.half_map_fsc import HalfMapFsc
    from halfmap.postprocessing.sharpening import MtfCurve
    from halfmap.project.job import JobContext

_HALF = re.compile(r"(half(?:[_-]?map)?[_-]?)([12ab])(?![0-9a-z])", re.IGNORECASE)
_OTHER = {"1": "2", "2": "1", "a": "b", "b": "a", "A": "B", "B": "A"}
_NAMED_FILES = 5
_OF_REFINEMENT = "postprocess.mrc"


def find_halves(half1: Path, half2: Path | None) -> tuple[Path, Path]:
    """Return the files of two half maps.

    Parameters
    ----------
    half1 : one half map, or the folder of a job that made them, or the sharpened map that a refinement's number stands
        for: of the folder's files named ``half1`` the unfiltered one.
    half2 : the other; None finds it by exchanging 1 and 2, or A and B, after the word ``half`` in the name.

    Raises
    ------
    InputError
        The folder holds no half map or several, the name tells no half, the other half is not there or is a folder.
    """
    if half2 is not None and half2.is_dir():
        raise InputError(
            f"The second half map must be a file; got the folder {half2}; name the map, or give the folder alone."
        )
    if half1.is_dir():
        half1 = _half_of_folder(half1)
    if half2 is not None:
        return half1, half2
    pair = _halves_beside(half1) if half1.name == _OF_REFINEMENT else halves_by_name(half1)
    if pair is None:
        raise InputError(
            f"The name of a half map must say half1 or half2 where the other is to be found by it; got {half1.name}; "
            "give the other with --half2."
        )
    for other in pair:
        if not other.is_file():
            raise InputError(
                f"The other half of {half1} must lie beside it as {other.name}; got no such file; give it with --half2."
            )
    return pair


def halves_by_name(path: Path) -> tuple[Path, Path] | None:
    """Return the files of both halves, whichever of them is given and whether they exist; None if the name says none.

    Parameters
    ----------
    path : with 1 and 2, or A and B, after the word ``half`` in its name.
    """
    found = list(_HALF.finditer(path.name))
    if not found:
        return None
    last = found[-1]
    other = path.with_name(path.name[: last.start(2)] + _OTHER[last[2]] + path.name[last.end(2) :])
    return (path, other) if last[2] in "1aA" else (other, path)


def read_halves(half1: Path, half2: Path, pixel_size_angstrom: float | None) -> tuple["Volume", "Volume"]:
    """Read two half maps and check that they go together.

    Raises
    ------
    InconsistentDataError
        Sides or pixel sizes differ.
    InputError
        As of `read_map`.
    """
    from halfmap.postprocessing.half_map_fsc import check_same_grid

    first, second = (read_map(path, pixel_size_angstrom) for path in (half1, half2))
    check_same_grid(second, first, str(half2), str(half1))
    return first, second


def band_shell_of(half1: Path, grid: "ImageGrid") -> int | None:
    """Return the last shell that a refinement's half map holds data of.

    Parameters
    ----------
    half1 : the map. The model file that the refinement wrote is looked for beside it.
    grid : of the map.

    Returns
    -------
    None where there is no such file, or it is of maps of another box: all shells may hold data.
    """
    from halfmap.io.relion_refinement import band_side_pixel

    side = band_side_pixel(half1, grid.side) if len(set(grid.shape)) == 1 else None
    return None if side is None else min(side // 2, max(grid.shape) // 2)


def read_mask(path: Path, like: "Volume", like_path: Path, pixel_size_angstrom: float | None) -> "Volume":
    """Read a mask for a map; a folder stands for the ``mask.mrc`` in it, a missing pixel size for that of the map.

    Raises
    ------
    InconsistentDataError
        Sides or pixel sizes differ.
    InputError
        Values are not from 0 to 1.
    """
    from halfmap.postprocessing.half_map_fsc import check_same_grid
    from halfmap.postprocessing.masks import checked_mask

    if path.is_dir():
        path = path / "mask.mrc"
    if not path.is_file():
        raise InputError(f"A mask must be a file or the folder of a job with a mask.mrc; got {path}; name the file.")
    if pixel_size_angstrom is None and not has_pixel_size(path):
        pixel_size_angstrom = like.grid.pixel_size_angstrom
    mask = read_map(path, pixel_size_angstrom)
    check_same_grid(mask, like, str(path), str(like_path))
    return checked_mask(mask, str(path))


def made_mask(context: "JobContext", half1: "Volume", half2: "Volume") -> "Volume":
    """Make a mask from the mean of two half maps, say so, and leave it as ``mask.mrc`` in the job's folder."""
    from halfmap.io import mrc
    from halfmap.postprocessing.masks import automatic_mask
    from halfmap.postprocessing.postprocess import mean_map

    context.progress.message("No mask was given: making one from the mean of the half maps.")
    mean = mean_map(half1, half2)
    warn_of_dark_density(context, mean)
    mask = automatic_mask(mean)
    mrc.write_volume(context.folder / "mask.mrc", mask)
    return mask


def warn_of_dark_density(context: "JobContext", volume: "Volume") -> None:
    """Warn of a map from which a mask would hold what surrounds the particle."""
    from halfmap.jobs.reference_inputs import dark_reach

    if (reach := dark_reach(volume)) is not None:
        context.progress.message(
            f"Warning: The particle should be bright, above the solvent; got a map that reaches from {reach[0]:.3g} "
            f"below to {reach[1]:.3g} above it, as one of inverted contrast does: the mask then holds what surrounds "
            "the particle; change the sign first, with `halfmap volume flip --contrast`."
        )


def told_concerns(context: "JobContext", half1: "Volume", half2: "Volume", fsc: "HalfMapFsc") -> list["Concern"]:
    """Return what two half maps and their FSC give cause to doubt, after saying it."""
    from halfmap.postprocessing.concerns import concerns_about_fsc, concerns_about_halves

    found = concerns_about_halves(half1, half2) + concerns_about_fsc(fsc)
    for concern in found:
        context.progress.message(concern.words)
    return found


def mtf_of_maps(
    context: "JobContext", path: Path | None, detector_angstrom: float | None, grid: "ImageGrid"
) -> "MtfCurve | None":
    """Read the MTF of a detector, and say what its pixels are taken to be where that is not given.

    Raises
    ------
    FormatError, InputError
        As of `read_mtf`.
    """
    if path is None:
        return None
    if detector_angstrom is None:
        context.progress.message(
            f"The MTF is taken to be of a detector with pixels of {grid.pixel_size_angstrom:.4g} Å, as those of the "
            "maps; give --mtf-pixel-size if the movies were recorded with smaller ones."
        )
    return read_mtf(path)


def read_mtf(path: Path) -> "MtfCurve":
    """Read the MTF of a detector: a STAR file with ``rlnResolutionInversePixel`` and ``rlnMtfValue``.

    Raises
    ------
    FormatError
        No table of the file has both columns.
    InputError
        The values are no MTF.
    """
    import torch

    from halfmap.io import star
    from halfmap.postprocessing.sharpening import MtfCurve

    columns = ("rlnResolutionInversePixel", "rlnMtfValue")
    table = next((table for table in star.read(path) if all(column in table for column in columns)), None)
    if table is None:
        raise FormatError(
            path,
            expected="a table with the columns _rlnResolutionInversePixel and _rlnMtfValue",
            found="none",
            remedy="name the MTF of the detector, as its maker or RELION publishes it",
        )
    frequency, value = (torch.from_numpy(table.numbers(column)) for column in columns)
    return MtfCurve(frequency_per_pixel=frequency, value=value)


def _half_of_folder(folder: Path) -> Path:
    """Return the unfiltered first half map of a job's folder."""
    found, maps = _first_halves(folder)
    if len(found) == 1:
        return found[0]
    shown = ", ".join(path.name for path in (found or maps)[:_NAMED_FILES]) or "no map"
    raise InputError(
        f"{folder} must hold one finished half map 1, best unfiltered, as run_half1_class001_unfil.mrc; got {shown}; "
        "name the file."
    )


def _halves_beside(path: Path) -> tuple[Path, Path] | None:
    """Return the half maps that lie beside the main output of a refinement; None where they are not plain."""
    found, _ = _first_halves(path.parent)
    return halves_by_name(found[0]) if len(found) == 1 else None


def _first_halves(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the finished first half maps in a folder, only unfiltered ones where there are any, and all its maps."""
    maps = sorted(path for path in folder.iterdir() if path.suffix in (".mrc", ".map"))
    firsts = [path for path in maps if (found := _HALF.search(path.name)) and found[2] in "1aA"]
    unfiltered = [path for path in firsts if "unfil" in path.name]
    return [path for path in unfiltered or firsts if not re.search(r"_it\d+_", path.name)], maps
