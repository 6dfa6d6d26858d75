"""What the page of ``halfmap motion`` shows: trajectories, how much was moved, and what is out of the ordinary."""

import io
import math
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from halfmap.jobs.motion_movie import MovieResult
from halfmap.jobs.per_micrograph import Rejected
from halfmap.report.blocks import Axis, Block, Curve, Fact, Facts, Histogram, Line, Note, Report, Section, Table
from halfmap.report.pictures import Picture
from halfmap.report.ranked_gallery import Entry, Quantity, RankedGallery

DETAILS = 60
"""Movies whose sum is shown large, evenly spaced; the others as cards."""

_CARD_SIDE = 220
_NAMED = 10
_SHARE_OF_FIELD = 0.15
_PATH, _START = (255, 176, 0), (30, 144, 255)
_QUANTITIES = (
    Quantity(label="motion", unit="Å", decimals=1, best="low"),
    Quantity(label="early motion", short="early", unit="Å", decimals=1, best="low"),
    Quantity(label="agreement of frames", short="agreement", decimals=3),
    Quantity(label="bad frames", best="low", place="detail"),
)
_INTRO = (
    "Lines: where the content of each patch went, enlarged as each picture says; a blue dot is the first frame. Lines "
    "of neighbours should look alike and be smooth. A click shows the sum large, with the motion of the whole frame."
)


def page(done: Sequence[tuple[str, MovieResult]], rejected: Sequence[Rejected]) -> Report:
    """Return the page.

    Parameters
    ----------
    done : names of movies and what was found.
    rejected : those that could not be treated.
    """
    results = [result for _, result in done]
    totals = np.array([one.total_angstrom for one in results])
    n_bad = sum(len(one.bad_frames) for one in results)
    n_concerns = sum(bool(one.concerns) for one in results)
    facts = [
        Fact(label="movies", value=len(done)),
        Fact(label="motion, median", value=round(float(np.median(totals)), 1), unit="Å"),
        Fact(label="frames left out", value=n_bad, level="warning" if n_bad else "plain"),
        Fact(label="out of the ordinary", value=n_concerns, level="warning" if n_concerns else "plain"),
        Fact(label="set aside", value=len(rejected), level="warning" if rejected else "plain"),
    ]
    sections = [
        *_notes(done, rejected),
        Section(title="Trajectories", intro=_INTRO, blocks=(_gallery(done),)),
        Section(title="All movies", blocks=_distributions(results)),
        Section(title="Movies", blocks=(_table(done),)),
    ]
    return Report(
        title="Motion correction",
        summary=f"The motion of {len(done)} of {len(done) + len(rejected)} movies.",
        facts=Facts(facts=facts),
        sections=sections,
    )


def _notes(done: Sequence[tuple[str, MovieResult]], rejected: Sequence[Rejected]) -> list[Section]:
    bad = [(name, f"frame {frame + 1}: {why}") for name, one in done for frame, why in one.bad_frames]
    groups = [
        ("Set aside, listed in rejected.star:", [(one.name, one.reason) for one in rejected]),
        ("Frames that take part in no sum:", bad),
        ("Out of the ordinary:", [(name, "; ".join(one.concerns)) for name, one in done if one.concerns]),
    ]
    blocks = []
    for title, named in groups:
        if named:
            more = [f"… and {len(named) - _NAMED} more."] if len(named) > _NAMED else []
            text = "\n\n".join([title, *(f"{name}: {reason}." for name, reason in named[:_NAMED]), *more])
            blocks.append(Note(text=text, level="warning"))
    return [Section(title="Worth a look", blocks=tuple(blocks))] if blocks else []


def _gallery(done: Sequence[tuple[str, MovieResult]]) -> RankedGallery:
    short = [PurePath(name).stem for name, _ in done]
    names = short if len(set(short)) == len(short) else [name for name, _ in done]
    large = set(np.linspace(0, len(done) - 1, min(len(done), DETAILS)).astype(int).tolist())
    return RankedGallery(
        quantities=_QUANTITIES if _has_early([one for _, one in done]) else (_QUANTITIES[0], *_QUANTITIES[2:]),
        entries=tuple(
            _entry(name, one, is_large=row in large)
            for row, (name, (_, one)) in enumerate(zip(names, done, strict=True))
        ),
        tile_pixel=200,
        x=Axis(label="frame"),
        y=Axis(label="shift", unit="Å"),
        details_title="Sum and motion of each movie",
        curve_caption="Motion of the middle of the field.",
    )


