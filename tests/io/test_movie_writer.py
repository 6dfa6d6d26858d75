import numpy as np
import pytest

from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.io.frames import open_movie
from halfmap.io.movie_writer import write_movie

GRID = ImageGrid(shape=(12, 16), pixel_size_angstrom=1.5)
FRAMES = np.random.default_rng(0).normal(10, 3, (3, 12, 16)).astype(np.float32)


# 11 bits of half precision at 16; half of a sixteenth
@pytest.mark.parametrize(("suffix", "unit", "error"), [(".mrc", 1, 2**-7), (".tif", 16, 2**-5)])
def test_movies_come_back_frame_by_frame(tmp_path, suffix, unit, error):
    path = tmp_path / f"movie{suffix}"
    write_movie(path, iter(FRAMES), GRID)
    movie = open_movie(path, pixel_size_angstrom=1.5)
    assert len(movie) == 3
    np.testing.assert_allclose(movie.read(range(3)) / unit, FRAMES, atol=error)


def test_other_kinds_and_too_large_values_are_refused(tmp_path):
    with pytest.raises(InputError, match="mrc or"):
        write_movie(tmp_path / "movie.eer", iter(FRAMES), GRID)
    with pytest.raises(InputError, match="at most"):
        write_movie(tmp_path / "movie.tif", iter(FRAMES * 1e4), GRID)
    assert not list(tmp_path.iterdir())
