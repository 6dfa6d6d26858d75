"""Identity of particles: a positive 63-bit integer that survives files, selections and re-extraction."""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_POSITIVE = np.uint64(2**63 - 1)


def uids_of_keys(keys: Iterable[str]) -> NDArray[np.int64]:
    """Hash texts to positive 63-bit integers; equal texts differ by the count of their occurrence.

    Parameters
    ----------
    keys : one text for each row.

    Returns
    -------
    Shape (n,), all at least 1.

    Notes
    -----
    The first 8 bytes, little-endian, of BLAKE2b of ``key + NUL + k`` (k from 0), without the sign bit.
    """
    seen: dict[str, int] = {}
    digests = []
    for key in keys:
        occurrence = seen.get(key, 0)
        seen[key] = occurrence + 1
        digests.append(blake2b(f"{key}\0{occurrence}".encode(), digest_size=8).digest())
    hashed = np.frombuffer(b"".join(digests), dtype="<u8") & _POSITIVE
    return np.maximum(hashed, 1).astype(np.int64)


def uids_of_image_names(image_name: NDArray) -> NDArray[np.int64]:
    """Return the uids of images named ``000001@stack.mrcs``; leading zeros do not count."""
    return uids_of_keys(str(name).lstrip("0") if "@" in str(name) else str(name) for name in image_name)


def uids_of_positions(micrograph_name: NDArray, position_pixel: NDArray) -> NDArray[np.int64]:
    """Return the uids of positions in micrographs, told apart to 0.01 px.

    Parameters
    ----------
    micrograph_name : shape (n,).
    position_pixel : shape (n, 2) or (n, 3), in pixels of the micrograph.
    """
    hundredths = np.rint(np.asarray(position_pixel, dtype=np.float64) * 100).astype(np.int64).tolist()
    return uids_of_keys(
        "\0".join((str(name), *map(str, row))) for name, row in zip(micrograph_name, hundredths, strict=True)
    )
