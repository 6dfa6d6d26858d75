"""Params and sections of the XML files of Warp and M: taken with defaults, changed in place."""

from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

from halfmap.io import warp_xml
from halfmap.io.warp_xml import XmlDocument


class Params:
    """Params of a file, taken one after the other; what nobody took is the rest.

    Parameters
    ----------
    document : for messages.
    params : texts by name.
    """

    def __init__(self, document: XmlDocument, params: Mapping[str, str]) -> None:
        self._document = document
        self._params = dict(params)

    def text(self, name: str, default: str) -> str:
        """Take a text."""
        return self._params.pop(name, default)

    def required(self, name: str) -> str:
        """Take a text that must be there, else raise FormatError."""
        value = self._params.pop(name, "")
        if not value:
            raise self._document.error(f"a Param {name}", "none", "restore the file from a version")
        return value

    def number(self, name: str, default: float) -> float:
        """Take a number; an empty text counts as missing."""
        text = self._params.pop(name, "")
        return warp_xml.number(text, name, self._document) if text else default

    def whole(self, name: str, default: int) -> int:
        """Take a whole number."""
        return round(self.number(name, default))

    def flag(self, name: str, default: bool) -> bool:
        """Take True or False."""
        text = self._params.pop(name, "")
        return warp_xml.flag(text) if text else default

    def rest(self) -> dict[str, str]:
        """Return what nobody took."""
        return self._params


def set_params(document: XmlDocument, params: Mapping[str, str]) -> None:
    """Change the params whose values differ: ``1.350`` is the same as ``1.35``."""
    old = document.root.params
    for name, value in params.items():
        if name not in old or not _is_same(old[name], value):
            document.set_param(document.root, name, value)


def set_section(document: XmlDocument, section: str, child: str, rows: list[dict[str, str]]) -> None:
    """Put other rows, each a child with attributes, into a section, unless it has the same."""
    element = document.root.first(section)
    old = [] if element is None else [one.attributes for one in element.children]
    if element is not None and len(old) == len(rows) and all(map(_are_same, old, rows)):
        return
    lines = "".join(
        f"\t\t<{child} " + " ".join(f"{name}={quoteattr(value)}" for name, value in row.items()) + " />\n"
        for row in rows
    )
    put(document, section, f"<{section}>\n{lines}\t</{section}>")


def put(document: XmlDocument, section: str, text: str) -> None:
    """Replace an element below the root, or add it."""
    element = document.root.first(section)
    if element is None:
        document.append(document.root, text)
    else:
        document.replace(element, text)


def _are_same(old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    return all(_is_same(old.get(name, ""), value) for name, value in new.items())


def _is_same(old: str, new: str) -> bool:
    if old == new:
        return True
    try:
        return float(old) == float(new)
    except ValueError:
        return False
