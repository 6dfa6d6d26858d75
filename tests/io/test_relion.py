"""RELION's files in all dialects: read into our names and units, written back as they stood."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from halfmap.data.optics_groups import OpticsGroups
from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError, InputError
from halfmap.geometry.rotations import angular_distance_degrees, matrix_from_euler
from halfmap.io import relion, star
from support.particle_sets import a_micrograph_set, a_particle_set, some_optics
from support.shared_data import shared_data

LAYOUTS_WITH_OPTICS = [
    "particles/cryodrgn_tests/relion31.star",
    "particles/cryodrgn_tests/relion31.6opticsgroups.star",
    "particles/cryodrgn_tests/relion5.star",
    "star/aspire/sample_particles_relion31.star",
    "star/aspire/rln_proj_65_centered.star",
    "star/cryocat/relion_3.1_optics2.star",
    "star/cryocat/relion_4.0.star",
    "star/scipion_esrf_input_particles.star",
    "star/simplecryoem_bgal_tutorial/pyem.star",
    "oracles/relion5_project/ctf.star",
    "tilt/cryocat_relion5_warp2/warp2_particles_matching.star",
    "tilt/relion5_EMPIAR-10164_skeleton/Refine3D/job023/run_data.star",
    "tilt/tomodrgn_EMPIAR-10499_warptools_4tomos/warptools_test_4-tomos_10-ptcls_box-32_angpix-12.star",
]
LAYOUTS_WITHOUT_OPTICS = {  # file: (pixel size in Å, labels that become an optics group or Å)
    "star/aspire/sample_particles_relion30.star": 5.0 / 37369.207031 * 1e4,
    "star/cryocat/relion_3.0.star": 5.364,
    "particles/cryodrgn_tests/sta_testing.star": 1.96,
    "particles/tomodrgn_10076_simulated/10076_classE_32_sim.star": 13.1,
}
MOVED_TO_OPTICS = {
    "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMagnification", "rlnDetectorPixelSize",
}  # fmt: skip

RELION_3_0 = """
data_images

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnCoordinateX #3
_rlnCoordinateY #4
_rlnOriginX #5
_rlnOriginY #6
_rlnAngleRot #7
_rlnAngleTilt #8
_rlnAnglePsi #9
_rlnVoltage #10
_rlnSphericalAberration #11
_rlnAmplitudeContrast #12
_rlnMagnification #13
_rlnDetectorPixelSize #14
_rlnHelicalTubeID #15
1@a.mrcs m1.mrc 10.0 20.0  2.0 -1.0  10 20 30  300 2.7 0.1 50000 7.0 1
2@a.mrcs m1.mrc 11.5 21.5  0.0  0.5  40 50 60  200 2.7 0.1 50000 7.0 1
3@a.mrcs m2.mrc 12.0 22.0 -2.0  1.0  70 80 90  300 2.7 0.1 50000 7.0 2
"""


def write(folder: Path, text: str, name: str = "given.star") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def particle_text(rows: str = "1@s.mrcs 1 0.5", optics: str = "1 og1 300 1.5") -> str:
    return f"""
# version 30001
data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnImagePixelSize #4
{optics}

