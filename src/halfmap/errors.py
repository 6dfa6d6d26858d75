"""Every error that halfmap raises on purpose.

A message is one sentence of the form *subject must be X; got Y; do Z*. Whoever catches
`HalfmapError` knows that the person at the keyboard can mend the cause.
"""

from pathlib import Path


class HalfmapError(Exception):
    """You can fix this: the message says what is wrong, what was found and what to do."""


class InputError(HalfmapError, ValueError):
    """A value given by the caller is outside its domain."""


class ShapeError(InputError):
    """An array has the wrong shape."""


class InconsistentDataError(HalfmapError):
    """Two inputs that belong together contradict each other."""


class FormatError(HalfmapError):
    """A file does not hold what its format promises.

    Parameters
    ----------
    path : the file.
    expected : what should be there.
    found : what is there.
    line : 1-based line number, for text files.
    remedy : what to do about it.
    """

    def __init__(
        self, path: str | Path, *, expected: str, found: str, line: int | None = None, remedy: str = ""
    ) -> None:
        self.path = Path(path)
        self.line = line
        self.expected = expected
        self.found = found
        self.remedy = remedy
        where = f"{path}, line {line}" if line is not None else str(path)
        message = f"{where}: expected {expected}; found {found}"
        super().__init__(f"{message}; {remedy}" if remedy else message)

    def __reduce__(self) -> tuple[object, ...]:
        return (_format_error, (self.path, self.expected, self.found, self.line, self.remedy))


def _format_error(path: Path, expected: str, found: str, line: int | None, remedy: str) -> FormatError:
    return FormatError(path, expected=expected, found=found, line=line, remedy=remedy)


class ProjectError(HalfmapError):
    """The project folder or a job folder is not in the state that the command needs."""


class JobFailed(HalfmapError):  # noqa: N818 - the name that users meet in markers and logs
    """A job ended without its result."""


class ComputeError(HalfmapError, RuntimeError):
    """A device, a worker or the memory gave out."""
