"""Maps of a species in another frame: turned or moved, again and again, without losing their rim.

The counterparts of `halfmap.multiparticle.poses.rotated` and `shifted`. No map is multiplied by a soft sphere here:
done after every turn and move it would darken the rim a little more each time.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.fourier.resample import crop_or_pad, shift
from halfmap.geometry.symmetric_volumes import rotate_volume

_RINGING_PIXEL = 4


def turned_map(volume: Volume, rotation: Tensor) -> Volume:
    """Return a map turned about its centre: what lay at v lies at R v now.

    Parameters
    ----------
    rotation : R, (3, 3).
    """
    return replace(volume, values=rotate_volume(volume.values, volume.grid, rotation.T))


def moved_map(volume: Volume, shift_angstrom: Tensor) -> Volume:
    """Return a map moved: what lay at v lies at v − s now; what leaves the box does not come in on the other side.

    Parameters
    ----------
    shift_angstrom : s, (3,).

    Notes
    -----
    What comes to lie outside the sphere in the box, where no turn would keep it, is left out.
    """
    grid = volume.grid
    reach = math.ceil(float(shift_angstrom.abs().max()) / grid.pixel_size_angstrom) + _RINGING_PIXEL
    values, wide = crop_or_pad(volume.values, grid, grid.side + 2 * reach)
    values, _ = crop_or_pad(shift(values, wide, -shift_angstrom), wide, grid.side)
    inside = grid.radii() <= grid.side / 2 * grid.pixel_size_angstrom
    return replace(volume, values=torch.where(inside, values, torch.zeros_like(values)))
