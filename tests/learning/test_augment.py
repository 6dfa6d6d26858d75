import numpy as np
import pytest
import torch

from halfmap.grid import ImageGrid
from halfmap.learning.augment import Variation, quarter_turned, varied

PLAIN = Variation(shift=0.0, zoom=0.0, noise=0.0)


def blob(side, x, y, sigma=3.0):
    """Return a Gaussian at (x, y) pixels from the centre pixel, shape (1, side, side)."""
    away = ImageGrid.square(side, 1.0).positions() - torch.tensor([x, y])
    return torch.exp(-away.square().sum(-1) / (2 * sigma**2)).float()[None]


def centre_of_mass(image):
    positions = ImageGrid.square(image.shape[-1], 1.0).positions().float()
    return (positions * image[..., None]).sum(dim=(0, 1)) / image.sum()


@pytest.mark.parametrize("side", [32, 33])
def test_images_turn_about_the_centre_pixel(side):
    uids = np.arange(20)
    middle = varied(blob(side, 0.0, 0.0).expand(20, -1, -1), uids, PLAIN, seed=1, epoch=0)
    # bicubic interpolation of a Gaussian of σ 3 px errs by up to 1.4 % of its peak
    torch.testing.assert_close(middle, blob(side, 0.0, 0.0).expand(20, -1, -1), atol=0.015, rtol=0)
    away = varied(blob(side, 6.0, 0.0).expand(20, -1, -1), uids, PLAIN, seed=1, epoch=0)
    found = torch.stack([centre_of_mass(image) for image in away])
    torch.testing.assert_close(found.norm(dim=1), torch.full((20,), 6.0), atol=0.05, rtol=0)
    angles = np.degrees(np.arctan2(*found.T.numpy()))
    assert np.histogram(angles, bins=4, range=(-180, 180))[0].min() > 0


def test_half_of_the_images_are_mirrored():
    both = blob(32, 6.0, 0.0) + 0.5 * blob(32, 0.0, 6.0)
    seen = varied(both.expand(200, -1, -1), np.arange(200), PLAIN, seed=1, epoch=0)
    # the sign of the turn from the strong blob to the weak one
    signs = []
    for image in seen:
        strong = ImageGrid.square(32, 1.0).positions().float().reshape(-1, 2)[image.argmax()]
        mean = centre_of_mass(image)
        signs.append(bool(strong[0] * mean[1] - strong[1] * mean[0] > 0))
    assert 70 < sum(signs) < 130  # 100 ± 4 deviations


def test_draws_follow_uid_seed_and_epoch_alone():
    image = blob(32, 6.0, 2.0)
    first = varied(image.expand(3, -1, -1), np.array([5, 6, 7]), Variation(), seed=1, epoch=2)
    alone = varied(image, np.array([6]), Variation(), seed=1, epoch=2)
    torch.testing.assert_close(first[1:2], alone, atol=1e-6, rtol=0)
    for other in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        assert float((varied(image, np.array([6]), Variation(), **other) - alone).abs().max()) > 0.1


def test_shift_zoom_and_noise_are_as_wide_as_asked():
    image, uids = blob(32, 0.0, 0.0).expand(400, -1, -1), np.arange(400)
    moved = varied(image, uids, Variation(shift=0.05, zoom=0.0, noise=0.0), seed=1, epoch=0)
    where = torch.stack([centre_of_mass(one) for one in moved])
    assert float(where.std(dim=0).mean()) == pytest.approx(0.05 * 32, rel=0.12)  # 3 deviations of 400 draws
    zoomed = varied(image, uids, Variation(shift=0.0, zoom=0.1, noise=0.0), seed=1, epoch=0)
    size = zoomed.sum(dim=(1, 2)).log() / 2
    assert float(size.std()) == pytest.approx(0.1, rel=0.12)
    rough = varied(torch.zeros(400, 16, 16), uids, Variation(shift=0.0, zoom=0.0, noise=0.3), seed=1, epoch=0)
    deviation = rough.std(dim=(1, 2))
    assert 0.25 < float(deviation.max()) < 0.35
    assert float(deviation.mean()) == pytest.approx(0.15, rel=0.15)


def test_quarter_turns_are_the_eight_views_of_a_square_and_move_all_planes_alike():
    square = torch.arange(9.0).reshape(3, 3)
    planes = torch.stack([square, 10 * square]).expand(200, 2, 3, 3)
    turned = quarter_turned(planes, np.arange(200), seed=1, epoch=0)
    torch.testing.assert_close(turned[:, 1], 10 * turned[:, 0])
    views = {tuple(image.flatten().tolist()) for image in turned[:, 0]}
    expected = {
        tuple(view.flatten().tolist())
        for turns in range(4)
        for view in (square.rot90(turns), square.rot90(turns).flip(-1))
    }
    assert views == expected
