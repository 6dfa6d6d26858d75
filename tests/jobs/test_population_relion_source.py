"""A RELION project becomes a source as Warp would have left it, and its data stay where they are."""

from pathlib import Path

import numpy as np
import pytest
import torch

import halfmap
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.imaging.deformation import views
from halfmap.io import mrc, star
from halfmap.io.relion_motion import read_corrected_movies
from halfmap.io.relion_tomo import read_tomograms
from halfmap.io.relion_tomo_writer import write_tomograms
from halfmap.jobs.population_files import open_population
from halfmap.jobs.population_given import linked_particles
from halfmap.jobs.population_images import images_of_item
from halfmap.jobs.population_relion_source import dimensions
from halfmap.splines.grids import SplineGrid
from support import warp_projects as projects


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".halfmap").mkdir()
    halfmap.population_create(folder="m", name="demo")
    return tmp_path


def relion_project(folder: Path, names: tuple[str, ...] = ("TS_1", "TS_2")) -> Path:
    (folder / ".halfmap").mkdir(parents=True)
    (folder / "MotionCorr").mkdir()
    made = []
    for number, name in enumerate(names):
        one = projects.series(name)
        images = tuple(f"MotionCorr/{name}_{tilt}.mrc" for tilt in range(len(one)))
        for tilt, image in enumerate(images):
            values = np.full((250, 250), 10.0 * number + tilt, dtype=np.float32)
            mrc.write_image(folder / image, values, ImageGrid.square(250, projects.PIXEL))
        defocus = SplineGrid(values=torch.linspace(2e4, 3e4, len(one), dtype=torch.float64).reshape(-1, 1, 1))
        offset = np.array([[12.0, -8.0]] * len(one))
        made.append(one.with_values(movie_names=images, axis_offset_angstrom=offset, defocus_angstrom=defocus))
    path = folder / "Tomograms" / "job006" / "tomograms.star"
    write_tomograms(path, made, project_root=folder)
    return path


def test_tilt_series_of_relion_become_a_source_with_their_geometry_and_images():
    path = relion_project(Path("relion"))
    before = {one: one.read_bytes() for one in Path("relion").rglob("*") if one.is_file()}
    lines = halfmap.population_add_source(population="m", processing=str(path), name="tilts", max_images=3)
    assert "tilts: 2 tilt series pass." in lines
    assert {one: one.read_bytes() for one in before} == before
    source = open_population(Path("m")).sources[0]
    item = source.source.items[1]
    series = source.read_item(item)
    assert int(series.is_used.sum()) == 3
    original = read_tomograms(path, project_root="relion")["TS_2"]
    position = torch.tensor([[[300.0, 500.0, 100.0]], [[700.0, 200.0, 350.0]]], dtype=torch.float64)
    rotation = torch.eye(3, dtype=torch.float64).expand(2, 1, 3, 3)
    ours, theirs = views(series, position, rotation), views(original, position, rotation)
    assert torch.allclose(ours.position_angstrom, theirs.position_angstrom, atol=1e-6)
    assert torch.allclose(ours.depth_angstrom, theirs.depth_angstrom, atol=1e-6)
    assert torch.allclose(ours.rotation, theirs.rotation, atol=1e-9)
    assert torch.allclose(series.defocus_angstrom.values, original.defocus_angstrom.values, atol=1e-4)
    images = images_of_item(source, item, series)
    assert np.asarray(images.read(np.array([0, 4])))[:, 0, 0].tolist() == [10.0, 14.0]


def test_series_without_images_are_set_aside_and_none_at_all_is_an_error():
    path = relion_project(Path("relion"))
    Path("relion/MotionCorr/TS_1_3.mrc").unlink()
    lines = "\n".join(halfmap.population_add_source(population="m", processing=str(path), name="tilts"))
    assert "TS_1 is set aside: 1 of 5 images are missing" in lines
    Path("relion/MotionCorr/TS_2_0.mrc").unlink()
    with pytest.raises(InputError, match="must have an item that can be used"):
        halfmap.population_add_source(population="m", processing=str(path), name="more")
    Path("list.txt").write_text("TS_8\n")
    with pytest.raises(InputError, match="none of TS_8"):
        halfmap.population_add_source(population="m", processing=str(path), name="more", files="list.txt")


