import math

import pytest
import torch

from halfmap import keyed_random
from halfmap.errors import ShapeError
from halfmap.fourier.band import FourierBand
from halfmap.fourier.slices import prepare
from halfmap.geometry.rotations import matrix_from_euler, matrix_from_rotation_vector, random_rotations
from halfmap.grid import ImageGrid
from halfmap.imaging.projection import magnified, project, project_images, shift_phases
from halfmap.optics.ctf import ctf

MICROSCOPE = {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7, "amplitude_contrast": 0.1}
BLOBS = [((10.0, 4.0, -6.0), 1.0), ((-8.0, 12.0, 2.0), 0.7), ((3.0, -9.0, 11.0), 1.3)]  # (x, y, z) Å, height
WIDTH = 4.0  # Å, standard deviation


def blobs(grid: ImageGrid, places: torch.Tensor) -> torch.Tensor:
    """Gaussians of BLOBS' heights at places (x, y[, z]) on a grid."""
    heights = [height for _, height in BLOBS]
    squares = [(grid.positions() - place).square().sum(-1) for place in places]
    return sum(h * torch.exp(-s / (2 * WIDTH**2)) for h, s in zip(heights, squares, strict=True))


def places() -> torch.Tensor:
    return torch.tensor([place for place, _ in BLOBS], dtype=torch.float64)


@pytest.mark.parametrize("side", [40, 41])
def test_projection_puts_each_point_at_its_rotated_place_minus_the_origin(side):
    grid = ImageGrid.cubic(side, 2.0)
    image_grid = ImageGrid.square(side, 2.0)
    rotations = random_rotations(1, "poses", range(5))
    origins = 6.0 * torch.from_numpy(keyed_random.normal(1, "origins", range(5), size=2))
    images = project_images(prepare(blobs(grid, places()), grid), rotations, image_grid, origin_angstrom=origins)
    for image, rotation, origin in zip(images, rotations, origins, strict=True):
        at = (places() @ rotation.T)[:, :2] - origin
        # The sum over z of a Gaussian is √(2π) σ / pixel times its height.
        expected = blobs(image_grid, at) * math.sqrt(2 * math.pi) * WIDTH / 2.0
        assert (image - expected).abs().max() < 0.02 * expected.max()


