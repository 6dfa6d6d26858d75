"""Tables of text for the terminal."""

from collections.abc import Iterator, Sequence


def aligned(rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Yield rows as lines, each column as wide as its longest entry."""
    texts = [[str(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    for row in texts:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
