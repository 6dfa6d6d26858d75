"""Maps as jobs are given them: with a pixel size, and without NaN."""

from pathlib import Path
from typing import TYPE_CHECKING

from halfmap.errors import InputError

if TYPE_CHECKING:
    from halfmap.data.volumes import Volume


def read_map(path: Path, pixel_size_angstrom: float | None, *, flag: str = "--pixel-size") -> "Volume":
    """Read a map with a pixel size, given or its own, and finite values.

    Parameters
    ----------
    flag : by which the user can give the pixel size, for the message.

    Raises
    ------
    InputError
        There is no pixel size, or a value is NaN or infinite.
    """
    from halfmap.io import mrc
    from halfmap.io.mrc_values import finite_or_reason

    if pixel_size_angstrom is None and not has_pixel_size(path):
        raise InputError(f"{path} must have a pixel size; got none in its header; give it with {flag}.")
    volume = mrc.read_volume(path, pixel_size_angstrom)
    reason = finite_or_reason(volume.values.numpy())
    if reason is not None:
        raise InputError(f"{path} must hold finite values; got a map in which {reason}; make the map again.")
    return volume


def has_pixel_size(path: Path) -> bool:
    """Return whether the header of a map states the size of its voxels."""
    from halfmap.io import mrc

    return mrc.read_header(path).voxel_size_angstrom is not None