def movies_of_relion(folder: Path) -> Path:
    (folder / "Movies").mkdir(parents=True)
    (folder / "Movies" / "a.tif").write_bytes(b"raw frames")
    general = {
        "rlnImageSizeX": "400",
        "rlnImageSizeY": "300",
        "rlnImageSizeZ": "2",
        "rlnMicrographBinning": "1",
        "rlnMicrographMovieName": "Movies/a.tif",
        "rlnMicrographGainName": "gain.mrc",
        "rlnMicrographOriginalPixelSize": "0.8",
        "rlnMicrographDoseRate": "1.5",
        "rlnMicrographStartFrame": "1",
    }
    shifts = {
        "rlnMicrographFrameNumber": ["1", "2"],
        "rlnMicrographShiftX": ["0", "1.5"],
        "rlnMicrographShiftY": ["0", "-2"],
    }
    optics = {
        "rlnOpticsGroup": ["1"],
        "rlnOpticsGroupName": ["o"],
        "rlnVoltage": ["300"],
        "rlnSphericalAberration": ["2.7"],
        "rlnAmplitudeContrast": ["0.1"],
        "rlnMicrographPixelSize": ["0.8"],
    }
    rows = {
        "rlnMicrographName": ["MotionCorr/a.mrc"],
        "rlnMicrographMetadata": ["MotionCorr/a.star"],
        "rlnOpticsGroup": ["1"],
    }
    (folder / "MotionCorr").mkdir()
    of_movie = star.StarTable(name="general", columns={k: [v] for k, v in general.items()}, is_loop=False)
    star.write(folder / "MotionCorr" / "a.star", [of_movie, star.StarTable(name="global_shift", columns=shifts)])
    path = folder / "corrected_micrographs.star"
    star.write(path, [star.StarTable(name="optics", columns=optics), star.StarTable(name="micrographs", columns=rows)])
    return path


def test_movies_of_relion_become_a_source_of_frame_series_with_their_motion():
    path = movies_of_relion(Path("relion"))
    lines = halfmap.population_add_source(population="m", processing=str(path), name="movies")
    assert "movies: 1 frame series pass." in lines
    source = open_population(Path("m")).sources[0]
    item = source.source.items[0]
    assert item.name == "a.tif"
    assert (source.path.parent / source.source.gain_path).resolve() == Path("relion/gain.mrc").resolve()
    assert source.source.dimensions_pixel == (400.0, 300.0, 0.0)
    assert source.source.dose_per_frame_e_per_angstrom2 == pytest.approx(1.5)
    series = source.read_item(item)
    assert (source.path.parent / str(series.further["DataDirectory"]) / item.name).resolve().is_file()
    original = read_corrected_movies(path, project_root=Path("relion")).series[0]
    position = torch.tensor([[[100.0, 200.0, 0.0]]], dtype=torch.float64)
    rotation = torch.eye(3, dtype=torch.float64).expand(1, 1, 3, 3)
    ours, theirs = (views(one, position, rotation).position_angstrom for one in (series, original))
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert float((ours[0, 1] - ours[0, 0]).norm()) == pytest.approx(0.8 * 2.5)


def test_particles_of_the_same_project_find_their_tilt_series():
    path = relion_project(Path("relion"))
    halfmap.population_add_source(population="m", processing=str(path), name="tilts")
    particles = projects.write_particles(Path("particles.star"), ("TS_1", "TS_2"))
    sources = open_population(Path("m")).sources
    pixels = {"coordinate_pixel_size_angstrom": None, "shift_pixel_size_angstrom": None}
    link, _ = linked_particles(particles, sources, **pixels, say=lambda text: None)
    assert set(link.particles.source_hash) == {item.hash for item in sources[0].source.items}


def test_sizes_are_written_with_an_x_between_them():
    assert dimensions("4000x3000x1200", 3, "--tomo-dimensions") == (4000, 3000, 1200)
    assert dimensions(None, 2, "--image-dimensions") is None
    with pytest.raises(InputError, match=r"--image-dimensions must be XxY in pixels; got '4000x3000x1200'"):
        dimensions("4000x3000x1200", 2, "--image-dimensions")
