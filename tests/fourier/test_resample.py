import math

import numpy as np
import pytest
import torch

from halfmap.errors import InputError, ShapeError
from halfmap.fourier import resample
from halfmap.grid import ImageGrid


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def blob(grid: ImageGrid, centre: tuple[float, ...], width: float = 4.0) -> torch.Tensor:
    """A Gaussian of that standard deviation in Å about ``centre`` (x, y[, z] in Å)."""
    away = grid.positions() - torch.tensor(centre, dtype=torch.float64)
    return torch.exp(-away.square().sum(-1) / (2 * width**2))


ROUND_TRIPS = [
    ((16, 16), (40, 40)),
    ((16, 16), (21, 21)),
    ((15, 15), (16, 16)),
    ((15, 15), (32, 32)),
    ((12, 16), (18, 24)),
    ((15, 20), (30, 40)),
    ((8, 8, 8), (12, 12, 12)),
    ((9, 9, 9), (12, 12, 12)),
    ((10, 8, 12), (15, 12, 18)),
]


@pytest.mark.parametrize(("small", "large"), ROUND_TRIPS)
def test_padding_a_transform_and_cropping_it_back_is_exact_with_nyquist(
    small: tuple[int, ...], large: tuple[int, ...]
) -> None:
    grid = ImageGrid(shape=small, pixel_size_angstrom=3.0)
    image = noise(2, *small)
    larger, finer = resample.rescale(image, grid, large)
    back, same = resample.rescale(larger, finer, small)
    assert same.pixel_size_angstrom == pytest.approx(3.0)
    assert torch.allclose(back, image, atol=1e-12)


def test_256_to_64_to_256_of_a_band_limited_image_is_exact() -> None:
    grid = ImageGrid.square(256, 0.885)
    small = ImageGrid.square(64, 4 * 0.885)
    image, _ = resample.rescale(noise(64, 64), small, 256)
    shrunk, shrunk_grid = resample.rescale(image, grid, 64)
    back, _ = resample.rescale(shrunk, shrunk_grid, 256)
    assert shrunk_grid.pixel_size_angstrom == pytest.approx(3.54)
    assert torch.allclose(back, image, atol=1e-12)


@pytest.mark.parametrize(("small", "large"), ROUND_TRIPS)
def test_cropped_transforms_belong_to_real_images(small: tuple[int, ...], large: tuple[int, ...]) -> None:
    grid = ImageGrid(shape=large, pixel_size_angstrom=1.0)
    to_grid = resample.rescaled_grid(grid, small)
    cropped = resample.crop_or_pad_transform(grid.rfft(noise(*large)), grid, to_grid)
    # an inverse and a forward transform change nothing only if every mate is the conjugate
    assert torch.allclose(to_grid.rfft(to_grid.irfft(cropped)), cropped, atol=1e-14)


@pytest.mark.parametrize("shape", [(32, 32), (33, 33), (24, 32), (16, 16, 16)])
@pytest.mark.parametrize("factor", [0.5, 0.75, 1.5, 2.0])
def test_rescaling_keeps_grey_values_and_the_centre(shape: tuple[int, ...], factor: float) -> None:
    grid = ImageGrid(shape=shape, pixel_size_angstrom=1.0)
    new_shape = tuple(round(side * factor) for side in shape)
    if len({new / old for new, old in zip(new_shape, shape, strict=True)}) > 1:
        pytest.skip("no whole sides of this factor")
    width = min(shape) / 8
    centre = (1.0, -2.0, 0.5)[: len(shape)]
    found, to_grid = resample.rescale(blob(grid, centre, width), grid, new_shape)
    # half a pixel of an even side beyond the edge is the Gaussian's 4 σ
    assert torch.allclose(found, blob(to_grid, centre, width), atol=4e-3)


@pytest.mark.parametrize(("old", "new"), [(24, 16), (24, 36), (15, 25), (25, 15), (20, 15), (15, 20), (16, 8)])
@pytest.mark.parametrize("ndim", [2, 3])
def test_rescaling_to_a_pixel_size_that_whole_sides_allow_equals_cropping_the_transform(
    old: int, new: int, ndim: int
) -> None:
    grid = ImageGrid(shape=(old,) * ndim, pixel_size_angstrom=1.2)
    image = noise(*grid.shape)
    expected, to_grid = resample.rescale(image, grid, new)
    found, _ = resample.rescale_to_pixel_size(image, grid, to_grid.pixel_size_angstrom, new)
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("side", [40, 41])
@pytest.mark.parametrize("pixel_size", [0.83, 1.0, 1.244, 2.1])
def test_rescaling_to_any_pixel_size_evaluates_the_same_function(side: int, pixel_size: float) -> None:
    grid = ImageGrid.cubic(side, 1.0)
    centre = (1.5, -2.0, 0.7)
    found, to_grid = resample.rescale_to_pixel_size(blob(grid, centre, 3.0), grid, pixel_size, 24)
    assert to_grid.pixel_size_angstrom == pixel_size
    inside = (to_grid.positions().abs() < 15).all(-1)
    # the Gaussian's spectrum at the coarsest Nyquist, exp(−2π²·9/4.2²) = 4e-5, times a few
    assert torch.allclose(found[inside], blob(to_grid, centre, 3.0)[inside], atol=3e-4)


