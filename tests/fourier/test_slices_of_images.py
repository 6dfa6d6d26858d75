"""Slices of references of two axes: images turned in their plane."""

import math

import finufft
import numpy as np
import pytest
import torch

from halfmap.errors import ShapeError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.grid import ImageGrid


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def complex_noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.view_as_complex(noise(*shape, 2, seed=seed))


def turns(*degrees: float) -> torch.Tensor:
    psi = torch.tensor(degrees, dtype=torch.float64)
    return matrix_from_euler(torch.zeros_like(psi), torch.zeros_like(psi), psi)


def some_turns(n: int, seed: int = 0) -> torch.Tensor:
    return turns(*np.random.default_rng(seed).uniform(-180, 180, size=n))


def particles(grid: ImageGrid, n: int = 2, seed: int = 0) -> torch.Tensor:
    """Blobs of 1.5 pixels within a third of the side."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(n, 30, 2))
    centres *= grid.side / 3 * random.random((n, 30, 1)) / np.linalg.norm(centres, axis=-1, keepdims=True)
    positions = grid.positions() / grid.pixel_size_angstrom
    away = (positions - torch.from_numpy(centres)[:, :, None, None]).square().sum(-1)
    return torch.exp(-away / (2 * 1.5**2)).sum(1)


def exact_slices(images: torch.Tensor, rotations: torch.Tensor, band: FourierBand) -> torch.Tensor:
    """Evaluate the images' Fourier sums at A₂ᵀ k, by finufft; same side and pixel as the band."""
    side = images.shape[-1]
    result = []
    for rotation in rotations:
        points = (band.wave_numbers.double() @ rotation[:2, :2]).numpy().T * (2 * math.pi / side)
        # its modes run from -(n // 2) along each axis: our positions from the centre pixel
        modes = np.ascontiguousarray(images.mT.numpy()) + 0j
        result.append(finufft.nufft2d2(*np.ascontiguousarray(points), modes, eps=1e-12, isign=-1) / side**2)
    return torch.from_numpy(np.stack(result, axis=-2))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().square().sum().sqrt() / expected.abs().square().sum().sqrt())


@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize(("padding", "bound"), [(2, 1.7e-2), (3, 7e-3), (4, 4e-3)])
def test_slices_of_images_agree_with_the_exact_sum(side: int, padding: int, bound: float) -> None:
    grid = ImageGrid.square(side, 1.2)
    images = particles(grid)
    band = FourierBand(grid)
    rotations = some_turns(5)
    found = slices.extract(slices.prepare(images.float(), grid, padding), rotations, band)
    assert found.shape == (2, 5, len(band))
    # what linear interpolation leaves at this padding
    assert relative_error(found, exact_slices(images, rotations, band)) < bound


@pytest.mark.parametrize("side", [32, 33])
def test_a_turned_image_shows_its_blob_where_the_rotation_puts_it(side: int) -> None:
    grid = ImageGrid.square(side, 2.0)
    centre, width = torch.tensor([9.0, -5.0], dtype=torch.float64), 4.0
    image = torch.exp(-(grid.positions() - centre).square().sum(-1) / (2 * width**2))
    band = FourierBand(grid)
    rotation = turns(35.0)
    turned = grid.irfft(band.scatter(slices.extract(slices.prepare(image, grid), rotation, band)))[0]
    away = grid.positions() - rotation[0, :2, :2] @ centre
    expected = torch.exp(-away.square().sum(-1) / (2 * width**2))
    # the band holds no mean, and interpolation errs by 2.5e-2 of the whole
    assert relative_error(turned, expected - expected.mean()) < 2.5e-2


