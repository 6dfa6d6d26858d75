"""Which rows of a table belong to a subset: by number, by value, by image statistics."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from halfmap import keyed_random
from halfmap.errors import InputError

if TYPE_CHECKING:
    from halfmap.data.image_source import ImageSource


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Rows of each subset, and of the rest that fits in none. Each is an int64 array of row numbers."""

    subsets: tuple[np.ndarray, ...]
    rest: np.ndarray


def split(n_rows: int, *, size: int | None, number: int | None, shuffle: bool, seed: int) -> Split:
    """Cut rows into contiguous blocks.

    Parameters
    ----------
    n_rows : rows to be split.
    size : rows in a subset; ceil(n / number) where None.
    number : number of subsets; ceil(n / size) where None.
    shuffle : permute the rows first.
    seed : of the permutation.

    Raises
    ------
    InputError
        Neither size nor number is given, or there are fewer rows than subsets.

    Notes
    -----
    With both given, ``number`` subsets of ``size`` rows are made, as RELION's star handler does; what it
    drops without a word is the ``rest`` here.
    """
    if size is None and number is None:
        raise InputError("select split must be told a size or a number; got neither; add --size or --number.")
    if size is None:
        size = -(-n_rows // (number or 1))
    if number is None:
        number = -(-n_rows // size)
    if n_rows < number:
        raise InputError(f"--number must not exceed the {n_rows} rows there are; got {number}; ask for fewer subsets.")
    order = keyed_random.permutation(seed, "select split", n_rows) if shuffle else np.arange(n_rows)
    subsets = tuple(order[i * size : (i + 1) * size] for i in range(number))
    return Split(subsets=tuple(s for s in subsets if len(s)), rest=order[number * size :])


def within(values: np.ndarray, *, minimum: float | None, maximum: float | None) -> np.ndarray:
    """Return which values lie between two limits, both included; NaN never does.

    Raises
    ------
    InputError
        Neither limit is given.
    """
    if minimum is None and maximum is None:
        raise InputError("select values must be told a limit; got none; add --min, --max or both.")
    keep = ~np.isnan(values)
    if minimum is not None:
        keep &= values >= minimum
    if maximum is not None:
        keep &= values <= maximum
    return keep


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageStatistics:
    """Mean and standard deviation of each image, float64, shape (n,)."""

    mean: np.ndarray
    deviation: np.ndarray


def image_statistics(source: "ImageSource", indices: np.ndarray) -> ImageStatistics:
    """Measure images of a source in float64."""
    images = source.read(indices)
    return ImageStatistics(
        mean=images.mean(axis=(1, 2), dtype=np.float64), deviation=images.std(axis=(1, 2), dtype=np.float64)
    )


def ordinary(statistics: ImageStatistics, *, sigma: float) -> np.ndarray:
    """Return which images have a mean and a deviation within ``sigma`` ensemble deviations of the ensemble's.

    Notes
    -----
    RELION's `discard_on_image_stats`, both tests strict. Images whose statistics are not finite never pass.
    """
    keep = np.ones(len(statistics.mean), dtype=bool)
    for values in (statistics.mean, statistics.deviation):
        finite = np.isfinite(values)
        spread = values[finite].std()
        keep &= finite
        keep[finite] &= np.abs(values[finite] - values[finite].mean()) <= sigma * spread
    return keep
