"""`RankedGallery`: pictures with named numbers, by which the page can put them in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from halfmap.errors import InputError, ShapeError
from halfmap.report.blocks import Axis, Level, Line, Mark
from halfmap.report.pictures import Picture


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantity:
    """A number that each entry of a gallery has.

    Parameters
    ----------
    label : its full name.
    short : its name on a card, where there is little room; the full one where left out.
    unit : symbol after the value.
    decimals : shown; None for whole numbers.
    best : whether high or low values are good, and come first.
    is_rank : whether entries can be put in order by it.
    place : ``head``, beside the entry's name; ``line``, one of the card's lines; ``detail``, only in what a click
        opens; ``none``, not shown.
    """

    label: str
    short: str = ""
    unit: str = ""
    decimals: int | None = None
    best: Literal["high", "low"] = "high"
    is_rank: bool = True
    place: Literal["head", "line", "detail", "none"] = "line"


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A card of a gallery, and what a click on it opens.

    Parameters
    ----------
    name : short, unique in the gallery.
    picture : what is shown, in the contrast of its own.
    values : one for each `Quantity`; None or nan: none.
    remark : a word on the picture, such as ``empty``.
    level : of the remark; ``bad`` and ``warning`` also dim the card.
    shared_contrast : slope and intercept that take the picture's grey values, black 0 and white 1, to a scale shared
        with the other pictures; None: no such scale.
    detail : a larger picture; None: none.
    detail_caption : a line below it.
    lines : a small curve; none where empty.
    """

    name: str
    picture: Picture
    values: Sequence[float | None]
    remark: str = ""
    level: Level = "plain"
    shared_contrast: tuple[float, float] | None = None
    detail: Picture | None = None
    detail_caption: str = ""
    lines: Sequence[Line] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class RankedGallery:
    """Cards in an order that the reader chooses; without a script they stand as they are given.

    Parameters
    ----------
    quantities : what is known of each entry; the order given is by the first of them that ranks.
    entries : the cards.
    noun : what an entry is, before its name: ``class``.
    title, caption : text above and below.
    details_title : heading of the entries one by one, below the cards.
    tile_pixel : width of a card on the screen.
    x, y, marks : axes and thresholds of the entries' curves; axes may be left out where no entry has one.
    curve_caption : a line below each curve.

    Raises
    ------
    ShapeError
        An entry has another number of values than there are quantities.
    InputError
        Two entries have one name, or a curve has no axes.
    """

    quantities: Sequence[Quantity]
    entries: Sequence[Entry]
    noun: str = ""
    title: str = ""
    caption: str = ""
    details_title: str = "One by one"
    tile_pixel: int = 168
    x: Axis | None = None
    y: Axis | None = None
    marks: Sequence[Mark] = ()
    curve_caption: str = ""

    def __post_init__(self) -> None:
        for entry in self.entries:
            if len(entry.values) != len(self.quantities):
                raise ShapeError(
                    f"An entry must have {len(self.quantities)} values, one for each quantity; got "
                    f"{len(entry.values)} in {entry.name!r}."
                )
            if entry.lines and (self.x is None or self.y is None):
                raise InputError(f"A gallery with curves must have axes; got a curve in {entry.name!r}; give x and y.")
        names = [entry.name for entry in self.entries]
        if len(set(names)) < len(names):
            raise InputError(f"Names of a gallery's entries must differ; got {names!r}; number them.")

    def pictures(self) -> Iterator[Picture]:
        """Yield all pictures: of the cards first, then the larger ones."""
        yield from (entry.picture for entry in self.entries)
        yield from (entry.detail for entry in self.entries if entry.detail is not None)
