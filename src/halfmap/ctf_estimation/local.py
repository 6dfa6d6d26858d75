"""How the defocus varies over a micrograph: a plane over patches."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfmap.ctf_estimation.fit import Lens, fit
from halfmap.ctf_estimation.params import CtfEstimationParams
from halfmap.ctf_estimation.periodogram import PowerSpectra, Windows
from halfmap.ctf_estimation.rings import Microscope, rings_of

_ROUNDS = 20
_TUKEY = 4.685
_LEAST_SPREAD_ANGSTROM = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalDefocus:
    """The defocus of patches, and the plane through them.

    Parameters
    ----------
    position_angstrom : float64, shape (k, 2): (x, y) of the patches from the middle of the micrograph.
    defocus_angstrom : float64, shape (k,): mean defocus of each.
    centre_angstrom : of the plane in the middle of the micrograph.
    slope : (x, y), Å of defocus for each Å.
    residual_angstrom : median distance of the patches from the plane, as a standard deviation.
    """

    position_angstrom: NDArray[np.float64]
    defocus_angstrom: NDArray[np.float64]
    centre_angstrom: float
    slope: tuple[float, float]
    residual_angstrom: float


def patches_of(windows: Windows, shape: tuple[int, int], patches: tuple[int, int]) -> NDArray[np.int64]:
    """Return which patch each window lies in, from 0, row by row.

    Parameters
    ----------
    windows : of the micrograph.
    shape : of the micrograph, (y, x).
    patches : their numbers along x and y.
    """
    centre = windows.centres_pixel
    first = windows.side_pixel / 2
    span = np.maximum(np.array(shape[::-1]) - windows.side_pixel, 1)
    column, row = np.clip(((centre - first) / span * patches).astype(np.int64), 0, np.array(patches) - 1).T
    return np.asarray(row * patches[0] + column)


def local_defocus(
    spectra: PowerSpectra,
    position_angstrom: NDArray[np.float64],
    microscope: Microscope,
    lens: Lens,
    params: CtfEstimationParams,
    *,
    max_resolution_angstrom: float,
) -> LocalDefocus:
    """Fit the defocus of each patch, all else as in the whole micrograph, and a plane through them.

    Parameters
    ----------
    spectra : of the patches.
    position_angstrom : shape (k, 2), (x, y) of their middles from that of the micrograph.
    microscope, params : of the micrograph.
    lens : of the whole micrograph.
    max_resolution_angstrom : finest detail that is fitted.

    Notes
    -----
    The plane is fitted by iteratively reweighted least squares with Tukey's weights, so that single patches of carbon
    or of nothing do not tilt it.
    """
    defocus = []
    for patch in range(len(position_angstrom)):
        rings = rings_of(
            spectra.of(patch),
            min_resolution_angstrom=params.min_resolution_angstrom,
            max_resolution_angstrom=max_resolution_angstrom,
        )
        defocus.append(fit(rings, microscope, lens, astigmatism=False).lens.defocus_angstrom)
    values = np.array(defocus)
    plane, spread = _plane(position_angstrom, values)
    return LocalDefocus(
        position_angstrom=position_angstrom,
        defocus_angstrom=values,
        centre_angstrom=float(plane[0]),
        slope=(float(plane[1]), float(plane[2])),
        residual_angstrom=spread,
    )


def _plane(position: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    columns = np.column_stack([np.ones(len(position)), position])
    weights = np.ones(len(values))
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)
        plane = np.linalg.lstsq(columns * root[:, None], values * root, rcond=None)[0]
        away = np.abs(values - columns @ plane)
        spread = max(1.4826 * float(np.median(away)), _LEAST_SPREAD_ANGSTROM)
        weights = np.clip(1 - (away / (_TUKEY * spread)) ** 2, 0, None) ** 2
    return plane, spread
