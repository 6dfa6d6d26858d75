"""Lists of poses: which poses of an image are kept, in the order of the rows of the references.

A pose is a row of the references and a shift; first, of shape (n + 1,), says that the poses of image i are those from
first[i] to first[i + 1].
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from halfmap.kernels.threads import part_of, run_in_parts

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Int64: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_FLOOR = np.float32(100)
"""Samples that many nats below the largest weigh nothing."""

_BINS_PER_NAT = np.float32(32)
_BINS = 3200


def keep_mass(
    first: Int64, log_weights: Float32, kept_mass: float, nats: Float32, most: int, *, n_threads: int = 1
) -> tuple[Bools, Float64]:
    """Find for each image the few samples that hold a share of its weight.

    Parameters
    ----------
    first : the samples of image i are those from first[i] to first[i + 1].
    log_weights : shape (S,).
    kept_mass : the share, up to 1.
    nats : shape (n,): samples within so much of the best are kept too, up to 100.
    most : keep about so many for an image at most; 0: any number.
    n_threads : threads to share the images among; the result is the same for any number.

    Returns
    -------
    kept : bool, shape (S,)
        All samples above a threshold, which is a whole multiple of 1/32 nat below the largest: so a few per cent more
        than the smallest set, without sorting. At least one of each image.
    facts : float64, shape (n, 6): largest log weight, logarithm of the sum of all weights, share of the sum that
        the kept ones hold, position of the largest within the image's samples, number of kept ones, and of those that
        the share alone would keep.
    """
    kept = np.zeros(len(log_weights), dtype=np.bool_)
    facts = np.empty((len(first) - 1, 6), dtype=np.float64)

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(facts), part, n_parts)
        _keep_mass(share.start, share.stop, first, log_weights, kept_mass, nats, most, kept, facts)

    run_in_parts(task, min(n_threads, len(facts)))
    return kept, facts


@njit(fastmath={"contract", "nsz", "arcp"}, nogil=True, cache=True, error_model="numpy")
def _keep_mass(
    start: int,
    stop: int,
    first: Int64,
    log_weights: Float32,
    kept_mass: float,
    nats: Float32,
    most: int,
    kept: Bools,
    facts: Float64,
) -> None:
    mass_of = np.empty(_BINS, np.float64)
    count_of = np.empty(_BINS, np.int64)
    for n in range(start, stop):
        low, high = first[n], first[n + 1]
        best = log_weights[low]
        where = low
        for i in range(low, high):
            if log_weights[i] > best:
                best = log_weights[i]
                where = i
        mass_of[:] = 0
        count_of[:] = 0
        total = 0.0
        for i in range(low, high):
            below = best - log_weights[i]
            if below < _FLOOR:
                weight = np.exp(-below)
                bin_number = int(below * _BINS_PER_NAT)
                mass_of[bin_number] += weight
                count_of[bin_number] += 1
                total += weight
        mass = mass_of[0]
        count = count_of[0]
        last = 1
        while last < _BINS and mass < kept_mass * total and not (most > 0 and count + count_of[last] > most):
            mass += mass_of[last]
            count += count_of[last]
            last += 1
        facts[n, 5] = count
        within = min(_BINS, int(np.ceil(nats[n] * _BINS_PER_NAT)))
        while last < within and not (most > 0 and count + count_of[last] > most):
            mass += mass_of[last]
            count += count_of[last]
            last += 1
        limit = np.float32(last) / _BINS_PER_NAT
        everything = kept_mass >= 1 and most == 0
        number = 0
        for i in range(low, high):
            mark = everything or best - log_weights[i] < limit
            kept[i] = mark
            number += mark
        facts[n, 0] = best
        facts[n, 1] = best + np.log(total)
        facts[n, 2] = 1.0 if everything else mass / total
        facts[n, 3] = where - low
        facts[n, 4] = number
        if everything:
            facts[n, 5] = number


def list_marked(
    scores: Float32, which: Int64, marked: Bools, first: Int64, *, n_threads: int = 1
) -> tuple[Int64, Int64, Float32]:
    """List the marked poses of some images, sorted by image, then row, then shift.

    Parameters
    ----------
    which : int64, shape (m,): of the n images.
    marked : bool, shape (m, T, C · R).
    first : int64, shape (m + 1,): where each image's poses begin, from their numbers.

    Returns
    -------
    row, shift : int64, shape (first[m],).
    score : float32, of the same shape.
    """
    row = np.empty(first[-1], dtype=np.int64)
    shift = np.empty(first[-1], dtype=np.int64)
    score = np.empty(first[-1], dtype=np.float32)

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(which), part, n_parts)
        _list_marked(share.start, share.stop, scores, which, marked, first, row, shift, score)

    run_in_parts(task, min(n_threads, len(which)))
    return row, shift, score


@njit(nogil=True, cache=True, error_model="numpy")
def _list_marked(
    start: int,
    stop: int,
    scores: Float32,
    which: Int64,
    marked: Bools,
    first: Int64,
    row: Int64,
    shift: Int64,
    score: Float32,
) -> None:
    T, R = marked.shape[1:]
    place = np.empty(R, np.int64)
    in_shift = np.empty(T, np.int64)
    for i in range(start, stop):
        place[:] = 0
        for t in range(T):
            found = 0
            for r in range(R):
                place[r] += marked[i, t, r]
                found += marked[i, t, r]
            in_shift[t] = found
        at = first[i]
        for r in range(R):
            here = place[r]
            place[r] = at
            at += here
        for t in range(T):
            if in_shift[t] == 0:
                continue
            for r in range(R):
                if marked[i, t, r]:
                    row[place[r]] = r
                    shift[place[r]] = t
                    score[place[r]] = scores[which[i], t, r]
                    place[r] += 1


def add_priors(
    scores: Float32,
    first: Int64,
    row: Int64,
    shift: Int64,
    centres: Float64,
    shifts: Float64,
    means: Float64,
    log_class: Float64,
    precision: float,
    rows_of_class: int,
    *,
    n_threads: int = 1,
) -> None:
    """Add the log priors of class and offset to the scores of the finer poses within listed ones.

    Parameters
    ----------
    scores : float32, shape (S, J, M).
    row, shift : of the listed poses; shift t has the finer shifts t · M + m.
    centres : origins of the images, float64, shape (n, 2).
    shifts : the finer ones, float64, shape (T · M, 2).
    means : expected origin of each class, float64, shape (C, 2).
    log_class : float64, shape (C,): what does not depend on the origin.
    precision : 1/σ² of the origins along one axis.
    rows_of_class : number R of rows of each class.
    """

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(centres), part, n_parts)
        _add_priors(
            share.start,
            share.stop,
            scores,
            first,
            row,
            shift,
            centres,
            shifts,
            means,
            log_class,
            precision,
            rows_of_class,
        )

    run_in_parts(task, min(n_threads, len(centres)))


@njit(nogil=True, cache=True, error_model="numpy")
def _add_priors(
    start: int,
    stop: int,
    scores: Float32,
    first: Int64,
    row: Int64,
    shift: Int64,
    centres: Float64,
    shifts: Float64,
    means: Float64,
    log_class: Float64,
    precision: float,
    rows_of_class: int,
) -> None:
    J, M = scores.shape[1:]
    for n in range(start, stop):
        for s in range(first[n], first[n + 1]):
            c = row[s] // rows_of_class
            for m in range(M):
                t = shift[s] * M + m
                x = centres[n, 0] + shifts[t, 0] - means[c, 0]
                y = centres[n, 1] + shifts[t, 1] - means[c, 1]
                prior = np.float32(log_class[c] - 0.5 * precision * (x * x + y * y))
                for j in range(J):
                    scores[s, j, m] += prior


def list_weighted(
    scores: Float32,
    kept: Bools,
    first: Int64,
    row: Int64,
    shift: Int64,
    total: Float64,
    first_kept: Int64,
    *,
    n_threads: int = 1,
) -> tuple[Int64, Int64, Int64, Float32]:
    """List the kept ones of the finer poses within listed ones, with their weights.

    Parameters
    ----------
    scores, kept : shape (S, J, M): log weights, and which finer poses are listed.
    row, shift : of the S poses, sorted by image, then row, then shift; row r has the finer rows r · J + j, shift t the
        finer shifts t · M + m.
    total : float64, shape (n,): log weights are relative to it.
    first_kept : int64, shape (n + 1,): where each image's kept poses begin.

    Returns
    -------
    image, row, shift : int64, shape (first_kept[n],): sorted by image, then row, then shift.
    weight : float32, of the same shape.
    """
    found = np.empty((3, first_kept[-1]), dtype=np.int64)
    weight = np.empty(first_kept[-1], dtype=np.float32)

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(total), part, n_parts)
        _list_weighted(share.start, share.stop, scores, kept, first, row, shift, total, first_kept, found, weight)

    run_in_parts(task, min(n_threads, len(total)))
    return found[0], found[1], found[2], weight


@njit(nogil=True, cache=True, error_model="numpy")
def _list_weighted(
    start: int,
    stop: int,
    scores: Float32,
    kept: Bools,
    first: Int64,
    row: Int64,
    shift: Int64,
    total: Float64,
    first_kept: Int64,
    found: Int64,
    weight: Float32,
) -> None:
    J, M = scores.shape[1:]
    for n in range(start, stop):
        at = first_kept[n]
        s = first[n]
        last = first[n + 1]
        while s < last:
            e = s + 1
            while e < last and row[e] == row[s]:
                e += 1
            for j in range(J):
                for i in range(s, e):
                    for m in range(M):
                        if kept[i, j, m]:
                            found[0, at] = n
                            found[1, at] = row[s] * J + j
                            found[2, at] = shift[i] * M + m
                            weight[at] = np.exp(scores[i, j, m] - total[n])
                            at += 1
            s = e


@njit(nogil=True, cache=True, error_model="numpy")
def order_by_row(row: Int64) -> Int64:
    """Return the order that sorts poses by row and leaves those of a row in theirs, shape (S,).

    Parameters
    ----------
    row : from 0 on, shape (S,).
    """
    n_rows = 0
    for s in range(len(row)):
        n_rows = max(n_rows, row[s] + 1)
    place = np.zeros(n_rows + 1, np.int64)
    for s in range(len(row)):
        place[row[s] + 1] += 1
    for r in range(n_rows):
        place[r + 1] += place[r]
    order = np.empty(len(row), np.int64)
    for s in range(len(row)):
        order[place[row[s]]] = s
        place[row[s]] += 1
    return order


@njit(nogil=True, cache=True, error_model="numpy")
def runs_by_row(first: Int64, row: Int64, first_row: int, n_rows: int) -> Int64:
    """Return runs of poses that share image and row, sorted by row, then image.

    Parameters
    ----------
    first, row : of poses, sorted by image, then row.
    first_row, n_rows : the rows whose runs are listed.

    Returns
    -------
    int64, shape (runs, 4): image, row counted from ``first_row`` on, and first and last pose, the last excluded.
    """
    place = np.zeros(n_rows + 1, np.int64)
    for n in range(len(first) - 1):
        for s in range(first[n], first[n + 1]):
            r = row[s] - first_row
            if r >= 0 and r < n_rows and (s == first[n] or row[s] != row[s - 1]):
                place[r + 1] += 1
    for r in range(n_rows):
        place[r + 1] += place[r]
    runs = np.empty((place[n_rows], 4), np.int64)
    at = 0
    for n in range(len(first) - 1):
        for s in range(first[n], first[n + 1]):
            r = row[s] - first_row
            if r < 0 or r >= n_rows:
                continue
            if s == first[n] or row[s] != row[s - 1]:
                at = place[r]
                place[r] += 1
                runs[at, 0] = n
                runs[at, 1] = r
                runs[at, 2] = s
            runs[at, 3] = s + 1
    return runs
