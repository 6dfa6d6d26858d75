"""Particles of any program reach a species in Å, and it is said how their pixels were worked out."""

from pathlib import Path

import numpy as np
import pytest

from halfmap.data.population import DataSource, SourceItem
from halfmap.errors import FormatError, InputError
from halfmap.geometry.euler import array_from_euler
from halfmap.jobs.population_members import OpenSource
from halfmap.jobs.population_particles import read_particles
from support import warp_projects as projects


@pytest.fixture
def tilts(tmp_path):
    for name in ("TS_1", "TS_2"):
        projects.write_item(tmp_path / "warp", projects.series(name))
    items = tuple(SourceItem(name=f"{name}.tomostar", hash=name) for name in ("TS_1", "TS_2"))
    source = DataSource(
        guid="a", name="tilts", pixel_size_angstrom=4.0, dimensions_pixel=projects.VOLUME_PIXEL, items=items
    )
    return OpenSource(path=tmp_path / "warp/warp_tiltseries/tilts.source", source=source)


FRAMES = OpenSource(
    path=Path("nowhere.source"),
    source=DataSource(
        guid="b",
        name="frames",
        pixel_size_angstrom=1.1,
        dimensions_pixel=(4000.0, 4000.0, 0.0),
        items=(SourceItem(name="mic1.tif", hash="x"),),
    ),
)


def table(path: Path, columns: dict[str, object], optics: dict[str, object] | None = None) -> Path:
    blocks = []
    for name, block in (("optics", optics), ("particles", columns)):
        if block:
            header = "\n".join(f"_{label} #{number}" for number, label in enumerate(block, 1))
            blocks.append(f"data_{name}\n\nloop_\n{header}\n{' '.join(map(str, block.values()))}\n")
    path.write_text("\n".join(blocks))
    return path


PLACE = {"rlnCoordinateX": 100, "rlnCoordinateY": 50, "rlnCoordinateZ": 25}
ANGLES = {"rlnAngleRot": 10, "rlnAngleTilt": 20, "rlnAnglePsi": 30}


def test_coordinates_of_relion_are_counted_in_pixels_of_the_tilt_series(tmp_path, tilts):
    shifts = {"rlnOriginXAngst": 8, "rlnOriginYAngst": -4, "rlnOriginZAngst": 2}
    path = table(tmp_path / "a.star", {"rlnTomoName": "TS_1", **PLACE, **ANGLES, **shifts, "rlnRandomSubset": 2})
    given = read_particles(path, sources=[tilts])
    assert given.particles.position_angstrom[0, 0] == pytest.approx([392.0, 204.0, 98.0])
    assert np.allclose(given.particles.rotation[0, 0], array_from_euler(10, 20, 30))
    assert given.particles.random_subset.tolist() == [2]
    assert "pixels of the tilt series, 4 Å" in given.notes[0]
    assert "shifts in Å" in given.notes[1]


def test_coordinates_from_the_centre_and_turns_of_sub_tomograms_are_understood(tmp_path, tilts):
    centred = {f"rlnCenteredCoordinate{axis}Angst": value for axis, value in zip("XYZ", (-100, 20, 7), strict=True)}
    turn = {"rlnTomoSubtomogramRot": 40, "rlnTomoSubtomogramTilt": 50, "rlnTomoSubtomogramPsi": 60}
    path = table(tmp_path / "a.star", {"rlnTomoName": "TS_2", **centred, **turn, **ANGLES})
    given = read_particles(path, sources=[tilts])
    assert given.particles.position_angstrom[0, 0] == pytest.approx([400.0, 520.0, 207.0])
    assert np.allclose(given.particles.rotation[0, 0], array_from_euler(40, 50, 60) @ array_from_euler(10, 20, 30))
    assert "from the centre" in given.notes[0]
    assert "no half-sets" in given.notes[-1]


