import numpy as np

from halfmap.kernels.point_spreading import WIDTH, spread


def test_spreading_is_the_kernel_summed_over_periodic_distances():
    rng = np.random.default_rng(3)
    shape = (12, 10, 11)
    positions = rng.uniform(-5, 20, (7, 3))
    weights = rng.uniform(0.5, 2, 7).astype(np.float32)
    out = np.zeros(shape, dtype=np.float32)
    spread(positions, weights, 9.0, out)

    expected = np.zeros(shape)
    for (x, y, z), weight in zip(positions, weights, strict=True):
        factors = []
        for side, at in zip(shape, (z, y, x), strict=True):
            distance = (np.arange(side) - at + side / 2) % side - side / 2
            ratio = 1 - (2 * distance / WIDTH) ** 2
            factors.append(np.where(ratio >= 0, np.exp(9.0 * (np.sqrt(np.maximum(ratio, 0)) - 1)), 0.0))
        expected += weight * np.einsum("z,y,x->zyx", *factors)
    np.testing.assert_allclose(out, expected, atol=1e-5)
