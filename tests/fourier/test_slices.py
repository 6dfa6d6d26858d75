import math

import finufft
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.errors import InputError, ShapeError
from halfmap.fourier import slices
from halfmap.fourier.band import FourierBand
from halfmap.grid import ImageGrid


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def complex_noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.view_as_complex(noise(*shape, 2, seed=seed))


def rotations(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(Rotation.random(n, random_state=seed).as_matrix())


def particle(grid: ImageGrid, seed: int = 0) -> torch.Tensor:
    """Blobs of 1.5 voxels within a third of the side, as atoms of a particle."""
    centres = np.random.default_rng(seed).normal(size=(40, 3))
    centres *= grid.side / 3 * np.random.default_rng(seed).random((40, 1)) / np.linalg.norm(centres, axis=1)[:, None]
    positions = grid.positions() / grid.pixel_size_angstrom
    away = (positions[None] - torch.from_numpy(centres)[:, None, None, None]).square().sum(-1)
    return torch.exp(-away / (2 * 1.5**2)).sum(0)


def exact_slices(volume: torch.Tensor, rotation: torch.Tensor, band: FourierBand) -> torch.Tensor:
    """Evaluate the volume's Fourier sum at Aᵀ (kx, ky, 0), by finufft; same side and pixel as the band."""
    side = volume.shape[-1]
    k = torch.nn.functional.pad(band.wave_numbers.double(), (0, 1))
    points = np.ascontiguousarray((k @ rotation).numpy().T) * (2 * math.pi / side)
    # its modes run from -(n // 2) along each axis: our positions from the centre voxel
    sums = finufft.nufft3d2(*points, volume.permute(2, 1, 0).contiguous().numpy() + 0j, eps=1e-12, isign=-1)
    return torch.from_numpy(sums) / side**2


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().square().sum().sqrt() / expected.abs().square().sum().sqrt())


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("padding", [1, 2, 3])
def test_slice_without_rotation_is_the_sum_along_z(side: int, padding: int) -> None:
    grid = ImageGrid.cubic(side, 1.5)
    # without the correction's smoothing the samples themselves are hit: only the correction is undone
    volume = particle(grid)
    band = FourierBand(ImageGrid.square(side, 1.5))
    padded = slices.prepare(volume, grid, padding=padding)
    found = slices.extract(padded, torch.eye(3, dtype=torch.float64)[None], band)[0]
    flat = volume / slices.PaddedGrid(grid, padding=padding).gridding_correction()
    expected = band.gather(band.grid.rfft(flat.sum(0)))
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize(("padding", "bound"), [(2, 1.5e-2), (3, 7e-3)])
def test_slices_agree_with_the_exact_sum(side: int, padding: int, bound: float) -> None:
    grid = ImageGrid.cubic(side, 1.2)
    volume = particle(grid)
    band = FourierBand(ImageGrid.square(side, 1.2))
    padded = slices.prepare(volume.float(), grid, padding=padding)
    turns = rotations(5)
    expected = torch.stack([exact_slices(volume, turn, band) for turn in turns])
    # what linear interpolation leaves at this padding; without the correction it is three times as much
    assert relative_error(slices.extract(padded, turns, band), expected) < bound


@pytest.mark.parametrize("side", [32, 33])
def test_projection_of_a_rotated_blob_lies_where_the_rotation_puts_it(side: int) -> None:
    grid, image_grid = ImageGrid.cubic(side, 2.0), ImageGrid.square(side, 2.0)
    centre, width = torch.tensor([7.0, -5.0, 9.0], dtype=torch.float64), 4.0
    volume = torch.exp(-(grid.positions() - centre).square().sum(-1) / (2 * width**2))
    band = FourierBand(image_grid)
    for turn in rotations(3, seed=4):
        image = image_grid.irfft(band.scatter(slices.extract(slices.prepare(volume, grid), turn[None], band)[0]))
        away = image_grid.positions() - (turn @ centre)[:2]
        expected = torch.exp(-away.square().sum(-1) / (2 * width**2)) * (math.sqrt(2 * math.pi) * width / 2.0)
        # the band holds no mean, and interpolation errs by 2.5e-2 of the whole
        assert relative_error(image, expected - expected.mean()) < 2.5e-2
        peak = torch.nonzero(image == image.max())[0]
        assert torch.all((image_grid.positions()[*peak] - (turn @ centre)[:2]).abs() <= 1.0)