def test_warp_counts_in_pixels_of_the_images_that_it_exported_and_a_given_pixel_size_goes_first(tmp_path, tilts):
    columns = {"rlnTomoName": "TS_1.tomostar", **PLACE, **ANGLES, "rlnOpticsGroup": 1}
    path = table(tmp_path / "a.star", columns, {"rlnOpticsGroup": 1, "rlnImagePixelSize": 10.0})
    given = read_particles(path, sources=[tilts])
    assert given.particles.position_angstrom[0, 0] == pytest.approx([1000.0, 500.0, 250.0])
    assert "pixels of 10 Å, by _rlnImagePixelSize" in given.notes[0]
    given = read_particles(path, sources=[tilts], coordinate_pixel_size_angstrom=2.0)
    assert given.particles.position_angstrom[0, 0] == pytest.approx([200.0, 100.0, 50.0])
    assert "pixels of 2 Å, as given" in given.notes[0]


def test_a_tomogram_of_no_source_does_not_keep_the_others_from_being_read(tmp_path, tilts):
    path = projects.write_particles(tmp_path / "a.star", ("elsewhere", "TS_1.tomostar"), per_item=1)
    assert len(read_particles(path, sources=[tilts]).particles) == 2


def test_particles_of_micrographs_have_a_place_in_the_image_and_no_offset_of_the_defocus(tmp_path):
    columns = {
        "rlnMicrographName": "MotionCorr/job002/mic1.mrc",
        "rlnCoordinateX": 100,
        "rlnCoordinateY": 50,
        **ANGLES,
        "rlnOriginX": 2,
        "rlnOriginY": -1,
        "rlnOpticsGroup": 1,
        "myScore": 0.5,
    }
    optics = {"rlnOpticsGroup": 1, "rlnMicrographPixelSize": 1.1, "rlnImagePixelSize": 4.4}
    given = read_particles(table(tmp_path / "a.star", columns, optics), sources=[FRAMES])
    assert given.particles.position_angstrom[0, 0] == pytest.approx([110 - 8.8, 55 + 4.4, 0.0])
    assert "by _rlnMicrographPixelSize" in given.notes[0]
    assert "shifts in pixels of 4.4 Å, by _rlnImagePixelSize" in given.notes[1]
    assert list(given.particles.further) == ["myScore"]


def test_relion_3_0_and_tables_that_say_nothing_take_what_there_is(tmp_path):
    columns = {"rlnMicrographName": "mic1.mrc", "rlnCoordinateX": 100, "rlnCoordinateY": 50, **ANGLES}
    old = {**columns, "rlnDetectorPixelSize": 14, "rlnMagnification": 70000}
    given = read_particles(table(tmp_path / "a.star", old), sources=[FRAMES])
    assert given.particles.position_angstrom[0, 0, :2] == pytest.approx([200.0, 100.0])
    given = read_particles(table(tmp_path / "b.star", columns), sources=[FRAMES])
    assert given.particles.position_angstrom[0, 0, :2] == pytest.approx([110.0, 55.0])
    assert "that of the source" in given.notes[0]
    with pytest.raises(InputError, match="--shift-pixel-size"):
        read_particles(table(tmp_path / "c.star", {**columns, "rlnOriginX": 2, "rlnOriginY": 0}), sources=[FRAMES])


def test_tables_without_places_or_with_other_subsets_are_refused(tmp_path):
    with pytest.raises(FormatError, match="_rlnCoordinateX"):
        read_particles(table(tmp_path / "a.star", {"rlnMicrographName": "mic1.mrc", **ANGLES}), sources=[FRAMES])
    columns = {
        "rlnMicrographName": "mic1.mrc",
        "rlnCoordinateX": 1,
        "rlnCoordinateY": 5,
        **ANGLES,
        "rlnRandomSubset": 3,
    }
    with pytest.raises(FormatError, match="1 or 2"):
        read_particles(table(tmp_path / "b.star", columns), sources=[FRAMES])
