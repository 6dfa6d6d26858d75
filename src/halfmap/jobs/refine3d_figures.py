"""Figures of a 3D refinement: its course, the directions that particles were seen from, and their poses."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from halfmap.data.refinement_run import RefinementRun
from halfmap.geometry.healpix import OrientationGrid
from halfmap.geometry.symmetry import operators
from halfmap.geometry.symmetry_names import order as n_equivalents
from halfmap.geometry.view_counts import pixels_of_directions, transform_coverage, view_counts
from halfmap.report.blocks import Axis, Block, Curve, Histogram, Line, Mark, Section
from halfmap.report.blocks import Table as TableBlock
from halfmap.report.density import Density

_CELLS = 180  # across a half sphere in its picture
_VIEWS_PER_PIXEL = 12.0  # fewer would show their scatter instead of what is preferred
_COVERAGE_ORDER = 3
_RARE, _RARE_SHARE, _ENOUGH_VIEWS = 0.1, 0.02, 800
_BINS = 40
_UPSIDE_DOWN = 0.999  # cosine: a rotation that turns z round


def fsc_of_run(run: RefinementRun) -> Curve:
    """Return the FSC between the half maps as the refinement itself sees it, without or with its mask."""
    frequency = np.arange(1, run.n_shells) / (run.grid.side * run.grid.pixel_size_angstrom)
    lines = [Line(label="without mask", x=frequency, y=run.fsc[1:])]
    if not np.array_equal(run.fsc, run.used_fsc, equal_nan=True):
        lines.insert(0, Line(label="corrected for the mask", x=frequency, y=run.used_fsc[1:]))
    marks = [Mark(value=threshold, axis="y", label=f"{threshold:g}") for threshold in (0.5, 0.143)]
    if math.isfinite(run.join_resolution_angstrom):
        marks.append(
            Mark(value=1 / run.join_resolution_angstrom, label=f"joined to {run.join_resolution_angstrom:g} Å")
        )
    finite = run.fsc[1:][np.isfinite(run.fsc[1:])]
    return Curve(
        title="Fourier shell correlation of the half maps",
        lines=lines,
        x=Axis(label="resolution", unit="Å", scale="resolution", limits=(0.0, float(frequency[-1]))),
        y=Axis(label="FSC", limits=(max(-0.4, min(-0.1, float(finite.min(initial=0.0)))), 1.03)),
        marks=marks,
        caption="Up to the join both halves share their data, and the curve says nothing.",
    )


def number_curve(resolution_by_number: Sequence[tuple[int, float]]) -> Curve | None:
    """Return the resolution against the number of particles, with the B-factor of the line through it.

    Parameters
    ----------
    resolution_by_number : number of particles and resolution in Å; None where fewer than two are finite.

    References
    ----------
    Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721: ln N = (B / 2) (1 / d²) + constant.
    """
    known = sorted((n, d) for n, d in resolution_by_number if n > 0 and math.isfinite(d) and d > 0)
    if len(known) < 2:
        return None
    number, resolution = (np.array(values, dtype=np.float64) for values in zip(*known, strict=True))
    squared = 1 / resolution**2
    slope, start = np.polyfit(np.log(number), squared, 1)
    lines = [Line(label="measured", x=number, y=squared, style="points")]
    caption = "More particles bring no finer resolution here: something else limits it."
    if slope > 0:
        lines.append(Line(label="fit", x=number, y=start + slope * np.log(number), style="dashed"))
        caption = (
            f"The line has a B-factor of {2 / slope:.0f} Å². From {resolution[0]:.3g} Å with {_spaced(number[0])} "
            f"particles to {resolution[-1]:.3g} Å with {_spaced(number[-1])}; twice as many would give "
            f"{1 / math.sqrt(start + slope * math.log(2 * number[-1])):.3g} Å if nothing else limits it."
        )
    return Curve(
        title="Resolution against number of particles",
        lines=lines,
        x=Axis(label="particles", scale="log"),
        y=Axis(label="1 / d²", unit="1/Å²"),
        caption=caption,
    )


def course_section(run: RefinementRun) -> Section:
    """Return how the refinement went, iteration by iteration; no blocks where there is no history."""
    history = run.history
    if len(history) == 0:
        return Section(title="Course of the refinement", blocks=())
    n = len(history)
    x = _column(run, "iteration")
    x = x if np.isfinite(x).all() else np.arange(1, n + 1, dtype=np.float64)
    field = run.grid.side * run.grid.pixel_size_angstrom

    def curve(title: str, y: Axis, caption: str, **lines: NDArray[np.float64]) -> Curve | None:
        known = [
            Line(label=label.replace("_", " ") if len(lines) > 1 else "", x=x, y=values)
            for label, values in lines.items()
            if np.isfinite(values).any()
        ]
        return Curve(title=title, lines=known, x=Axis(label="iteration"), y=y, caption=caption) if known else None

    with np.errstate(all="ignore"):
        resolution = 1 / _column(run, "resolution_angstrom")
        samples = _column(run, "median_n_significant")
        found = [
            curve(
                "Resolution and band",
                Axis(label="finest shell", unit="Å", scale="resolution", limits=(0, None)),
                "Where the half maps' FSC is 0.5, and how far images and maps are compared.",
                resolution=np.where(resolution > 0, resolution, np.nan),
                band=_column(run, "shell") / field,
            ),
            curve(
                "Angles",
                Axis(label="angle", unit="°", scale="log"),
                "Steps become finer until they are below three quarters of the accuracy.",
                accuracy=_column(run, "rotation_accuracy_degrees"),
                step=_column(run, "rotation_step_degrees"),
                change=_positive(_column(run, "rotation_change_degrees")),
            ),
            curve(
                "Offsets",
                Axis(label="length", unit="Å", scale="log"),
                "",
                accuracy=_column(run, "offset_accuracy_angstrom"),
                step=_column(run, "offset_step_angstrom"),
                change=_positive(_column(run, "offset_change_angstrom")),
                range=_column(run, "offset_range_angstrom"),
            ),
            curve(
                "Highest probability of a pose",
                Axis(label="mean Pmax", limits=(0, 1.02)),
                "Near 1 particles sit in one pose; far below, in many. It falls where steps become finer.",
                all=_column(run, "mean_max_probability"),
            ),
            curve(
                "Log-likelihood a particle",
                Axis(label="log-likelihood"),
                "Steps down where the band grows.",
                all=_column(run, "log_likelihood") / max(len(run.particles), 1),
            ),
            curve("Significant samples of a particle", Axis(label="median", scale="log"), "", all=_positive(samples)),
        ]
    return Section(
        title="Course of the refinement",
        blocks=(*(block for block in found if block is not None), _course_table(run, x)),
    )


def _course_table(run: RefinementRun, iteration: NDArray[np.float64]) -> TableBlock:
    columns = {
        "resolution (Å)": "resolution_angstrom",
        "step (°)": "rotation_step_degrees",
        "accuracy (°)": "rotation_accuracy_degrees",
        "change (°)": "rotation_change_degrees",
        "step (Å)": "offset_step_angstrom",
        "accuracy (Å)": "offset_accuracy_angstrom",
        "change (Å)": "offset_change_angstrom",
        "mean Pmax": "mean_max_probability",
        "time (s)": "seconds",
    }
    kept = {head: _column(run, name) for head, name in columns.items() if np.isfinite(_column(run, name)).any()}
    local = _column(run, "is_local")
    rows = [
        (
            int(number),
            *(float(values[row]) if math.isfinite(values[row]) else None for values in kept.values()),
            "local" if local[row] > 0 else "global",
        )
        for row, number in enumerate(iteration)
    ]
    return TableBlock(columns=("iteration", *kept, "search"), rows=rows, title="Iterations")


def view_section(run: RefinementRun) -> Section:
    """Return from where particles were seen, and how well that covers the map's transform."""
    if len(run.particles) == 0:
        return Section(title="Viewing directions", blocks=())
    rotations = torch.from_numpy(np.array(run.particles["rotation"]))
    equivalents = n_equivalents(run.symmetry)
    order = _view_order(len(rotations) * equivalents)
    counts = view_counts(rotations, order, run.symmetry)
    spacing = OrientationGrid(order).spacing_degrees
    each = "" if equivalents == 1 else f", each at its {equivalents} equivalent views"
    caption = (
        f"{_spaced(len(rotations))} particles{each}, counted in cells of about {spacing:.2g}°. Half sphere in equal "
        "areas: z in the middle, x and y on the rim"
    )
    blocks: list[Block] = [_disc(counts, order, 1.0, "Views from z > 0", f"{caption}.", Axis(label="particles"))]
    if not bool((operators(run.symmetry)[:, 2, 2] < -_UPSIDE_DOWN).any()):  # else both half spheres are alike
        blocks.append(
            _disc(
                counts, order, -1.0, "Views from z < 0", f"{caption}, seen through from above.", Axis(label="particles")
            )
        )
    coverage = 100 * transform_coverage(rotations, run.symmetry, order=_COVERAGE_ORDER)
    blocks.append(
        _disc(
            coverage,
            _COVERAGE_ORDER,
            1.0,
            "Coverage of the transform",
            "How often each direction of the map's transform was seen; 100\u00a0%: as often as from evenly spread "
            "views. A view sees all directions across it, so that a full ring of views is enough and a single view is "
            "not.",
            Axis(label="of even coverage", unit="%"),
        )
    )
    return Section(
        title="Viewing directions",
        blocks=tuple(blocks),
        intro=f"The direction of the transform seen least has {float(coverage.min()):.0f}\u00a0% of an even coverage, "
        f"the one seen most {float(coverage.max()):.0f}\u00a0%.",
    )


