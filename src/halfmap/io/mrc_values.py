"""Values of MRC files: sections as stored, values made ready to store, and the statistics of what went by."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import FormatError, InputError
from halfmap.io.mrc_header import PACKED_MODE, MrcHeader

_LARGEST_FLOAT16 = 65504.0


def finite_or_reason(values: NDArray[Any]) -> str | None:
    """Return None if all values are finite, else how many are not and where the first one lies."""
    finite = np.isfinite(values)
    if finite.all():
        return None
    first = tuple(int(place) for place in np.argwhere(~finite)[0])
    axes = ", ".join("zyx"[-values.ndim :])
    return (
        f"{finite.size - np.count_nonzero(finite)} of {finite.size} values are NaN or infinite, "
        f"the first at ({axes}) = {first}"
    )


def read_sections(header: MrcHeader, sections: NDArray[np.int64]) -> NDArray[Any]:
    """Read whole stored sections in the file's own type; neighbours are read together.

    Parameters
    ----------
    header : the file's header.
    sections : rising 0-based numbers of stored sections, at least one.

    Returns
    -------
    Shape (n, rows, columns); mode 101 is unpacked to one byte a value, low nibble first.

    Raises
    ------
    FormatError
        The file has become shorter since its header was read.
    """
    _, rows, columns = header.stored_shape
    per_section = header.section_bytes // header.dtype.itemsize
    raw = np.empty((len(sections), per_section), dtype=header.dtype)
    starts = np.flatnonzero(np.diff(sections, prepend=sections[0] - 2) != 1)
    with open(header.path, "rb") as stream:
        for start, stop in zip(starts, [*starts[1:], len(sections)], strict=True):
            stream.seek(header.data_offset + int(sections[start]) * header.section_bytes)
            if stream.readinto(raw[start:stop].view(np.uint8).data) < (stop - start) * header.section_bytes:
                raise FormatError(
                    header.path,
                    expected=f"{header.expected_bytes} bytes",
                    found=f"{header.path.stat().st_size} bytes",
                    remedy="the file became shorter while it was read: copy or write it again",
                )
    if header.mode == PACKED_MODE:
        packed = raw.reshape(len(sections), rows, header.row_bytes)
        return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(sections), rows, -1)[:, :, :columns]
    return raw.reshape(len(sections), rows, columns)


def refuse_complex(header: MrcHeader) -> None:
    """Raise `FormatError` if the file holds a transform."""
    if header.dtype.kind == "c":
        raise FormatError(
            header.path,
            expected="real values",
            found="a transform (mode 4)",
            remedy="transform it back in the program that wrote it",
        )


def as_stored(path: str | Path, values: NDArray[Any], float16: bool) -> NDArray[Any]:
    """Return values as little-endian float32 or float16.

    Raises
    ------
    InputError
        The values are not real numbers, or too large for float16.
    """
    if values.dtype.kind not in "fiub":
        raise InputError(f"Values written to {path} must be real numbers; got {values.dtype}; convert them.")
    if not float16:
        return np.ascontiguousarray(values, dtype="<f4")
    largest = float(np.abs(values).max(initial=0.0))
    if largest > _LARGEST_FLOAT16 and math.isfinite(largest):
        raise InputError(
            f"Values written to {path} as float16 must not exceed {_LARGEST_FLOAT16:g}; got {largest:g}; "
            "write float32 with --no-float16."
        )
    return np.ascontiguousarray(values, dtype="<f2")


_SUMMED_AT_ONCE = 2**18  # few enough values for the cache


@dataclass(slots=True)
class RunningStatistics:
    """Minimum, maximum, mean and sum of squared deviations of all values seen so far.

    Blockwise sums in float64 are combined by the update of Chan, Golub and LeVeque (1983).
    """

    count: int = 0
    mean: float = 0.0
    squared_deviations: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf

    def add(self, values: NDArray[Any]) -> None:
        """Add arrays along the first axis, each summed in its own precision: float64, else float32."""
        values = values.reshape(len(values), -1)
        at_once = max(1, _SUMMED_AT_ONCE // max(1, values.shape[1]))
        for start in range(0, len(values), at_once):
            block = values[start : start + at_once]
            block = block.astype(np.float64 if block.dtype == np.float64 else np.float32, copy=False)
            # Row by row, so that no block changes the sums; about the mean, and once more: within an image float32 is
            # enough then, whatever the pedestal.
            rough = block.mean(axis=1)
            deviations = block - rough[:, np.newaxis]
            corrections = deviations.mean(axis=1).astype(np.float64)
            squares = np.einsum("ij,ij->i", deviations, deviations).astype(np.float64)
            size = block.shape[1]
            for mean, square in zip(rough + corrections, squares - size * corrections**2, strict=True):
                total = self.count + size
                difference = float(mean) - self.mean
                self.squared_deviations += max(0.0, float(square)) + difference**2 * self.count * size / total
                self.mean += difference * size / total
                self.count = total
            self.minimum = min(self.minimum, float(block.min()))
            self.maximum = max(self.maximum, float(block.max()))

    def as_tuple(self) -> tuple[float, float, float, float]:
        """Return minimum, maximum, mean and rms deviation from the mean."""
        return (self.minimum, self.maximum, self.mean, math.sqrt(self.squared_deviations / max(self.count, 1)))
