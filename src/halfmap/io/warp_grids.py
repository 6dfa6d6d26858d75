"""Grids in the XML of Warp and M: nodes between a start and an end tag, in the units of those programs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from halfmap.io import warp_xml
from halfmap.io.warp_xml import XmlDocument, XmlElement
from halfmap.splines.grids import LinearGrid, SplineGrid

_SIDES = ("Width", "Height", "Depth", "Duration")
_PLACES = ("X", "Y", "Z", "W")
_MARGINS = ("MarginX", "MarginY", "MarginZ")


def read_spline_grid(element: XmlElement, document: XmlDocument, factor: float) -> SplineGrid:
    """Return a three-dimensional grid, its values multiplied by a factor.

    Raises
    ------
    FormatError
        Nodes are missing, repeated, outside the grid or no numbers.
    """
    values, _ = _nodes(element, document, 3)
    margin = tuple(
        warp_xml.number(element.attributes.get(name, "0"), f"{name} of {element.name}", document) for name in _MARGINS
    )
    return SplineGrid(values=values * factor, margin=(margin[0], margin[1], margin[2]))


def read_linear_grid(element: XmlElement, document: XmlDocument) -> LinearGrid:
    """Return a four-dimensional grid; a missing duration is 1.

    Raises
    ------
    FormatError
        As for `read_spline_grid`.
    """
    values, _ = _nodes(element, document, 4)
    return LinearGrid(values=values)


def change_grid(
    document: XmlDocument,
    element: XmlElement,
    before: SplineGrid | LinearGrid,
    after: SplineGrid | LinearGrid,
    factor: float,
) -> None:
    """Bring a grid's changed values into its element: of the same shape node by node, else the whole element."""
    if before.values.shape != after.values.shape or _margin(before) != _margin(after):
        document.replace(element, text_of_grid(element.name, after, factor))
        return
    _, nodes = _nodes(element, document, after.values.dim())
    changed = (before.values != after.values).flatten().nonzero().flatten().tolist()
    new = (after.values.flatten() / factor).tolist()
    for index in changed:
        document.set_attribute(nodes[index], "Value", warp_xml.text_of_number(new[index]))


def text_of_grid(name: str, grid: SplineGrid | LinearGrid, factor: float) -> str:
    """Return a grid's element below the root."""
    shape = tuple(reversed(grid.values.shape))
    sides = " ".join(f'{side}="{n}"' for side, n in zip(_SIDES, shape, strict=False))
    margins = "".join(
        f' {place}="{warp_xml.text_of_number(value)}"' for place, value in zip(_MARGINS, _margin(grid), strict=False)
    )
    rows = [
        "\t\t<Node "
        + " ".join(f'{place}="{at}"' for place, at in zip(_PLACES, _place(index, shape), strict=False))
        + f' Value="{warp_xml.text_of_number(value)}" />\n'
        for index, value in enumerate((grid.values.flatten() / factor).tolist())
    ]
    return f"<{name} {sides}{margins}>\n{''.join(rows)}\t</{name}>"


def _margin(grid: SplineGrid | LinearGrid) -> tuple[float, ...]:
    return grid.margin if isinstance(grid, SplineGrid) else ()


def _place(index: int, shape: Sequence[int]) -> list[int]:
    place = []
    for n in shape:
        place.append(index % n)
        index //= n
    return place


def _nodes(element: XmlElement, document: XmlDocument, ndim: int) -> tuple[Tensor, list[XmlElement]]:
    """Return values in array order and the nodes' elements in the same order, x fastest."""
    shape = [_whole(element, side, document, default="1" if side == "Duration" else None) for side in _SIDES[:ndim]]
    n = math.prod(shape)
    nodes: list[XmlElement | None] = [None] * n
    values = [0.0] * n
    for node in element.all("Node"):
        index, stride = 0, 1
        for place, side in zip(_PLACES, shape, strict=False):
            at = _whole(node, place, document, default="0", of=element.name)
            if not 0 <= at < side:
                raise document.error(f"nodes of {element.name} with {place} from 0 to {side - 1}", f"{place}={at}")
            index += at * stride
            stride *= side
        if nodes[index] is not None:
            raise document.error(f"each node of {element.name} once", f"a second node at {_place(index, shape)}")
        nodes[index] = node
        values[index] = warp_xml.number(node.attributes.get("Value", ""), f"a node of {element.name}", document)
    found = [node for node in nodes if node is not None]
    if len(found) != n:
        sides = "×".join(map(str, shape))
        raise document.error(
            f"{n} nodes in {element.name} ({sides})", f"{len(found)}", "restore the file from a version that is whole"
        )
    return torch.tensor(values, dtype=torch.float64).reshape(*reversed(shape)), found


def _whole(element: XmlElement, name: str, document: XmlDocument, *, default: str | None, of: str = "") -> int:
    text = element.attributes.get(name, default)
    what = f"{name} of {of or element.name}"
    if text is None or not text.strip().lstrip("-").isdigit():
        raise document.error(f"a whole number as {what}", "none" if text is None else repr(text), "mend the file")
    if not of and int(text) < 1:
        raise document.error(f"{what} of at least 1", text, "mend the file")
    return int(text)
