"""Scores and sums over the few poses that matter for each image.

A pose is a row of the references (one reference at one rotation) and a shift. Coarse poses that were kept
are listed image by image; each has ``children_rows`` × ``children_shifts`` finer ones: row r has the fine rows
r · children_rows + j, shift t the fine shifts t · children_shifts + m. Arrays that the functions share:

first : int64, shape (n + 1,): the poses of image i are those from first[i] to first[i + 1].
row, shift : int64, shape (S,): of the poses, sorted by image, then row.
weighted : float32, shape (n, K, 2): s C X / σ², real and imaginary parts.
power : float32, shape (n, K): s² C² / σ².
references : float32, shape (rows, K, 2).
cosine, sine : float32, shape (shifts, K): real and imaginary part of the factor that shifts an image.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from halfmap.kernels.threads import part_of, run_in_parts

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Int64: TypeAlias = npt.NDArray[np.int64]

_FLOOR = np.float32(100)
"""Samples that many nats below the largest weigh nothing."""

_BINS_PER_NAT = np.float32(32)
_BINS = 3200


def score_children(
    first: Int64,
    row: Int64,
    shift: Int64,
    weighted: Float32,
    power: Float32,
    references: Float32,
    cosine: Float32,
    sine: Float32,
    scores: Float32,
    *,
    first_row: int,
    children_rows: int,
    children_shifts: int,
    n_threads: int = 1,
) -> None:
    """Score the children of poses: Re Σ weighted · factor · conj(reference) − ½ Σ power |reference|².

    Parameters
    ----------
    references : of the fine rows from ``first_row`` · ``children_rows`` on; poses of other rows are passed over.
    scores : float32, shape (S, children_rows, children_shifts); filled in place.
    """
    n_rows = len(references) // children_rows

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(weighted), part, n_parts)
        _score(
            share.start,
            share.stop,
            first,
            row,
            shift,
            weighted,
            power,
            references,
            cosine,
            sine,
            scores,
            first_row,
            n_rows,
            children_rows,
            children_shifts,
        )

    run_in_parts(task, min(n_threads, len(weighted)))


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _score(
    start: int,
    stop: int,
    first: Int64,
    row: Int64,
    shift: Int64,
    weighted: Float32,
    power: Float32,
    references: Float32,
    cosine: Float32,
    sine: Float32,
    scores: Float32,
    first_row: int,
    n_rows: int,
    children_rows: int,
    children_shifts: int,
) -> None:
    K = power.shape[1]
    real = np.empty(K, np.float32)
    imag = np.empty(K, np.float32)
    for n in range(start, stop):
        s = first[n]
        last = first[n + 1]
        while s < last:
            e = s + 1
            while e < last and row[e] == row[s]:
                e += 1
            local = row[s] - first_row
            if local >= 0 and local < n_rows:
                for j in range(children_rows):
                    reference = references[local * children_rows + j]
                    image = weighted[n]
                    weight = power[n]
                    norm = np.float32(0)
                    for k in range(K):
                        a, b = image[k, 0], image[k, 1]
                        p, q = reference[k, 0], reference[k, 1]
                        real[k] = a * p + b * q
                        imag[k] = b * p - a * q
                        norm += weight[k] * (p * p + q * q)
                    for i in range(s, e):
                        for m in range(children_shifts):
                            t = shift[i] * children_shifts + m
                            total = np.float32(0)
                            for k in range(K):
                                total += real[k] * cosine[t, k] - imag[k] * sine[t, k]
                            scores[i, j, m] = total - np.float32(0.5) * norm
            s = e


def keep_mass(
    first: Int64, log_weights: Float32, kept_mass: float, nats: Float32, most: int, *, n_threads: int = 1
) -> tuple[npt.NDArray[np.bool_], Float64]:
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
    kept: npt.NDArray[np.bool_],
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


def sum_into_rows(
    runs: Int64,
    image: Int64,
    row: Int64,
    shift: Int64,
    weight: Float32,
    weighted: Float32,
    power: Float32,
    cosine: Float32,
    sine: Float32,
    data: Float32,
    total: Float32,
    *,
    n_threads: int = 1,
) -> None:
    """Add images, shifted and weighted by their posterior, to the rows of the references.

    Parameters
    ----------
    runs : int64, shape (U + 1,): samples from runs[u] to runs[u + 1] share row and image; sorted by row.
    image, row, shift, weight : of the samples, shape (S,).
    data : float32, shape (rows, K, 2); Σ weight · factor · weighted is added.
    total : float32, shape (rows, K); Σ weight · power is added.
    n_threads : threads to share the rows among; the result is the same for any number.
    """

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(data), part, n_parts)
        starts = row[runs[:-1]]
        low, high = np.searchsorted(starts, [share.start, share.stop])
        _sum_into_rows(low, high, runs, image, row, shift, weight, weighted, power, cosine, sine, data, total)

    run_in_parts(task, min(n_threads, len(data)))


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _sum_into_rows(
    low: int,
    high: int,
    runs: Int64,
    image: Int64,
    row: Int64,
    shift: Int64,
    weight: Float32,
    weighted: Float32,
    power: Float32,
    cosine: Float32,
    sine: Float32,
    data: Float32,
    total: Float32,
) -> None:
    K = power.shape[1]
    real = np.empty(K, np.float32)
    imag = np.empty(K, np.float32)
    for u in range(low, high):
        mass = _factor(runs[u], runs[u + 1], shift, weight, cosine, sine, real, imag)
        n = image[runs[u]]
        r = row[runs[u]]
        mine = weighted[n]
        powers = power[n]
        into = data[r]
        masses = total[r]
        for k in range(K):
            a, b = mine[k, 0], mine[k, 1]
            into[k, 0] += a * real[k] - b * imag[k]
            into[k, 1] += a * imag[k] + b * real[k]
            masses[k] += mass * powers[k]


@njit(fastmath=True, nogil=True, inline="always", error_model="numpy")
def _factor(
    start: int,
    stop: int,
    shift: Int64,
    weight: Float32,
    cosine: Float32,
    sine: Float32,
    real: Float32,
    imag: Float32,
) -> np.float32:
    """Sum the factors of some shifts by their weights."""
    K = cosine.shape[1]
    mass = weight[start]
    t = shift[start]
    for k in range(K):
        real[k] = mass * cosine[t, k]
        imag[k] = mass * sine[t, k]
    for i in range(start + 1, stop):
        w = weight[i]
        t = shift[i]
        mass += w
        for k in range(K):
            real[k] += w * cosine[t, k]
            imag[k] += w * sine[t, k]
    return mass


def model_sums(
    runs: Int64,
    image: Int64,
    row: Int64,
    shift: Int64,
    weight: Float32,
    weighted: Float32,
    power: Float32,
    references: Float32,
    cosine: Float32,
    sine: Float32,
    shell_of: Int64,
    cross: Float64,
    square: Float64,
    *,
    n_threads: int = 1,
) -> None:
    """Add up, over the posterior of each image, what its residual needs.

    Parameters
    ----------
    runs : as in `sum_into_rows`, but sorted by image.
    shell_of : of the K coefficients.
    cross : float64, shape (n, shells); Σ weight Re(factor · weighted · conj(reference)) is added, shell by shell.
    square : float64, shape (n, shells); Σ weight · power · |reference|² is added.
    n_threads : threads to share the images among; the result is the same for any number.
    """

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(weighted), part, n_parts)
        low, high = np.searchsorted(image[runs[:-1]], [share.start, share.stop])
        _model_sums(
            low,
            high,
            runs,
            image,
            row,
            shift,
            weight,
            weighted,
            power,
            references,
            cosine,
            sine,
            shell_of,
            cross,
            square,
        )

    run_in_parts(task, min(n_threads, len(weighted)))


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _model_sums(
    low: int,
    high: int,
    runs: Int64,
    image: Int64,
    row: Int64,
    shift: Int64,
    weight: Float32,
    weighted: Float32,
    power: Float32,
    references: Float32,
    cosine: Float32,
    sine: Float32,
    shell_of: Int64,
    cross: Float64,
    square: Float64,
) -> None:
    K = power.shape[1]
    real = np.empty(K, np.float32)
    imag = np.empty(K, np.float32)
    sum_real = np.zeros(K, np.float32)
    sum_imag = np.zeros(K, np.float32)
    sum_square = np.zeros(K, np.float32)
    u = low
    while u < high:
        n = image[runs[u]]
        sum_real[:] = 0
        sum_imag[:] = 0
        sum_square[:] = 0
        while u < high and image[runs[u]] == n:
            mass = _factor(runs[u], runs[u + 1], shift, weight, cosine, sine, real, imag)
            reference = references[row[runs[u]]]
            for k in range(K):
                p, q = reference[k, 0], reference[k, 1]
                sum_real[k] += real[k] * p + imag[k] * q
                sum_imag[k] += imag[k] * p - real[k] * q
                sum_square[k] += mass * (p * p + q * q)
            u += 1
        for k in range(K):
            shell = shell_of[k]
            cross[n, shell] += weighted[n, k, 0] * sum_real[k] - weighted[n, k, 1] * sum_imag[k]
            square[n, shell] += power[n, k] * sum_square[k]
