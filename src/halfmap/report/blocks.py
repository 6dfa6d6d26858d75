"""What a report is made of: data first, so that a page, a figure and the web draw the same.

Every block is a frozen dataclass of numbers, text and encoded pictures; `Report.to_json` gives all of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from halfmap.errors import InputError, ShapeError
from halfmap.report import montage
from halfmap.report.pictures import Picture, micrograph_picture, shrink, to_grey
from halfmap.report.plain import as_vectors, checked_points, finite_values, histogram_edges, to_plain

if TYPE_CHECKING:  # they are made of blocks themselves
    from halfmap.report.density import Density
    from halfmap.report.ranked_gallery import RankedGallery

Cell: TypeAlias = str | int | float | None
Level: TypeAlias = Literal["plain", "good", "warning", "bad"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fact:
    """One number or word worth a tile.

    Parameters
    ----------
    label : what it is.
    value : the number or word.
    unit : symbol after the value.
    note : a line below it.
    level : whether it is good or bad news.
    """

    label: str
    value: str | int | float
    unit: str = ""
    note: str = ""
    level: Level = "plain"


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """A row of tiles.

    Parameters
    ----------
    facts : `Fact`, or (label, value) or (label, value, unit).
    """

    facts: Sequence[Fact | tuple[Any, ...]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", tuple(_fact(fact) for fact in self.facts))


@dataclass(frozen=True, kw_only=True, eq=False)
class Axis:
    """An axis of a figure.

    Parameters
    ----------
    label : what it measures.
    unit : symbol; shown in brackets.
    scale : ``resolution`` takes spatial frequencies in 1/Å and writes resolutions in Å.
    limits : lowest and highest value shown; None follows the data.
    """

    label: str
    unit: str = ""
    scale: Literal["linear", "log", "resolution"] = "linear"
    limits: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """One line of a curve.

    Parameters
    ----------
    label : its name in the legend.
    x, y : values, shape (n,); a gap where y is not finite.
    style : how it is drawn; thin ones are grey, one of many behind the others.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    style: Literal["line", "dashed", "dotted", "points", "steps", "thin"] = "line"

    def __post_init__(self) -> None:
        as_vectors(self, "x", "y")


