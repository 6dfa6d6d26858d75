"""The page of ``halfmap match-template``: where the template was found, and how sure that is."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.jobs.match_template import MatchTemplateJobParams
from halfmap.report.blocks import (
    Axis,
    Block,
    Curve,
    Fact,
    Facts,
    Level,
    Line,
    Mark,
    Note,
    Overlay,
    Report,
    Section,
    Table,
)
from halfmap.report.pictures import Picture, to_grey
from halfmap.template_matching.global_search.maps import HISTOGRAM_EDGES
from halfmap.template_matching.global_search.peaks import (
    density_of_highest,
    expected_counts,
    expected_false_positives,
)
from halfmap.template_matching.global_search.problem import MatchProblem
from halfmap.template_matching.global_search.search import MatchResult

LARGE_SIDE = 900
"""Longest side of a picture, in its pixels."""

ROWS_SHOWN = 2000
"""Peaks in the table of the page, the highest first."""

BINS = 160


def match_report(
    params: MatchTemplateJobParams,
    problem: MatchProblem,
    result: MatchResult,
    micrograph: Tensor,
    centre_pixel: NDArray[np.float64],
    warnings: Sequence[str],
) -> Report:
    """Return the page.

    Parameters
    ----------
    params : the settings.
    problem, result : of the search.
    micrograph : as recorded, shape (y, x).
    centre_pixel : float64, shape (n, 2): (x, y) of the particles in it.
    warnings : sentences to be read first.
    """
    n = len(result.peaks)
    expected = _expected(result, np.array([result.cutoff]))[0]
    facts = [
        Fact(label="peaks", value=n, level="good" if n > 3 * max(1.0, expected) else "plain"),
        Fact(label="cutoff", value=round(result.cutoff, 2), note=f"noise gives {expected:.2g} above it"),
        Fact(label="highest scaled MIP", value=round(float(result.scaled_mip.max()), 2)),
        Fact(label="orientations", value=f"{len(problem.orientations):,}"),
        Fact(label="correlations of a place", value=f"{result.n_correlations:,}"),
        _noise_fact(result),
    ]
    notes = [Note(text=text, level="warning") for text in (*warnings, *([_NOTHING] if n == 0 else []))]
    return Report(
        title="Template matching",
        summary=f"{n} peaks in a micrograph of {micrograph.shape[1]}×{micrograph.shape[0]} px.",
        facts=Facts(facts=facts),
        sections=[
            *([Section(title="Worth a look", blocks=notes)] if notes else []),
            Section(title="Where", blocks=_pictures(problem, result, micrograph, centre_pixel), intro=_WHERE),
            Section(title="Against noise", blocks=[_scaled_mip(result), _correlations(result)], intro=_NOISE),
            Section(title="Peaks", blocks=[_table(result, centre_pixel)]),
        ],
    )


_NOTHING = (
    "Nothing stood out of the noise. See that the template has the sign, the pixel size and the hand of the "
    "micrograph, that the defocus is right, and that the steps are fine enough for its resolution."
)
_WHERE = (
    "The colour of a circle is the scaled MIP, red for the lowest, blue for the highest; the slider below a picture "
    "hides those below a threshold."
)
_NOISE = (
    "Where the micrograph holds no particle both distributions follow their models. A scaled MIP shifted to the left "
    "of its model comes from orientations and places that are not independent; a tail to the right is what was found."
)


def _noise_fact(result: MatchResult) -> Fact:
    """Return the standard deviation of all correlations, which white noise makes 1."""
    deviation = float(result.correlation_deviation.median())
    level: Level = "plain" if 0.8 < deviation < 1.25 else "warning"
    return Fact(
        label="standard deviation", value=round(deviation, 3), note="of correlations; white noise: 1", level=level
    )


def _expected(result: MatchResult, z: NDArray[np.float64]) -> NDArray[np.float64]:
    return expected_false_positives(z, n_places=result.mip.numel(), n_correlations=result.n_correlations)


def _pictures(
    problem: MatchProblem, result: MatchResult, micrograph: Tensor, centre_pixel: NDArray[np.float64]
) -> list[Block]:
    """Draw the peaks on the scaled MIP and on the micrograph."""
    z = result.scaled_mip
    block = max(1, -(-max(z.shape) // LARGE_SIDE))
    # the highest of each block: a mean would wash the peaks out
    highest = torch.nn.functional.max_pool2d(z[None], block, ceil_mode=True)[0].numpy()
    side = problem.template.side
    heights = result.peaks.height.numpy()
    radius = side / 4
    return [
        Overlay(
            picture=Picture.png(to_grey(highest, percentiles=(1.0, 99.9))),
            shape_pixel=(z.shape[0], z.shape[1]),
            positions_pixel=centre_pixel - side // 2,
            radius_pixel=radius,
            values=heights,
            value_label="scaled MIP",
            title="Scaled MIP",
            caption="A place is that of the template's first pixel, so the map is smaller than the micrograph.",
        ),
        Overlay.of(
            micrograph.numpy(),
            centre_pixel,
            radius_pixel=radius,
            values=heights,
            value_label="scaled MIP",
            title="Micrograph",
            caption="Particles at the middle of the circles.",
            max_side=LARGE_SIDE,
        ),
    ]


def _scaled_mip(result: MatchResult) -> Curve:
    values = result.scaled_mip.numpy().ravel()
    top = float(max(values.max(), result.cutoff)) + 0.5
    edges = np.linspace(float(np.floor(values.min())), top, BINS + 1)
    middle = (edges[:-1] + edges[1:]) / 2
    counts = np.histogram(values, edges)[0].astype(np.float64)
    model = density_of_highest(middle, result.n_correlations) * len(values) * (edges[1] - edges[0])
    return Curve(
        title="Scaled MIP of all places",
        lines=[
            Line(label="found", x=middle, y=_shown(counts), style="steps"),
            Line(label="highest of independent noise", x=middle, y=_shown(model), style="dashed"),
        ],
        x=Axis(label="scaled MIP"),
        y=Axis(label="places", scale="log"),
        marks=[Mark(value=result.cutoff, label="cutoff")],
    )


def _correlations(result: MatchResult) -> Curve:
    counts = result.histogram.numpy().astype(np.float64)
    middle = (HISTOGRAM_EDGES[:-1] + HISTOGRAM_EDGES[1:]) / 2
    model = expected_counts(HISTOGRAM_EDGES, int(counts.sum()))
    used = np.flatnonzero(counts)
    shown = slice(int(used[0]), int(used[-1]) + 1)
    return Curve(
        title="Correlations",
        lines=[
            Line(label="found", x=middle[shown], y=_shown(counts[shown]), style="steps"),
            Line(label="white noise", x=middle[shown], y=_shown(model[shown]), style="dashed"),
        ],
        x=Axis(label="correlation", unit="σ"),
        y=Axis(label="count", scale="log"),
        caption="Of all orientations, at every eighth place along each axis.",
    )


def _shown(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return counts with gaps where a logarithm would fall far below one of them."""
    return np.where(counts > 0.3, counts, np.nan)


