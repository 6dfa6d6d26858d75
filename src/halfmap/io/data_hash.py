"""Hashes by which M tells data and versions apart: 27 characters, or their first 8."""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.population import SpeciesParticles
from halfmap.errors import FormatError

_HASHED_BYTES = 512 * 1024
_VERSION_OF_SPECIES = 8
_NOT_HASHED = ("name", "further")


def text_of_hash(data: bytes) -> str:
    """Return SHA-1 of bytes as M writes it: 27 characters, Base64 with ``-`` and ``_`` for ``/`` and ``+``."""
    return b64encode(hashlib.sha1(data, usedforsecurity=False).digest(), altchars=b"_-").decode().rstrip("=")


def content_hash(path: Path) -> str:
    """Return the hash of all that a file holds."""
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.sha1(usedforsecurity=False)).digest()
    return b64encode(digest, altchars=b"_-").decode().rstrip("=")


def data_hash(name: str, path: str | Path) -> str:
    """Return the hash that links particles to an item: of its name and of the beginning of its raw data.

    Parameters
    ----------
    name : the item's, without folder and suffix: of a tilt series that of its tomostar.
    path : raw data, of a tilt series the movie of the first tilt in its list.

    Raises
    ------
    FormatError
        The data cannot be read.

    References
    ----------
    Warp and M 2.0: SHA-1 of the name in UTF-16 and the first 512 KiB.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            beginning = stream.read(_HASHED_BYTES)
    except OSError as error:
        raise FormatError(
            path,
            expected="readable raw data, whose hash links particles to it",
            found=f"'{error.strerror}'",
            remedy="put the raw data where its metadata says it is",
        ) from error
    return text_of_hash(name.encode("utf-16-le") + beginning)


def version_of_species(
    particles: SpeciesParticles, maps: Iterable[NDArray[np.float32]], used_sources: Mapping[str, str]
) -> str:
    """Return the 8 characters of a species' version.

    Parameters
    ----------
    particles : their positions and rotations count.
    maps : both half-maps and the mask, in this order.
    used_sources : versions by GUID.

    Notes
    -----
    As in M the version changes if and only if one of these does; the characters are halfmap's own.
    """
    pieces = [f"{guid}{version}" for guid, version in used_sources.items()]
    arrays: tuple[NDArray, ...] = (particles.position_angstrom, particles.rotation, *maps)
    pieces += [text_of_hash(_bytes(array)) for array in arrays]
    return text_of_hash("".join(pieces).encode("utf-16-le"))[:_VERSION_OF_SPECIES]


def version_of_source(items: Iterable[TiltSeries | FrameSeries | bytes], used_species: Mapping[str, str]) -> str:
    """Return the 27 characters of a data source's version: of all its items' metadata and of the species it used.

    Parameters
    ----------
    items : metadata; bytes of a file of them that cannot be read.
    used_species : versions by GUID.

    Notes
    -----
    As for species: it changes if and only if these do, and its characters are halfmap's own.
    """
    pieces = [text_of_hash(one) if isinstance(one, bytes) else processing_hash(one) for one in items]
    pieces += [f"{guid}{version}" for guid, version in used_species.items()]
    return text_of_hash("".join(pieces).encode("utf-16-le"))


def processing_hash(series: TiltSeries | FrameSeries) -> str:
    """Return a hash of all numbers of a series: geometry, optics, weights and grids, not of its name."""
    return text_of_hash(b"".join(_parts(series)))


def _parts(value: object) -> Iterable[bytes]:
    if is_dataclass(value):
        for field in fields(value):
            if field.name not in _NOT_HASHED:
                yield field.name.encode()
                yield from _parts(getattr(value, field.name))
    elif isinstance(value, tuple):
        for one in value:
            yield from _parts(one)
    elif isinstance(value, Tensor | np.ndarray):
        array = np.asarray(value)
        yield repr(array.shape).encode() + _bytes(array)
    else:
        yield repr(value).encode()


def _bytes(array: NDArray) -> bytes:
    """Return an array as M keeps numbers, in single precision."""
    return np.ascontiguousarray(array, dtype="<f4").tobytes()