def orientation_warning(run: RefinementRun) -> str | None:
    """Return a sentence if part of the map's transform was hardly seen; None if not, or views are too few to tell.

    Notes
    -----
    Hardly seen is a direction with less than a tenth of an even coverage; more than 2 % of all directions must be.
    """
    n_views = len(run.particles) * n_equivalents(run.symmetry)
    if n_views < _ENOUGH_VIEWS:
        return None
    coverage = transform_coverage(torch.from_numpy(np.array(run.particles["rotation"])), run.symmetry)
    share = float((coverage < _RARE).double().mean())
    if share <= _RARE_SHARE:
        return None
    return (
        f"The particles lie in preferred orientations: {100 * share:.0f} % of the directions of the map's transform "
        "were seen less than a tenth as often as from evenly spread views. The map is smeared there, and its "
        "resolution depends on the direction; tilted micrographs or another grid bring the missing views."
    )


def pose_section(run: RefinementRun) -> Section:
    """Return how sure poses are, and how far particles lie from the centres of their boxes."""
    particles = run.particles
    blocks: list[Block] = []
    if "max_probability" in particles and np.isfinite(particles["max_probability"]).any():
        blocks.append(
            Histogram.of(
                _by_half(run, "max_probability"),
                title="Highest probability of each particle",
                x=Axis(label="Pmax, of one pose", limits=(0, 1)),
                bins=_BINS,
            )
        )
    if "norm_correction" in particles and np.ptp(particles["norm_correction"]) > 0:
        blocks.append(
            Histogram.of(
                _by_half(run, "norm_correction"),
                title="Norm correction",
                x=Axis(label="norm of a particle, over the mean"),
                bins=_BINS,
            )
        )
    if "origin_angstrom" in particles and len(particles):
        origins = np.asarray(particles["origin_angstrom"])
        reach = max(1.05 * float(np.percentile(np.abs(origins), 99.5)), 2 * run.offset_step_angstrom, 1.0)
        blocks.append(
            replace(
                Density.of(
                    origins,
                    title="Offsets",
                    x=Axis(label="x", unit="Å", limits=(-reach, reach)),
                    y=Axis(label="y, downwards as in the pictures", unit="Å", limits=(reach, -reach)),
                    reach=reach,
                    caption=f"The shifts that bring particles to the centre of their boxes. The prior's deviation is "
                    f"{run.halves[0].offset_sigma_angstrom:.3g} Å along an axis.",
                ),
                colour=Axis(label="particles"),
            )
        )
    return Section(title="Poses", blocks=tuple(blocks))


