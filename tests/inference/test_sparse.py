"""Scores and sums over lists of poses, against the same in double precision, pose by pose."""

import numpy as np
import pytest
import torch

from halfmap.inference import sparse
from halfmap.inference.sparse import Expected, PoseList, WeightedPoses

N, ROWS, SHIFTS = 5, 7, 3


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def drawn_complex(seed: int, *shape: int) -> torch.Tensor:
    return torch.complex(drawn(seed, *shape), drawn(seed + 1, *shape)).to(torch.complex64)


def listed() -> PoseList:
    """Return half of all poses; the third image has none, nor has the fifth row."""
    marked = np.random.default_rng(1).random((N, ROWS, SHIFTS)) < 0.5
    marked[2] = marked[:, 4] = False
    image, row, shift = (torch.from_numpy(where) for where in np.nonzero(marked))
    first = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(image, minlength=N).cumsum(0)])
    return PoseList(first=first, row=row, shift=shift)


@pytest.mark.parametrize(("J", "M"), [(8, 4), (3, 5), (1, 1), (2, 1), (1, 4)])
@pytest.mark.parametrize("K", [3, 1100])
def test_scores_of_finer_poses_are_those_in_double_precision(J: int, M: int, K: int) -> None:
    poses = listed()
    weighted, power = drawn(2, N, K, 2).float(), drawn(3, N, K).square().float()
    references, factors = drawn_complex(4, ROWS * J, K), drawn_complex(6, SHIFTS * M, K)
    scores = torch.full((len(poses.row), J, M), torch.nan)
    # in two blocks of rows, as where memory is short
    for low, high in ((0, 3), (3, ROWS)):
        mine = references[low * J : high * J]
        sparse.score_children(poses, weighted, power, mine, factors, scores, first_row=low)
    of_row = references.view(ROWS, J, K).to(torch.complex128)[poses.row]
    image = poses.image()
    shifted = (
        factors.view(SHIFTS, M, K)[poses.shift] * torch.view_as_complex(weighted).to(torch.complex128)[image, None]
    )
    cross = (shifted[:, None] * of_row[:, :, None].conj()).real.sum(-1)
    norm = (power[image, None] * of_row.abs().square()).sum(-1)
    expected = cross - 0.5 * norm[:, :, None]
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("K", [3, 1100])
def test_sums_over_poses_are_those_in_double_precision_for_any_threads(K: int, request: pytest.FixtureRequest) -> None:
    poses = listed()
    image = poses.image()
    by_row = WeightedPoses(
        image=image, row=poses.row, shift=poses.shift, weight=drawn(7, len(image)).square().float()
    ).sorted_by_row()
    whole, masked, power = drawn(8, N, K, 2).float(), drawn(9, N, K, 2).float(), drawn(10, N, K).square().float()
    references, factors = drawn_complex(11, ROWS, K), drawn_complex(13, SHIFTS, K)
    before = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(before))
    found = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        seen = Expected.none(power)
        # the posterior of an image comes in parts, one for each block of rows
        data, total = sparse.sum_poses(by_row, whole, power, references, factors, seen)
        sparse.sum_poses(by_row, whole, power, references, factors, seen)
        found.append((data, total, seen.mean, seen.mean_square))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)
    data, total, mean, mean_square = found[0]
    one_hot = torch.nn.functional.one_hot
    into_rows = one_hot(by_row.row, ROWS).double().T
    into_images = one_hot(by_row.image, N).double().T
    weight = by_row.weight.double()[:, None]
    factor = factors.to(torch.complex128)[by_row.shift] * weight
    slices, images = references.to(torch.complex128)[by_row.row], torch.view_as_complex(whole)[by_row.image]
    sums = (
        (data, into_rows.cfloat().to(torch.complex128) @ (images * factor)),
        (total, into_rows @ (power[by_row.image] * weight)),
        (mean, 2 * into_images.to(torch.complex128) @ (slices * factor.conj())),
        (mean_square, 2 * into_images @ (slices.abs().square() * weight)),
    )
    for one, two in sums:
        torch.testing.assert_close(one.to(two.dtype), two, rtol=1e-5, atol=1e-5)
    shell_of = torch.arange(K) // 3
    cross, square = seen.by_shell(masked, power, shell_of, K)
    products = (torch.view_as_complex(masked) * mean.conj()).real.double()
    into_shells = one_hot(shell_of, K).double()
    torch.testing.assert_close(cross, products @ into_shells, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(square, (power * mean_square).double() @ into_shells, rtol=1e-5, atol=1e-5)
