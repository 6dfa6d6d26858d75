"""`Density`: how many lie where in a plane, for numbers of points that no scatter can show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from halfmap.errors import ShapeError
from halfmap.report.blocks import Axis, Mark
from halfmap.report.plain import as_vectors, checked_points

_COUNT = Axis(label="count")


@dataclass(frozen=True, kw_only=True, eq=False)
class Density:
    """Counts in the cells of a plane.

    Parameters
    ----------
    title, caption : text above and below.
    x_edges, y_edges : shape (n + 1,) and (m + 1,).
    counts : float64, shape (m, n), rows along y; cells with nothing in them stay empty.
    x, y : the axes; limits in falling order turn one round.
    circles : radii around (0, 0), with what they mean.
    equal : whether one unit is as long on both axes.
    colour : what the counts are.

    Raises
    ------
    ShapeError
        Counts do not go with the edges.
    """

    title: str
    x_edges: ArrayLike
    y_edges: ArrayLike
    counts: ArrayLike
    x: Axis
    y: Axis
    circles: Sequence[Mark] = ()
    equal: bool = True
    caption: str = ""
    colour: Axis = _COUNT

    def __post_init__(self) -> None:
        as_vectors(self, "x_edges")
        as_vectors(self, "y_edges")
        counts = np.asarray(self.counts, dtype=np.float64)
        expected = (len(np.asarray(self.y_edges)) - 1, len(np.asarray(self.x_edges)) - 1)
        if counts.shape != expected:
            raise ShapeError(f"A density must have counts of shape {expected} between its edges; got {counts.shape}.")
        object.__setattr__(self, "counts", counts)

    @classmethod
    def of(
        cls,
        points: ArrayLike,
        *,
        title: str,
        x: Axis,
        y: Axis,
        reach: float,
        bins: int = 41,
        circles: Sequence[Mark] = (),
        caption: str = "",
    ) -> "Density":
        """Count points (n, 2) in a square of half side ``reach`` around (0, 0); what lies outside is left out."""
        given = checked_points(points)
        edges = np.linspace(-reach, reach, bins + 1)
        counts, _, _ = np.histogram2d(given[:, 1], given[:, 0], bins=(edges, edges))
        return cls(
            title=title, x_edges=edges, y_edges=edges, counts=counts, x=x, y=y, circles=tuple(circles), caption=caption
        )
