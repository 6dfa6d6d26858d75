"""The grids of a motion pyramid: coarse in space and fine in time first, then the other way."""

import math

_FEWEST_IN_TIME = 3


def pyramid_shapes(width: int, height: int, n_frames: int, dose_e_per_angstrom2: float) -> list[tuple[int, int, int]]:
    """Return the shape (z, y, x) of each level's grid, time along z.

    Parameters
    ----------
    width, height : nodes of the first level along x and y.
    n_frames : of the series.
    dose_e_per_angstrom2 : of the whole exposure.

    Notes
    -----
    As in M: the first level has a node for each e/Å², but not more than frames; each next one twice as many nodes
    along x and y and a quarter of those in time, rounded up, as long as three are left.
    """
    duration = max(1, min(math.ceil(dose_e_per_angstrom2), n_frames))
    shapes = [(duration, height, width)]
    while True:
        width, height, duration = 2 * width, 2 * height, (duration + 3) // 4
        if duration < _FEWEST_IN_TIME:
            return shapes
        shapes.append((duration, height, width))
