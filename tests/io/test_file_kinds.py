"""Files are recognised by what they hold."""

import numpy as np
import pytest

from halfmap.errors import FormatError
from halfmap.grid import ImageGrid
from halfmap.io import cistem, mrc, relion
from halfmap.io.cryosparc_writer import write_particles
from halfmap.io.file_kinds import FileKind, kind_of_file
from support.particle_sets import a_micrograph_set, a_particle_set, some_picks
from support.shared_data import shared_data


def test_files_are_recognised_whatever_their_ending(tmp_path):
    def file(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    relion.write_particles(tmp_path / "a", a_particle_set(n=2))
    relion.write_micrographs(tmp_path / "b", a_micrograph_set())
    relion.write_coordinates(tmp_path / "c", some_picks(n=2))
    listed = relion.write_autopick(tmp_path / "job", some_picks(n=2), project_root=tmp_path)
    cistem.write_particles(tmp_path / "d", a_particle_set(n=2), stack_name="s.mrc")
    write_particles(tmp_path / "e.cs", a_particle_set(n=2))
    expected = {
        tmp_path / "a": FileKind.RELION_PARTICLES,
        tmp_path / "b": FileKind.RELION_MICROGRAPHS,
        tmp_path / "c": FileKind.RELION_COORDINATES,
        listed: FileKind.RELION_PICKS,
        tmp_path / "d": FileKind.CISTEM_PARTICLES,
        tmp_path / "e.cs": FileKind.CRYOSPARC,
        file("f", "image_name\tx_coord\ty_coord\nm\t1\t2\n"): FileKind.TOPAZ,
        file("g", "1 2 64 64\n"): FileKind.EMAN_BOXES,
        file("h", "1 2\n3 4\n"): FileKind.TEXT_COORDINATES,
        file("i", "micrograph_path,pos_x_img,relative_defocus\n"): FileKind.LEOPARD,
        file("j", "data_\nloop_\n_wrpCoordinateX1\n_wrpCoordinateY1\n_wrpCoordinateZ1\n_wrpSourceName\n1 2 3 a\n"): (
            FileKind.WARP_PARTICLES
        ),
    }
    assert {path: kind_of_file(path) for path in expected} == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("particles/cryodrgn_tests/cryosparc_P12_J24_001_particles.cs", FileKind.CRYOSPARC),
        ("particles/cryodrgn_tests/relion5.star", FileKind.RELION_PARTICLES),
        ("particles/cryodrgn_tests/sta_testing.star", FileKind.RELION_PARTICLES),
        ("star/cryocat/relion_3.0.star", FileKind.RELION_PARTICLES),
        ("tilt/cryocat_relion5_warp2/warp2_particles_matching.star", FileKind.RELION_PARTICLES),
        ("apoferritin/micrographs_ctf.star", FileKind.RELION_MICROGRAPHS),
        ("oracles/leopard12/refined_leopard.csv", FileKind.LEOPARD),
    ],
)
def test_real_files_are_recognised(name, kind):
    assert kind_of_file(shared_data(name)) is kind


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"# nothing\n\n", "an empty file"),
        (b"hello world\n", "text that begins with 'hello world'"),
        (bytes(2000), "a binary file"),
        (b"data_\n\nloop_\n_rlnResolution #1\n1.0\n", "a STAR file with _rlnResolution"),
    ],
)
def test_other_files_are_refused_and_the_kinds_listed(tmp_path, content, found):
    path = tmp_path / "what"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=f"cryoSPARC metadata.*found {found}"):
        kind_of_file(path)


def test_of_an_mrc_file_it_is_said_that_it_needs_no_import(tmp_path):
    mrc.write_image(tmp_path / "m.mrc", np.zeros((8, 8)), ImageGrid(shape=(8, 8), pixel_size_angstrom=1.0))
    with pytest.raises(FormatError, match=r"an MRC file; .*needs no import"):
        kind_of_file(tmp_path / "m.mrc")
    with pytest.raises(FormatError, match="No such file"):
        kind_of_file(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "found", "remedy"),
    [
        ("<Settings></Settings>", "settings of a Warp project", "halfmap population add-source"),
        ("<TiltSeries></TiltSeries>", "metadata of a tilt series of Warp or M", "halfmap population add-source"),
        ("<Population></Population>", "a population of M", "halfmap population"),
        ("<Novel></Novel>", "XML with <Novel>", "choose another file"),
        (
            "data_\nloop_\n_wrpMovieName\n_wrpAngleTilt\n_wrpDose\na.mrc 3 0\n",
            "images of Warp",
            "halfmap population add-source",
        ),
        ("data_\n_rlnTomoParticlesFile p.star\n_rlnTomoTomogramsFile t.star\n", "an optimisation set", "give t.star"),
        (
            "data_global\nloop_\n_rlnTomoName\n_rlnTomoTiltSeriesPixelSize\nTS_1 1.5\n",
            "tilt series of RELION",
            "halfmap population add-source",
        ),
        (
            "data_TS_1\nloop_\n_rlnMicrographName\n_rlnTomoYTilt\na.mrc 3\n",
            "the tilts of one series",
            "the tomograms.star",
        ),
    ],
)
def test_files_of_tomography_are_refused_with_what_they_are_for(tmp_path, text, found, remedy):
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(FormatError) as caught:
        kind_of_file(path)
    assert found in caught.value.found
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_xml_of_warp_is_known_in_every_encoding(tmp_path, encoding):
    path = tmp_path / "file"
    path.write_bytes("<Movie></Movie>".encode(encoding))
    with pytest.raises(FormatError, match="metadata of a movie of Warp or M"):
        kind_of_file(path)
