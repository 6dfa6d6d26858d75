"""New positions and offsets of particles that are extracted again."""

import numpy as np

from halfmap.errors import InputError


def recentred(
    position_pixel: np.ndarray,
    origin_angstrom: np.ndarray,
    rotation: np.ndarray | None,
    *,
    centre_angstrom: tuple[float, float, float],
    micrograph_pixel_size_angstrom: np.ndarray | float,
) -> tuple[np.ndarray, np.ndarray]:
    """Move windows so that a point of the reference comes to their centre.

    Parameters
    ----------
    position_pixel : shape (n, 2): window centres (x, y) in micrograph pixels.
    origin_angstrom : shape (n, 2): refined offsets, to be applied to the image to centre it.
    rotation : shape (n, 3, 3), float64; None where every point but the centre is meaningless.
    centre_angstrom : the point (x, y, z) of the reference, from its centre.
    micrograph_pixel_size_angstrom : pixel size of the micrographs, a number or shape (n,).

    Returns
    -------
    position_pixel : float64 whole numbers, shape (n, 2).
    origin_angstrom : float64, shape (n, 2): what is left of the offset, within half a micrograph pixel.

    Raises
    ------
    InputError
        A point off the centre is asked for, and there are no rotations.

    Notes
    -----
    The particle lies at position − origin; the point v of the reference at position − origin + (A v)_xy.
    Fractions of the positions are cut off: programs that leave them in a particle file cut the image
    at the whole pixel below, and the offset was refined against that image.
    """
    whole = np.trunc(np.asarray(position_pixel, dtype=np.float64))
    shift = np.asarray(origin_angstrom, dtype=np.float64)
    if any(centre_angstrom):
        if rotation is None:
            raise InputError(
                "Re-centring off the centre needs refined angles; got particles without them; use --recenter 0,0,0."
            )
        shift = shift - (np.asarray(rotation) @ np.asarray(centre_angstrom))[:, :2]
    pixel_size = np.broadcast_to(micrograph_pixel_size_angstrom, (len(whole),))[:, None]
    shift = shift / pixel_size
    step = np.floor(shift + 0.5)
    return whole - step, (shift - step) * pixel_size
