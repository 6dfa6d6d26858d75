import pytest
import torch

from halfmap import keyed_random
from halfmap.fourier.band import FourierBand
from halfmap.fourier.slices import PaddedGrid, PaddedTransform, prepare, to_reference
from halfmap.geometry.rotations import random_rotations
from halfmap.geometry.shapes import soft_sphere
from halfmap.grid import ImageGrid
from halfmap.imaging.back_projection import back_project
from halfmap.imaging.projection import project
from halfmap.optics.ctf import ctf


def complex_normal(purpose: str, n: int, size: int) -> torch.Tensor:
    return torch.view_as_complex(torch.from_numpy(keyed_random.normal(1, purpose, range(n), size=(size, 2)))).to(
        torch.complex64
    )


def some_transfer(band: FourierBand, n: int, *, complex_valued: bool) -> torch.Tensor:
    values = ctf(
        band.frequencies,
        defocus_u_angstrom=torch.linspace(8000.0, 20_000.0, n),
        defocus_v_angstrom=9000.0,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
    )
    return values * torch.exp(1j * 20 * band.frequencies[:, 0]).to(torch.complex64) if complex_valued else values


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("complex_valued", [False, True])
def test_back_projection_is_the_adjoint_of_projection(side, complex_valued):
    grid = ImageGrid.cubic(side, 3.0)
    band = FourierBand(ImageGrid.square(side, 3.0))
    volume = torch.from_numpy(keyed_random.normal(1, "volume", 0, size=grid.shape)).float()
    padded = prepare(volume, grid)
    rotations = random_rotations(1, "poses", range(4))
    origins = 5.0 * torch.from_numpy(keyed_random.normal(1, "origins", range(4), size=2))
    model = {"origin_angstrom": origins, "transfer": some_transfer(band, 4, complex_valued=complex_valued)}
    images = complex_normal("images", 4, len(band))
    data, _ = back_project(images, rotations, band, padded.grid, **model)
    in_images = (images.conj() * project(padded, rotations, band, **model)).real.double().sum()
    products = (data.conj() * padded.values).real.double()
    products[..., 0] /= 2  # both mates are stored
    torch.testing.assert_close(products.sum(), in_images, rtol=1e-4, atol=1e-2)


def test_weight_is_the_transfer_squared_over_the_noise_variance():
    grid = PaddedGrid(ImageGrid.cubic(16, 3.0), padding=1)
    band = FourierBand(ImageGrid.square(16, 3.0))
    transfer = some_transfer(band, 1, complex_valued=False)
    ones = torch.ones(1, len(band), dtype=torch.complex64)
    data, weight = back_project(
        ones, torch.eye(3)[None], band, grid, transfer=transfer, noise_variance=torch.tensor(4.0)
    )
    x, y = band.wave_numbers.unbind(-1)
    torch.testing.assert_close(weight[grid.radius, grid.radius + y, x], transfer[0].square() / 4)
    torch.testing.assert_close(data[grid.radius, grid.radius + y, x].real, transfer[0] / 4)


def test_volume_is_recovered_from_many_noise_free_projections():
    grid = ImageGrid.cubic(24, 3.0)
    band = FourierBand(ImageGrid.square(24, 3.0))
    noise = torch.from_numpy(keyed_random.normal(1, "volume", 0, size=grid.shape)).float()
    volume = noise * soft_sphere(grid, 18.0, 6.0)
    padded = prepare(volume, grid)
    n = 2000
    rotations = random_rotations(1, "poses", range(n))
    model = {
        "origin_angstrom": 4.0 * torch.from_numpy(keyed_random.normal(1, "origins", range(n), size=2)),
        "transfer": some_transfer(band, n, complex_valued=True),
    }
    images = project(padded, rotations, band, **model)
    data, weight = back_project(images, rotations, band, padded.grid, **model)
    recovered = to_reference(PaddedTransform(values=data / (weight + 1e-2), grid=padded.grid))
    low = grid.frequencies().norm(dim=-1) < 9 / 72
    low[0, 0, 0] = False
    a, b = grid.rfft(recovered)[low], grid.rfft(volume)[low]
    correlation = (a.conj() * b).real.sum() / (a.abs().square().sum() * b.abs().square().sum()).sqrt()
    assert correlation > 0.98
