"""RELION's own motion correction of the same movie, where it is installed (Debian's package relion, 3.1.3)."""

import shutil
import subprocess

import pytest

from halfmap.data.image_source import ArraySource
from halfmap.io import mrc
from halfmap.io.relion_motion import read_corrected_movies
from halfmap.io.relion_motion_writer import write_motion
from halfmap.motion_correction.align import align
from halfmap.motion_correction.params import MotionParams
from support.moving_movies import DOSE, GRID, OPTICS, PIXEL_ANGSTROM, SIDE, N, movie, residual_pixel, true_series

PROGRAM = "relion_run_motioncorr"


def relion_motion(folder, frames):
    with mrc.StackWriter(folder / "movie.mrcs", GRID) as writer:
        for frame in frames:
            writer.write(frame)
    (folder / "movies.star").write_text(
        "# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n"
        "_rlnMicrographOriginalPixelSize\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
        f"one 1 {PIXEL_ANGSTROM} 300 2.7 0.1\n\n# version 30001\n\ndata_movies\n\nloop_\n_rlnMicrographMovieName\n"
        "_rlnOpticsGroup\nmovie.mrcs 1\n"
    )
    arguments = "--i movies.star --o MC/ --use_own --j 1 --patch_x 3 --patch_y 3 --bfactor 150"
    subprocess.run([PROGRAM, *arguments.split()], cwd=folder, check=True, capture_output=True)
    return read_corrected_movies(folder / "MC/corrected_micrographs.star", project_root=folder).series[0]


@pytest.mark.skipif(shutil.which(PROGRAM) is None, reason=f"Debian's package relion is not installed: {PROGRAM}")
def test_no_more_motion_is_left_than_relion_leaves(tmp_path):
    true = true_series(local_pixel=1.5)
    frames = movie(true)
    theirs = relion_motion(tmp_path, frames)
    found = align(ArraySource(images=frames, grid=GRID), MotionParams(patches=(3, 3)))
    ours = found.series("movie", (SIDE, SIDE), OPTICS, DOSE, movie_name="movie.mrcs")
    assert len(theirs) == N
    assert residual_pixel(ours, true) <= residual_pixel(theirs, true)
    # and what RELION's polynomial can say of ours is as good
    write_motion(tmp_path / "MC/movie.star", ours, general={})
    written = read_corrected_movies(tmp_path / "MC/corrected_micrographs.star", project_root=tmp_path).series[0]
    assert residual_pixel(written, true) <= residual_pixel(theirs, true)
