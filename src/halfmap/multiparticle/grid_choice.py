"""How fine an image warp the particles of a series can support."""

from collections.abc import Sequence

from torch import Tensor

from halfmap.data.image_series import FrameSeries, ImageSeries
from halfmap.errors import InputError
from halfmap.splines.pyramid import pyramid_shapes

NEEDED_ACCURACY_ANGSTROM = 0.5
"Of a node, by the images alone, for a warp to be of use."

_MOST_NODES_ALONG_X = 24


def shift_information(hessian: Tensor, active: Sequence[str]) -> Tensor:
    """Return how well each image tells where its particles lie, in 1/Å², (T,): inverse variance of a common shift.

    Parameters
    ----------
    hessian : shape (P, T, d, d), of half of χ² by the local parameters of every particle and image.
    active : names of those, with shift_x and shift_y among them.

    Raises
    ------
    InputError
        Shifts are not among the local parameters.
    """
    if "shift_x" not in active or "shift_y" not in active:
        raise InputError(f"Local parameters must include shift_x and shift_y; got {', '.join(active)}.")
    x, y = (hessian[..., i, i] for i in (active.index("shift_x"), active.index("shift_y")))
    return ((x + y) / 2).sum(0)


def affordable_nodes(information_per_angstrom2: Tensor, accuracy_angstrom: float = NEEDED_ACCURACY_ANGSTROM) -> int:
    """Return how many nodes, in each direction of movement, all images together can tell to an accuracy.

    Parameters
    ----------
    information_per_angstrom2 : of each image, of `shift_information`.
    accuracy_angstrom : standard deviation that a node should have.

    Notes
    -----
    A node of standard deviation s takes 1/s² of the information that there is, and no more can be given out.
    """
    return int(float(information_per_angstrom2.sum()) * accuracy_angstrom**2)


def warp_nodes(series: ImageSeries, x: int, y: int) -> int:
    """Return how many nodes an image warp of x by y has in all, in each direction of movement."""
    if isinstance(series, FrameSeries):
        shapes = pyramid_shapes(x, y, len(series), series.total_dose_e_per_angstrom2)
        return sum(z * height * width for z, height, width in shapes)
    return x * y * len(series)


def finest_image_warp(series: ImageSeries, information_per_angstrom2: Tensor) -> tuple[int, int]:
    """Return the most nodes along x and y, about evenly spaced, that the particles support; 1 by 1 at least."""
    width, height = series.image_size_angstrom
    affordable = affordable_nodes(information_per_angstrom2)
    shapes = [(x, max(1, round(x * height / width))) for x in range(1, _MOST_NODES_ALONG_X + 1)]
    supported = [shape for shape in shapes if warp_nodes(series, *shape) <= affordable]
    return supported[-1] if supported else (1, 1)


def concern_about_image_warp(
    series: ImageSeries, nodes: tuple[int, int], information_per_angstrom2: Tensor
) -> str | None:
    """Say so where an image warp has more nodes than the particles support; None where it has not."""
    n, affordable = warp_nodes(series, *nodes), affordable_nodes(information_per_angstrom2)
    if n <= max(affordable, warp_nodes(series, 1, 1)):
        return None
    x, y = finest_image_warp(series, information_per_angstrom2)
    return (
        f"An image warp of {nodes[0]}x{nodes[1]} has {n} nodes in {series.name}, and its particles determine about "
        f"{affordable} to {NEEDED_ACCURACY_ANGSTROM:g} Å; the rest follows the prior. Take {x}x{y}, or more particles."
    )
