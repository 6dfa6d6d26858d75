"""Scores of the finer poses within the coarse ones that were kept.

Poses are worked on row by row, and of each row's slices a few hundred coefficients at a time, for all images that have
it: so slices, images and the factors of shifts stay in near caches, where image by image all slices would come from
memory again. Four shifts are compared with two slices at a time, as matrix products do it.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from halfmap.kernels.pose_lists import runs_by_row
from halfmap.kernels.threads import part_of, run_in_parts

Float32: TypeAlias = npt.NDArray[np.float32]
Int64: TypeAlias = npt.NDArray[np.int64]

BLOCK = 512
"""Coefficients that are worked on at one time; real parts, imaginary parts and powers lie so far apart."""


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
    first, row, shift : of poses, sorted by image, then row; see `halfmap.kernels.pose_lists`. Row r has the fine rows
        r · children_rows + j, shift t the fine shifts t · children_shifts + m.
    weighted : s C X / σ², real and imaginary parts, float32, shape (n, K, 2).
    power : s² C² / σ², float32, shape (n, K).
    references : of the fine rows from ``first_row`` · ``children_rows`` on, float32, shape (rows, K, 2); poses of
        other rows are passed over.
    cosine, sine : real and imaginary part of the factor that shifts an image, float32, shape (shifts, K).
    scores : float32, shape (S, children_rows, children_shifts); filled in place.
    n_threads : threads to share the poses among; the result is the same for any number.
    """
    runs = runs_by_row(first, row, first_row, len(references) // children_rows)

    def task(part: int, n_parts: int) -> None:
        mine = runs[part_of(len(runs), part, n_parts)]
        _score(mine, shift, weighted, power, references, cosine, sine, scores)

    run_in_parts(task, max(1, min(n_threads, len(runs))))


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _score(
    runs: Int64,
    shift: Int64,
    weighted: Float32,
    power: Float32,
    references: Float32,
    cosine: Float32,
    sine: Float32,
    scores: Float32,
) -> None:
    J, M = scores.shape[1:]
    K = power.shape[1]
    n_blocks = (K + BLOCK - 1) // BLOCK
    images = np.empty((len(power), 3 * BLOCK), np.float32)
    slices = np.empty((J, 3 * BLOCK), np.float32)
    products = np.empty((J, 2 * BLOCK), np.float32)
    norm = np.empty(J, np.float32)
    for block in range(n_blocks):
        low, high = K * block // n_blocks, K * (block + 1) // n_blocks
        for n in range(len(power)):
            part_image(weighted[n, low:high], power[n, low:high], images[n])
        current = -1
        for u in range(len(runs)):
            n, r = runs[u, 0], runs[u, 1]
            if r != current:
                for j in range(J):
                    part_slice(references[r * J + j, low:high], slices[j])
                current = r
            for j in range(J):
                norm[j] = _multiply(images[n], slices[j], products[j], high - low)
            for i in range(runs[u, 2], runs[u, 3]):
                into = scores[i]
                if block == 0:
                    into[:] = 0
                first = shift[i] * M
                for m in range(0, M - 3, 4):
                    for j in range(0, J - 1, 2):
                        _add_two_by_four(products, j, cosine, sine, first + m, low, high, into, m)
                    if J % 2:
                        _add_one_by_four(products[J - 1], cosine, sine, first + m, low, high, into[J - 1], m)
                for m in range(M - M % 4, M):
                    for j in range(J):
                        into[j, m] += _sum(products[j], cosine[first + m, low:high], sine[first + m, low:high])
                for j in range(J):
                    into[j] -= np.float32(0.5) * norm[j]


@njit(inline="always", fastmath=True, nogil=True, cache=True, error_model="numpy")
def part_slice(values: Float32, parts: Float32) -> None:
    """Lay out the real parts of a slice, (count, 2), its imaginary parts, and its squares, `BLOCK` apart."""
    for k in range(len(values)):
        p, q = values[k, 0], values[k, 1]
        parts[k] = p
        parts[BLOCK + k] = q
        parts[2 * BLOCK + k] = p * p + q * q


@njit(inline="always", fastmath=True, nogil=True, cache=True, error_model="numpy")
def part_image(values: Float32, power: Float32, parts: Float32) -> None:
    """Lay out the real parts of an image, (count, 2), its imaginary parts, and its power, (count,), `BLOCK` apart."""
    for k in range(len(values)):
        parts[k] = values[k, 0]
        parts[BLOCK + k] = values[k, 1]
        parts[2 * BLOCK + k] = power[k]


@njit(inline="always", fastmath=True, nogil=True, cache=True, error_model="numpy")
def _multiply(image: Float32, reference: Float32, product: Float32, count: int) -> np.float32:
    """Multiply an image by a conjugate slice, the imaginary part negative, and return Σ power |reference|²."""
    norm = np.float32(0)
    for k in range(count):
        a, b = image[k], image[BLOCK + k]
        p, q = reference[k], reference[BLOCK + k]
        product[k] = a * p + b * q
        product[BLOCK + k] = a * q - b * p
        norm += image[2 * BLOCK + k] * reference[2 * BLOCK + k]
    return norm


@njit(inline="always", fastmath=True, nogil=True, cache=True, error_model="numpy")
def _add_two_by_four(
    products: Float32,
    j: int,
    cosine: Float32,
    sine: Float32,
    t: int,
    low: int,
    high: int,
    into: Float32,
    m: int,
) -> None:
    """Add the sums over products j and j + 1 at shifts t to t + 3."""
    one, two = products[j], products[j + 1]
    c0, c1, c2, c3 = cosine[t, low:high], cosine[t + 1, low:high], cosine[t + 2, low:high], cosine[t + 3, low:high]
    s0, s1, s2, s3 = sine[t, low:high], sine[t + 1, low:high], sine[t + 2, low:high], sine[t + 3, low:high]
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
    for k in range(len(c0)):
        p, q = one[k], two[k]
        a0 += p * c0[k]
        a1 += p * c1[k]
        a2 += p * c2[k]
        a3 += p * c3[k]
        b0 += q * c0[k]
        b1 += q * c1[k]
        b2 += q * c2[k]
        b3 += q * c3[k]
        p, q = one[BLOCK + k], two[BLOCK + k]
        a0 += p * s0[k]
        a1 += p * s1[k]
        a2 += p * s2[k]
        a3 += p * s3[k]
        b0 += q * s0[k]
        b1 += q * s1[k]
        b2 += q * s2[k]
        b3 += q * s3[k]
    into[j, m] += a0
    into[j, m + 1] += a1
    into[j, m + 2] += a2
    into[j, m + 3] += a3
    into[j + 1, m] += b0
    into[j + 1, m + 1] += b1
    into[j + 1, m + 2] += b2
    into[j + 1, m + 3] += b3


@njit(inline="always", fastmath=True, nogil=True, cache=True, error_model="numpy")
def _add_one_by_four(
    product: Float32, cosine: Float32, sine: Float32, t: int, low: int, high: int, into: Float32, m: int
) -> None:
    """Add the sums over a product at shifts t to t + 3."""
    c0, c1, c2, c3 = cosine[t, low:high], cosine[t + 1, low:high], cosine[t + 2, low:high], cosine[t + 3, low:high]
    s0, s1, s2, s3 = sine[t, low:high], sine[t + 1, low:high], sine[t + 2, low:high], sine[t + 3, low:high]
    a0 = a1 = a2 = a3 = np.float32(0)
    for k in range(len(c0)):
        p, q = product[k], product[BLOCK + k]
        a0 += p * c0[k] + q * s0[k]
        a1 += p * c1[k] + q * s1[k]
        a2 += p * c2[k] + q * s2[k]
        a3 += p * c3[k] + q * s3[k]
    into[m] += a0
    into[m + 1] += a1
    into[m + 2] += a2
    into[m + 3] += a3


@njit(inline="always", fastmath=True, nogil=True, cache=True, error_model="numpy")
def _sum(product: Float32, cosine: Float32, sine: Float32) -> np.float32:
    total = np.float32(0)
    for k in range(len(cosine)):
        total += product[k] * cosine[k] + product[BLOCK + k] * sine[k]
    return total