def test_slices_on_a_grid_of_another_pixel_size_and_field_are_the_same_projection() -> None:
    grid = ImageGrid.cubic(32, 2.0)
    volume = torch.exp(-grid.positions().square().sum(-1) / (2 * 5.0**2))
    other = ImageGrid.square(40, 3.0)
    padded = slices.prepare(volume, grid)
    found = slices.extract(padded, rotations(2), FourierBand(other))
    expected = torch.exp(-other.positions().square().sum(-1) / (2 * 5.0**2)) * (math.sqrt(2 * math.pi) * 5.0 / 2.0)
    band_limited = FourierBand(other).gather(other.rfft(expected))
    assert relative_error(found, band_limited.expand_as(found)) < 2e-2


def test_coordinates_beyond_the_stored_range_are_zero() -> None:
    grid = ImageGrid.cubic(16, 2.0)
    band = FourierBand(ImageGrid.square(32, 1.0))  # reaches twice as far
    padded = slices.prepare(noise(16, 16, 16).float(), grid)
    found = slices.extract(padded, rotations(3), band)
    beyond = band.frequencies.norm(dim=-1) * 64 >= padded.grid.radius
    assert bool(beyond.any())
    assert float(found[:, beyond].abs().max()) == 0.0
    assert float(found[:, ~beyond].abs().min()) > 0.0
    data, weight = slices.insert(found * 0 + 1, torch.ones(3, len(band)), rotations(3), band, padded.grid)
    assert float(weight.sum()) == pytest.approx(
        # each coefficient inside adds one, and what falls on kx = 0 once more
        float(3 * (~beyond).sum() + weight[..., 0].sum() / 2),
        rel=1e-5,
    )
    assert bool(torch.isfinite(torch.view_as_real(data)).all())


def half_volume_inner(first: torch.Tensor, second: torch.Tensor) -> float:
    """Re Σ a* b over a half volume; kx = 0 is stored twice and counts one half."""
    product = (first.conj() * second).real.double()
    return float(product.sum() - product[..., 0].sum() / 2)


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_insertion_is_the_adjoint_of_extraction(side: int, padding: int, dtype: torch.dtype) -> None:
    grid = ImageGrid.cubic(side, 1.0)
    band = FourierBand(ImageGrid.square(side, 1.0))
    padded = slices.prepare(noise(side, side, side).to(dtype), grid, padding=padding)
    turns = torch.cat([torch.eye(3, dtype=torch.float64)[None], rotations(4)])
    values = complex_noise(5, len(band), seed=1).to(padded.values.dtype)
    data, _ = slices.insert(values, None, turns, band, padded.grid)
    in_band = float((values.conj() * slices.extract(padded, turns, band)).real.double().sum())
    # rounding: of sums of float32 terms, and of float64
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    scale = float(values.abs().double().norm() * slices.extract(padded, turns, band).abs().double().norm())
    assert abs(half_volume_inner(data, padded.values) - in_band) < tolerance * scale


def test_inserted_volumes_are_transforms_of_real_ones() -> None:
    grid = slices.PaddedGrid(ImageGrid.cubic(12, 1.0))
    band = FourierBand(ImageGrid.square(12, 1.0))
    data, weight = slices.insert(complex_noise(6, len(band)), noise(6, len(band)).square(), rotations(6), band, grid)
    assert torch.equal(data[..., 0], data[..., 0].flip(0, 1).conj())
    assert torch.equal(weight[..., 0], weight[..., 0].flip(0, 1))