@pytest.mark.parametrize("side", [16, 32, 17])
@pytest.mark.parametrize("padding", [1, 2, 3])
def test_quarter_turns_are_exact(side: int, padding: int) -> None:
    grid = ImageGrid.square(side, 1.0)
    correction = slices.PaddedGrid(grid, padding=padding).gridding_correction()
    images = noise(3, side, side).float()
    band = FourierBand(grid)
    # points fall on samples, so that only the correction is seen
    padded = slices.prepare((images * correction).float(), grid, padding)
    found = slices.extract(padded, turns(0.0, 90.0, 180.0, -90.0), band)
    quarter = [grid.irfft(band.scatter(values)) for values in found.movedim(1, 0)]
    start = grid.irfft(band.scatter(band.gather(grid.rfft(images))))
    back = int(side % 2 == 0)
    # a point at x goes to -y, about the centre pixel
    expected = start
    for turned in quarter:
        assert torch.allclose(turned, expected, atol=2e-6)  # float32 rounding of values of size 1
        expected = torch.roll(expected.mT.flip(-2), back, dims=-2)


def test_every_image_is_taken_at_every_rotation() -> None:
    grid = ImageGrid.square(12, 1.0)
    band = FourierBand(grid)
    images, rotations = noise(2, 3, 12, 12), some_turns(4)
    found = slices.extract(slices.prepare(images, grid), rotations.reshape(2, 2, 3, 3), band)
    assert found.shape == (2, 3, 2, 2, len(band))
    for index in np.ndindex(2, 3):
        alone = slices.extract(slices.prepare(images[index], grid), rotations, band)
        assert alone.shape == (4, len(band))
        assert torch.allclose(found[index].reshape(4, -1), alone, atol=1e-14)


