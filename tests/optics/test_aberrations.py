import pytest
import torch

from halfmap.errors import InputError, ShapeError
from halfmap.grid import ImageGrid
from halfmap.optics.aberrations import even_index, even_phase, magnify, odd_index, odd_phase, zernike

MICROSCOPE = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7}
POINTS = [(9, 0), (0, 9), (11, 5), (12, -4)]  # (x, y) in pixels of a 64-pixel transform at 1.5 Å


def at_points() -> torch.Tensor:
    return torch.tensor(POINTS, dtype=torch.float64) / 96.0


def odd(i: int, value: float) -> list[float]:
    return [value if j == i else 0.0 for j in range(6)]


def test_zernike_polynomials_have_their_textbook_form():
    x, y = at_points().unbind(-1)
    squared = x * x + y * y
    for (n, m), expected in {
        (0, 0): torch.ones_like(x),
        (2, 0): 2 * squared - 1,
        (2, -2): 2 * x * y,
        (3, 1): (3 * squared - 2) * x,
        (4, 0): 6 * squared**2 - 6 * squared + 1,
        (4, 2): (4 * squared - 3) * (x * x - y * y),
        (5, -5): 5 * x**4 * y - 10 * x**2 * y**3 + y**5,
    }.items():
        torch.testing.assert_close(zernike(at_points(), n, m), expected)


def test_coefficients_are_numbered_by_order_then_azimuth():
    assert [even_index(i) for i in range(9)] == [
        *[(0, 0), (2, -2), (2, 0), (2, 2)],
        *[(4, -4), (4, -2), (4, 0), (4, 2), (4, 4)],
    ]
    assert [odd_index(i) for i in range(6)] == [(1, -1), (1, 1), (3, -3), (3, -1), (3, 1), (3, 3)]


@pytest.mark.parametrize("side", [8, 9])
def test_even_phases_are_even_and_odd_phases_odd(side):
    frequencies = ImageGrid.square(side, 1.5).frequencies()
    even_weights = torch.arange(1.0, 10.0)
    torch.testing.assert_close(even_phase(-frequencies, even_weights), even_phase(frequencies, even_weights))
    parameters = {"odd_zernike": torch.arange(1.0, 7.0), "beam_tilt_mrad": (0.5, -0.3), **MICROSCOPE}
    torch.testing.assert_close(odd_phase(-frequencies, **parameters), -odd_phase(frequencies, **parameters))


# Phases that relion_reconstruct --ctf --external_reconstruct (RELION 3.1.3) takes off a point's transform, at POINTS.
@pytest.mark.oracle
@pytest.mark.parametrize(
    ("parameters", "expected_removed"),
    [
        ({"beam_tilt_mrad": (2.0, 0.0)}, [0.10836, 0.0, 0.23872, 0.2854]),
        ({"beam_tilt_mrad": (0.0, 2.0)}, [0.0, 0.10836, 0.10851, -0.09513]),
        ({"beam_tilt_mrad": (2.0, 0.0), "odd_zernike": odd(3, 3.0)}, [0.10836, 0.0, 0.23872, 0.2854]),
        ({"odd_zernike": odd(0, 3.0)}, [0.0, -0.28125, -0.15625, 0.125]),
        ({"odd_zernike": odd(1, 3.0)}, [-0.28125, 0.0, -0.34375, -0.375]),
        ({"odd_zernike": odd(2, 20.0)}, [0.0, 0.01648, -0.0382, 0.03762]),
        ({"odd_zernike": odd(3, 20.0)}, [0.0, 3.70056, 2.03383, -1.62326]),
        ({"odd_zernike": odd(5, 20.0)}, [-0.01648, 0.0, -0.01144, -0.02604]),
    ],
)
def test_odd_phases_agree_with_relion_at_stated_points(parameters, expected_removed):
    phase = odd_phase(at_points(), **parameters, **MICROSCOPE)
    expected = torch.tensor(expected_removed, dtype=torch.float64)
    torch.testing.assert_close(torch.exp(1j * phase), torch.exp(-1j * expected), atol=1e-5, rtol=0)


def test_magnification_maps_each_frequency_by_the_matrix():
    mapped = magnify(torch.tensor([[0.1, 0.2]]), [[1.02, 0.01], [0.03, 0.97]])
    torch.testing.assert_close(mapped, torch.tensor([[0.104, 0.197]]))


def test_impossible_indices_and_shapes_are_refused():
    with pytest.raises(InputError, match="Zernike indices must satisfy"):
        zernike(at_points(), 3, 2)
    with pytest.raises(ShapeError, match="magnification must be a 2 by 2 matrix"):
        magnify(at_points(), [1.0, 1.0])
    with pytest.raises(ShapeError, match="coefficients must be one list"):
        even_phase(at_points(), torch.zeros(2, 9))
