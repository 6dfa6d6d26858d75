"""Values of blocks: checked when a block is made, plain when it is written as JSON."""

import dataclasses
import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.errors import ShapeError
from halfmap.report.pictures import Picture

Vector: TypeAlias = NDArray[np.float64]


def to_plain(value: Any) -> Any:
    """Return dataclasses, arrays and pictures as what JSON knows; what is not finite becomes None."""
    if isinstance(value, Picture):
        return {"kind": "picture", "source": value.source, "shape": list(value.shape)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__.lower(), **fields}
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def as_vectors(block: Any, *names: str) -> None:
    """Make fields of a block float64 vectors of one length, or raise `ShapeError`."""
    lengths = set()
    for name in names:
        vector = np.asarray(getattr(block, name), dtype=np.float64)
        if vector.ndim != 1:
            raise ShapeError(f"{type(block).__name__} must have {name} of shape (n,); got {vector.shape}.")
        lengths.add(len(vector))
        object.__setattr__(block, name, vector)
    if len(lengths) > 1:
        raise ShapeError(f"{type(block).__name__} must have as many {' as '.join(names)}; got {sorted(lengths)}.")


def checked_points(given: ArrayLike) -> Vector:
    """Return points as float64, shape (n, 2), or raise `ShapeError`."""
    points = np.asarray(given, dtype=np.float64)
    points = points.reshape(0, 2) if points.size == 0 else points
    if points.ndim != 2 or points.shape[1] != 2:
        raise ShapeError(f"Points must have shape (n, 2); got {points.shape}.")
    return points


def finite_values(values: ArrayLike) -> Vector:
    """Return what is finite, as a float64 vector."""
    vector = np.asarray(values, dtype=np.float64).ravel()
    return vector[np.isfinite(vector)]


def histogram_edges(values: Vector, limits: tuple[float | None, float | None], bins: int | None) -> Vector:
    """Return edges between the limits, or the values' own; without ``bins`` by the Freedman-Diaconis rule."""
    low = limits[0] if limits[0] is not None else (float(values.min()) if len(values) else 0.0)
    high = limits[1] if limits[1] is not None else (float(values.max()) if len(values) else 1.0)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    if bins is None:
        spread = float(np.subtract(*np.percentile(values, (75, 25)))) if len(values) else 0.0
        width = 2 * spread / max(len(values), 1) ** (1 / 3)
        bins = int(np.clip(math.ceil((high - low) / width) if width > 0 else 30, 5, 80))
    edges: Vector = np.linspace(low, high, bins + 1)
    return edges
