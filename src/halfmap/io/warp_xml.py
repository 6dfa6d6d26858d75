"""XML as Warp and M write it: read tolerantly, changed in place, everything else kept byte for byte."""

import codecs
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from halfmap.errors import FormatError
from halfmap.io.atomic import replacing

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DIGITS = 12
"Significant digits of numbers that are written."


@dataclass(eq=False)
class XmlElement:
    """An element and where it stands in the document's text.

    Parameters
    ----------
    name, attributes, text : text without that of children.
    children : in order.
    start, tag_end, end : bytes: of its ``<``, behind its opening tag, behind the whole element.
    """

    name: str
    attributes: dict[str, str]
    start: int
    tag_end: int
    end: int = 0
    text: str = ""
    children: "list[XmlElement]" = field(default_factory=list)

    def all(self, *names: str) -> "list[XmlElement]":
        """Return the children of these names, in order."""
        return [child for child in self.children if child.name in names]

    def first(self, *names: str) -> "XmlElement | None":
        """Return the first child of one of these names."""
        return next(iter(self.all(*names)), None)

    @property
    def params(self) -> dict[str, str]:
        """Return the values of the children ``<Param Name= Value= />`` by name."""
        return {
            child.attributes.get("Name", ""): child.attributes.get("Value", "")
            for child in self.children
            if child.name == "Param"
        }


class XmlDocument:
    """A document that is read, or changed and written; a change leaves all other bytes as they were.

    Parameters
    ----------
    text : UTF-8, without mark.
    path : for messages.
    encoding, mark : how it is written.

    Raises
    ------
    FormatError
        The text is no XML, or has a document type.
    """

    def __init__(self, text: bytes, path: Path, *, encoding: str = "utf-8", mark: bytes = b"") -> None:
        self.path = path
        self._text = text
        self._encoding = encoding
        self._mark = mark
        self._edits: list[tuple[int, int, bytes]] = []
        self.root = _parsed(text, path)

    @classmethod
    def new(cls, root: str, path: str | Path) -> Self:
        """Return an empty document."""
        return cls(f'<?xml version="1.0" encoding="utf-8"?>\n<{root}>\n</{root}>\n'.encode(), Path(path))

    def error(self, expected: str, found: str, remedy: str = "") -> FormatError:
        """Return the error about this file."""
        return FormatError(self.path, expected=expected, found=found, remedy=remedy)

    def set_attribute(self, element: XmlElement, name: str, value: str) -> None:
        """Change or add an attribute of an element."""
        tag = self._text[element.start : element.tag_end]
        found = re.search(rb"\s" + name.encode() + rb"\s*=\s*(\"[^\"]*\"|'[^']*')", tag)
        if found:
            start, end = found.span(1)
            self._edit(element.start + start, element.start + end, quoteattr(value))
        else:
            at = element.tag_end - (2 if tag.endswith(b"/>") else 1)
            at -= len(self._text[element.start : at]) - len(self._text[element.start : at].rstrip())
            self._edit(at, at, f" {name}={quoteattr(value)}")

    def set_param(self, parent: XmlElement, name: str, value: str) -> None:
        """Change or add the value of a ``<Param>`` of an element."""
        for child in parent.all("Param"):
            if child.attributes.get("Name") == name:
                self.set_attribute(child, "Value", value)
                return
        self.append(parent, f"<Param Name={quoteattr(name)} Value={quoteattr(value)} />")

    def replace(self, element: XmlElement, text: str) -> None:
        """Put another text in an element's place; none takes its line away too."""
        start = element.start
        if not text:
            start = len(self._text[:start].rstrip(b" \t\r\n"))
        self._edit(start, element.end, text)

    def append(self, parent: XmlElement, text: str) -> None:
        """Add a child's text at the end of an element."""
        if self._text[parent.start : parent.end].endswith(b"/>"):
            raise self.error(f"an element <{parent.name}> with an end tag", "an empty one")
        close = self._text.rindex(b"</", parent.start, parent.end)
        at = len(self._text[:close].rstrip(b" \t\r\n"))
        depth = 1 if parent is self.root else 2
        self._edit(at, at, "\n" + "\t" * depth + text)

    def write(self, path: str | Path) -> None:
        """Write the document with all its changes."""
        with replacing(path) as temporary:
            temporary.write_bytes(self.encoded())

    def encoded(self) -> bytes:
        """Return the bytes of the changed document."""
        pieces, position = [], 0
        for start, end, text in sorted(self._edits, key=lambda edit: edit[:2]):
            pieces += [self._text[position:start], text]
            position = end
        changed = b"".join((*pieces, self._text[position:]))
        if self._encoding == "utf-8":
            return self._mark + changed
        return self._mark + changed.decode().encode(self._encoding)

    def _edit(self, start: int, end: int, text: str) -> None:
        self._edits.append((start, end, text.encode()))


