"""What every picker returns for one micrograph."""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from halfmap.errors import ShapeError
from halfmap.picking.masks import Reason


@dataclass(frozen=True, kw_only=True, eq=False)
class MicrographPicks:
    """What was found in one micrograph.

    Parameters
    ----------
    position_pixel : float64, shape (n, 2): (x, y) in micrograph pixels, by falling figure of merit.
    figure_of_merit : float64, shape (n,): higher is better; the picker says on what scale.
    diameter_angstrom : float64, shape (n,): of what was found.
    threshold : least figure of merit of a pick.
    upper_threshold : figure of merit above which peaks were dropped.
    n_above : number of peaks dropped for their height.
    reason : uint8, shape (y, x): a `Reason` for each pixel of the mask; 0 is usable.
    mask_pixel_size_angstrom : of ``reason``, whose pixel (0, 0) is centred on the micrograph's first pixel.
    score : float32, shape of ``reason``: what the picks are peaks of, to be looked at; None where a picker has none.
    reduced : float32, shape of ``reason``: the micrograph as the picker saw it, as recorded; for small pictures.
    class_number, psi_degrees : int64 and float64, shape (n,): which template, from 1, and how it is turned; None where
        a picker has none.
    """

    position_pixel: np.ndarray
    figure_of_merit: np.ndarray
    diameter_angstrom: np.ndarray
    threshold: float
    upper_threshold: float = math.inf
    n_above: int = 0
    reason: np.ndarray
    mask_pixel_size_angstrom: float
    score: Tensor | None = None
    reduced: Tensor | None = None
    class_number: np.ndarray | None = None
    psi_degrees: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.figure_of_merit)
        if self.position_pixel.shape != (n, 2) or self.diameter_angstrom.shape != (n,):
            raise ShapeError(
                f"Picks must have a position (x, y) and a diameter each; got {self.position_pixel.shape} and "
                f"{self.diameter_angstrom.shape} for {n} figures of merit."
            )

    def __len__(self) -> int:
        return len(self.figure_of_merit)

    @property
    def reasons(self) -> dict[str, float]:
        """Share of the area that each reason takes, by its name in small letters; only those that occur."""
        shares = np.bincount(self.reason.ravel(), minlength=len(Reason)) / self.reason.size
        return {reason.name.lower(): float(shares[reason]) for reason in Reason if reason and shares[reason] > 0}
