"""What ``halfmap match-template`` keeps of one micrograph: rows of its table, and what the page of many shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.io.leopard_aberrations import aberration_cells
from halfmap.jobs.match_template_targets import Target
from halfmap.project.job import JobContext
from halfmap.report.pictures import Picture, micrograph_picture, to_grey
from halfmap.template_matching.global_search.peaks import expected_false_positives
from halfmap.template_matching.global_search.search import MatchResult

SCORE_EDGES = np.arange(-5.0, 60.01, 0.1)
"""Bins of the scaled MIP on the page of many micrographs; what lies beyond counts in the outermost."""

SMALL_SIDE = 500
"""Longest side of a picture on that page, in its pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MicrographPeaks:
    """What a search has found in one micrograph.

    Parameters
    ----------
    name : of the micrograph.
    columns : of Leopard-EM's table, the cells of each peak.
    centre_pixel : float64, shape (n, 2): (x, y) of the particles, sub-pixel.
    height, expected : float64, shape (n,): scaled MIP of each, and how many as high noise gives.
    n_places, n_correlations : of the maps, and of each place.
    cutoff, highest, deviation : least scaled MIP of a peak, highest of all, median standard deviation of correlations.
    counts : int64: scaled MIPs of all places in the bins of `SCORE_EDGES`.
    map_shape, shape : sides (y, x) of the maps and of the micrograph.
    pictures : of the scaled MIP and of the micrograph; none of micrographs that the page does not show.
    """

    name: str
    columns: Mapping[str, list[str]]
    centre_pixel: NDArray[np.float64]
    height: NDArray[np.float64]
    expected: NDArray[np.float64]
    n_places: int
    n_correlations: int
    cutoff: float
    highest: float
    deviation: float
    counts: NDArray[np.int64]
    map_shape: tuple[int, int]
    shape: tuple[int, int]
    pictures: tuple[Picture, ...]

    def __len__(self) -> int:
        return len(self.height)


def peaks_of(
    target: Target, result: MatchResult, columns: Mapping[str, list[str]], side: int, recorded: torch.Tensor | None
) -> MicrographPeaks:
    """Return what is kept of a search.

    Parameters
    ----------
    target, result : the micrograph and what was found in it.
    columns : of `table_columns`.
    side : of the template.
    recorded : the micrograph; None where no pictures of it are wanted.
    """
    z, height = result.scaled_mip, result.peaks.height.numpy()
    pictures: tuple[Picture, ...] = ()
    if recorded is not None:
        block = max(1, -(-max(z.shape) // SMALL_SIDE))
        # the highest of each block: a mean would wash the peaks out
        most = torch.nn.functional.max_pool2d(z[None], block, ceil_mode=True)[0].numpy()
        pictures = (
            Picture.png(to_grey(most, percentiles=(1.0, 99.9))),
            micrograph_picture(recorded.numpy(), max_side=SMALL_SIDE),
        )
    inside = z.numpy().ravel().clip(SCORE_EDGES[0], SCORE_EDGES[-1] - 1e-3)
    return MicrographPeaks(
        name=target.name,
        columns=dict(columns),
        centre_pixel=result.peaks.position.numpy() + side // 2,
        height=height,
        expected=expected_false_positives(height, n_places=z.numel(), n_correlations=result.n_correlations),
        n_places=z.numel(),
        n_correlations=result.n_correlations,
        cutoff=result.cutoff,
        highest=float(z.max()),
        deviation=float(result.correlation_deviation.median()),
        counts=np.histogram(inside, SCORE_EDGES)[0].astype(np.int64),
        map_shape=(z.shape[0], z.shape[1]),
        shape=target.shape,
        pictures=pictures,
    )


def table_columns(
    context: JobContext, target: Target, result: MatchResult, template: Path, side: int, maps: Mapping[str, Path]
) -> dict[str, list[str]]:
    """Return the columns of Leopard-EM's table for the peaks of one micrograph.

    Parameters
    ----------
    template, side : file of the template, and its side.
    maps : the map of each quantity.

    Notes
    -----
    Positions are whole pixels, as Leopard-EM's programs expect; the STAR files hold the sub-pixel ones.
    """
    corner = result.peaks.pixel.numpy()
    n, lens, pixel = len(corner), target.lens, target.pixel_size_angstrom
    x, y = corner.T

    def at(name: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = getattr(result, name).numpy()[y, x].astype(np.float64)
        return values

    centre = corner + side // 2
    numbers: dict[str, NDArray] = {
        "mip": at("mip"),
        "scaled_mip": at("scaled_mip"),
        "correlation_mean": at("background_mean"),
        "correlation_variance": at("background_deviation"),
        "total_correlations": np.full(n, result.n_correlations),
        **{angle: at(f"{angle}_degrees") for angle in ("phi", "theta", "psi")},
        "relative_defocus": at("defocus_offset_angstrom"),
        "defocus_u": np.full(n, lens["defocus_u_angstrom"]),
        "defocus_v": np.full(n, lens["defocus_v_angstrom"]),
        "astigmatism_angle": np.full(n, lens["defocus_angle_degrees"]),
        "pixel_size": np.full(n, pixel),
        "refined_pixel_size": pixel + at("pixel_size_offset_angstrom"),
        "voltage": np.full(n, lens["voltage_kv"]),
        "spherical_aberration": np.full(n, lens["spherical_aberration_mm"]),
        "amplitude_contrast_ratio": np.full(n, lens["amplitude_contrast"]),
        "phase_shift": np.full(n, lens["phase_shift_degrees"]),
        "ctf_B_factor": np.full(n, lens["b_factor_angstrom2"]),
    }
    for i, axis in enumerate("xy"):
        numbers[f"pos_{axis}"] = corner[:, i]
        numbers[f"pos_{axis}_img"] = centre[:, i]
        numbers[f"pos_{axis}_img_angstrom"] = centre[:, i] * pixel
    files = {
        "micrograph": target.path,
        "template": template,
        "mip": maps["mip"],
        "scaled_mip": maps["scaled_mip"],
        "psi": maps["psi_degrees"],
        "theta": maps["theta_degrees"],
        "phi": maps["phi_degrees"],
        "defocus": maps["defocus_offset_angstrom"],
        "correlation_average": maps["background_mean"],
        "correlation_variance": maps["background_deviation"],
    }
    texts = {name: [_text(value) for value in column.tolist()] for name, column in numbers.items()}
    texts |= {name: [cell] * n for name, cell in aberration_cells(target.stored).items()}
    return texts | {f"{name}_path": [context.relative(path)] * n for name, path in files.items()}


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(round(value, 6))
