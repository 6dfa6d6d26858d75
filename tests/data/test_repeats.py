import numpy as np

from halfmap.data.particles import ParticleSet
from halfmap.data.repeats import owners, repeats
from halfmap.grid import ImageGrid
from support.model_images import particles_of

GRID = ImageGrid.square(32, 4.0)


def placed(positions, micrographs) -> ParticleSet:
    particles = particles_of(len(positions), GRID)
    optics = particles.optics.with_columns(micrograph_pixel_size_angstrom=np.array([2.0]))
    return ParticleSet(
        columns={
            **particles.columns,
            "position_pixel": np.array(positions, dtype=np.float64),
            "micrograph_name": np.array(micrographs, dtype=object),
        },
        optics=optics,
    )


def test_picks_that_were_moved_to_one_place_are_one_particle() -> None:
    """Positions count in pixels of 2 Å, and a particle lies at its position − origin."""
    particles = placed([[10, 10], [60, 10], [10, 10], [200, 200]], ["a", "a", "b", "a"])
    origin = np.array([[-48.0, 3], [48, 0], [-48, 3], [0, 0]])
    image = np.arange(4)
    # at 68, 17 and 72, 20 Å
    assert repeats(particles, origin, image, distance_angstrom=5.1).tolist() == [0, 0, 1, 2]
    assert repeats(particles, origin, image, distance_angstrom=4.9).tolist() == [0, 1, 2, 3]
    assert repeats(particles, -origin, image, distance_angstrom=5.1).tolist() == [0, 1, 2, 3]


def test_rows_of_one_image_are_one_particle_wherever_they_are_found() -> None:
    particles = placed([[10, 10], [60, 10], [110, 10]], ["a", "a", "a"])
    origin = np.zeros((3, 2))
    assert repeats(particles, origin, np.array([7, 3, 7]), distance_angstrom=5.0).tolist() == [0, 1, 0]


def test_without_positions_images_alone_tell() -> None:
    particles = particles_of(4, GRID)
    found = repeats(particles, np.zeros((4, 2)), np.array([5, 6, 5, 8]), distance_angstrom=1e9)
    assert found.tolist() == [0, 1, 0, 2]


def test_the_least_uid_stands_for_a_particle() -> None:
    np.testing.assert_array_equal(owners(np.array([9, 4, 7, 2]), np.array([0, 1, 0, 1])), [7, 2, 7, 2])