def test_a_flat_volume_and_its_image_have_the_same_slices() -> None:
    side = 16
    image = particles(ImageGrid.square(side, 1.5), n=1)[0]
    volume = torch.zeros(side, side, side, dtype=torch.float64)
    volume[side // 2] = image
    band = FourierBand(ImageGrid.square(side, 1.5))
    rotations = some_turns(3)
    of_volume = slices.extract(slices.prepare(volume, ImageGrid.cubic(side, 1.5)), rotations, band)
    of_image = slices.extract(slices.prepare(image, ImageGrid.square(side, 1.5)), rotations, band)
    assert torch.allclose(of_volume, of_image, atol=1e-12)


def test_slices_on_a_grid_of_another_pixel_size_and_field_are_the_same_image() -> None:
    grid, other = ImageGrid.square(32, 2.0), ImageGrid.square(40, 3.0)
    image = torch.exp(-grid.positions().square().sum(-1) / (2 * 5.0**2))
    band = FourierBand(other)
    found = slices.extract(slices.prepare(image, grid), turns(20.0), band)
    expected = band.gather(other.rfft(torch.exp(-other.positions().square().sum(-1) / (2 * 5.0**2))))
    assert relative_error(found[0], expected) < 2e-2


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("padding", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_insertion_into_images_is_the_adjoint_of_extraction(side: int, padding: int, dtype: torch.dtype) -> None:
    grid = ImageGrid.square(side, 1.0)
    band = FourierBand(grid)
    padded = slices.prepare(noise(3, side, side).to(dtype), grid, padding)
    rotations = torch.cat([turns(0.0, 90.0), some_turns(4)])
    values = complex_noise(3, 6, len(band), seed=1).to(padded.values.dtype)
    data, weight = slices.insert(values, None, rotations, band, padded.grid)
    assert data.shape == padded.values.shape
    assert weight.shape == (0,)
    taken = slices.extract(padded, rotations, band)
    product = (data.conj() * padded.values).real.double()
    in_space = float(product.sum() - product[..., 0].sum() / 2)
    in_band = float((values.conj() * taken).real.double().sum())
    # rounding: of sums of float32 terms, and of float64
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    assert abs(in_space - in_band) < tolerance * float(values.abs().double().norm() * taken.abs().double().norm())


def test_inserted_images_are_transforms_of_real_ones() -> None:
    grid = slices.PaddedGrid(ImageGrid.square(12, 1.0))
    band = FourierBand(ImageGrid.square(12, 1.0))
    values, weights = complex_noise(2, 6, len(band)), noise(2, 6, len(band)).square()
    data, weight = slices.insert(values, weights, some_turns(6), band, grid)
    assert torch.equal(data[..., 0], data[..., 0].flip(-1).conj())
    assert torch.equal(weight[..., 0], weight[..., 0].flip(-1))
    ones, _ = slices.insert(weights + 0j, None, some_turns(6), band, grid)
    # spread like the values, but never conjugated
    assert torch.allclose(ones.real, weight, atol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("side", [12, 13])
@pytest.mark.parametrize("padding", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adjoint_in_space_is_the_transpose_of_extracting_from_a_reference(
    ndim: int, side: int, padding: int, dtype: torch.dtype
) -> None:
    grid = ImageGrid(shape=(side,) * ndim, pixel_size_angstrom=1.0)
    # images of a wider field, so that the factor between fields is seen too
    for image_side in (side, side + 4):
        band = FourierBand(ImageGrid.square(image_side, 1.0))
        rotations = torch.cat([turns(0.0, 90.0, 180.0), some_turns(4)])
        leading = (3,) if ndim == 2 else ()
        references = noise(*leading, *grid.shape).to(dtype)
        padded = slices.prepare(references, grid, padding)
        taken = slices.extract(padded, rotations, band)
        values = complex_noise(*taken.shape, seed=1).to(taken.dtype)
        found = slices.adjoint(values, rotations, band, padded.grid)
        assert found.shape == references.shape
        assert found.dtype == dtype
        in_space = (found.double() * references.double()).flatten(len(leading)).sum(-1)
        in_band = (values.conj() * taken).real.double().flatten(len(leading)).sum(-1)
        # rounding: of sums of float32 terms, and of float64
        tolerance = (1e-6 if dtype == torch.float32 else 1e-13) * float(values.abs().norm() * taken.abs().norm())
        assert torch.allclose(in_space, in_band, rtol=0, atol=tolerance)


@pytest.mark.parametrize("padding", [1, 2])
def test_adjoint_in_space_is_what_differentiation_gives(padding: int) -> None:
    grid = ImageGrid.square(10, 1.0)
    band, rotations = FourierBand(grid), some_turns(4)
    images = noise(2, 10, 10).requires_grad_()
    values = complex_noise(2, 4, len(band))
    padded = slices.prepare(images, grid, padding)
    taken = slices.extract(padded, rotations, band)
    (expected,) = torch.autograd.grad((values.conj() * taken).real.sum(), images)
    assert torch.allclose(slices.adjoint(values, rotations, band, padded.grid), expected, atol=1e-13)


def test_gradients_of_slices_of_images_agree_with_finite_differences() -> None:
    grid = ImageGrid.square(6, 1.0)
    band = FourierBand(grid)
    images, rotations = noise(2, 6, 6).requires_grad_(), some_turns(3).requires_grad_()

    def taken(references: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        return slices.extract(slices.prepare(references, grid), matrices, band)

    assert torch.autograd.gradcheck(taken, (images, rotations), eps=1e-7, atol=1e-5)


def test_gradients_of_insertion_into_images_agree_with_finite_differences() -> None:
    grid = slices.PaddedGrid(ImageGrid.square(6, 1.0), padding=1)
    band = FourierBand(grid.grid)
    values, rotations = complex_noise(2, 3, len(band)).requires_grad_(), some_turns(3).requires_grad_()

    def transforms(inserted: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        return slices.insert(inserted, None, matrices, band, grid)[0]

    assert torch.autograd.gradcheck(transforms, (values, rotations), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("n_rotations", [1, 7])
def test_kernels_of_images_agree_with_plain_tensor_operations(weighted: bool, n_rotations: int) -> None:
    # a band that reaches beyond the stored range, and more points than one block of the kernel
    grid, band = ImageGrid.square(40, 1.2), FourierBand(ImageGrid.square(48, 1.0))
    padded = slices.prepare(noise(3, 40, 40), grid)
    single = slices.PaddedTransform(values=padded.values.to(torch.complex64), grid=padded.grid)
    rotations, values = some_turns(n_rotations), complex_noise(3, n_rotations, len(band))
    weights = noise(3, n_rotations, len(band)).square() if weighted else None
    found = slices.extract(single, rotations, band)
    assert found.dtype == torch.complex64
    # double precision takes the other path
    assert relative_error(found, slices.extract(padded, rotations, band)) < 1e-6
    data, weight = slices.insert(values.to(torch.complex64), weights, rotations, band, padded.grid)
    expected_data, expected_weight = slices.insert(values, weights, rotations, band, padded.grid)
    assert relative_error(data, expected_data) < 1e-6
    assert weight.shape == expected_weight.shape
    if weighted:
        assert relative_error(weight, expected_weight) < 1e-6


def test_images_are_recovered_from_many_turned_ones() -> None:
    grid = ImageGrid.square(24, 1.0)
    band = FourierBand(grid)
    images = particles(grid, n=2)
    rotations = some_turns(300)
    padded_grid = slices.PaddedGrid(grid)
    taken = slices.extract(slices.prepare(images.float(), grid), rotations, band)
    data, weight = slices.insert(taken, torch.ones(taken.shape), rotations, band, padded_grid)
    mean = slices.PaddedTransform(values=data / weight.clamp_min(1e-3), grid=padded_grid)
    found = band.gather(grid.rfft(slices.to_reference(mean)))
    # interpolated twice: 3e-2 here
    assert relative_error(found, band.gather(grid.rfft(images)).to(found.dtype)) < 0.04


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("padding", [1, 2, 3])
def test_to_reference_divides_images_by_the_gridding_correction_once_more(side: int, padding: int) -> None:
    grid = ImageGrid.square(side, 1.0)
    images = particles(grid)
    padded = slices.prepare(images, grid, padding)
    found = slices.to_reference(padded) * padded.grid.gridding_correction() ** 2
    # without padding everything is stored; with it, what lies beyond R, the images' Nyquist, is cut
    assert relative_error(found, images) < (1e-12 if padding == 1 else 2e-2)


def test_shapes_of_images_that_do_not_fit_are_refused() -> None:
    grid, band = ImageGrid.square(8, 1.0), FourierBand(ImageGrid.square(8, 1.0))
    with pytest.raises(ShapeError, match="equal sides"):
        slices.prepare(torch.zeros(8, 6), ImageGrid(shape=(8, 6), pixel_size_angstrom=1.0))
    with pytest.raises(ShapeError, match="must end in the axes"):
        slices.prepare(torch.zeros(3, 8, 7), grid)
    padded = slices.prepare(torch.zeros(3, 8, 8), grid)
    with pytest.raises(ShapeError, match="padded transform"):
        slices.PaddedTransform(values=padded.values[..., 1:], grid=padded.grid)
    with pytest.raises(ShapeError, match="Values and weights"):
        slices.insert(torch.zeros(3, 2, len(band) - 1) + 0j, None, turns(0.0, 1.0), band, padded.grid)
    with pytest.raises(ShapeError, match="Values and weights"):
        slices.insert(torch.zeros(3, 2, len(band)) + 0j, torch.ones(2, len(band)), turns(0.0, 1.0), band, padded.grid)
    with pytest.raises(ShapeError, match="prepare them in turn"):
        slices.prepare(torch.zeros(2, 8, 8, 8), ImageGrid.cubic(8, 1.0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_an_accelerator_gives_what_the_kernels_of_images_give() -> None:
    grid = ImageGrid.square(20, 1.0)
    band = FourierBand(grid)
    padded = slices.prepare(noise(3, 20, 20).float(), grid)
    rotations, values = some_turns(7), complex_noise(3, 7, len(band)).to(torch.complex64)
    found = slices.extract(padded.to("cuda"), rotations, band)
    assert relative_error(found.cpu(), slices.extract(padded, rotations, band)) < 1e-6
    data, weight = slices.insert(values.cuda(), values.abs().cuda(), rotations, band, padded.grid)
    expected = slices.insert(values, values.abs(), rotations, band, padded.grid)
    assert relative_error(data.cpu(), expected[0]) < 1e-6
    assert relative_error(weight.cpu(), expected[1]) < 1e-6
