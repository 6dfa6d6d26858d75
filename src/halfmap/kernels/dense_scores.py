"""Scores of images at all coarse poses, put together from matrix products, and which of the poses can still matter.

A pose is a row of the references (one of C references at one of R rotations) and one of T shifts. Arrays that the
functions share:

scores : float32, shape (n, T, C · R).
weighted : float32, shape (n, K, 2): s C X / σ², real and imaginary parts.
power : float32, shape (n, K): s² C² / σ².
cosine, sine : float32, shape (T, K): real and imaginary part of the factor that shifts an image.
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


def shift_images(weighted: Float32, cosine: Float32, sine: Float32, *, n_threads: int = 1) -> Float32:
    """Multiply images by the factors of all shifts, float32, shape (n, T, 2, K): real parts, then imaginary ones."""
    shifted = np.empty((len(weighted), len(cosine), 2, cosine.shape[1]), dtype=np.float32)

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(weighted), part, n_parts)
        _shift_images(weighted[share], cosine, sine, shifted[share])

    run_in_parts(task, min(n_threads, len(weighted)))
    return shifted


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def _shift_images(weighted: Float32, cosine: Float32, sine: Float32, shifted: Float32) -> None:
    K = cosine.shape[1]
    real = np.empty(K, np.float32)
    imag = np.empty(K, np.float32)
    for n in range(weighted.shape[0]):
        for k in range(K):
            real[k] = weighted[n, k, 0]
            imag[k] = weighted[n, k, 1]
        for t in range(cosine.shape[0]):
            c, s = cosine[t], sine[t]
            into_real, into_imag = shifted[n, t, 0], shifted[n, t, 1]
            for k in range(K):
                into_real[k] = real[k] * c[k] - imag[k] * s[k]
                into_imag[k] = real[k] * s[k] + imag[k] * c[k]


def write_priors(
    scores: Float32,
    origins: Float64,
    means: Float64,
    log_class: Float64,
    precision: float,
    *,
    n_threads: int = 1,
) -> None:
    """Set scores to the log priors of class and offset.

    Parameters
    ----------
    origins : float64, shape (n, T, 2).
    means : float64, shape (C, 2): the expected origin of each class.
    log_class : float64, shape (C,): what does not depend on the origin.
    precision : 1/σ² of the origins along one axis.
    """

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(scores), part, n_parts)
        _write_priors(scores[share], origins[share], means, log_class, precision)

    run_in_parts(task, min(n_threads, len(scores)))


@njit(nogil=True, cache=True, error_model="numpy")
def _write_priors(scores: Float32, origins: Float64, means: Float64, log_class: Float64, precision: float) -> None:
    R = scores.shape[2] // len(means)
    for n in range(scores.shape[0]):
        for t in range(scores.shape[1]):
            for c in range(len(means)):
                x = origins[n, t, 0] - means[c, 0]
                y = origins[n, t, 1] - means[c, 1]
                scores[n, t, c * R : (c + 1) * R] = np.float32(log_class[c] - 0.5 * precision * (x * x + y * y))


def add_products(
    scores: Float32,
    which: Int64,
    real: Float32,
    imag: Float32,
    norm: Float32,
    n_classes: int,
    *,
    n_threads: int = 1,
) -> None:
    """Add Re Σ X conj(P) − ½ Σ power |P|² to the scores of some images, from their parts.

    Parameters
    ----------
    which : int64, shape (m,): of the n images.
    real, imag : float32, shape (m, T, C · R / 2): sums over products of real and of imaginary parts, at the first half
        of the rotations. The second half is the first turned by 180°, where the reference is the conjugate: there
        their difference counts. Or shape (m, T, C · R) and shape (0, 0, 0): the sums of both, at all rotations.
    norm : float32, of the last axis of ``real``, shape (m, …): Σ power |P|².
    """

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(which), part, n_parts)
        if imag.size:
            _add_half_turns(scores, which[share], real[share], imag[share], norm[share], n_classes)
        else:
            _add(scores, which[share], real[share], norm[share])

    run_in_parts(task, min(n_threads, len(which)))


@njit(fastmath={"contract", "nsz", "arcp", "reassoc"}, nogil=True, cache=True, error_model="numpy")
def _add_half_turns(scores: Float32, which: Int64, real: Float32, imag: Float32, norm: Float32, n_classes: int) -> None:
    half = real.shape[2] // n_classes
    for i in range(len(which)):
        for t in range(real.shape[1]):
            for c in range(n_classes):
                a = real[i, t, c * half : (c + 1) * half]
                b = imag[i, t, c * half : (c + 1) * half]
                m = norm[i, c * half : (c + 1) * half]
                one = scores[which[i], t, 2 * c * half : (2 * c + 1) * half]
                two = scores[which[i], t, (2 * c + 1) * half : (2 * c + 2) * half]
                for r in range(half):
                    middle = a[r] - np.float32(0.5) * m[r]
                    one[r] += middle + b[r]
                    two[r] += middle - b[r]


@njit(fastmath={"contract", "nsz", "arcp", "reassoc"}, nogil=True, cache=True, error_model="numpy")
def _add(scores: Float32, which: Int64, both: Float32, norm: Float32) -> None:
    for i in range(len(which)):
        half = np.float32(0.5) * norm[i]
        for t in range(both.shape[1]):
            into = scores[which[i], t]
            for r in range(both.shape[2]):
                into[r] += both[i, t, r] - half[r]


def mark_hopeful(
    scores: Float32,
    norm: Float32,
    weighted: Float32,
    power: Float32,
    references: Float32,
    cosine: Float32,
    sine: Float32,
    *,
    deviations: float,
    nats: Float32,
    n_threads: int = 1,
) -> tuple[Bools, Int64]:
    """Mark the poses that coefficients not yet scored can raise to within some nats of the best.

    Parameters
    ----------
    scores : of the coefficients scored so far, priors included.
    norm : float32, shape (n, C · R): E = Σ power |P|² over the coefficients not yet scored.
    weighted, power, references, cosine, sine : on those coefficients; references float32, shape (C · R, K, 2).
    deviations : what is left adds at most ½ E + ``deviations`` · √E.
    nats : shape (n,): how far below the best a pose may end.

    Returns
    -------
    hopeful : bool, shape (n, T, C · R).
    count : int64, shape (n,).

    Notes
    -----
    At the right pose what is left is drawn around ½ E with variance E, at a wrong one it is less. A lower bound of the
    best is the full score of the pose that is most probable so far.
    """
    hopeful = np.empty(scores.shape, dtype=np.bool_)
    count = np.empty(len(scores), dtype=np.int64)

    def task(part: int, n_parts: int) -> None:
        share = part_of(len(scores), part, n_parts)
        _mark_hopeful(
            scores[share],
            norm[share],
            weighted[share],
            power[share],
            references,
            cosine,
            sine,
            np.float32(deviations),
            nats[share],
            hopeful[share],
            count[share],
        )

    run_in_parts(task, min(n_threads, len(scores)))
    return hopeful, count


@njit(fastmath={"contract", "nsz", "arcp", "reassoc", "nnan"}, nogil=True, cache=True, error_model="numpy")
def _mark_hopeful(
    scores: Float32,
    norm: Float32,
    weighted: Float32,
    power: Float32,
    references: Float32,
    cosine: Float32,
    sine: Float32,
    deviations: np.float32,
    nats: Float32,
    hopeful: Bools,
    count: Int64,
) -> None:
    T, R = scores.shape[1:]
    slack = np.empty(R, np.float32)
    for n in range(scores.shape[0]):
        best = -np.inf
        at = 0
        half = np.float32(0.5) * norm[n]
        for t in range(T):
            mine = scores[n, t]
            here = mine[0] + half[0]
            for r in range(1, R):
                here = max(here, mine[r] + half[r])
            if here > best:
                best = here
                at = t
        row = 0
        for r in range(R):
            if scores[n, at, r] + half[r] == best:
                row = r
        left = np.float32(0)
        for k in range(power.shape[1]):
            a, b = weighted[n, k, 0], weighted[n, k, 1]
            p, q = references[row, k, 0], references[row, k, 1]
            left += (a * p + b * q) * cosine[at, k] - (b * p - a * q) * sine[at, k]
            left -= np.float32(0.5) * power[n, k] * (p * p + q * q)
        limit = scores[n, at, row] + left - nats[n]
        for r in range(R):
            slack[r] = half[r] + deviations * np.sqrt(norm[n, r]) - limit
        total = 0
        for t in range(T):
            mine = scores[n, t]
            marks = hopeful[n, t]
            for r in range(R):
                mark = mine[r] + slack[r] >= np.float32(0)
                marks[r] = mark
                total += mark
        # rounding must not leave an image without a pose
        if not hopeful[n, at, row]:
            hopeful[n, at, row] = True
            total += 1
        count[n] = total
