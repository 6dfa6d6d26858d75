"""What the page of a 2D classification shows: the gallery of classes, and what is to be said of them in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from halfmap.data.class_averages import ClassAverages, ClassRun
from halfmap.data.particles import ParticleSet
from halfmap.data.table import Table
from halfmap.errors import InputError
from halfmap.jobs import class2d_figures
from halfmap.jobs.class2d_figures import offsets_at_the_edge, quarter_turn_excess
from halfmap.report import blocks
from halfmap.report.blocks import Axis, Fact, Facts, Line, Note, Report, Section
from halfmap.report.montage import lay_out
from halfmap.report.pictures import Picture, enlarge, grey_between, shrink, to_grey
from halfmap.report.ranked_gallery import Entry, Quantity, RankedGallery

MEMBERS_SHOWN = 24
"""Particles of each class in its montage."""

_MONTAGE_COLUMNS = 6
_MONTAGE_PIXELS = 6_000_000  # of all montages together: so that they fit into a page at full size
_MAX_SIDE, _MIN_SIDE, _MIN_SIDE_OF_MANY, _MANY_CLASSES = 192, 160, 112, 100  # of an average in its picture
_CROP_MARGIN = 1.15  # side of what is shown of an average, over the mask's diameter
_CONTRAST_PERCENTILES = (0.5, 99.8)

_EDGE_SHARE = 0.05
_EMPTY_SHARE = 0.1
_FEW_PARTICLES = 50
_LARGEST_SHARE = 0.5

_QUANTITIES = (
    Quantity(label="particles", place="head"),
    Quantity(label="expected share", unit="%", decimals=1, is_rank=False, place="head"),
    Quantity(label="FRC resolution", short="FRC", unit="Å", decimals=1, best="low"),
    Quantity(label="model SSNR", unit="Å", decimals=1, best="low", is_rank=False),
    Quantity(label="accuracy of rotations", short="rotations ±", unit="°", decimals=1, best="low"),
    Quantity(label="accuracy of offsets", unit="Å", decimals=1, best="low", is_rank=False, place="detail"),
    Quantity(label="score", decimals=2),
    Quantity(label="number", best="low", place="none"),
)


def members_shown(particles: ParticleSet, *, per_class: int = MEMBERS_SHOWN) -> dict[int, NDArray[np.int64]]:
    """Choose the particles whose images show what a class is made of.

    Parameters
    ----------
    particles : with class_number, and max_probability where it is known.
    per_class : most rows of one class.

    Returns
    -------
    Class number → rows, those of the highest max_probability first; classes without particles are not in it.
    """
    numbers = particles["class_number"]
    probability = np.nan_to_num(particles.get("max_probability", 0.0), nan=0.0)
    order = np.lexsort((np.arange(len(numbers)), -probability))
    found = {int(number): order[numbers[order] == number] for number in np.unique(numbers) if number > 0}
    return {number: rows[:per_class] for number, rows in found.items()}


def member_montage(images: NDArray[np.float32], *, max_tile: int = 64) -> Picture:
    """Lay the particles of one class side by side, each in the contrast of its own.

    Parameters
    ----------
    images : float32, shape (n, y, x), n at least 1: low-passed, and aligned to the class, as the caller likes them.
    max_tile : longest side of one of them in the picture.

    Returns
    -------
    A JPEG: noise is what JPEG keeps small.
    """
    tiles = to_grey(np.stack([shrink(image, max_tile) for image in images]), percentiles=(1.0, 99.5))
    return Picture.jpeg(lay_out(tiles, columns=_MONTAGE_COLUMNS), quality=82)


def class2d_report(
    run: ClassRun,
    history: Table,
    *,
    members: Mapping[int, NDArray[np.float32]] | None = None,
    title: str = "2D classification",
    warnings: Sequence[str] = (),
    algorithm_reason: str = "",
    stop_reason: str = "",
    joined_up_to_angstrom: float | None = None,
    n_set_aside: int = 0,
    facts: Sequence[Fact] = (),
) -> Report:
    """Return the page of a 2D classification, after any of its iterations.

    Parameters
    ----------
    run : classes and particles as they are. Columns of the closing stage, of the ranker and of accuracies may be
        absent: the page then does without.
    history : one row for each iteration; any of iteration, log_likelihood, changed_share, resolution_angstrom,
        mean_max_probability, median_n_significant, n_particles_used, occupied_classes, current_size_pixel.
    members : class number → images of its particles, float32, shape (n, y, x), as of `member_montage`.
    title : of the page.
    warnings : sentences to be read first.
    algorithm_reason : why this algorithm, when it was chosen by itself.
    stop_reason : why the run ended; empty as long as it goes on.
    joined_up_to_angstrom : resolution up to which the halves of the closing stage shared their references.
    n_set_aside : number of particles that could not be used.
    facts : more tiles.

    Raises
    ------
    InputError
        The run has no class.
    """
    if len(run.averages) == 0:
        raise InputError("A page of 2D classification must have a class to show; got none; give the run's classes.")
    averages = run.averages
    occupied = int(np.count_nonzero(averages["n_particles"] > 0))
    progress = f"iteration {run.iteration} of {run.n_iterations}"
    sections = [
        *_worth_a_look(run, warnings, joined_up_to_angstrom),
        _classes(run, members or {}, joined_up_to_angstrom),
        class2d_figures.resolution_section(run, joined_up_to_angstrom),
        class2d_figures.course_section(run, history),
        class2d_figures.pose_section(run),
        Section(title="Numbers", blocks=(_table(averages),)),
    ]
    return Report(
        title=title,
        summary=f"{_spaced(len(run.particles))} particles in {occupied} of {len(averages)} classes"
        + ("." if stop_reason else f", after {progress}."),
        status="" if stop_reason else progress,
        level="good" if stop_reason else "plain",
        facts=Facts(facts=(*_facts(run, occupied, algorithm_reason, stop_reason, n_set_aside), *facts)),
        sections=tuple(section for section in sections if section.blocks),
    )


def effective_classes(fraction: NDArray[np.float64]) -> float:
    """Return exp(−Σ p ln p): how many classes of one size would be as evenly filled; nan where nothing is known."""
    share = fraction[np.isfinite(fraction) & (fraction > 0)]
    if share.size == 0:
        return math.nan
    share = share / share.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


def _facts(run: ClassRun, occupied: int, algorithm_reason: str, stop_reason: str, n_set_aside: int) -> tuple[Fact, ...]:
    averages = run.averages
    effective = effective_classes(_shares(averages))
    return (
        Fact(
            label="particles",
            value=len(run.particles),
            note=f"{_spaced(n_set_aside)} set aside" if n_set_aside else "",
        ),
        Fact(
            label="classes occupied",
            value=f"{occupied} of {len(averages)}",
            note=f"as evenly filled as {effective:.3g} of one size" if math.isfinite(effective) else "",
        ),
        _best_resolution(averages, is_finished=bool(stop_reason)),
        Fact(label="algorithm", value=run.algorithm.upper(), note=algorithm_reason),
        Fact(
            label="mini-batches" if run.algorithm == "vdam" else "iterations",
            value=run.iteration if stop_reason else f"{run.iteration} of {run.n_iterations}",
            note=stop_reason,
        ),
        Fact(label="mask diameter", value=float(run.mask_diameter_angstrom), unit="Å"),
        Fact(
            label="box",
            value=averages.grid.side,
            unit="px",
            note=f"of {averages.grid.pixel_size_angstrom:.4g} Å each",
        ),
    )


def _best_resolution(averages: ClassAverages, *, is_finished: bool) -> Fact:
    values = averages.get("frc_resolution_angstrom", np.nan)
    if not np.isfinite(values).any():
        note = "no class reaches one" if is_finished else "measured in the closing stage"
        return Fact(label="best FRC resolution", value="–", note=note)
    best = int(np.nanargmin(np.where(np.isfinite(values), values, np.nan)))
    return Fact(
        label="best FRC resolution",
        value=float(f"{values[best]:.3g}"),
        unit="Å",
        note=f"class {averages['class_number'][best]}: {_spaced(averages['n_particles'][best])} particles",
    )


# the gallery


def _classes(run: ClassRun, members: Mapping[int, NDArray[np.float32]], joined_up_to: float | None) -> Section:
    return Section(
        title="Classes",
        intro="Click a class for its particles and its curve; the arrow keys then turn to the next one.",
        blocks=(
            _gallery(run, members, joined_up_to),
            Note(text=_HOW_TO_READ),
            class2d_figures.sizes(run.averages),
            *class2d_figures.probabilities(run),
        ),
    )


_HOW_TO_READ = (
    "Good classes show detail inside the particle, and a smooth, empty background around it.\n\n"
    "Rays or streaks that run out to the mask: noise has been aligned. Repeat with --max-alignment-resolution 10 to "
    "15. Blurred blobs with few particles: too many classes for these particles, or junk; a hundred particles a "
    "class or more are usual. Particles cut off by the circle, or a bright rim along it: take another "
    "--mask-diameter. Two particles in one circle: picks too close together. Empty classes do no harm: their "
    "particles went where they fit better."
)


def _gallery(run: ClassRun, members: Mapping[int, NDArray[np.float32]], joined_up_to: float | None) -> RankedGallery:
    averages = run.averages
    values = _values(averages)
    kept = [i for i, quantity in enumerate(_QUANTITIES) if _is_worth_showing(quantity, values[:, i])]
    pictures, shared = _pictures(run)
    tile = _montage_tile(len(averages), averages.grid.side)
    curves = averages.get("frc", np.nan)
    frequency = class2d_figures.frequencies(averages)
    entries = []
    for row in _by_size(averages):
        number, n_particles = int(averages["class_number"][row]), int(averages["n_particles"][row])
        images = members.get(number, ())
        entries.append(
            Entry(
                name=str(number),
                picture=pictures[row],
                values=tuple(values[row, kept].tolist()),
                remark="" if n_particles else "empty",
                level="plain" if n_particles else "warning",
                shared_contrast=shared[row],
                detail=member_montage(np.asarray(images), max_tile=tile) if len(images) else None,
                detail_caption=_members_caption(len(images), n_particles) if len(images) else "",
                lines=(Line(label="FRC", x=frequency, y=curves[row]),) if np.isfinite(curves[row]).any() else (),
            )
        )
    nyquist = float(frequency[-1]) if len(frequency) > 1 else None
    quantities = [_QUANTITIES[i] for i in kept]
    if "FRC resolution" not in [quantity.label for quantity in quantities]:  # as long as there is none
        quantities = [replace(one, is_rank=True) if one.label == "model SSNR" else one for one in quantities]
    return RankedGallery(
        quantities=tuple(quantities),
        entries=tuple(entries),
        noun="class",
        caption=_GALLERY_CAPTION,
        tile_pixel=_tile_pixel(len(averages)),
        details_title="Particles and curve of every class, one below the other",
        x=Axis(label="resolution", unit="Å", scale="resolution", limits=(0, nyquist)),
        y=Axis(label="FRC", limits=(0, 1)),
        marks=class2d_figures.correlation_marks(joined_up_to),
        curve_caption="Correlation of the class's two halves; thresholds 0.143 and 0.5.",
    )


def _tile_pixel(n_classes: int) -> int:
    """Return the width of a card: the fewer there are, the larger."""
    return 230 if n_classes <= 6 else 170 if n_classes <= 24 else 134


_GALLERY_CAPTION = (
    "Below each average: its number, how many particles are most likely in it, and the share that it is expected to "
    "hold when every particle is divided among the classes that it may belong to. FRC: where two halves of its "
    "particles, classified apart, agree no longer. Model SSNR: how far the model trusts its own signal, which is no "
    "resolution. Each picture has the contrast of its own inside the mask, and ends just outside it."
)


def _is_worth_showing(quantity: Quantity, values: NDArray[np.float64]) -> bool:
    return quantity.label == "particles" or bool(np.isfinite(values).any())


def _members_caption(n_shown: int, n_particles: int) -> str:
    of = f"{n_shown} of {_spaced(n_particles)} particles" if n_shown < n_particles else f"All {n_shown} particles"
    return of + ", the surest first."


def _by_size(averages: ClassAverages) -> NDArray[np.int64]:
    """Return rows, the largest class first."""
    return np.lexsort((averages["class_number"], -np.nan_to_num(_shares(averages)), -averages["n_particles"]))


def _values(averages: ClassAverages) -> NDArray[np.float64]:
    """Return what `_QUANTITIES` name, shape (n, quantities); nan where there is none."""
    columns = (
        averages["n_particles"],
        100 * _shares(averages),
        averages.get("frc_resolution_angstrom", np.nan),
        averages.get("ssnr_resolution_angstrom", np.nan),
        averages.get("rotation_accuracy_degrees", np.nan),
        averages.get("offset_accuracy_angstrom", np.nan),
        averages.get("score", np.nan),
        averages["class_number"],
    )
    values = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    values[~np.isfinite(values)] = np.nan
    return values


def _shares(averages: ClassAverages) -> NDArray[np.float64]:
    return np.asarray(averages.get("fraction", np.nan), dtype=np.float64)


def _pictures(run: ClassRun) -> tuple[list[Picture], list[tuple[float, float] | None]]:
    """Return the averages as pictures, and for each what takes its grey values to a scale shared by all."""
    averages = run.averages
    images = averages["average"]
    diameter = run.mask_diameter_angstrom / averages.grid.pixel_size_angstrom
    limits = _limits(images, diameter / 2)
    shown = _cropped(np.nan_to_num(images), _CROP_MARGIN * diameter)
    min_side = _MIN_SIDE if len(images) <= _MANY_CLASSES else _MIN_SIDE_OF_MANY
    sized = np.stack([enlarge(shrink(image, _MAX_SIDE), min_side) for image in shown])
    grey = grey_between(sized, limits[:, 0, None, None], limits[:, 1, None, None])
    known = limits[(averages["n_particles"] > 0) & (limits[:, 1] > limits[:, 0])]
    if len(known) == 0:
        return [Picture.png(one) for one in grey], [None] * len(images)
    low, high = float(np.percentile(known[:, 0], 5)), float(np.percentile(known[:, 1], 95))
    span = max(high - low, np.finfo(np.float32).tiny)
    shared = [(float((top - bottom) / span), float((bottom - low) / span)) for bottom, top in limits.tolist()]
    return [Picture.png(one) for one in grey], list(shared)


def _cropped(images: NDArray[np.float32], side: float) -> NDArray[np.float32]:
    """Return the middle of images (n, y, x), about their centre pixel; all of them where ``side`` is larger."""
    reach = math.ceil(side / 2)
    y, x = images.shape[1] // 2, images.shape[2] // 2
    return images[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]


def _limits(images: NDArray[np.float32], radius_pixel: float) -> NDArray[np.float64]:
    """Return the values inside the mask that become black and white, shape (n, 2)."""
    side_y, side_x = images.shape[1:]
    y, x = np.ogrid[:side_y, :side_x]
    inside = (y - side_y // 2) ** 2 + (x - side_x // 2) ** 2 <= max(radius_pixel, 2.0) ** 2
    values = np.nan_to_num(images[:, inside].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return np.percentile(values, _CONTRAST_PERCENTILES, axis=1).T


def _montage_tile(n_classes: int, side: int) -> int:
    """Return the side of a particle in a montage at which the montages of all classes fit into a page."""
    return int(np.clip(math.sqrt(_MONTAGE_PIXELS / (MEMBERS_SHOWN * n_classes)), 32, min(96, max(side, 32))))


def _table(averages: ClassAverages) -> blocks.Table:
    values = _values(averages)
    kept = [i for i, quantity in enumerate(_QUANTITIES[:-1]) if _is_worth_showing(quantity, values[:, i])]
    names = [_QUANTITIES[i].label + (f" ({_QUANTITIES[i].unit})" if _QUANTITIES[i].unit else "") for i in kept]
    return blocks.Table(
        columns=("class", *names),
        rows=[
            (int(averages["class_number"][row]), *(_cell(values[row, i], _QUANTITIES[i].decimals) for i in kept))
            for row in _by_size(averages)
        ],
    )


def _cell(value: float, decimals: int | None) -> int | float | None:
    if not math.isfinite(value):
        return None
    return int(value) if decimals is None else float(value)


# what is to be said of it in words


def _worth_a_look(run: ClassRun, warnings: Sequence[str], joined_up_to: float | None) -> list[Section]:
    found = [*warnings, *_class_warnings(run.averages, joined_up_to), *_pose_warnings(run)]
    notes = tuple(Note(text=text, level="warning") for text in found)
    return [Section(title="Worth a look", blocks=notes)] if notes else []


def _class_warnings(averages: ClassAverages, joined_up_to: float | None) -> list[str]:
    sizes = averages["n_particles"]
    n, n_empty = len(sizes), int(np.count_nonzero(sizes == 0))
    full = sizes[sizes > 0]
    found = []
    if n_empty > _EMPTY_SHARE * n:
        found.append(
            f"{n_empty} of {n} classes are empty: their particles went to classes that fit better. Fewer --classes "
            "give the same result sooner."
        )
    if full.size and np.median(full) < _FEW_PARTICLES:
        found.append(
            f"Half of the classes hold fewer than {max(1, math.ceil(float(np.median(full))))} particles: their "
            "averages are mostly noise. Take fewer --classes, or more particles."
        )
    if full.size > 2 and full.max() > _LARGEST_SHARE * full.sum():
        share = 100 * full.max() / full.sum()
        found.append(
            f"One class holds {share:.0f} % of the particles. Where it is blurred, it draws in what fits nowhere: "
            "classify its particles again, on their own."
        )
    reached = averages.get("frc_resolution_angstrom", np.nan)
    reached = reached[np.isfinite(reached)]
    if joined_up_to is not None and reached.size and reached.min() >= joined_up_to:
        found.append(
            f"In no class do the two halves agree beyond {joined_up_to:.3g} Å, up to which they were joined: the "
            "averages show noise, or hold too few particles."
        )
    return found


def _pose_warnings(run: ClassRun) -> list[str]:
    found = []
    share = offsets_at_the_edge(run)
    if share > _EDGE_SHARE:
        found.append(
            f"{100 * share:.0f} % of the particles lie at the edge of the offset search or beyond, "
            f"{run.offset_range_angstrom:.3g} Å from their picks: the picks are not centred, or --offset-range is too "
            "short. Cut them out again where they were found, with halfmap extract --reextract, or search farther."
        )
    excess = quarter_turn_excess(run)
    if excess is not None:
        found.append(
            f"In-plane angles fall on multiples of 90° {excess:.1f} times as often as they should: a pattern that is "
            "fixed to the detector, such as a gain reference that does not fit, is being aligned."
        )
    return found


def _spaced(number: int) -> str:
    return f"{int(number):,}".replace(",", "\u2009")
