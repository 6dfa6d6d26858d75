import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from halfmap.data.population import SpeciesParticles
from halfmap.errors import FormatError, InconsistentDataError
from halfmap.geometry.euler import array_from_euler
from halfmap.imaging.deformation import views
from halfmap.io import relion_tomo, star
from halfmap.io.relion_tomo_particles import (
    read_optimisation_set,
    read_tomo_particles,
    visible_tilts,
    write_optimisation_set,
    write_tomo_particles,
)
from halfmap.io.relion_tomo_writer import write_tomograms
from halfmap.splines.grids import SplineGrid
from support.shared_data import shared_data

PIXEL = 1.5
SIZE = np.array([401, 300, 121])
IMAGE = (385, 410)
HAND = -1.0


def turn(axis, degrees):
    """RELION's right-handed turn about an axis, 4 × 4, written out independently."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    matrix[:3, :3] = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }[axis]
    return matrix


def moved(vector):
    matrix = np.eye(4)
    matrix[:3, 3] = vector
    return matrix


def relion_matrices(tilts):
    """RELION 5's projection matrices, pixels of the tomogram to pixels of each tilt."""
    image_centre = moved([IMAGE[0] // 2, IMAGE[1] // 2, 0])
    return [
        image_centre
        @ moved([row["sx"] / PIXEL, row["sy"] / PIXEL, 0])
        @ turn("z", row["z"])
        @ turn("y", row["y"])
        @ turn("x", row["x"])
        @ moved(-(SIZE // 2))
        for row in tilts
    ]


def tilt_rows(x_tilts=(0.3, 0.3, 0.3, 0.3), dose=(9.0, 3.0, 0.0, 7.5)):
    y, z = (-41, -2, 12.5, 60), (85, 85.2, 86, 85)
    shifts = zip((10, -20, 3.3, 4), (-7, 8, 0.1, 44), strict=True)
    return [
        {"x": x, "y": y[i], "z": z[i], "sx": sx, "sy": sy, "dose": d, "u": 30000 + 100 * i, "v": 29000.0, "a": 20.0 + i}
        for i, (x, d, (sx, sy)) in enumerate(zip(x_tilts, dose, shifts, strict=True))
    ]


def written(folder: Path, tilts, *, matrices=False):
    (folder / "tilts").mkdir(exist_ok=True)
    path = folder / "tomograms.star"
    columns = {
        "rlnTomoName": ["TS_1"],
        "rlnVoltage": ["300"],
        "rlnSphericalAberration": ["2.7"],
        "rlnAmplitudeContrast": ["0.1"],
        "rlnTomoHand": [str(HAND)],
        "rlnTomoTiltSeriesPixelSize": [str(PIXEL)],
        "rlnTomoTiltSeriesStarFile": ["tilts/TS_1.star"],
        **{f"rlnTomoSize{axis}": [str(side)] for axis, side in zip("XYZ", SIZE, strict=True)},
        "rlnNovelty": ["kept"],
    }
    star.write(path, [star.StarTable(name="global", columns=columns)])
    names = {"dose": "rlnMicrographPreExposure", "u": "rlnDefocusU", "v": "rlnDefocusV", "a": "rlnDefocusAngle"}
    if matrices:
        rows = np.array(relion_matrices(tilts))
        geometry = {
            f"rlnTomoProj{axis}": [str(row.tolist()).replace(" ", "") for row in rows[:, i]]
            for i, axis in enumerate("XYZW")
        }
    else:
        labels = {"x": "XTilt", "y": "YTilt", "z": "ZRot", "sx": "XShiftAngst", "sy": "YShiftAngst"}
        geometry = {f"rlnTomo{label}": [str(row[key]) for row in tilts] for key, label in labels.items()}
    table = {label: [str(row[key]) for row in tilts] for key, label in names.items()} | geometry
    table["rlnMicrographName"] = [f"image{i}.mrc" for i in range(len(tilts))]
    table["rlnTomoNominalDefocus"] = ["-3"] * len(tilts)
    star.write(folder / "tilts" / "TS_1.star", [star.StarTable(name="TS_1", columns=table)])
    return path


def random_particles(n=7, seed=0):
    rng = np.random.default_rng(seed)
    centred = rng.uniform(-0.5, 0.5, (n, 3)) * SIZE * PIXEL
    return centred, array_from_euler(*rng.uniform(-170, 170, (3, n)))


@pytest.mark.parametrize("x_tilts", [(0.3, 0.3, 0.3, 0.3), (0.3, -0.4, 2.0, 0.1)])
@pytest.mark.parametrize("matrices", [False, True])
def test_points_are_projected_where_relions_matrices_put_them(tmp_path, x_tilts, matrices):
    tilts = tilt_rows(x_tilts)
    series = relion_tomo.read_tomograms(written(tmp_path, tilts, matrices=matrices), image_size_pixel=IMAGE)["TS_1"]
    centred, rotation = random_particles()
    position = torch.from_numpy(centred + np.array(series.volume_size_angstrom) / 2)[:, None]
    seen = views(series, position, torch.from_numpy(rotation)[:, None])
    pixels = np.concatenate([centred / PIXEL + SIZE // 2, np.ones((len(centred), 1))], axis=1)
    for t, matrix in enumerate(relion_matrices(tilts)):
        expected = pixels @ matrix.T
        np.testing.assert_allclose(seen.position_angstrom[:, t], expected[:, :2] * PIXEL, atol=1e-3)  # Å
        depth = (expected - np.append(SIZE // 2, 1) @ matrix.T)[:, 2] * PIXEL * HAND
        np.testing.assert_allclose(seen.depth_angstrom[:, t], depth, atol=1e-3)  # Å
        np.testing.assert_allclose(seen.rotation[:, t], matrix[:3, :3] @ rotation, atol=1e-6)


def test_a_tilt_series_has_ctf_doses_and_the_rest(tmp_path):
    read = relion_tomo.read_tomograms(written(tmp_path, tilt_rows()), image_size_pixel=IMAGE)
    series = read["TS_1"]
    assert not read.rejected
    assert series.defocus_angstrom.values.ravel().tolist() == [29500, 29550, 29600, 29650]
    assert series.astigmatism_angstrom.values.ravel().tolist() == [1000, 1100, 1200, 1300]
    assert series.dose_e_per_angstrom2.tolist() == [9, 3, 0, 7.5]
    assert series.are_angles_inverted
    assert series.movie_names[0] == "image0.mrc"
    assert series.further == {"rlnNovelty": "kept", "rlnTomoNominalDefocus": ("-3",) * 4}
    assert series.weights.scale.shape == (1, 1, 1)


def test_one_bad_series_is_set_aside_and_none_at_all_is_an_error(tmp_path):
    path = written(tmp_path, tilt_rows())
    with pytest.raises(FormatError, match="--image-dimensions"):
        relion_tomo.read_tomograms(path)
    text = path.read_text().rstrip()
    path.write_text(text + "\n" + text.splitlines()[-1].replace("TS_1", "TS_2") + "\n")
    read = relion_tomo.read_tomograms(path, image_size_pixel=IMAGE)
    assert [one.name for one in read.series] == ["TS_1"]
    assert "TS_2.star" in read.rejected["TS_2"]


@pytest.mark.parametrize("x_tilts", [(0.3, 0.3, 0.3, 0.3), (0.3, -0.4, 2.0, 0.1)])
def test_tilt_series_round_trip(tmp_path, x_tilts):
    tilts = tilt_rows(x_tilts)
    series = relion_tomo.read_tomograms(written(tmp_path, tilts), image_size_pixel=IMAGE)["TS_1"]
    again_path = tmp_path / "again" / "tomograms.star"
    write_tomograms(again_path, [series], project_root=tmp_path)
    table = star.read(tmp_path / "again" / "tilt_series" / "TS_1.star")["TS_1"]
    for key, label in {"x": "XTilt", "y": "YTilt", "z": "ZRot", "sx": "XShiftAngst", "sy": "YShiftAngst"}.items():
        np.testing.assert_allclose(table.numbers(f"rlnTomo{label}"), [row[key] for row in tilts], atol=2e-5)
    again = relion_tomo.read_tomograms(again_path, project_root=tmp_path, image_size_pixel=IMAGE)["TS_1"]
    np.testing.assert_allclose(again.axis_offset_angstrom, series.axis_offset_angstrom, atol=2e-5)
    assert again.volume_size_angstrom == series.volume_size_angstrom
    assert again.further["rlnNovelty"] == "kept"


def test_a_deformed_series_is_not_written_as_relions(tmp_path):
    series = relion_tomo.read_tomograms(written(tmp_path, tilt_rows()), image_size_pixel=IMAGE)["TS_1"]
    bent = SplineGrid(values=torch.tensor([[[0.0, 3.0]]]))
    with pytest.raises(InconsistentDataError, match="without deformation"):
        write_tomograms(tmp_path / "x.star", [series.with_values(movement_x_angstrom=bent)], project_root=tmp_path)
    shifted = series.with_values(movement_x_angstrom=SplineGrid.constant(5.0))
    write_tomograms(tmp_path / "x.star", [shifted], project_root=tmp_path)
    again = relion_tomo.read_tomograms(tmp_path / "x.star", image_size_pixel=IMAGE)["TS_1"]
    np.testing.assert_allclose(again.axis_offset_angstrom[:, 0], series.axis_offset_angstrom[:, 0] - 5, atol=1e-5)


def test_scales_that_are_not_the_cosine_become_weights_and_zero_means_unused(tmp_path):
    path = written(tmp_path, tilt_rows())
    tilts = star.read(tmp_path / "tilts" / "TS_1.star")["TS_1"]
    for scales, shape in ((["0.755", "0.999", "0", "0.5"], (1, 1, 1)), (["1", "0.9", "0", "0.5"], (4, 1, 1))):
        columns = dict(tilts.columns) | {"rlnCtfScalefactor": np.array(scales)}
        star.write(tmp_path / "tilts" / "TS_1.star", [dataclasses.replace(tilts, columns=columns)])
        series = relion_tomo.read_tomograms(path, image_size_pixel=IMAGE)["TS_1"]
        assert series.weights.scale.shape == shape
        assert series.is_used.tolist() == [True, True, False, True]


def test_particles_round_trip_and_apply_offsets_and_both_rotations(tmp_path):
    series = relion_tomo.read_tomograms(written(tmp_path, tilt_rows()), image_size_pixel=IMAGE)["TS_1"]
    tomograms = {"TS_1": series}
    centred, rotation = random_particles()
    particles = SpeciesParticles(
        position_angstrom=(centred + np.array(series.volume_size_angstrom) / 2)[:, None],
        rotation=rotation[:, None],
        random_subset=np.array([1, 2, 1, 2, 1, 2, 2]),
        source_name=np.array(["TS_1.tomostar"] * 7, dtype=object),
        source_hash=np.array([""] * 7, dtype=object),
        uid=np.arange(1, 8),
        further={"rlnClassNumber": np.array(["1"] * 7, dtype=object)},
    )
    path = tmp_path / "particles.star"
    write_tomo_particles(path, particles, tomograms, image_pixel_size_angstrom=3.0, box_pixel=64)
    again = read_tomo_particles(path, tomograms)
    np.testing.assert_allclose(again.position_angstrom, particles.position_angstrom, atol=1e-6)
    np.testing.assert_allclose(again.rotation, particles.rotation, atol=1e-7)
    assert again.uid.tolist() == particles.uid.tolist()
    assert again.random_subset.tolist() == particles.random_subset.tolist()
    table = star.read(path)["particles"]
    origin, sub = np.array([3.0, -4.0, 5.0]), array_from_euler(10.0, 50.0, -30.0)
    changed = {
        label: np.array([str(value)] * 7)
        for label, value in zip(
            (
                "rlnOriginXAngst",
                "rlnOriginYAngst",
                "rlnOriginZAngst",
                "rlnTomoSubtomogramRot",
                "rlnTomoSubtomogramTilt",
                "rlnTomoSubtomogramPsi",
            ),
            (*origin, 10, 50, -30),
            strict=True,
        )
    }
    star.write(path, [dataclasses.replace(table, columns=dict(table.columns) | changed)])
    offset = read_tomo_particles(path, tomograms)
    np.testing.assert_allclose(offset.position_angstrom, particles.position_angstrom - sub @ origin, atol=1e-6)
    np.testing.assert_allclose(offset.rotation, sub @ particles.rotation, atol=1e-7)


def test_coordinates_in_pixels_count_from_the_corner(tmp_path):
    series = relion_tomo.read_tomograms(written(tmp_path, tilt_rows()), image_size_pixel=IMAGE)["TS_1"]
    path = tmp_path / "p.star"
    columns = {"rlnTomoName": ["TS_1"]} | {
        f"rlnCoordinate{axis}": [str(side // 2)] for axis, side in zip("XYZ", SIZE, strict=True)
    }
    star.write(path, [star.StarTable(name="particles", columns=columns)])
    particles = read_tomo_particles(path, {"TS_1": series})
    np.testing.assert_allclose(particles.position_angstrom[0, 0], np.array(series.volume_size_angstrom) / 2)
    with pytest.raises(FormatError, match="known tomogram"):
        read_tomo_particles(path, {})


def test_optimisation_sets_round_trip(tmp_path):
    path = tmp_path / "optimisation_set.star"
    write_optimisation_set(path, "a/particles.star", "a/tomograms.star")
    assert read_optimisation_set(path) == ("a/particles.star", "a/tomograms.star")


def test_a_real_project_of_relion_5_is_read():
    root = shared_data("tilt/relion5_EMPIAR-10164_skeleton")
    for job in ("Tomograms/job006", "Polish/job030"):
        path = root / job / "tomograms.star"
        read = relion_tomo.read_tomograms(path, project_root=root, image_size_pixel=(3710, 3838))
        assert [len(one) for one in read.series] == [40, 40, 41, 41, 41]
        series = read["TS_01"]
        assert series.are_angles_inverted
        by_metadata = relion_tomo.read_tomograms(path, project_root=root)
        assert by_metadata["TS_01"].image_size_angstrom == series.image_size_angstrom
    particles = read_tomo_particles(root / "Refine3D/job023/run_data.star", {one.name: one for one in read.series})
    assert particles.n_samples == 1
    size = np.array(series.volume_size_angstrom)
    assert (particles.position_angstrom > 0).all()
    assert (particles.position_angstrom[:, 0] < size).all()


def test_ribosomes_that_warptools_exported_have_views_and_images():
    folder = shared_data("tilt/tomodrgn_EMPIAR-10499_warptools_4tomos")
    stem = "warptools_test_4-tomos_10-ptcls_box-32_angpix-12"
    read = relion_tomo.read_tomograms(folder / f"{stem}_tomograms.star")
    tomograms = {one.name: one for one in read.series}
    particles = read_tomo_particles(folder / f"{stem}.star", tomograms)
    assert len(particles) == 40
    assert visible_tilts(particles).shape == (40, 37)
    position = particles.position_angstrom[:, 0]
    assert (position < np.array(read.series[0].volume_size_angstrom)).all()
    series = tomograms["Unt_050"]
    seen = views(series, torch.from_numpy(particles.position_angstrom), torch.from_numpy(particles.rotation))
    rows = star.read(folder / f"{stem}_tomograms.star")["Unt_050.tomostar"]
    first = np.array([[float(x) for x in rows.text(f"rlnTomoProj{axis}")[0].strip("[]").split(",")] for axis in "XYZ"])
    np.testing.assert_allclose(seen.rotation[:, 0], first[:, :3] @ particles.rotation[:, 0], atol=1e-5)


def test_an_alignment_without_sizes_of_tomograms_needs_them_given(tmp_path):
    path = written(tmp_path, tilt_rows())
    table = star.read(path)["global"]
    columns = {label: values for label, values in table.columns.items() if not label.startswith("rlnTomoSize")}
    star.write(path, [dataclasses.replace(table, columns=columns)])
    with pytest.raises(FormatError, match="--tomo-dimensions"):
        relion_tomo.read_tomograms(path, image_size_pixel=IMAGE)
    read = relion_tomo.read_tomograms(path, image_size_pixel=IMAGE, tomo_dimensions_pixel=(400, 300, 100))
    assert read["TS_1"].volume_size_angstrom == (600, 450, 150)


def test_fitted_deformations_are_refused(tmp_path):
    path = written(tmp_path, tilt_rows())
    tilts = star.read(tmp_path / "tilts" / "TS_1.star")["TS_1"]
    columns = dict(tilts.columns) | {"rlnTomoDeformationCoefficients": np.array(["[0.1,0.2,0.3]"] * 4)}
    star.write(tmp_path / "tilts" / "TS_1.star", [dataclasses.replace(tilts, columns=columns)])
    with pytest.raises(FormatError, match="without fitted deformations"):
        relion_tomo.read_tomograms(path, image_size_pixel=IMAGE)