@dataclass(frozen=True, kw_only=True, eq=False)
class Mark:
    """A straight line across a figure at one value.

    Parameters
    ----------
    value : where.
    label : what it means.
    axis : the axis that the value is on.
    """

    value: float
    label: str = ""
    axis: Literal["x", "y"] = "x"


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Lines over a common axis.

    Parameters
    ----------
    title, caption : text above and below.
    lines : the lines.
    x, y : the axes.
    marks : thresholds and positions to compare with.
    """

    title: str
    lines: Sequence[Line]
    x: Axis
    y: Axis
    marks: Sequence[Mark] = ()
    caption: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bars:
    """One series of a histogram: a label and the counts between the edges."""

    label: str
    counts: ArrayLike

    def __post_init__(self) -> None:
        as_vectors(self, "counts")


@dataclass(frozen=True, kw_only=True, eq=False)
class Histogram:
    """Counts between edges.

    Parameters
    ----------
    title, caption : text above and below.
    edges : shape (n + 1,).
    bars : one or several series of n counts.
    x, y : the axes.
    marks : thresholds and positions to compare with.
    """

    title: str
    edges: ArrayLike
    bars: Sequence[Bars]
    x: Axis
    y: Axis = Axis(label="count")
    marks: Sequence[Mark] = ()
    caption: str = ""

    def __post_init__(self) -> None:
        as_vectors(self, "edges")
        for bars in self.bars:
            if len(np.asarray(bars.counts)) != len(np.asarray(self.edges)) - 1:
                raise ShapeError(f"A histogram of n counts must have n + 1 edges; got {bars.label!r} of other length.")

    @classmethod
    def of(
        cls,
        values: ArrayLike | dict[str, ArrayLike],
        *,
        title: str,
        x: Axis,
        bins: int | None = None,
        marks: Sequence[Mark] = (),
        caption: str = "",
    ) -> "Histogram":
        """Count values, or several series of them by label; what is not finite is left out.

        Without ``bins``, their number follows the Freedman-Diaconis rule, between 5 and 80.
        """
        series = values if isinstance(values, dict) else {"": values}
        finite = {label: finite_values(given) for label, given in series.items()}
        everything = np.concatenate(list(finite.values())) if finite else np.zeros(0)
        edges = histogram_edges(everything, x.limits, bins)
        bars = [Bars(label=label, counts=np.histogram(part, edges)[0]) for label, part in finite.items()]
        return cls(title=title, edges=edges, bars=tuple(bars), x=x, marks=tuple(marks), caption=caption)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scatter:
    """Points in a plane.

    Parameters
    ----------
    title, caption : text above and below.
    points : shape (n, 2), x and y.
    x, y : the axes.
    colours : shape (n,), a third quantity; None for one colour.
    colour : its axis.
    equal : whether one unit is as long on both axes.
    """

    title: str
    points: ArrayLike
    x: Axis
    y: Axis
    colours: ArrayLike | None = None
    colour: Axis | None = None
    equal: bool = False
    caption: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", checked_points(self.points))
        if self.colours is not None:
            as_vectors(self, "colours")


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Rows that can be sorted by a click.

    Parameters
    ----------
    title, caption : text above and below.
    columns : headings, with units in brackets.
    rows : one value for each column; None leaves a cell empty.
    addresses : where the first cell of each row leads, relative to the page; none at all where empty.

    Raises
    ------
    ShapeError
        A row has another length than the headings, or there are not as many addresses as rows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    caption: str = ""
    addresses: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.addresses and len(self.addresses) != len(self.rows):
            raise ShapeError(
                f"A table must have an address for each of its {len(self.rows)} rows, or none; got "
                f"{len(self.addresses)}."
            )
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ShapeError(f"A row must have {len(self.columns)} cells as the headings; got {len(row)}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """Pictures side by side, each with a line below it.

    Parameters
    ----------
    title, caption : text above and below.
    pictures : what is shown.
    captions : one for each picture, or none at all.
    tile_pixel : width of one on the screen; 0 for a single picture as wide as it is.
    """

    pictures: Sequence[Picture]
    captions: Sequence[str] = ()
    title: str = ""
    caption: str = ""
    tile_pixel: int = 140

    def __post_init__(self) -> None:
        if self.captions and len(self.captions) != len(self.pictures):
            raise ShapeError(
                f"A gallery must have a caption for each of its {len(self.pictures)} pictures; "
                f"got {len(self.captions)}."
            )

    @classmethod
    def of(
        cls,
        images: ArrayLike,
        captions: Sequence[str] = (),
        *,
        title: str = "",
        caption: str = "",
        max_side: int = 256,
        tile_pixel: int = 140,
        contrast: Literal["each", "shared"] = "each",
        percentiles: tuple[float, float] = (1.0, 99.0),
    ) -> "Gallery":
        """Make a gallery of images (n, y, x), each a picture of its own; contrast as of `to_grey`."""
        small = np.stack([shrink(image, max_side) for image in np.asarray(images, dtype=np.float32)])
        pictures = tuple(Picture.png(grey) for grey in to_grey(small, contrast=contrast, percentiles=percentiles))
        return cls(pictures=pictures, captions=tuple(captions), title=title, caption=caption, tile_pixel=tile_pixel)

    @classmethod
    def montage(
        cls,
        images: ArrayLike,
        *,
        title: str = "",
        caption: str = "",
        columns: int | None = None,
        max_tile: int = 128,
        contrast: Literal["each", "shared"] = "each",
    ) -> "Gallery":
        """Make one picture of many images (n, y, x) without captions: right for hundreds of particles."""
        picture = montage.montage(images, columns=columns, max_tile=max_tile, contrast=contrast)
        return cls(pictures=(picture,), title=title, caption=caption, tile_pixel=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlay:
    """Positions drawn on a micrograph.

    Parameters
    ----------
    title, caption : text above and below.
    picture : the whole micrograph, averaged down.
    shape_pixel : the micrograph's sides (y, x).
    positions_pixel : shape (n, 2), x and y in the micrograph; (0, 0) is the first stored pixel, y grows down.
    radius_pixel : of the circles, in micrograph pixels.
    values : shape (n,), coded as colour from red to blue, with a slider that hides the low ones; None for one colour.
    value_label : what the values are.
    kind_labels : words for the kinds of positions; each gets a colour, in place of the values, and a switch.
    kinds : whole numbers, shape (n,): which of them each position is; needed where there are labels.
    """

    picture: Picture
    shape_pixel: tuple[int, int]
    positions_pixel: ArrayLike
    radius_pixel: float
    values: ArrayLike | None = None
    value_label: str = "figure of merit"
    kind_labels: Sequence[str] = ()
    kinds: ArrayLike = ()
    title: str = ""
    caption: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions_pixel", checked_points(self.positions_pixel))
        if self.kind_labels and len(np.asarray(self.kinds)) != len(np.asarray(self.positions_pixel)):
            raise ShapeError("An overlay must say of each position what kind it is, or of none; got another number.")
        if self.values is not None:
            as_vectors(self, "values")
            if len(np.asarray(self.values)) != len(np.asarray(self.positions_pixel)):
                raise ShapeError(
                    "An overlay must have one value for each position; got another number of them; give as many."
                )

    @classmethod
    def of(
        cls,
        micrograph: ArrayLike,
        positions_pixel: ArrayLike,
        *,
        radius_pixel: float,
        values: ArrayLike | None = None,
        value_label: str = "figure of merit",
        kind_labels: Sequence[str] = (),
        kinds: ArrayLike = (),
        title: str = "",
        caption: str = "",
        max_side: int = 900,
    ) -> "Overlay":
        """Make an overlay of a micrograph (y, x) as recorded; only a small picture of it is kept."""
        sides = np.asarray(micrograph).shape
        return cls(
            picture=micrograph_picture(micrograph, max_side=max_side),
            shape_pixel=(sides[0], sides[1]),
            positions_pixel=positions_pixel,
            radius_pixel=radius_pixel,
            values=values,
            value_label=value_label,
            kind_labels=kind_labels,
            kinds=kinds,
            title=title,
            caption=caption,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Note:
    """A paragraph.

    Parameters
    ----------
    text : plain text; an empty line begins a new paragraph.
    level : how much it matters.
    """

    text: str
    level: Level = "plain"


Block: TypeAlias = "Facts | Curve | Histogram | Scatter | Density | Table | Gallery | RankedGallery | Overlay | Note"


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """A heading and what stands below it.

    Parameters
    ----------
    title : the heading.
    blocks : shown in order; neighbouring figures stand side by side where the page is wide.
    intro : a paragraph before them.
    """

    title: str
    blocks: Sequence[Block]
    intro: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """A page.

    Parameters
    ----------
    title : what was done.
    sections : its parts.
    facts : the few numbers that matter, as tiles below the title.
    summary : one or two sentences that say what came out.
    command : the command that made it.
    created : date and time, as text.
    version : of halfmap.
    status : word in the corner.
    level : the word's colour.
    """

    title: str
    sections: Sequence[Section]
    facts: Facts | None = None
    summary: str = ""
    command: str = ""
    created: str = ""
    version: str = ""
    status: str = ""
    level: Level = "good"

    def to_json(self) -> dict[str, Any]:
        """Return all data as what JSON knows; a block says in ``kind`` what it is, pictures are data URIs."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    def to_html(self, beside: dict[str, bytes] | None = None) -> str:
        """Return the page: `halfmap.report.html.render`."""
        from halfmap.report import html

        return html.render(self, beside=beside)


def _fact(given: Fact | tuple[Any, ...]) -> Fact:
    if isinstance(given, Fact):
        return given
    if len(given) not in (2, 3):
        raise InputError(f"A fact must be (label, value) or (label, value, unit); got {given!r}.")
    return Fact(label=given[0], value=given[1], unit=given[2] if len(given) == 3 else "")
