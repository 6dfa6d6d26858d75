"""From the bytes of a STAR file to its tables, checked line by line.

Rows without quotes and comments are split many at a time; anything else, and any fault, is looked at
line by line, so that the message can name it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import FormatError
from halfmap.io.star_tables import Comment, StarFile, StarTable, as_strings, bare_label, compact_text

_SMALLEST_CHUNK_BYTES = 1 << 16
_LARGEST_CHUNK_BYTES = 1 << 23
_SPACES = np.zeros(256, dtype=bool)
_SPACES[[9, 10, 11, 12, 13, 32]] = True
_MAY_END_ROWS = np.zeros(256, dtype=bool)
_MAY_END_ROWS[list(b"_#;dDlL")] = True
_QUOTES_OR_COMMENTS = re.compile(rb"[\"'#]")
_TOKEN = re.compile(
    r"""\s*(?:'((?:[^']|'(?=\S))*)'(?=\s|$)"""  # quoted; the quote closes before white space or the end
    r"""|"((?:[^"]|"(?=\S))*)"(?=\s|$)"""
    r"""|(\#.*)"""
    r"""|(\S+))""",
    re.ASCII,  # other spaces, such as the one that does not break, belong to a value
)
_ASCII_SPACES = " \t\r\v\f"


def parse(data: bytes, path: Path | None = None) -> StarFile:
    """Parse the bytes of a STAR file; ``path`` is for messages."""
    return _Parser(data, path).parse()