def _by_half(run: RefinementRun, column: str) -> dict[str, ArrayLike]:
    subset, values = run.particles["random_subset"], run.particles[column]
    return {f"half {half}": values[subset == half] for half in (1, 2)}


def _view_order(n_views: int) -> int:
    """Return the order of the finest pixels, between 30° and 3.7°, that hold several views each."""
    wanted = math.log(max(n_views / _VIEWS_PER_PIXEL / 12, 1.0), 4)
    return int(np.clip(round(wanted), 1, 4))


def _on_half_sphere(values: torch.Tensor, order: int, sign: float) -> NDArray[np.float64]:
    """Return pixels' values in the cells of Lambert's picture of a half sphere, (cells, cells); 0 outside it.

    Parameters
    ----------
    sign : 1 for z > 0; −1 for z < 0, with x and y where they are.
    """
    edges = np.linspace(-1, 1, _CELLS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    x, y = np.meshgrid(middle, middle)
    squared = x**2 + y**2
    inside = squared <= 1
    stretch = np.sqrt(2 - squared[inside])
    directions = np.stack([x[inside] * stretch, y[inside] * stretch, sign * (1 - squared[inside])], axis=1)
    found = np.zeros(squared.shape)
    found[inside] = values[pixels_of_directions(torch.from_numpy(directions), order)].double().numpy()
    return found


def _disc(values: torch.Tensor, order: int, sign: float, title: str, caption: str, colour: Axis) -> Density:
    edges = np.linspace(-1, 1, _CELLS + 1)
    limits = (-1.04, 1.04)
    return Density(
        title=title,
        x_edges=edges,
        y_edges=edges,
        counts=_on_half_sphere(values, order, sign),
        x=Axis(label="x", limits=limits),
        y=Axis(label="y", limits=limits),
        circles=(Mark(value=1.0),),
        caption=caption,
        colour=colour,
    )


def _column(run: RefinementRun, name: str) -> NDArray[np.float64]:
    history = run.history
    return np.asarray(history[name], dtype=np.float64) if name in history else np.full(len(history), np.nan)


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values for a logarithmic axis."""
    return np.where(values > 0, values, np.nan)


def _spaced(number: float) -> str:
    return f"{int(number):,}".replace(",", "\u2009")