def test_tutorial_map_gets_exactly_the_pixel_size_asked_for_and_empty_surroundings() -> None:
    grid = ImageGrid.cubic(32, 3.54)
    volume = blob(grid, (0.0, 0.0, 0.0), 9.0).float()
    found, to_grid = resample.rescale_to_pixel_size(volume, grid, 1.244, 128)
    assert (to_grid.side, to_grid.pixel_size_angstrom) == (128, 1.244)
    assert found.dtype == torch.float32
    assert float(found[64, 64, 64]) == pytest.approx(1.0, abs=1e-3)
    outside = (to_grid.positions().abs() > 17 * 3.54).any(-1)
    assert bool(outside.any())
    assert torch.equal(found[outside], torch.zeros_like(found[outside]))


def test_coarser_sampling_does_not_alias() -> None:
    grid = ImageGrid.square(64, 1.0)
    x = grid.positions()[..., 0]
    wave = torch.cos(2 * math.pi * 28 * x / 64)  # 2.29 Å: beyond 2 · 1.3 Å
    found, _ = resample.rescale_to_pixel_size(wave, grid, 1.3, 40)
    assert float(found.abs().max()) < 1e-12


@pytest.mark.parametrize(("old", "new"), [((8, 8), (12, 12)), ((9, 8), (6, 13)), ((7, 7, 8), (8, 5, 8))])
def test_cropping_and_padding_keep_the_centre_voxel(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    grid = ImageGrid(shape=old, pixel_size_angstrom=1.0)
    image = noise(3, *old)
    found, to_grid = resample.crop_or_pad(image, grid, new, fill=-9.0)
    assert torch.equal(found[(..., *to_grid.centre)], image[(..., *grid.centre)])
    assert int((found == -9.0).sum()) == 3 * (
        to_grid.n_pixels - math.prod(min(a, b) for a, b in zip(old, new, strict=True))
    )
    returned, _ = resample.crop_or_pad(found, to_grid, old)
    kept = returned != 0
    assert torch.equal(returned[kept], image[kept])


@pytest.mark.parametrize("shape", [(16, 16), (15, 15), (12, 17), (8, 9, 10)])
def test_a_shift_by_whole_pixels_rolls_the_image_towards_larger_coordinates(shape: tuple[int, ...]) -> None:
    grid = ImageGrid(shape=shape, pixel_size_angstrom=1.5)
    image = noise(*shape)
    pixels = (2, -3, 1)[: len(shape)]
    found = resample.shift(image, grid, torch.tensor(pixels) * 1.5)
    expected = torch.roll(image, tuple(reversed(pixels)), tuple(range(len(shape))))
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("side", [48, 47])
def test_a_shift_by_parts_of_a_pixel_moves_a_blob_there(side: int) -> None:
    grid = ImageGrid.square(side, 1.3)
    shifts = torch.tensor([[0.4, -1.7], [3.21, 2.6]], dtype=torch.float64)
    found = resample.shift(blob(grid, (1.0, 2.0)).expand(2, -1, -1), grid, shifts)
    for image, (dx, dy) in zip(found, shifts.tolist(), strict=True):
        assert torch.allclose(image, blob(grid, (1.0 + dx, 2.0 + dy)), atol=1e-6)  # tails of the Gaussian


def test_phase_factors_shift_like_the_image_function() -> None:
    grid = ImageGrid.square(15, 1.3)
    image, moved_by = noise(15, 15), torch.tensor([0.7, -1.9], dtype=torch.float64)
    factors = resample.phase_factors(grid.frequencies(), moved_by)
    assert torch.allclose(grid.irfft(grid.rfft(image) * factors), resample.shift(image, grid, moved_by), atol=1e-12)


def test_gradient_of_a_shift_agrees_with_finite_differences() -> None:
    grid = ImageGrid.square(8, 1.3)
    shifts = torch.tensor([[0.3, 0.9]], dtype=torch.float64, requires_grad=True)
    image = noise(1, 8, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, t: resample.shift(a, grid, t), (image, shifts))


def test_grids_of_different_fields_are_refused() -> None:
    grid, other = ImageGrid.square(16, 1.0), ImageGrid.square(8, 1.0)
    with pytest.raises(InputError, match="same field"):
        resample.crop_or_pad_transform(grid.rfft(noise(16, 16)), grid, other)


def test_a_transform_of_another_grid_is_refused() -> None:
    grid = ImageGrid.square(16, 1.0)
    with pytest.raises(ShapeError, match=r"must end in the axes \(16, 9\)"):
        resample.crop_or_pad_transform(torch.zeros(16, 16, dtype=torch.complex64), grid, grid)
