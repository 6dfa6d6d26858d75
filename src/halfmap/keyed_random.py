"""Counter-based random numbers: a value depends on what it is for, never on when it was drawn.

Each value is a function of (seed, purpose, uid, iteration, draw) and of its place in the item's own
array. Order of the uids, chunking, worker count and other draws have no influence, so a run gives
the same numbers on one core and on a cluster.
"""

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from halfmap.errors import InputError

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW_WORD = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)
_BLOCKS_AT_ONCE = 1 << 15
_FIELD = 1 << 16


def philox(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Encrypt counters with Philox 4x32-10.

    Parameters
    ----------
    counter : shape (4, ...)
        Four 32-bit words for each block.
    key : two 32-bit words.

    Returns
    -------
    shape (4, ...)
        Four independent uniform 32-bit words for each block.

    References
    ----------
    Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3.
    """
    words = [np.asarray(word, dtype=np.uint64) for word in counter]
    k0, k1 = key
    for _ in range(_ROUNDS):
        first = words[0] * _MULTIPLIERS[0]
        second = words[2] * _MULTIPLIERS[1]
        words = [
            (second >> _WORD) ^ words[1] ^ np.uint64(k0),
            second & _LOW_WORD,
            (first >> _WORD) ^ words[3] ^ np.uint64(k1),
            first & _LOW_WORD,
        ]
        k0 = (k0 + _KEY_STEPS[0]) & 0xFFFFFFFF
        k1 = (k1 + _KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack(words).astype(np.uint32)


def normal(
    seed: int,
    purpose: str,
    uid: ArrayLike,
    *,
    iteration: int = 0,
    draw: ArrayLike = 0,
    size: int | tuple[int, ...] = (),
) -> NDArray[np.float64]:
    """Draw standard normal values.

    Parameters
    ----------
    seed : the run's seed, any integer.
    purpose : what the numbers are for; two purposes never share a value.
    uid : integers in [0, 2⁶³), any shape
        The items (particles, micrographs) that get the values.
    iteration : 0 to 65,535.
    draw : 0 to 65,535, broadcast against ``uid``
        Tells several draws of one purpose and iteration apart (for example a tilt index).
    size : shape of the values of each item
        A smaller size gives the leading values of a larger one, in C order.

    Returns
    -------
    float64, shape (*uid.shape, *size)

    Raises
    ------
    InputError
        A uid, iteration or draw outside its domain.

    Notes
    -----
    Box–Muller on pairs of 32-bit words; no value exceeds 6.8 in magnitude.
    """
    shape, uids, draws, count = _layout(uid, draw, size)
    out = np.empty((uids.size, -(-count // 4) * 4))
    for rows, blocks, words in _words(seed, purpose, uids, iteration, draws, -(-count // 4)):
        uniform_words = (words + 0.5) * 2.0**-32
        radius = np.sqrt(-2.0 * np.log(uniform_words[0::2]))
        angle = (2.0 * math.pi) * uniform_words[1::2]
        values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        out[rows, blocks.start * 4 : blocks.stop * 4] = np.moveaxis(values, 0, -1).reshape(values.shape[1], -1)
    return np.ascontiguousarray(out[:, :count]).reshape(shape)


def uniform(
    seed: int,
    purpose: str,
    uid: ArrayLike,
    *,
    iteration: int = 0,
    draw: ArrayLike = 0,
    size: int | tuple[int, ...] = (),
) -> NDArray[np.float64]:
    """Draw values uniform in [0, 1) with 53 bits; parameters as for `normal`."""
    long_words = _long_words(seed, purpose, uid, iteration, draw, size)
    return (long_words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(
    low: int,
    high: int,
    seed: int,
    purpose: str,
    uid: ArrayLike,
    *,
    iteration: int = 0,
    draw: ArrayLike = 0,
    size: int | tuple[int, ...] = (),
) -> NDArray[np.int64]:
    """Draw integers from ``low`` up to, not including, ``high``; other parameters as for `normal`.

    Raises
    ------
    InputError
        The range is empty.

    Notes
    -----
    64-bit words modulo the range: probabilities are equal within range / 2⁶⁴.
    """
    if high <= low:
        raise InputError(f"The upper bound must exceed the lower; got {low} to {high}.")
    long_words = _long_words(seed, purpose, uid, iteration, draw, size)
    return (long_words % np.uint64(high - low)).astype(np.int64) + low


def permutation(seed: int, purpose: str, n: int, *, iteration: int = 0) -> NDArray[np.int64]:
    """Return the numbers 0 to n − 1 in random order, shape (n,)."""
    order = _long_words(seed, purpose, np.arange(n), iteration, 0, ())
    return np.argsort(order, kind="stable").astype(np.int64)


def order(seed: int, purpose: str, uid: ArrayLike, *, iteration: int = 0) -> NDArray[np.int64]:
    """Return the rows of items in a random order that depends on their uids alone, shape (n,)."""
    uids = np.asarray(uid)
    return np.lexsort((uids, uniform(seed, purpose, uids, iteration=iteration))).astype(np.int64)


def parts(seed: int, purpose: str, uid: ArrayLike, n_parts: int) -> NDArray[np.int64]:
    """Return the number, from 0, of the part that each item is drawn into, shape (n,); parts are equally large."""
    rows = order(seed, purpose, uid)
    found = np.empty(len(rows), dtype=np.int64)
    found[rows] = np.arange(len(rows)) % n_parts
    return found


def _long_words(
    seed: int, purpose: str, uid: ArrayLike, iteration: int, draw: ArrayLike, size: int | tuple[int, ...]
) -> NDArray[np.uint64]:
    shape, uids, draws, count = _layout(uid, draw, size)
    out = np.empty((uids.size, -(-count // 2) * 2), dtype=np.uint64)
    for rows, blocks, words in _words(seed, purpose, uids, iteration, draws, -(-count // 2)):
        pairs = (words[0::2].astype(np.uint64) << _WORD) | words[1::2].astype(np.uint64)
        out[rows, blocks.start * 2 : blocks.stop * 2] = np.moveaxis(pairs, 0, -1).reshape(pairs.shape[1], -1)
    return np.ascontiguousarray(out[:, :count]).reshape(shape)


def _layout(
    uid: ArrayLike, draw: ArrayLike, size: int | tuple[int, ...]
) -> tuple[tuple[int, ...], NDArray[np.int64], NDArray[np.int64], int]:
    item_shape = (size,) if isinstance(size, int) else tuple(size)
    uids, draws = np.broadcast_arrays(np.asarray(uid), np.asarray(draw))
    for name, values in (("uid", uids), ("draw", draws)):
        if not np.issubdtype(values.dtype, np.integer):
            raise InputError(f"A {name} must be an integer; got an array of {values.dtype}.")
        if values.size and values.min() < 0:
            raise InputError(f"A {name} must not be negative; got {values.min()}.")
    if draws.size and draws.max() >= _FIELD:
        raise InputError(f"A draw must be below {_FIELD}; got {draws.max()}; use another purpose.")
    shape = (*uids.shape, *item_shape)
    return shape, uids.ravel().astype(np.int64), draws.ravel().astype(np.int64), math.prod(item_shape)


def _words(
    seed: int,
    purpose: str,
    uids: NDArray[np.int64],
    iteration: int,
    draws: NDArray[np.int64],
    n_blocks: int,
) -> Iterator[tuple[slice, slice, NDArray[np.uint32]]]:
    """Yield slices of items and blocks with their words, shape (4, items, blocks)."""
    if not 0 <= iteration < _FIELD:
        raise InputError(f"An iteration must be 0 to {_FIELD - 1}; got {iteration}.")
    if n_blocks > 0xFFFFFFFF:
        raise InputError("An item must draw fewer than 2³³ values; got more; use several draws.")
    digest = hashlib.blake2b(f"{seed}\x00{purpose}".encode(), digest_size=8).digest()
    key = (int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little"))
    blocks_at_once = min(max(n_blocks, 1), _BLOCKS_AT_ONCE)
    items_at_once = max(1, _BLOCKS_AT_ONCE // blocks_at_once)
    for first_item in range(0, uids.size, items_at_once):
        rows = slice(first_item, min(first_item + items_at_once, uids.size))
        item = uids[rows, None].astype(np.uint64)
        label = np.uint64(iteration << 16) | draws[rows, None].astype(np.uint64)
        for first_block in range(0, n_blocks, blocks_at_once):
            blocks = slice(first_block, min(first_block + blocks_at_once, n_blocks))
            number = np.arange(blocks.start, blocks.stop, dtype=np.uint64)
            counter = np.broadcast_arrays(item & _LOW_WORD, item >> _WORD, label, number[None])
            yield rows, blocks, philox(np.stack(counter), key)
