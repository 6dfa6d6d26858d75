"""Figures of a 2D classification: curves of the classes, the course of the run, angles and offsets."""

import math

import numpy as np
from numpy.typing import NDArray

from halfmap.data.class_averages import ClassAverages, ClassRun
from halfmap.data.table import Table
from halfmap.report.blocks import Axis, Bars, Block, Curve, Histogram, Line, Mark, Section
from halfmap.report.density import Density

_NAMED_CURVES = 5
_MAX_ANGLE_BINS = 120
_QUARTER_TURN_EXCESS, _QUARTER_TURN_DEVIATIONS = 1.5, 5.0
_OFFSET_BINS, _PROBABILITY_BINS = 40, 40


def frequencies(averages: ClassAverages) -> NDArray[np.float64]:
    """Return the spatial frequency of each shell of the classes' spectra, in 1/Å."""
    widths = [averages[name].shape[1] for name in ("frc", "ssnr") if name in averages]
    n_shells = widths[0] if widths else averages.grid.side // 2 + 1
    return np.arange(n_shells) / (averages.grid.side * averages.grid.pixel_size_angstrom)


def correlation_marks(joined_up_to_angstrom: float | None) -> tuple[Mark, ...]:
    """Return the thresholds of a Fourier ring correlation, and where the halves part."""
    marks = [Mark(value=0.143, label="0.143", axis="y"), Mark(value=0.5, label="0.5", axis="y")]
    if joined_up_to_angstrom is not None and joined_up_to_angstrom > 0:
        marks.append(Mark(value=1 / joined_up_to_angstrom, label=f"joined up to {joined_up_to_angstrom:.3g} Å"))
    return tuple(marks)


def resolution_section(run: ClassRun, joined_up_to_angstrom: float | None) -> Section:
    """Return the FRC curves of all classes, and apart from them the model's signal-to-noise ratios."""
    averages = run.averages
    found: list[Block] = []
    x = Axis(label="resolution", unit="Å", scale="resolution", limits=(0, float(frequencies(averages)[-1])))
    if "frc" in averages and np.isfinite(averages["frc"]).any():
        found.append(
            Curve(
                title="Fourier ring correlation of each class",
                lines=_lines(averages, "frc", "frc_resolution_angstrom"),
                x=x,
                y=Axis(label="FRC", limits=(-0.1, 1.02)),
                marks=correlation_marks(joined_up_to_angstrom),
                caption=_frc_caption(joined_up_to_angstrom),
            )
        )
    if "ssnr" in averages and (averages["ssnr"] > 0).any():
        found.append(
            Curve(
                title="Model SSNR of each class",
                lines=_lines(averages, "ssnr", "ssnr_resolution_angstrom"),
                x=x,
                y=Axis(label="SSNR", scale="log", limits=(0.01, None)),
                marks=(Mark(value=1.0, label="1", axis="y"),),
                caption=(
                    "The signal-to-noise ratio that the model grants each shell, from the same particles that made "
                    "it: it grows with noise that has been aligned, and is no resolution. It steers the run."
                ),
            )
        )
    return Section(title="Resolution", blocks=tuple(found))


def _frc_caption(joined_up_to_angstrom: float | None) -> str:
    limit = f"up to {joined_up_to_angstrom:.3g} Å" if joined_up_to_angstrom else "in the coarsest shells"
    return (
        "In the closing stage the particles were split in two for good, and each half was classified against "
        f"references of its own. Only {limit} were the halves joined, so that their classes stay paired: there the "
        "curve says nothing, nor does it within two cycles per diameter of the mask beyond, to where the mask carries "
        "on what they share. It compares the two averages of a class; where it first falls below 0.143 after that is "
        "the class's FRC resolution. A class whose halves agree no better than noise may has none: coarse shells hold "
        "few coefficients."
    )


def _lines(averages: ClassAverages, spectrum: str, resolution: str) -> tuple[Line, ...]:
    """Return a line for each class that has the spectrum: named for the best few, thin for the others."""
    x = frequencies(averages)
    values = np.where(np.isfinite(averages[spectrum]), averages[spectrum], np.nan)
    if spectrum == "ssnr":
        values = np.where(values > 0, values, np.nan)
    reached = averages.get(resolution, np.nan)
    reached = np.where(np.isfinite(reached), reached, np.inf)
    has_curve = np.isfinite(values).any(axis=1) & (averages["n_particles"] > 0)
    order = [int(row) for row in np.argsort(reached, kind="stable") if has_curve[row]]
    best = [row for row in order if np.isfinite(reached[row])][:_NAMED_CURVES]
    others = [row for row in order if row not in best]
    named = [
        Line(label=f"class {averages['class_number'][row]}, {reached[row]:.3g} Å", x=x, y=values[row]) for row in best
    ]
    thin = [
        Line(label="other classes" if place == 0 else "", x=x, y=values[row], style="thin")
        for place, row in enumerate(others)
    ]
    return (*named, *thin)


