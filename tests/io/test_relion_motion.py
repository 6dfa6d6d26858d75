import numpy as np
import pytest
import torch

from halfmap.errors import FormatError
from halfmap.imaging.deformation import views
from halfmap.io import star
from halfmap.io.relion_motion import read_corrected_movies
from support.shared_data import shared_data

SIZE = (400, 300)
PIXEL = 0.8
N = 5
FIRST = 2
GLOBAL = np.array([[-9999, -9999], [0, 0], [-1.5, 0.5], [-2.0, 1.25], [-2.5, 1.5]])


def table(name, columns, is_loop=True):
    texts = {label: [str(value) for value in values] for label, values in columns.items()}
    return star.StarTable(name=name, columns=texts, is_loop=is_loop)


def written(folder, coefficients=None, binning=1.0):
    general = {
        "rlnImageSizeX": [SIZE[0]],
        "rlnImageSizeY": [SIZE[1]],
        "rlnImageSizeZ": [N],
        "rlnMicrographMovieName": ["Movies/a.tif"],
        "rlnMicrographGainName": ["gain.mrc"],
        "rlnMicrographBinning": [binning],
        "rlnMicrographOriginalPixelSize": [PIXEL],
        "rlnMicrographDoseRate": [1.5],
        "rlnMicrographPreExposure": [2.0],
        "rlnMicrographStartFrame": [FIRST],
    }
    shifts = {
        "rlnMicrographFrameNumber": range(1, N + 1),
        "rlnMicrographShiftX": GLOBAL[:, 0],
        "rlnMicrographShiftY": GLOBAL[:, 1],
    }
    tables = [table("general", general, is_loop=False), table("global_shift", shifts)]
    if coefficients is not None:
        tables.append(
            table("local_motion_model", {"rlnMotionModelCoeffsIdx": range(36), "rlnMotionModelCoeff": coefficients})
        )
    star.write(folder / "MotionCorr" / "a.star", tables)
    optics = {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["o"],
        "rlnVoltage": [200],
        "rlnSphericalAberration": [1.4],
        "rlnAmplitudeContrast": [0.08],
        "rlnMicrographPixelSize": [PIXEL * binning],
    }
    rows = {
        "rlnMicrographName": ["MotionCorr/a.mrc", "MotionCorr/b.mrc"],
        "rlnMicrographMetadata": ["MotionCorr/a.star", "MotionCorr/b.star"],
        "rlnDefocusU": [12000, 1],
        "rlnDefocusV": [11000, 1],
        "rlnDefocusAngle": [30, 0],
        "rlnOpticsGroup": [1, 1],
    }
    path = folder / "corrected_micrographs.star"
    star.write(path, [table("optics", optics), table("micrographs", rows)])
    return path


def polynomial(c, frame, x, y):
    """RELION's third-order model at a frame from 1 and a place from −½ to ½, written out."""
    z = frame - FIRST
    return sum(
        (c[3 * k] * z + c[3 * k + 1] * z**2 + c[3 * k + 2] * z**3) * term
        for k, term in enumerate((1, x, x * x, y, y * y, x * y))
    )


def test_a_particle_lies_where_relion_shifts_it_from(tmp_path):
    coefficients = np.random.default_rng(3).normal(0, 0.02, 36)
    movies = read_corrected_movies(written(tmp_path, coefficients), project_root=tmp_path)
    assert movies.micrograph_names == ("MotionCorr/a.mrc",)
    assert "b.star" in movies.rejected["MotionCorr/b.mrc"]
    series = movies.series[0]
    pixels = np.random.default_rng(4).uniform(0, 1, (6, 2)) * SIZE
    position = torch.from_numpy(np.column_stack([pixels * PIXEL, np.zeros(6)]))[:, None]
    seen = views(series, position, torch.eye(3, dtype=torch.float64).expand(6, 1, 3, 3))
    x, y = (pixels / SIZE - 0.5).T
    for frame in range(FIRST, N + 1):
        shift = GLOBAL[frame - 1] + np.stack(
            [polynomial(coefficients[:18], frame, x, y), polynomial(coefficients[18:], frame, x, y)], axis=-1
        )
        # Å: what natural splines over 9 nodes make of a parabola of 1 px
        np.testing.assert_allclose(seen.position_angstrom[:, frame - 1], (pixels - shift) * PIXEL, atol=3e-3)


def test_a_movie_has_doses_optics_and_used_frames(tmp_path):
    series = read_corrected_movies(written(tmp_path), project_root=tmp_path).series[0]
    assert series.is_used.tolist() == [False, True, True, True, True]
    assert series.dose_e_per_angstrom2.tolist() == [2, 3.5, 5, 6.5, 8]
    assert (series.optics.voltage_kv, series.optics.spherical_aberration_mm) == (200, 1.4)
    assert series.defocus_angstrom.values.item() == 11500
    assert series.astigmatism_angstrom.values.item() == 1000
    assert (series.name, series.movie_name, series.n_frames_of_movie) == ("a", "Movies/a.tif", N)
    assert series.further == {"rlnMicrographGainName": "gain.mrc"}


def test_a_local_model_counts_in_pixels_of_the_binned_sum(tmp_path):
    coefficients = np.random.default_rng(3).normal(0, 0.02, 36)
    (tmp_path / "whole").mkdir()
    (tmp_path / "binned").mkdir()
    whole, binned = (
        read_corrected_movies(
            written(tmp_path / name, coefficients, binning=binning), project_root=tmp_path / name
        ).series[0]
        for name, binning in (("whole", 1.0), ("binned", 2.0))
    )
    # as relion_run_motioncorr 3.1.3 writes the same movie with --bin_factor 1 and 2
    torch.testing.assert_close(binned.local_movement_x_angstrom.values, 2 * whole.local_movement_x_angstrom.values)
    torch.testing.assert_close(binned.movement_x_angstrom.values, whole.movement_x_angstrom.values)


def test_what_cannot_be_read_is_said(tmp_path):
    path = written(tmp_path)
    path.write_text(path.read_text().replace("rlnMicrographMetadata", "rlnOther"))
    with pytest.raises(FormatError, match="_rlnMicrographMetadata"):
        read_corrected_movies(path, project_root=tmp_path)


def test_a_real_file_of_motion_is_read(tmp_path):
    root = shared_data("tilt/relion5_EMPIAR-10164_skeleton")
    path = tmp_path / "micrographs.star"
    names = {"rlnMicrographName": ["a.mrc"], "rlnMicrographMetadata": ["MotionCorr/job002/frames/TS_01_000_0_0.star"]}
    star.write(path, [table("micrographs", names)])
    series = read_corrected_movies(path, project_root=root).series[0]
    assert series.image_size_angstrom == (7420 * 0.675, 7676 * 0.675)
    assert len(series) == 8
    assert series.movement_x_angstrom.values[1].item() == pytest.approx(-0.55116 * 0.675)