# Relative errors of linear interpolation for content that reaches 70 % of the box, on both sides of the equation.
@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize(("padding", "tolerance"), [(2, 0.03), (4, 0.01)])
def test_projection_of_rotated_volume_equals_rotated_projection(side, padding, tolerance):
    grid = ImageGrid.cubic(side, 2.0)
    turn, rotation = matrix_from_euler(30.0, 75.0, 10.0), matrix_from_euler(-80.0, 40.0, 120.0)
    band = FourierBand(ImageGrid.square(side, 2.0), max_shell=side // 2 - 4)
    turned = project(prepare(blobs(grid, places() @ turn.T), grid, padding), rotation, band)
    direct = project(prepare(blobs(grid, places()), grid, padding), rotation @ turn, band)
    assert (turned - direct).abs().square().sum().sqrt() < tolerance * direct.abs().square().sum().sqrt()


def test_sum_of_the_image_is_the_sum_of_the_volume():
    grid = ImageGrid.cubic(24, 2.0)
    volume = blobs(grid, places() / 2)
    image = project_images(prepare(volume, grid), matrix_from_euler(20.0, 30.0, 40.0), ImageGrid.square(24, 2.0))
    assert image.sum().item() == pytest.approx(volume.sum().item(), rel=1e-3)


@pytest.mark.parametrize("side", [24, 25])
def test_a_turn_in_plane_of_a_quarter_turns_the_image(side):
    grid = ImageGrid.cubic(side, 2.0)
    padded = prepare(blobs(grid, places() / 2), grid)
    band = ImageGrid.square(side, 2.0)
    upright = project_images(padded, matrix_from_euler(10.0, 20.0, 0.0), band)
    turned = project_images(padded, matrix_from_euler(10.0, 20.0, 90.0), band)
    # psi = 90° takes (x, y) to (y, −x): what was at (0, y) is now at (y, 0).
    centre = side // 2
    assert turned[centre, centre + 3].item() == pytest.approx(upright[centre + 3, centre].item(), abs=1e-4)
    assert turned[centre - 3, centre].item() == pytest.approx(upright[centre, centre + 3].item(), abs=1e-4)


def test_shift_phases_move_content_by_whole_pixels():
    grid = ImageGrid.square(16, 2.0)
    image = torch.from_numpy(keyed_random.normal(1, "image", 0, size=(16, 16)))
    moved = grid.irfft(grid.rfft(image) * shift_phases(grid.frequencies(), torch.tensor([6.0, -4.0]), torch.complex128))
    torch.testing.assert_close(moved, image.roll((-2, 3), (0, 1)), atol=1e-12, rtol=0)


def test_magnification_stretches_the_image_by_its_transpose():
    grid = ImageGrid.cubic(32, 2.0)
    matrix = torch.tensor([[1.1, 0.05], [-0.02, 0.95]], dtype=torch.float64)
    image_grid = ImageGrid.square(32, 2.0)
    rotation = torch.eye(3, dtype=torch.float64)
    image = project_images(prepare(blobs(grid, places()), grid), magnified(rotation, matrix), image_grid)
    at = places()[:, :2] @ matrix  # F(M s) is the transform of f(M⁻ᵀ x): what was at p is at Mᵀ p
    peak = image.flatten().argmax()
    found = image_grid.positions().reshape(-1, 2)[peak]
    assert (at - found).norm(dim=-1).min() < 1.5  # Å, a pixel's diagonal is 2.8


def test_images_of_another_pixel_size_are_refused():
    grid = ImageGrid.cubic(16, 2.0)
    with pytest.raises(ShapeError, match="rescale the volume first"):
        project_images(prepare(torch.zeros(16, 16, 16), grid), torch.eye(3), ImageGrid.square(16, 2.1))


class TestGradients:
    """Of the mean square distance to a target over the band, against central differences in double precision."""

    def setup_method(self):
        self.grid = ImageGrid.cubic(16, 3.0)
        self.band = FourierBand(ImageGrid.square(16, 3.0), max_shell=6)
        self.volume = blobs(self.grid, places())
        self.rotations = random_rotations(2, "poses", range(3))
        others = random_rotations(3, "other poses", range(3))
        self.target = project(prepare(self.volume, self.grid), others, self.band)

    def loss(self, *, vector, origin, defocus, volume):
        transfer = ctf(
            self.band.frequencies,
            defocus_u_angstrom=1e4 * defocus,
            defocus_v_angstrom=1e4 * defocus + 500.0,
            dtype=torch.float64,
            **MICROSCOPE,
        )
        predicted = project(
            prepare(volume, self.grid),
            matrix_from_rotation_vector(vector) @ self.rotations,
            self.band,
            origin_angstrom=origin,
            transfer=transfer,
        )
        return (predicted - self.target).abs().square().mean()

    @pytest.mark.parametrize("name", ["vector", "origin", "defocus", "volume"])
    def test_gradient_equals_finite_differences(self, name):
        start = {
            "vector": torch.full((3, 3), 0.013, dtype=torch.float64),
            "origin": torch.full((3, 2), 1.1, dtype=torch.float64),
            "defocus": torch.tensor([1.0, 1.2, 1.5], dtype=torch.float64),
            "volume": self.volume,
        }
        inputs = {key: value.clone().requires_grad_() for key, value in start.items()}
        self.loss(**inputs).backward()
        direction = torch.from_numpy(keyed_random.normal(4, name, 0, size=start[name].shape))
        slope = (inputs[name].grad * direction).sum()
        step = 1e-6
        ahead, behind = ({**start, name: start[name] + sign * step * direction} for sign in (1.0, -1.0))
        numeric = (self.loss(**ahead) - self.loss(**behind)) / (2 * step)
        torch.testing.assert_close(slope, numeric, rtol=2e-5, atol=1e-9)