def _table(result: MatchResult, centre_pixel: NDArray[np.float64]) -> Table:
    x, y = result.peaks.pixel.numpy().T
    heights = result.peaks.height.numpy()
    noise = _expected(result, heights)
    rows = [
        [
            i + 1,
            round(float(heights[i]), 2),
            round(float(result.mip[y[i], x[i]]), 2),
            round(float(centre_pixel[i, 0]), 1),
            round(float(centre_pixel[i, 1]), 1),
            round(float(result.phi_degrees[y[i], x[i]]), 2),
            round(float(result.theta_degrees[y[i], x[i]]), 2),
            round(float(result.psi_degrees[y[i], x[i]]), 2),
            round(float(result.defocus_offset_angstrom[y[i], x[i]]), 1),
            float(f"{noise[i]:.2g}"),
        ]
        for i in range(min(len(heights), ROWS_SHOWN))
    ]
    return Table(
        columns=[
            "",
            "scaled MIP",
            "MIP",
            "x (px)",
            "y (px)",
            "phi (°)",
            "theta (°)",
            "psi (°)",
            "Δ defocus (Å)",
            "noise",
        ],
        rows=rows,
        caption="Noise: how many peaks as high noise alone gives in such a search. "
        + ("" if len(heights) <= ROWS_SHOWN else f"The {ROWS_SHOWN} highest of {len(heights)}; particles.csv has all."),
    )