def read(path: str | Path) -> XmlDocument:
    """Read a file, UTF-8 or UTF-16, with or without a mark of the byte order.

    Raises
    ------
    FormatError
        It cannot be read or is no XML.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(
            path, expected="a readable XML file", found=f"'{error.strerror}'", remedy="check the path"
        ) from error
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            body = data[len(mark) :]
            try:
                return XmlDocument(body.decode(encoding).encode(), path, encoding=encoding, mark=mark)
            except UnicodeDecodeError as error:
                raise FormatError(path, expected=f"text in {encoding}", found=str(error)) from error
    return XmlDocument(data, path)


def number(text: str, what: str, document: XmlDocument) -> float:
    """Return a number; a decimal comma counts as a point.

    Raises
    ------
    FormatError
        The text is no finite number.
    """
    try:
        value = float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise document.error(f"a number for {what}", repr(text[:60]), "mend the value, or process the item again")
    return value


def numbers(text: str, what: str, document: XmlDocument) -> list[float]:
    """Return numbers separated by ``;`` or ``,``; none of an empty text."""
    separator = ";" if ";" in text else ","
    return [number(part.strip(), what, document) for part in text.split(separator)] if text.strip() else []


def flag(text: str) -> bool:
    """Tell whether a text says true."""
    return text.strip().lower() in ("true", "1")


def lines(element: XmlElement | None) -> list[str]:
    """Return the lines of a list with one value a line; none of no element."""
    if element is None or not element.text.strip():
        return []
    return [line.strip() for line in element.text.strip().splitlines()]


def text_of_number(value: float) -> str:
    """Return a number as every version reads it: a decimal point, no exponent, 12 significant digits."""
    return np.format_float_positional(value, precision=_DIGITS, fractional=False, trim="-")


def text_of_numbers(values: Sequence[float]) -> str:
    """Return numbers separated by a comma and a space."""
    return ", ".join(map(text_of_number, values))


def text_of_flag(value: bool) -> str:
    """Return True or False."""
    return "True" if value else "False"


def text_of_lines(name: str, values: Sequence[str]) -> str:
    """Return the element of a list with one value a line."""
    return f"<{name}>" + escape("\n".join(values)) + f"</{name}>"


def text_of_params(name: str, params: Mapping[str, str]) -> str:
    """Return an element below the root that holds ``<Param>``."""
    rows = "".join(f"\t\t<Param Name={quoteattr(key)} Value={quoteattr(value)} />\n" for key, value in params.items())
    return f"<{name}>\n{rows}\t</{name}>"


def _parsed(text: bytes, path: Path) -> XmlElement:
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    root: list[XmlElement] = []
    stack: list[XmlElement] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        begin = parser.CurrentByteIndex
        element = XmlElement(name=name, attributes=attributes, start=begin, tag_end=_tag_end(text, begin))
        (stack[-1].children if stack else root).append(element)
        stack.append(element)

    def end(_: str) -> None:
        element = stack.pop()
        is_empty = text[element.tag_end - 2 : element.tag_end] == b"/>"
        element.end = element.tag_end if is_empty else text.index(b">", parser.CurrentByteIndex) + 1

    def characters(data: str) -> None:
        if stack:
            stack[-1].text += data

    def doctype(*_: object) -> None:
        raise FormatError(path, expected="XML without a document type", found="a DOCTYPE", remedy="remove it")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise FormatError(
            path,
            line=error.lineno,
            expected="XML",
            found=expat.ErrorString(error.code),
            remedy="restore the file from a version that is whole",
        ) from error
    return root[0]


def _tag_end(text: bytes, start: int) -> int:
    """Return where the tag that begins at ``start`` ends; a ``>`` in quotes does not end it."""
    match = re.compile(rb"<(?:[^>\"']|\"[^\"]*\"|'[^']*')*>").match(text, start)
    return match.end() if match else len(text)