@pytest.mark.parametrize("weighted", [True, False])
def test_kernels_agree_with_plain_tensor_operations(weighted: bool) -> None:
    grid = ImageGrid.cubic(20, 1.0)
    band = FourierBand(ImageGrid.square(20, 1.0))
    padded = slices.prepare(noise(20, 20, 20), grid)
    single = slices.PaddedTransform(values=padded.values.to(torch.complex64), grid=padded.grid)
    turns, values = rotations(7), complex_noise(7, len(band))
    weights = noise(7, len(band)).square() if weighted else None
    found = slices.extract(single, turns, band)
    assert found.dtype == torch.complex64
    # double precision takes the other path
    assert relative_error(found, slices.extract(padded, turns, band)) < 1e-6
    data, weight = slices.insert(values.to(torch.complex64), weights, turns, band, padded.grid)
    expected_data, expected_weight = slices.insert(values, weights, turns, band, padded.grid)
    assert relative_error(data, expected_data) < 1e-6
    assert weight.shape == expected_weight.shape
    if weighted:
        assert relative_error(weight, expected_weight) < 1e-6


def test_gradient_by_the_volume_agrees_with_finite_differences() -> None:
    grid = ImageGrid.cubic(6, 1.0)
    band = FourierBand(ImageGrid.square(6, 1.0))
    turns = rotations(2)
    volume = noise(6, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: slices.extract(slices.prepare(v, grid), turns, band), (volume,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_by_the_rotation_agrees_with_finite_differences(dtype: torch.dtype) -> None:
    grid = ImageGrid.cubic(10, 1.0)
    band = FourierBand(ImageGrid.square(10, 1.0))
    exact = slices.prepare(particle(grid), grid)
    padded = slices.prepare(particle(grid).to(dtype), grid)
    target = complex_noise(2, len(band))
    turns = rotations(2, seed=3).requires_grad_()

    def loss(values: slices.PaddedTransform, matrices: torch.Tensor) -> torch.Tensor:
        return (slices.extract(values, matrices, band) - target).abs().square().sum()

    (found,) = torch.autograd.grad(loss(padded, turns), turns)
    step = 1e-6
    for image, row, column in np.ndindex(2, 3, 3):
        offset = torch.zeros(2, 3, 3, dtype=torch.float64)
        offset[image, row, column] = step
        with torch.no_grad():
            slope = (loss(exact, turns + offset) - loss(exact, turns - offset)) / (2 * step)
        assert float(found[image, row, column]) == pytest.approx(float(slope), abs=2e-5 * float(found.abs().max()))


def test_gradients_of_insertion_agree_with_finite_differences() -> None:
    grid = slices.PaddedGrid(ImageGrid.cubic(5, 1.0), padding=1)
    band = FourierBand(ImageGrid.square(5, 1.0))
    values, turns = complex_noise(2, len(band)).requires_grad_(), rotations(2, seed=1).requires_grad_()

    def volume(inserted: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        return slices.insert(inserted, None, matrices, band, grid)[0]

    assert torch.autograd.gradcheck(volume, (values, turns), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("padding", [1, 2, 3])
def test_to_reference_divides_by_the_gridding_correction_once_more(side: int, padding: int) -> None:
    grid = ImageGrid.cubic(side, 1.0)
    volume = particle(grid)
    padded = slices.prepare(volume, grid, padding=padding)
    found = slices.to_reference(padded) * padded.grid.gridding_correction() ** 2
    # without padding everything is stored; with it, what lies beyond R, the volume's Nyquist, is cut
    assert relative_error(found, volume) < (1e-12 if padding == 1 else 2e-2)


def test_a_volume_is_recovered_from_many_slices() -> None:
    grid = ImageGrid.cubic(24, 1.0)
    band = FourierBand(ImageGrid.square(24, 1.0))
    volume = particle(grid)
    turns = rotations(3000)
    taken = slices.extract(slices.prepare(volume.float(), grid), turns, band)
    data, weight = slices.insert(taken, torch.ones(taken.shape), turns, band, slices.PaddedGrid(grid))
    recovered = slices.to_reference(
        slices.PaddedTransform(values=data / weight.clamp_min(1e-3), grid=slices.PaddedGrid(grid))
    )
    shell_grid = FourierBand(ImageGrid.square(24, 1.0))
    turn = rotations(1, seed=9)[0]
    # interpolated twice: 3.8e-2 here; 5.1e-2 without the correction of the result
    assert (
        relative_error(exact_slices(recovered.double(), turn, shell_grid), exact_slices(volume, turn, shell_grid))
        < 0.045
    )


@pytest.mark.oracle
def test_slices_agree_with_torch_fourier_slice() -> None:
    oracle = pytest.importorskip("torch_fourier_slice")
    side = 32
    grid = ImageGrid.cubic(side, 1.0)
    volume = particle(grid).float()
    band = FourierBand(ImageGrid.square(side, 1.0), max_shell=side // 2 - 2)
    turns = rotations(4, seed=2)
    # it rotates the sampling grid by its matrix: the transpose of the rotation of the object
    images = oracle.project_3d_to_2d(volume, turns.mT.float(), pad_factor=2.0, zyx_matrices=False)
    expected = band.gather(band.grid.rfft(images))
    found = slices.extract(slices.prepare(volume, grid), turns, band)
    # it crops its projections from a padded image: 6e-3 of its own against our 1.1e-2
    assert relative_error(found, expected) < 1.5e-2


def test_rotations_of_any_leading_shape_are_taken() -> None:
    grid, band = ImageGrid.cubic(8, 1.0), FourierBand(ImageGrid.square(8, 1.0))
    padded = slices.prepare(noise(8, 8, 8).float(), grid)
    turns = rotations(6)
    nested = slices.extract(padded, turns.reshape(2, 3, 3, 3), band)
    assert torch.equal(nested.reshape(6, -1), slices.extract(padded, turns, band))


def test_bad_input_is_refused() -> None:
    grid, band = ImageGrid.cubic(8, 1.0), FourierBand(ImageGrid.square(8, 1.0))
    padded = slices.prepare(torch.zeros(8, 8, 8), grid)
    with pytest.raises(ShapeError, match=r"\(\.\.\., 3, 3\)"):
        slices.extract(padded, torch.zeros(2, 3), band)
    with pytest.raises(InputError, match="finite"):
        slices.extract(padded, torch.full((1, 3, 3), float("nan")), band)
    with pytest.raises(ShapeError, match="Values and weights"):
        slices.insert(torch.zeros(2, 5, dtype=torch.complex64), None, rotations(2), band, padded.grid)
    with pytest.raises(InputError, match="Padding"):
        slices.prepare(torch.zeros(8, 8, 8), grid, padding=0)
    with pytest.raises(ShapeError, match="equal sides"):
        slices.prepare(torch.zeros(8, 8, 6), ImageGrid(shape=(8, 8, 6), pixel_size_angstrom=1.0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_an_accelerator_gives_what_the_kernels_give() -> None:
    grid, band = ImageGrid.cubic(20, 1.0), FourierBand(ImageGrid.square(20, 1.0))
    padded = slices.prepare(noise(20, 20, 20).float(), grid)
    turns, values = rotations(7), complex_noise(7, len(band)).to(torch.complex64)
    found = slices.extract(padded.to("cuda"), turns, band)
    assert found.device.type == "cuda"
    assert relative_error(found.cpu(), slices.extract(padded, turns, band)) < 1e-6
    on_device, _ = slices.insert(values.cuda(), None, turns, band, padded.grid)
    assert relative_error(on_device.cpu(), slices.insert(values, None, turns, band, padded.grid)[0]) < 1e-6
