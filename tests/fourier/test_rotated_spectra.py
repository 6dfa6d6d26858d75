import numpy as np
import pytest
import torch

from halfmap.errors import InputError, ShapeError
from halfmap.fourier.band import FourierBand
from halfmap.fourier.rotated_spectra import rotate_back
from halfmap.fourier.slices import extract, prepare
from halfmap.geometry.rotations import matrix_from_euler
from halfmap.grid import ImageGrid

BANDS = [(16, 1, -1), (17, 1, -1), (32, 1, 9), (33, 4, 12)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(size=shape))


def turns(*degrees: float) -> torch.Tensor:
    psi = torch.tensor(degrees, dtype=torch.float64)
    return matrix_from_euler(torch.zeros_like(psi), torch.zeros_like(psi), psi)


def some_turns(n: int, seed: int = 0) -> torch.Tensor:
    return turns(*np.random.default_rng(seed).uniform(-180, 180, size=n))


def band_of(side: int, first: int, last: int) -> FourierBand:
    return FourierBand(ImageGrid.square(side, 1.3), min_shell=first, max_shell=last)


@pytest.mark.parametrize("limits", BANDS)
def test_constant_spectra_stay_constant_up_to_the_edges(limits: tuple[int, int, int]) -> None:
    band = band_of(*limits)
    found = rotate_back(torch.full((2, 9, len(band)), 3.0), some_turns(9), band)
    assert found.shape == (2, len(band))
    assert torch.allclose(found, torch.full_like(found, 27.0), rtol=1e-6)  # float32 weights


@pytest.mark.parametrize("limits", BANDS)
def test_quarter_turns_only_move_values(limits: tuple[int, int, int]) -> None:
    band = band_of(*limits)
    spectrum = noise(len(band))
    at = {tuple(k): i for i, k in enumerate(band.wave_numbers.tolist())}
    found = rotate_back(torch.stack([spectrum, 0 * spectrum]), turns(90.0, 0.0), band)
    turn = turns(90.0)[0, :2, :2].round().to(torch.int64)
    for i, q in enumerate(band.wave_numbers):
        k = tuple((turn @ q).tolist())
        source = at[k] if k in at else at[(-k[0], -k[1])]
        assert float(found[i]) == pytest.approx(float(spectrum[source]), abs=1e-12)
    single = rotate_back(spectrum.float()[None].expand(4, -1), turns(0.0, 90.0, 180.0, 270.0), band)
    half = rotate_back(spectrum.float()[None].expand(2, -1), turns(0.0, 90.0), band)
    # spectra are even: half a turn changes nothing
    assert torch.allclose(single, 2 * half, rtol=1e-6)


def test_a_spectrum_turns_back_as_the_reference_was_turned() -> None:
    side = 64
    grid = ImageGrid.square(side, 1.0)
    band = FourierBand(grid, min_shell=2, max_shell=24)
    x, y = grid.positions().unbind(-1)
    # longer along x: its transform and that of the turned image are elongated along y and the turned y
    image = torch.exp(-((x / 3) ** 2) / 2 - (y / 1.5) ** 2 / 2)
    rotation = turns(27.0)
    turned = extract(prepare(image, grid, 4), rotation, band).abs()
    original = band.gather(grid.rfft(image)).abs()
    error = (rotate_back(turned, rotation, band) - original).norm() / original.norm()
    assert float(error) < 0.02  # of bilinear interpolation between whole wave numbers
    # the other sense of rotation is far off
    assert float((rotate_back(turned, rotation.mT, band) - original).norm() / original.norm()) > 0.2


@pytest.mark.parametrize("limits", BANDS)
def test_nothing_becomes_negative_and_sums_are_linear(limits: tuple[int, int, int]) -> None:
    band = band_of(*limits)
    first, second, rotations = noise(2, 5, len(band)), noise(2, 5, len(band), seed=1), some_turns(5)
    both = rotate_back(first + 2 * second, rotations, band)
    assert torch.allclose(both, rotate_back(first, rotations, band) + 2 * rotate_back(second, rotations, band))
    spikes = (first > 0.95).float()
    assert float(rotate_back(spikes, rotations, band).min()) >= 0.0
    one_by_one = sum(rotate_back(first[:, n : n + 1], rotations[n : n + 1], band) for n in range(5))
    assert torch.allclose(rotate_back(first, rotations, band), one_by_one)


@pytest.mark.parametrize("limits", BANDS)
def test_the_kernel_agrees_with_plain_tensor_operations(limits: tuple[int, int, int]) -> None:
    band = band_of(*limits)
    values = noise(2, 3, 7, len(band))
    rotations = torch.cat([turns(0.0, 90.0), some_turns(5)])
    found = rotate_back(values.float(), rotations, band)
    assert found.dtype == torch.float32
    # double precision takes the other path; float32 sums of 7
    assert torch.allclose(found.double(), rotate_back(values, rotations, band), rtol=2e-6)


def test_spectra_that_do_not_fit_are_refused() -> None:
    band = band_of(16, 1, -1)
    with pytest.raises(ShapeError, match="Spectra must end"):
        rotate_back(torch.ones(2, 3, len(band)), turns(0.0, 1.0), band)
    with pytest.raises(ShapeError, match="Spectra must end"):
        rotate_back(torch.ones(len(band)), turns(0.0), band)
    with pytest.raises(InputError, match="real"):
        rotate_back(torch.ones(1, len(band)) + 0j, turns(0.0), band)
    tilted = matrix_from_euler(*torch.tensor([[0.0], [30.0], [0.0]], dtype=torch.float64))
    with pytest.raises(InputError, match="in their plane"):
        rotate_back(torch.ones(1, len(band)), tilted, band)