def sizes(averages: ClassAverages) -> Histogram:
    """Return the numbers of particles of the classes, the largest first."""
    counts = np.sort(averages["n_particles"])[::-1]
    return Histogram(
        title="Sizes of the classes",
        edges=np.arange(len(counts) + 1) + 0.5,
        bars=(Bars(label="particles", counts=counts),),
        x=Axis(label="class, from the largest"),
        y=Axis(label="particles"),
        marks=(Mark(value=float(counts.mean()), label="mean", axis="y"),),
    )


def probabilities(run: ClassRun) -> tuple[Histogram, ...]:
    """Return how sure the particles are of their class and pose; nothing where that is not known."""
    if "max_probability" not in run.particles or not np.isfinite(run.particles["max_probability"]).any():
        return ()
    found = Histogram.of(
        run.particles["max_probability"],
        title="Highest probability of each particle",
        x=Axis(label="Pmax, of one class and pose", limits=(0, 1)),
        bins=_PROBABILITY_BINS,
    )
    return (found,)


def course_section(run: ClassRun, history: Table) -> Section:
    """Return how the run went, one figure for each thing that its history tells."""
    n = len(history)
    if n == 0:
        return Section(title="Course of the run", blocks=())
    x = np.asarray(history.get("iteration", np.nan), dtype=np.float64)
    x = x if np.isfinite(x).all() else np.arange(1, n + 1, dtype=np.float64)
    across = Axis(label="mini-batch" if run.algorithm == "vdam" else "iteration")

    def column(name: str) -> NDArray[np.float64]:
        return np.asarray(history[name], dtype=np.float64) if name in history else np.full(n, np.nan)

    def curve(title: str, y: Axis, caption: str = "", **lines: NDArray[np.float64]) -> Curve | None:
        known = {label: values for label, values in lines.items() if np.isfinite(values).any()}
        drawn = tuple(
            Line(label=label.replace("_", " ") if len(lines) > 1 else "", x=x, y=values)
            for label, values in known.items()
        )
        return Curve(title=title, lines=drawn, x=across, y=y, caption=caption) if drawn else None

    averages = run.averages
    box_angstrom = averages.grid.side * averages.grid.pixel_size_angstrom
    with np.errstate(all="ignore"):
        per_particle = column("log_likelihood") / column("n_particles_used")
        resolution = 1 / column("resolution_angstrom")
        band = column("current_size_pixel") / (2 * box_angstrom)
    found = [
        curve(
            "Log-likelihood a particle",
            Axis(label="log-likelihood"),
            "Rises while the classes still improve; steps down where the band grows.",
            all=per_particle,
        ),
        curve(
            "Particles that changed class",
            Axis(label="share", unit="%", limits=(0, None)),
            "Falls towards a floor of particles that fit several classes alike.",
            all=100 * column("changed_share"),
        ),
        curve(
            "Model SSNR and band",
            Axis(label="finest shell", unit="Å", scale="resolution", limits=(0, None)),
            "How far the best class's model reaches, and the band of the alignment. Neither is a resolution.",
            best_class=resolution,
            band=band,
        ),
        curve(
            "Highest probability of a pose and class",
            Axis(label="mean Pmax", limits=(0, 1.02)),
            "Near 1 particles sit in one place; far below, in many.",
            all=column("mean_max_probability"),
        ),
        curve(
            "Significant samples of a particle",
            Axis(label="median", scale="log"),
            all=np.where(column("median_n_significant") > 0, column("median_n_significant"), np.nan),
        ),
        curve(
            "Classes with particles",
            Axis(label="classes", limits=(0, 1.05 * len(averages))),
            all=column("occupied_classes"),
        ),
    ]
    return Section(title="Course of the run", blocks=tuple(block for block in found if block is not None))


def pose_section(run: ClassRun) -> Section:
    """Return histograms of in-plane angles and offsets."""
    found: list[Block] = []
    if "rotation" in run.particles and len(run.particles):
        found.append(_angles(run))
    if "origin_angstrom" in run.particles and len(run.particles):
        found += [_offset_lengths(run), _offset_map(run)]
    return Section(title="Angles and offsets", blocks=tuple(found))


