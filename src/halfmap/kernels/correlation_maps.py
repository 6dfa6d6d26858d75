"""Maps of correlations gathered over many templates: products of transforms, and what is kept of the correlations."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def multiply_both(
    straight: NDArray[np.float32],
    turned: NDArray[np.float32],
    templates: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Multiply a transform by the conjugates of templates', and another by the templates' themselves.

    Parameters
    ----------
    straight, turned : shape (k, y, 2): real and imaginary parts.
    templates : shape (B, k, y, 2).
    out : shape (2 B, k, y, 2): first straight times each conjugate, then turned times each transform; or of shape
        (B, k, y, 2), which leaves the second out.
    """
    n = templates.shape[0]
    both = out.shape[0] > n
    for b in range(n):
        for k in range(templates.shape[1]):
            for y in range(templates.shape[2]):
                c, d = templates[b, k, y, 0], templates[b, k, y, 1]
                p, q = straight[k, y, 0], straight[k, y, 1]
                out[b, k, y, 0] = p * c + q * d
                out[b, k, y, 1] = q * c - p * d
            if both:
                for y in range(templates.shape[2]):
                    c, d = templates[b, k, y, 0], templates[b, k, y, 1]
                    r, s = turned[k, y, 0], turned[k, y, 1]
                    out[n + b, k, y, 0] = r * c - s * d
                    out[n + b, k, y, 1] = r * d + s * c


@njit(nogil=True, cache=True, error_model="numpy")
def place_columns(columns: NDArray[np.float64], lines: NDArray[np.float64], first: int) -> None:
    """Write columns into images, whose lines hold them side by side.

    Parameters
    ----------
    columns : shape (B, k, y or more): complex numbers of two float32, moved as one of eight bytes.
    lines : shape (B, y, K): changed from column ``first`` on.
    """
    height = lines.shape[1]
    in_eights = height // 8 * 8
    for b in range(columns.shape[0]):
        # a cache line of each column at a time
        for start in range(0, in_eights, 8):
            for k in range(columns.shape[1]):
                for y in range(start, start + 8):
                    lines[b, y, first + k] = columns[b, k, y]
        for y in range(in_eights, height):
            for k in range(columns.shape[1]):
                lines[b, y, first + k] = columns[b, k, y]


@njit(fastmath=True, nogil=True, cache=True, error_model="numpy")
def gather(
    scores: NDArray[np.float32],
    numbers: NDArray[np.int32],
    best: NDArray[np.float32],
    best_number: NDArray[np.int32],
    total: NDArray[np.float64],
    squares: NDArray[np.float64],
) -> None:
    """Add correlations to the maps of their maximum, sum and sum of squares.

    Parameters
    ----------
    scores : shape (B, h, w or more).
    numbers : shape (B,): what each is called.
    best, best_number, total, squares : shape (h, w); changed. Of equal correlations the first stays the best.
    """
    height, width = best.shape
    for y in range(height):
        for b in range(scores.shape[0]):
            number = numbers[b]
            for x in range(width):
                value = scores[b, y, x]
                wide = np.float64(value)
                total[y, x] += wide
                squares[y, x] += wide * wide
                is_better = value > best[y, x]
                best_number[y, x] = number if is_better else best_number[y, x]
                best[y, x] = value if is_better else best[y, x]