class _Parser:
    def __init__(self, data: bytes, path: Path | None) -> None:
        self.data = data.removeprefix(b"\xef\xbb\xbf")
        self.path = path
        self.offset = 0
        self.line = 0
        self.tables: list[StarTable] = []
        self.pending: list[str] = []  # comment lines whose owner has not come yet

    def parse(self) -> StarFile:
        name: str | None = None
        header: list[Comment] = []
        opens = True
        names: dict[str, int] = {}
        while (text := self._next_line()) is not None:
            tokens, comment = self._tokens(text)
            if not tokens:
                if comment:
                    self.pending.append(comment)
                continue
            first = "" if _is_quoted(text) else tokens[0]
            if _is_header(first, tokens):
                if name is not None and opens:
                    self._add(name, {}, header, is_loop=False, lines=[])
                header, opens, name = self._place("block", comment), True, first[5:]
                if name in names:
                    raise self._error(
                        "each block name once", f"data_{name} again, first on line {names[name]}", "rename one of them"
                    )
                names[name] = self.line
            elif name is None:
                raise self._error(
                    "a block that begins with data_", repr(_shorten(text)), "is this a STAR file? put data_ before it"
                )
            elif first.lower() == "loop_":
                header += self._place("loop", comment)
                self._loop(name, header, opens, tokens)
                header, opens = [], False
            elif first.startswith("_"):
                self._list(name, header, opens, text)
                header, opens = [], False
            else:
                raise self._error("a label, loop_ or data_", repr(_shorten(text)), "values need loop_ and labels first")
        if name is not None and opens:
            self._add(name, {}, header, is_loop=False, lines=[])
        if not self.tables:
            raise self._error("a block that begins with data_", "none", "is this a STAR file?")
        return StarFile(tables=tuple(self.tables), path=self.path, closing_comments=tuple(self.pending))

    def _next_line(self) -> str | None:
        if self.offset >= len(self.data):
            return None
        end = self.data.find(b"\n", self.offset)
        end = len(self.data) if end < 0 else end
        raw = self.data[self.offset : end]
        self.offset = end + 1
        self.line += 1
        return self._decode(raw)

    def _push_back(self, text: str) -> None:
        self.offset = self.data.rfind(b"\n", 0, min(self.offset, len(self.data) + 1) - 1) + 1
        self.line -= 1

    def _decode(self, raw: bytes) -> str:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self._error("text in UTF-8", repr(_shorten(repr(raw))), "is this a STAR file?") from None
        if "\0" in text:
            raise self._error("text", "a null byte", "is this a STAR file?")
        return text

    def _tokens(self, text: str) -> tuple[list[str], str]:
        """Return a line's values and its comment ('' if none)."""
        if "'" not in text and '"' not in text and "#" not in text:
            if text[:1] == ";":
                raise self._error("a value on one line", "a text of several lines", "put it on one line, in quotes")
            return [token.decode() for token in text.encode().split()], ""
        if text[:1] == ";":
            raise self._error("a value on one line", "a text of several lines", "put it on one line, in quotes")
        tokens: list[str] = []
        position, text = 0, text.rstrip(_ASCII_SPACES)
        while position < len(text):
            match = _TOKEN.match(text, position)
            assert match is not None
            if match[3] is not None:
                return tokens, match[3]
            if match[4] is not None:
                if match[4][0] in "'\"":
                    raise self._error("a closing quote", repr(_shorten(match[4])), "close the quote")
                tokens.append(match[4])
            else:
                tokens.append(match[1] if match[1] is not None else match[2])
            position = match.end()
        return tokens, ""

    def _place(self, place: Literal["block", "loop", "label", "row"], inline: str, index: int = 0) -> list[Comment]:
        comments = [Comment(text=text, place=place, index=index) for text in self.pending]
        self.pending = []
        if inline:
            comments.append(Comment(text=inline, place=place, index=index, inline=True))
        return comments

    def _loop(self, name: str, comments: list[Comment], opens: bool, first: list[str]) -> None:
        if len(first) > 1:
            raise self._error("loop_ alone on its line", repr(" ".join(first)), "put the labels on lines of their own")
        start = self.line
        labels: dict[str, int] = {}
        label_comments: list[Comment] = []
        while (text := self._next_line()) is not None:
            tokens, comment = self._tokens(text)
            if not tokens:
                if comment:
                    self.pending.append(comment)
                continue
            if _is_quoted(text) or not tokens[0].startswith("_"):
                self._push_back(text)
                break
            if len(tokens) > 1:
                raise self._error("one label on its line", repr(_shorten(text)), "a loop's values follow its labels")
            self._new_label(labels, tokens[0])
            label_comments += self._place("label", comment, len(labels) - 1)
        if not labels:
            self.line = start
            raise self._error("labels after loop_", "none", "add the labels, each on a line")
        # comments between labels and rows wait in `pending` and go to the first row, or to the next block
        numbers = {comment.index: comment.text for comment in label_comments if comment.inline}
        numbered = len(numbers) == len(labels) and all(text == f"#{i + 1}" for i, text in numbers.items())
        if numbered:
            label_comments = [comment for comment in label_comments if not comment.inline]
        columns, lines, row_comments = self._rows(list(labels))
        self._add(
            name,
            columns,
            comments + label_comments + row_comments,
            is_loop=True,
            numbered=numbered,
            opens=opens,
            lines=lines,
        )

    def _list(self, name: str, comments: list[Comment], opens: bool, text: str | None) -> None:
        labels: dict[str, int] = {}
        values: list[str] = []
        lines: list[int] = []
        while text is not None:
            tokens, comment = self._tokens(text)
            if not tokens:
                if comment:
                    self.pending.append(comment)
            elif _is_quoted(text) or not tokens[0].startswith("_"):
                self._push_back(text)
                break
            elif len(tokens) != 2:
                raise self._error(
                    "a label and its value",
                    repr(_shorten(text)),
                    "quote values with spaces, write an empty value as ''",
                )
            else:
                self._new_label(labels, tokens[0])
                values.append(tokens[1])
                lines.append(self.line)
                comments = comments + self._place("label", comment, len(labels) - 1)
            text = self._next_line()
        columns = {label: compact_text([value]) for label, value in zip(labels, values, strict=True)}
        self._add(name, columns, comments, is_loop=False, numbered=False, opens=opens, lines=lines[:1])

    def _new_label(self, labels: dict[str, int], label: str) -> None:
        label = bare_label(label)
        if label in labels:
            raise self._error(
                "each label once in a table", f"_{label} again, first on line {labels[label]}", "remove one of them"
            )
        labels[label] = self.line

    def _rows(self, labels: list[str]) -> tuple[dict[str, NDArray], NDArray[np.int64], list[Comment]]:
        parts: list[list[NDArray]] = []
        lines: list[NDArray[np.int64]] = []
        comments: list[Comment] = []
        n_rows = 0
        ended = False
        size = _SMALLEST_CHUNK_BYTES
        while not ended and self.offset < len(self.data):
            chunk = self._chunk(size)
            columns, chunk_lines, ended = self._fast_rows(chunk, labels)
            if columns is None:
                size = _SMALLEST_CHUNK_BYTES
                columns, chunk_lines, ended = self._exact_rows(self._chunk(size), labels, comments, n_rows)
            else:
                size = min(2 * size, _LARGEST_CHUNK_BYTES)
                if len(chunk_lines):
                    comments += self._place("row", "", n_rows)
            if len(chunk_lines):
                parts.append(columns)
                lines.append(chunk_lines)
                n_rows += len(chunk_lines)
        if not parts:
            return {label: np.zeros(0, dtype="S1") for label in labels}, np.zeros(0, dtype=np.int64), comments
        joined = {}
        for number, label in enumerate(labels):
            pieces = [part[number] for part in parts]
            if len({piece.dtype.kind for piece in pieces}) > 1:
                pieces = [as_strings(piece) for piece in pieces]
            joined[label] = np.concatenate(pieces)
        return joined, np.concatenate(lines), comments

    def _chunk(self, size: int) -> bytes:
        """Return about ``size`` bytes from here on, up to the end of a line."""
        if len(self.data) - self.offset <= size:
            return self.data[self.offset :]
        end = self.data.rfind(b"\n", self.offset, self.offset + size) + 1
        end = end or self.data.find(b"\n", self.offset) + 1 or len(self.data)
        return self.data[self.offset : end]

    def _fast_rows(self, chunk: bytes, labels: list[str]) -> tuple[list[NDArray] | None, NDArray[np.int64], bool]:
        """Split a chunk of plain rows at once; return None where it is not plain (quotes, comments, errors)."""
        codes = np.frombuffer(chunk, dtype=np.uint8)
        space = _SPACES[codes]
        starts = np.flatnonzero(~space & np.concatenate(([True], space[:-1])))
        breaks = np.flatnonzero(codes == 10)
        if not len(breaks) or breaks[-1] != len(codes) - 1:
            breaks = np.append(breaks, len(codes))
        first_token = np.concatenate(([0], np.searchsorted(starts, breaks)))
        per_line = np.diff(first_token)
        filled = np.flatnonzero(per_line)
        heads = starts[first_token[:-1][filled]]
        end_of_rows = len(chunk)
        ended = False
        for candidate in np.flatnonzero(_MAY_END_ROWS[codes[heads]]):
            line_end = int(breaks[filled[candidate]])
            tokens = chunk[int(heads[candidate]) : line_end].split(None, 2)
            if tokens[0][:1] in b"#;":
                return None, breaks, False
            if _ends_rows(tokens[0], len(tokens) == 1 or tokens[1][:1] == b"#"):
                line = int(filled[candidate])
                end_of_rows = int(breaks[line - 1]) + 1 if line else 0
                filled, ended = filled[:candidate], True
                break
        if np.any(per_line[filled] != len(labels)):
            return None, breaks, False
        if end_of_rows < len(chunk):
            chunk = chunk[:end_of_rows]
        if b"\0" in chunk or not chunk.isascii() or _QUOTES_OR_COMMENTS.search(chunk):
            return None, breaks, False
        lines = self.line + 1 + filled
        tokens = chunk.split()
        columns = [np.array(tokens[number :: len(labels)], dtype="S") for number in range(len(labels))]
        self.offset += end_of_rows
        self.line += chunk.count(b"\n") + (not chunk.endswith(b"\n") and bool(chunk))
        return columns, lines, ended

    def _exact_rows(
        self, chunk: bytes, labels: list[str], comments: list[Comment], n_before: int
    ) -> tuple[list[NDArray], NDArray[np.int64], bool]:
        rows: list[list[str]] = []
        lines: list[int] = []
        stop = self.offset + len(chunk)
        ended = False
        while self.offset < stop and (text := self._next_line()) is not None:
            tokens, comment = self._tokens(text)
            if not tokens:
                if comment:
                    self.pending.append(comment)
                continue
            if not _is_quoted(text) and _ends_rows(tokens[0].encode(), len(tokens) == 1):
                self._push_back(text)
                ended = True
                break
            if len(tokens) != len(labels):
                kind = "short" if len(tokens) < len(labels) else "long"
                last = f"; the last value is {_shorten(tokens[-1])!r}"
                raise self._error(
                    f"{len(labels)} values, one for each label of the loop",
                    f"{len(tokens)} ({kind} row{last})",
                    "restore the row, or remove it; quote values that contain spaces",
                )
            comments += self._place("row", comment, n_before + len(rows))
            rows.append(tokens)
            lines.append(self.line)
        columns = [compact_text([row[number] for row in rows]) for number in range(len(labels))]
        return columns, np.array(lines, dtype=np.int64), ended

    def _add(
        self,
        name: str,
        columns: Mapping[str, NDArray],
        comments: list[Comment],
        *,
        is_loop: bool,
        lines: "NDArray[np.int64] | list[int]",
        numbered: bool = False,
        opens: bool = True,
    ) -> None:
        self.tables.append(
            StarTable(
                name=name,
                columns=columns,
                is_loop=is_loop,
                numbered=numbered,
                comments=tuple(comments),
                opens_block=opens,
                path=self.path,
                lines=np.asarray(lines, dtype=np.int64),
            )
        )

    def _error(self, expected: str, found: str, remedy: str) -> FormatError:
        return FormatError(self.path or "STAR text", expected=expected, found=found, line=self.line, remedy=remedy)


def _is_header(first: str, tokens: list[str]) -> bool:
    return len(tokens) == 1 and first[:5].lower() == "data_"


def _is_quoted(text: str) -> bool:
    """Whether a line begins with a quoted value, which is never a keyword or a label."""
    return text.lstrip(_ASCII_SPACES)[:1] in ("'", '"')


def _ends_rows(first: bytes, alone: bool) -> bool:
    """Whether a line with that first token is no row; a path such as data_2020/a.mrc begins one."""
    return first[:1] == b"_" or (alone and (first[:5].lower() == b"data_" or first.lower() == b"loop_"))


def _shorten(text: str, limit: int = 60) -> str:
    text = text.strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"