# version 30001
data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnOriginXAngst #3
{rows}
"""


# --- laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS_WITH_OPTICS)
def test_unchanged_particles_are_written_as_they_stood(name, tmp_path):
    path = shared_data(name)
    relion.write_particles(tmp_path / "again.star", relion.read_particles(path))
    before, after = star.read(path), star.read(tmp_path / "again.star")
    for table in before:
        again = after[table.name]
        added = ("halfmapUid",) if table.name == "particles" else ()
        assert again.labels == (*table.labels, *added)
        assert again.is_loop == table.is_loop
        for label in table.labels:
            assert again.text(label).tolist() == table.text(label).tolist(), label
    assert set(after.names) == set(before.names)


@pytest.mark.parametrize("name", LAYOUTS_WITH_OPTICS + list(LAYOUTS_WITHOUT_OPTICS))
def test_reading_what_was_written_changes_nothing(name, tmp_path):
    first = relion.read_particles(shared_data(name))
    relion.write_particles(tmp_path / "again.star", first)
    again = relion.read_particles(tmp_path / "again.star")
    assert set(again.columns) == set(first.columns)
    for column, values in first.columns.items():
        if column == "origin_angstrom":  # 3.0 gave it in pixels: converted, written with six decimals
            np.testing.assert_allclose(again[column], values, atol=1e-6)
        else:
            np.testing.assert_array_equal(again[column], values)
    assert set(again.optics.columns) == set(first.optics.columns)


def test_particles_made_here_are_read_back_to_six_decimals(tmp_path):
    particles = a_particle_set(25, n_optics_groups=2)
    relion.write_particles(tmp_path / "p.star", particles)
    again = relion.read_particles(tmp_path / "p.star")
    assert set(again.columns) == set(particles.columns)
    for column, values in particles.columns.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(again[column], values, atol=1e-6)
        else:
            np.testing.assert_array_equal(again[column], values)
    for column, values in particles.optics.columns.items():
        np.testing.assert_array_equal(again.optics[column], values)


def test_a_changed_column_is_written_anew_and_the_others_as_they_stood(tmp_path):
    path = write(tmp_path, particle_text("1@s.mrcs 1 0.50\n2@s.mrcs 1 1e0"))
    particles = relion.read_particles(path)
    assert "origin_angstrom" not in particles  # one component alone stays what the file said
    changed = particles.with_columns(defocus_u_angstrom=np.array([1e4, 1e-7]))
    relion.write_particles(tmp_path / "new.star", changed)
    table = star.read(tmp_path / "new.star")["particles"]
    assert table["rlnOriginXAngst"].tolist() == ["0.50", "1e0"]
    assert table["rlnDefocusU"].tolist() == ["10000.000000", "1e-07"]


def test_stale_pixel_offsets_are_dropped_when_the_offsets_change(tmp_path):
    particles = relion.read_particles(shared_data("star/simplecryoem_bgal_tutorial/pyem.star"))
    moved = particles.with_columns(origin_angstrom=particles["origin_angstrom"] + 1.0)
    relion.write_particles(tmp_path / "moved.star", moved)
    table = star.read(tmp_path / "moved.star")["particles"]
    assert "rlnOriginX" not in table
    assert "rlnOriginXAngst" in table


def test_empty_sets_keep_their_columns_and_optics(tmp_path):
    relion.write_particles(tmp_path / "p.star", a_particle_set(3).take([]))
    again = relion.read_particles(tmp_path / "p.star")
    assert set(again.columns) == set(a_particle_set(3).columns)
    assert again["rotation"].shape == (0, 3, 3)
    assert again.optics.numbers.tolist() == [1]


def test_a_lone_angle_is_written_alone_until_the_rotation_changes(tmp_path):
    text = particle_text("1@s.mrcs 1 30").replace("_rlnOriginXAngst", "_rlnAnglePsi")
    particles = relion.read_particles(write(tmp_path, text))
    np.testing.assert_allclose(particles["rotation"][0], matrix_from_euler(0.0, 0.0, 30.0).numpy(), atol=1e-12)
    relion.write_particles(tmp_path / "same.star", particles)
    assert not {"rlnAngleRot", "rlnAngleTilt"} & set(star.read(tmp_path / "same.star")["particles"].labels)
    relion.write_particles(tmp_path / "new.star", particles.with_columns(rotation=np.eye(3)[None]))
    assert {"rlnAngleRot", "rlnAngleTilt"} <= set(star.read(tmp_path / "new.star")["particles"].labels)


def test_prior_angles_are_a_rotation_where_all_three_are_known_and_tilt_and_psi_else(tmp_path):
    labels = ("rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnAnglePsiPrior")
    particles = a_particle_set(3)
    angles = np.array([["10.5", "20.25", "-30"], ["1", "2", "3"], ["0", "90", "0"]], dtype=object)
    texts = {label: angles[:, number] for number, label in enumerate(labels)}
    relion.write_particles(tmp_path / "all.star", particles.with_columns(**texts))
    known = relion.read_particles(tmp_path / "all.star")
    expected = matrix_from_euler(*torch.from_numpy(angles.astype(np.float64)).T)
    np.testing.assert_allclose(known["prior_rotation"], expected.numpy(), atol=1e-12)
    relion.write_particles(tmp_path / "again.star", known)
    assert star.read(tmp_path / "again.star")["particles"].text(labels[1]).tolist() == ["20.25", "2", "90"]
    of_helix = {label: texts[label] for label in labels[1:]}
    relion.write_particles(tmp_path / "two.star", particles.with_columns(**of_helix))
    partly = relion.read_particles(tmp_path / "two.star")
    assert "prior_rotation" not in partly
    assert partly["prior_tilt_psi_degrees"].tolist() == [[20.25, -30], [2, 3], [90, 0]]
    assert "prior_tilt_psi_degrees" not in known
    relion.write_particles(tmp_path / "two again.star", partly)
    assert star.read(tmp_path / "two again.star")["particles"].text(labels[1]).tolist() == ["20.25", "2", "90"]
    alone = {labels[1]: texts[labels[1]]}
    relion.write_particles(tmp_path / "one.star", particles.with_columns(**alone))
    assert relion.read_particles(tmp_path / "one.star")[labels[1]].tolist() == ["20.25", "2", "90"]


@pytest.mark.parametrize("spelling", ["_rlnDefocusU", "rlnDefocusU", "DefocusU", "defocus_u_angstrom"])
def test_values_are_found_under_any_spelling_of_a_label(spelling):
    particles = a_particle_set()
    np.testing.assert_array_equal(relion.values_of(particles, spelling), particles["defocus_u_angstrom"])


def test_values_of_components_are_found_under_their_label():
    particles = a_particle_set()
    np.testing.assert_array_equal(relion.values_of(particles, "CoordinateY"), particles["position_pixel"][:, 1])
    rot, tilt, psi = (
        torch.from_numpy(relion.values_of(particles, f"rlnAngle{name}")) for name in ("Rot", "Tilt", "Psi")
    )
    error = angular_distance_degrees(matrix_from_euler(rot, tilt, psi), particles.tensor("rotation"))
    assert error.max() < 1e-5  # degrees; rounding in float64
    with pytest.raises(InputError, match=r"A label must be one of halfmapUid, rln.*got 'rlnNone'"):
        relion.values_of(particles, "rlnNone")


# --- dialects -----------------------------------------------------------------------------------------------------


def test_relion_3_0_rows_become_optics_groups_and_offsets_in_angstrom(tmp_path):
    particles = relion.read_particles(write(tmp_path, RELION_3_0))
    pixel_size = 7.0 * 1e4 / 50000  # 1.4 Å
    assert particles["optics_group"].tolist() == [1, 2, 1]
    assert particles.optics_values("voltage_kv").tolist() == [300.0, 200.0, 300.0]
    np.testing.assert_allclose(particles.optics["pixel_size_angstrom"], pixel_size)
    np.testing.assert_allclose(particles["origin_angstrom"], np.array([[2, -1], [0, 0.5], [-2, 1]]) * pixel_size)
    expected = matrix_from_euler(
        torch.tensor([10.0, 40, 70]), torch.tensor([20.0, 50, 80]), torch.tensor([30.0, 60, 90])
    )
    np.testing.assert_allclose(particles["rotation"], expected.numpy(), atol=1e-12)
    assert particles["rlnHelicalTubeID"].tolist() == ["1", "1", "2"]
    assert not MOVED_TO_OPTICS & set(particles.columns)


@pytest.mark.parametrize(("name", "pixel_size"), LAYOUTS_WITHOUT_OPTICS.items())
def test_files_without_optics_table_give_their_pixel_size(name, pixel_size):
    particles = relion.read_particles(shared_data(name))
    np.testing.assert_allclose(particles.optics["pixel_size_angstrom"], pixel_size, rtol=1e-9)


def test_nothing_of_a_file_without_optics_table_is_lost_but_what_moves(tmp_path):
    for name in LAYOUTS_WITHOUT_OPTICS:
        path = shared_data(name)
        relion.write_particles(tmp_path / "new.star", relion.read_particles(path))
        before, after = star.read(path).tables[0], star.read(tmp_path / "new.star")["particles"]
        assert set(before.labels) - set(after.labels) <= MOVED_TO_OPTICS | {"rlnOriginX", "rlnOriginY"}
        for label in set(before.labels) & set(after.labels):
            assert after.text(label).tolist() == before.text(label).tolist()


def test_labels_without_their_prefix_are_understood(tmp_path):
    text = RELION_3_0.replace("_rln", "_")
    prefixed, bare = (relion.read_particles(write(tmp_path, t)) for t in (RELION_3_0, text))
    np.testing.assert_array_equal(bare["rotation"], prefixed["rotation"])
    np.testing.assert_array_equal(bare["position_pixel"], prefixed["position_pixel"])


def test_optics_of_relion_5_have_our_names_and_units():
    optics = relion.read_particles(shared_data("particles/cryodrgn_tests/relion5.star")).optics
    assert optics["beam_tilt_mrad"].tolist() == [[0.043489, 0.014097]]
    assert optics["odd_zernike"][0, :3].tolist() == [0.0680480107376, 0.0982451014894, -1.79877045848]
    assert optics["even_zernike"].shape == (1, 9)
    assert optics["magnification_matrix"][0].tolist() == [[1.001833, -7.04404e-04], [-8.23335e-04, 1.000381]]
    assert optics["voltage_kv"].tolist() == [100.0]
    assert optics["image_size_pixel"].tolist() == [448]
    assert optics["ctf_premultiplied"].tolist() == [False]


# --- uid ----------------------------------------------------------------------------------------------------------


def test_uid_of_a_file_wins_over_the_hash(tmp_path):
    particles = a_particle_set(5, uid=np.array([5, 4, 3, 2, 2**62 + 1]))
    relion.write_particles(tmp_path / "p.star", particles)
    assert relion.read_particles(tmp_path / "p.star").uid.tolist() == [5, 4, 3, 2, 2**62 + 1]


def test_uid_survives_a_new_stack(tmp_path):
    particles = a_particle_set(5)
    moved = particles.with_columns(image_name=np.array([f"{k + 1:06d}@other.mrcs" for k in range(5)], dtype=object))
    relion.write_particles(tmp_path / "p.star", moved)
    assert relion.read_particles(tmp_path / "p.star").uid.tolist() == particles.uid.tolist()


@pytest.mark.parametrize(
    "name",
    [*LAYOUTS_WITH_OPTICS, *LAYOUTS_WITHOUT_OPTICS, "betagal_lowpassed/particles.star"],
)
def test_every_particle_of_a_real_file_has_a_positive_uid_of_its_own(name):
    uid = relion.read_particles(shared_data(name)).uid
    assert uid.min() > 0
    assert len(np.unique(uid)) == len(uid)


def test_a_uid_that_is_not_positive_is_refused(tmp_path):
    text = particle_text("1@s.mrcs 1 -3").replace("_rlnOriginXAngst", "_halfmapUid")
    with pytest.raises(FormatError, match=r"line 19: expected a positive _halfmapUid; found -3"):
        relion.read_particles(write(tmp_path, text))


# --- faults -------------------------------------------------------------------------------------------------------

FAULTS = {
    "missing group": (
        particle_text("1@s.mrcs 1 0\n2@s.mrcs 7 0"),
        20,
        r"group of data_optics \(1\).*found 7.*add the group",
    ),
    "duplicate group": (
        particle_text(optics="1 a 300 1.5\n1 b 200 1.5"),
        11,
        r"each optics group once.*_rlnOpticsGroup 1",
    ),
    "short row": (particle_text("1@s.mrcs 1"), 19, r"3 values.*found 2"),
    "no number": (particle_text("1@s.mrcs x 0"), 19, r"number in column _rlnOpticsGroup; found 'x'"),
    "no optics table": (particle_text().replace("data_optics", "data_x"), None, r"a block data_optics.*data_x"),
    "two groups, no group column": (
        particle_text(optics="1 a 300 1\n2 b 200 1").replace("_rlnOpticsGroup #2\n", "_rlnClassNumber #2\n"),
        None,
        r"the column _rlnOpticsGroup in table data_particles",
    ),
    "optics without numbers": (
        particle_text().replace("_rlnOpticsGroup #1", "_rlnMtfFileName #1"),
        None,
        r"the column _rlnOpticsGroup in table data_optics",
    ),
    "nothing to know them by": (
        particle_text().replace("_rlnImageName", "_rlnGroupName"),
        None,
        r"the column _rlnImageName, or",
    ),
    "offsets in pixels of no size": (
        RELION_3_0.replace("_rlnDetectorPixelSize", "_rlnSomething"),
        None,
        r"a pixel size for the offsets",
    ),
    "magnification of zero": (
        RELION_3_0.replace(" 50000 ", " 0 "),
        20,
        r"a positive _rlnDetectorPixelSize and _rlnMagnification",
    ),
    "not particles": ("data_a\n_x 1\ndata_b\n_x 1\n", None, r"data_particles or data_images.*found data_a, data_b"),
}


@pytest.mark.parametrize(("text", "line", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_names_file_label_line_and_remedy(text, line, message, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(FormatError, match=message) as caught:
        relion.read_particles(path)
    assert caught.value.line == line
    assert caught.value.path == path


def test_a_single_optics_group_needs_no_column(tmp_path):
    text = particle_text().replace("_rlnOpticsGroup #2\n", "_rlnClassNumber #2\n")
    assert relion.read_particles(write(tmp_path, text))["optics_group"].tolist() == [1]


def test_a_number_that_is_not_finite_is_not_written(tmp_path):
    particles = a_particle_set(3, defocus_u_angstrom=np.array([1.0, np.nan, 2.0]))
    with pytest.raises(InputError, match=r"defocus_u_angstrom must be finite.*nan in row 2"):
        relion.write_particles(tmp_path / "p.star", particles)
    assert not list(tmp_path.iterdir())


def test_what_a_failed_ctf_fit_left_is_written(tmp_path):
    particles = a_particle_set(2, ctf_max_resolution_angstrom=np.array([np.inf, 4.0]))
    relion.write_particles(tmp_path / "p.star", particles)
    assert relion.read_particles(tmp_path / "p.star")["ctf_max_resolution_angstrom"].tolist() == [np.inf, 4.0]


# --- micrographs --------------------------------------------------------------------------------------------------


def test_micrographs_are_read_with_their_optics():
    micrographs = relion.read_micrographs(shared_data("apoferritin/micrographs_ctf.star"))
    assert len(micrographs) == 14
    assert micrographs["micrograph_name"][0] == "micrographs/May08_03.05.02.mrc"
    assert micrographs.optics_values("micrograph_pixel_size_angstrom").tolist() == [1.5] * 14
    assert micrographs["defocus_u_angstrom"][0] == 19675


def test_unchanged_micrographs_are_written_as_they_stood(tmp_path):
    for name in ("apoferritin/micrographs_ctf.star", "tilt/EMPIAR-10164_TS_01_mdoc/corrected_micrographs.star"):
        path = shared_data(name)
        relion.write_micrographs(tmp_path / "again.star", relion.read_micrographs(path))
        before, after = star.read(path), star.read(tmp_path / "again.star")
        for table in before:
            assert after[table.name].labels == table.labels
            for label in table.labels:
                assert after[table.name].text(label).tolist() == table.text(label).tolist()


def test_micrographs_of_relion_3_0_get_optics_groups(tmp_path):
    text = (
        "data_\nloop_\n_rlnMicrographName\n_rlnVoltage\n_rlnMagnification\n_rlnDetectorPixelSize\n_rlnDefocusU\n"
        "a.mrc 300 10000 1.5 12000\nb.mrc 200 10000 1.5 13000\n"
    )
    micrographs = relion.read_micrographs(write(tmp_path, text))
    assert micrographs["optics_group"].tolist() == [1, 2]
    assert micrographs.optics_values("micrograph_pixel_size_angstrom").tolist() == [1.5, 1.5]


def test_a_micrograph_named_twice_is_refused(tmp_path):
    micrographs = a_micrograph_set(2)
    relion.write_micrographs(tmp_path / "m.star", micrographs)
    text = (tmp_path / "m.star").read_text().replace("mic_2.mrc", "mic_1.mrc")
    with pytest.raises(
        FormatError, match=r"expected each micrograph once; found MotionCorr/job002/Movies/mic_1.mrc again"
    ):
        relion.read_micrographs(write(tmp_path, text))


def test_micrographs_without_names_are_refused(tmp_path):
    with pytest.raises(FormatError, match="expected the column _rlnMicrographName"):
        relion.read_micrographs(write(tmp_path, "data_micrographs\nloop_\n_rlnDefocusU\n1\n"))


# --- RELION itself ------------------------------------------------------------------------------------------------


def relion_program(name: str) -> str:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed (Debian: apt install relion)")
    return program


@pytest.mark.oracle
def test_relion_reads_what_is_written_and_keeps_every_value(tmp_path):
    zernike = {
        "odd_zernike": np.array([[0.1, 0.2, -1.5, 0, 0, 0.25]] * 2),
        "beam_tilt_mrad": np.array([[0.1, -0.2]] * 2),
    }
    particles = a_particle_set(20, n_optics_groups=2)
    particles = ParticleSet(columns=particles.columns, optics=some_optics(2, **zernike))
    relion.write_particles(tmp_path / "x.star", particles)
    command = [relion_program("relion_star_handler"), "--i", "x.star", "--o", "y.star"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    again = relion.read_particles(tmp_path / "y.star")
    assert again.uid.tolist() == particles.uid.tolist()
    for column, values in particles.columns.items():
        if values.dtype.kind == "f":  # RELION writes 12 characters: five decimals below −10
            np.testing.assert_allclose(again[column], values, atol=2e-5, rtol=1e-7)
        else:
            np.testing.assert_array_equal(again[column], values)
    assert isinstance(again.optics, OpticsGroups)
    np.testing.assert_allclose(again.optics["odd_zernike"], particles.optics["odd_zernike"], atol=1e-6)


@pytest.mark.oracle
def test_relion_joins_micrographs_that_are_written_here(tmp_path):
    relion.write_micrographs(tmp_path / "x.star", a_micrograph_set(3))
    command = [relion_program("relion_star_handler"), "--i", "x.star", "--o", "y.star"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    again = relion.read_micrographs(tmp_path / "y.star")
    assert again["micrograph_name"].tolist() == a_micrograph_set(3)["micrograph_name"].tolist()


@pytest.mark.oracle
def test_relion_unites_optics_groups_as_they_are_united_here(tmp_path):
    first = a_particle_set(4, stack="a.mrcs")
    second = a_particle_set(4, seed=5, stack="b.mrcs")
    second = ParticleSet(columns=second.columns, optics=some_optics(1, voltage_kv=[200.0], name=["other"]))
    for name, particles in (("a.star", first), ("b.star", second)):
        relion.write_particles(tmp_path / name, particles)
    command = [relion_program("relion_star_handler"), "--combine", "--i", "a.star b.star", "--o", "y.star"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs, ours = relion.read_particles(tmp_path / "y.star"), ParticleSet.concatenate([first, second])
    assert theirs.uid.tolist() == ours.uid.tolist()
    assert theirs.optics_values("voltage_kv").tolist() == ours.optics_values("voltage_kv").tolist()
    assert theirs.optics["name"].tolist() == ours.optics["name"].tolist()


def test_what_a_classification_says_of_a_particle_has_names_and_survives(tmp_path):
    particles = a_particle_set(
        n=3,
        max_probability=[0.25, 0.5, 1.0],
        log_likelihood=[-2001.5, 1e6, 0.0],
        n_significant=[29, 1, 400],
        group_number=[1, 2, 2],
    )
    path = tmp_path / "run_it025_data.star"
    relion.write_particles(path, particles)
    text = path.read_text()
    read = relion.read_particles(path)
    for column, label in (
        ("max_probability", "rlnMaxValueProbDistribution"),
        ("log_likelihood", "rlnLogLikeliContribution"),
        ("n_significant", "rlnNrOfSignificantSamples"),
        ("group_number", "rlnGroupNumber"),
    ):
        assert f"_{label} " in text
        np.testing.assert_array_equal(read[column], particles[column])