def in_plane_degrees(run: ClassRun) -> NDArray[np.float64]:
    """Return the particles' in-plane angles psi, -180 up to 180, shape (n,)."""
    rotation = np.asarray(run.particles["rotation"])
    sine, cosine = rotation[:, 0, 1] - rotation[:, 1, 0], rotation[:, 0, 0] + rotation[:, 1, 1]
    angles = np.degrees(np.arctan2(sine, cosine))
    return np.where(angles >= 180, angles - 360, angles)


def quarter_turn_excess(run: ClassRun) -> float | None:
    """Return how often angles fall on multiples of 90°, over how often even ones would, where it is no chance.

    A grid point of the fine sampling is on a multiple of 90° when it lies within half a step of it. None: not more
    often, or angles were hardly searched.
    """
    if "rotation" not in run.particles or len(run.particles) == 0:
        return None
    angles = in_plane_degrees(run)
    if len(np.unique(np.round(angles, 3))) < 8:
        return None
    step = run.psi_step_degrees
    from_quarter = (angles + step / 2) % 90
    share = float(np.mean(from_quarter < step))
    expected = min(1.0, step / 90)
    chance = math.sqrt(expected * (1 - expected) / len(angles))
    if share < _QUARTER_TURN_EXCESS * expected or share < expected + _QUARTER_TURN_DEVIATIONS * chance:
        return None
    return share / expected


def offsets_at_the_edge(run: ClassRun) -> float:
    """Return the share of particles whose offset reaches the edge of the search range, to half a step."""
    if "origin_angstrom" not in run.particles or len(run.particles) == 0 or run.offset_range_angstrom <= 0:
        return 0.0
    length = np.hypot(*np.asarray(run.particles["origin_angstrom"]).T)
    return float(np.mean(length >= run.offset_range_angstrom - run.offset_step_angstrom / 2))


def _angles(run: ClassRun) -> Histogram:
    """Count angles in bins of whole steps, each centred on its grid points, so that the sampling makes no comb."""
    n_steps = max(4, round(360 / run.psi_step_degrees))
    n_bins = round(n_steps / math.ceil(n_steps / _MAX_ANGLE_BINS))
    edges = np.linspace(-180, 180, n_bins + 1) - 180 / n_bins
    angles = in_plane_degrees(run)
    counts, _ = np.histogram(np.where(angles >= edges[-1], angles - 360, angles), edges)
    return Histogram(
        title="In-plane angles",
        edges=edges,
        bars=(Bars(label="particles", counts=counts),),
        x=Axis(label="angle", unit="°"),
        y=Axis(label="particles"),
        marks=(*(Mark(value=angle) for angle in (-90.0, 0.0, 90.0)), Mark(value=float(counts.mean()), axis="y")),
        caption="Even where particles lie in the ice as they fell. Peaks at multiples of 90° come from the detector.",
    )


def _offset_lengths(run: ClassRun) -> Histogram:
    length = np.hypot(*np.asarray(run.particles["origin_angstrom"]).T)
    reach = _reach(run, length)
    return Histogram.of(
        np.minimum(length, reach),
        title="Length of offsets",
        x=Axis(label="offset", unit="Å", limits=(0, reach)),
        bins=_OFFSET_BINS,
        marks=(Mark(value=run.offset_range_angstrom, label="search range"),),
        caption=(
            f"{100 * offsets_at_the_edge(run):.1f} % reach the edge of the search range, to half a step. The prior's "
            f"deviation is {run.offset_sigma_angstrom:.3g} Å along an axis. Longer ones are counted in the last bin."
        ),
    )


def _offset_map(run: ClassRun) -> Density:
    origins = np.asarray(run.particles["origin_angstrom"])
    reach = _reach(run, np.hypot(*origins.T))
    return Density.of(
        origins,
        title="Offsets",
        x=Axis(label="x", unit="Å", limits=(-reach, reach)),
        y=Axis(label="y, downwards as in the pictures", unit="Å", limits=(reach, -reach)),
        reach=reach,
        circles=(Mark(value=run.offset_range_angstrom, label="search range"),),
        caption=(
            "The shifts that bring the particles to the centre of their boxes. A round spot in the middle: picks are "
            "centred. A spot beside it: they are off by as much."
        ),
    )


def _reach(run: ClassRun, length: NDArray[np.float64]) -> float:
    """Return how far offsets are shown, in Å: beyond the search range, and nearly all of them."""
    far = float(np.percentile(length, 99.5)) if len(length) else 0.0
    return max(1.1 * run.offset_range_angstrom, 1.1 * far, 1.0)