def _entry(name: str, one: MovieResult, *, is_large: bool) -> Entry:
    drawn, factor = _drawn(one)
    middle = one.trajectory_angstrom.mean(axis=0)
    frame = np.arange(1, len(middle) + 1)
    remark = "; ".join(one.concerns)
    return Entry(
        name=name,
        picture=drawn.reduced(min(1.0, _CARD_SIDE / max(drawn.shape))),
        values=(
            one.total_angstrom,
            *((one.early_angstrom,) if _has_early([one]) else ()),
            float(np.median(one.agreement)),
            len(one.bad_frames),
        ),
        remark=remark,
        level="warning" if remark else "plain",
        detail=drawn if is_large else None,
        detail_caption=f"Lines are enlarged {factor:.0f} times; {one.n_hot_pixels} hot pixels filled.",
        lines=(Line(label="x", x=frame, y=middle[:, 0]), Line(label="y", x=frame, y=middle[:, 1], style="dashed"))
        if is_large
        else (),
    )


def _drawn(one: MovieResult) -> tuple[Picture, float]:
    """Return the sum with the paths of its patches, and by how much they are enlarged."""
    image = Image.open(io.BytesIO(one.picture.tobytes())).convert("RGB")
    pen = ImageDraw.Draw(image)
    # shifts move content back: content itself went the other way, from where it was in the first frame
    paths = one.trajectory_angstrom[:, :1] - one.trajectory_angstrom
    span = float(np.abs(paths).max())
    per_angstrom = _SHARE_OF_FIELD * min(image.size) / max(span, 1e-6)
    for centre, path in zip(one.patch_centre, paths, strict=True):
        points = [tuple(point) for point in (centre * image.size + path * per_angstrom).tolist()]
        pen.line(points, fill=_PATH, width=3)
        x, y = points[0]
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_START)
    return Picture.jpeg(np.asarray(image)), per_angstrom


def _distributions(results: Sequence[MovieResult]) -> tuple[Block, ...]:
    parts: dict[str, ArrayLike]
    if _has_early(results):
        parts = {
            "early": np.array([one.early_angstrom for one in results]),
            "late": np.array([one.late_angstrom for one in results]),
        }
    else:
        parts = {"motion": np.array([one.total_angstrom for one in results])}
    shown = results[len(results) // 2]
    inside = shown.frequency > shown.frequency[-1] / 20
    return (
        Histogram.of(parts, title="Motion", x=Axis(label="motion", unit="Å")),
        Curve(
            title="Power of a sum, before and after",
            lines=(
                Line(
                    label="frames as they are", x=shown.frequency[inside], y=shown.power_before[inside], style="dashed"
                ),
                Line(label="corrected", x=shown.frequency[inside], y=shown.power_after[inside]),
            ),
            x=Axis(label="resolution", unit="Å", scale="resolution"),
            y=Axis(label="mean power on rings", scale="log"),
            caption="Of the movie in the middle of the list, plain sums. Rings that motion had washed out come back.",
        ),
        Curve(
            title="Agreement of each frame with the others",
            lines=tuple(
                Line(label=f"movie {row + 1}", x=np.arange(1, len(one.agreement) + 1), y=one.agreement, style="thin")
                for row, one in enumerate(results[:DETAILS])
            ),
            x=Axis(label="frame"),
            y=Axis(label="correlation"),
        ),
    )


def _has_early(results: Sequence[MovieResult]) -> bool:
    """Return whether doses tell early from late motion."""
    return all(math.isfinite(one.early_angstrom) for one in results)


def _table(done: Sequence[tuple[str, MovieResult]]) -> Table:
    has_early = _has_early([one for _, one in done])
    return Table(
        columns=(
            "movie",
            "motion [Å]",
            *(("early [Å]", "late [Å]") if has_early else ()),
            "agreement",
            "bad frames",
            "hot pixels",
            "concern",
        ),
        rows=[
            (
                name,
                round(one.total_angstrom, 2),
                *((round(one.early_angstrom, 2), round(one.late_angstrom, 2)) if has_early else ()),
                round(float(np.median(one.agreement)), 4),
                len(one.bad_frames),
                one.n_hot_pixels,
                "; ".join(one.concerns),
            )
            for name, one in done
        ],
    )
