"""cryoSPARC's files: read with the right conventions, and written so that nothing is lost on the way and back."""

import numpy as np
import pytest
import torch
import yaml

from halfmap.data.particles import ParticleSet
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.geometry.rotations import angular_distance_degrees
from halfmap.io import cryosparc
from halfmap.io.cryosparc_writer import write_particles
from halfmap.selection.expansion import expand
from support.particle_sets import a_particle_set
from support.shared_data import shared_data

REAL = "particles/cryodrgn_tests/cryosparc_P12_J24_001_particles.cs"


def write(path, **fields):
    """Write fields, `__` standing for the slash in their names, as a .cs file."""
    named = {name.replace("__", "/"): np.asarray(values) for name, values in fields.items()}
    array = np.zeros(len(named["uid"]), dtype=[(name, v.dtype, v.shape[1:]) for name, v in named.items()])
    for name, values in named.items():
        array[name] = values
    with open(path, "wb") as stream:
        np.save(stream, array)
    return path


def some_fields(n=3, **more):
    return {
        "uid": np.arange(1, n + 1, dtype="u8"),
        "blob__path": np.array([b">J1/extract/a.mrc"] * n),
        "blob__idx": np.arange(n, dtype="u4"),
        "blob__shape": np.full((n, 2), 64, dtype="u4"),
        "blob__psize_A": np.full(n, 1.1, dtype="f4"),
        **more,
    }


def test_a_real_file_is_read_in_our_units():
    path = shared_data(REAL)
    raw = np.load(path)
    particles = cryosparc.particles_of(cryosparc.read(path))
    assert len(particles) == 2019
    assert particles["image_name"][1].startswith("000002@J19/extract/20150917_05196_DNA-TET")
    assert particles.optics["voltage_kv"].tolist() == [200.0]
    assert particles.optics["pixel_size_angstrom"].tolist() == [2.95]
    assert particles.optics["image_size_pixel"].tolist() == [180]
    np.testing.assert_allclose(particles["origin_angstrom"], raw["alignments3D/shift"] * 2.95, rtol=1e-6)
    np.testing.assert_allclose(particles["defocus_angle_degrees"], np.rad2deg(raw["ctf/df_angle_rad"]), rtol=1e-6)
    np.testing.assert_array_equal(particles["random_subset"], raw["alignments3D/split"] + 1)
    assert particles["cryosparcUid"][0] == str(raw["uid"][0])
    assert len(np.unique(particles.uid)) == 2019
    assert particles.uid.min() > 0


def test_poses_of_a_real_file_are_the_transposes_of_their_rotation_vectors():
    from scipy.spatial.transform import Rotation

    path = shared_data(REAL)
    truth = Rotation.from_rotvec(np.load(path)["alignments3D/pose"].astype(float)).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(cryosparc.particles_of(cryosparc.read(path))["rotation"], truth, atol=1e-9)


def test_a_real_file_survives_export_and_import(tmp_path):
    before = cryosparc.particles_of(cryosparc.read(shared_data(REAL)))
    path, _ = write_particles(tmp_path / "again.cs", before)
    raw, again = np.load(shared_data(REAL)), np.load(path)
    for name in ("uid", "blob/path", "blob/idx", "blob/psize_A", "alignments3D/split", "ctf/exp_group_id"):
        np.testing.assert_array_equal(again[name], raw[name])
    for name in ("alignments3D/shift", "ctf/df1_A", "ctf/df_angle_rad", "ctf/amp_contrast"):
        np.testing.assert_allclose(again[name], raw[name], atol=2e-5, rtol=1e-6)
    # The vectors themselves may differ by a full turn: cryoSPARC writes some that are longer than π.
    after = cryosparc.particles_of(cryosparc.read(path))
    np.testing.assert_allclose(after["rotation"], before["rotation"], atol=1e-6)
    shared = set(raw.dtype.names) & set(again.dtype.names)
    assert set(raw.dtype.names) == shared  # every field cryoSPARC wrote, with its type
    text = {"blob/path", "ctf/type"}
    assert {n: raw.dtype[n] for n in shared - text} == {n: again.dtype[n] for n in shared - text}


def test_cryosparcs_own_tools_read_what_is_written(tmp_path):
    dataset = pytest.importorskip("cryosparc.dataset", reason="cryosparc-tools is not installed")
    particles = a_particle_set(n=5, n_optics_groups=2)
    shapes = dict.fromkeys(particles["micrograph_name"], (1000, 1200))
    path, _ = write_particles(tmp_path / "p.cs", particles, micrograph_shapes=shapes)
    read = dataset.Dataset.load(path)
    assert len(read) == 5
    assert read["blob/path"][0] == "stack.mrcs"
    assert set(read.prefixes()) == {"blob", "ctf", "location", "alignments3D", "pick_stats"}
    np.testing.assert_array_equal(read["uid"], particles.uid.astype("u8"))


@pytest.mark.parametrize("y_origin", ["last-row", "first-row"])
def test_particles_come_back_as_they_went(tmp_path, y_origin):
    before = a_particle_set(n=7, n_optics_groups=2, random_subset=np.array([1, 2, 1, 2, 2, 1, 1]))
    shapes = dict.fromkeys(before["micrograph_name"], (1000, 1200))
    path, group = write_particles(tmp_path / "p.cs", before, micrograph_shapes=shapes, y_origin=y_origin)
    after = cryosparc.particles_of(cryosparc.read(path), y_origin=y_origin)
    for name in ("uid", "class_number", "random_subset", "optics_group"):
        np.testing.assert_array_equal(after[name], before[name])
    assert after["image_name"].tolist() == before["image_name"].tolist()
    assert after["micrograph_name"].tolist() == before["micrograph_name"].tolist()
    for name, tolerance in (("position_pixel", 2e-4), ("origin_angstrom", 1e-5), ("defocus_u_angstrom", 2e-3)):
        np.testing.assert_allclose(after[name], before[name], atol=tolerance)
    turned = angular_distance_degrees(*(torch.from_numpy(p["rotation"].copy()) for p in (before, after)))
    assert turned.max() < 1e-4  # degrees; single precision
    for name in ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast", "pixel_size_angstrom"):
        np.testing.assert_allclose(after.optics[name], before.optics[name])
    results = yaml.safe_load(group.read_text())["results"]
    assert results["alignments3D"] == {"metafile": ">p.cs", "num_items": 7, "type": "particle.alignments3D"}


def test_positions_count_from_the_row_that_is_asked_for(tmp_path):
    location = {
        "location__micrograph_path": np.array([b"m.mrc"]),
        "location__micrograph_shape": np.array([[100, 200]], dtype="u4"),
        "location__center_x_frac": np.array([0.25], dtype="f4"),
        "location__center_y_frac": np.array([0.25], dtype="f4"),
    }
    dataset = cryosparc.read(write(tmp_path / "p.cs", **some_fields(1, **location)))
    assert cryosparc.particles_of(dataset)["position_pixel"].tolist() == [[50.0, 75.0]]
    assert cryosparc.particles_of(dataset, y_origin="first-row")["position_pixel"].tolist() == [[50.0, 25.0]]


def test_angles_of_2d_classes_are_psi_and_shifts_are_in_pixels_of_the_alignment(tmp_path):
    fields = some_fields(
        1,
        alignments2D__pose=np.array([np.pi / 6], dtype="f4"),
        alignments2D__shift=np.array([[1.0, -2.0]], dtype="f4"),
        alignments2D__psize_A=np.array([2.2], dtype="f4"),
        alignments2D__class=np.array([4], dtype="u4"),
    )
    particles = cryosparc.particles_of(cryosparc.read(write(tmp_path / "p.cs", **fields)))
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    np.testing.assert_allclose(particles["rotation"][0], [[c, s, 0], [-s, c, 0], [0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(particles["origin_angstrom"], [[2.2, -4.4]], rtol=1e-6)
    assert particles["class_number"].tolist() == [5]
    assert "random_subset" not in particles


def test_poses_in_the_plane_go_out_as_2d_and_come_back(tmp_path):
    before = a_particle_set(n=4)
    psi = np.deg2rad([10.0, -70.0, 120.0, 179.0])
    flat = np.zeros((4, 3, 3))
    flat[:, 0, 0] = flat[:, 1, 1] = np.cos(psi)
    flat[:, 0, 1], flat[:, 1, 0], flat[:, 2, 2] = np.sin(psi), -np.sin(psi), 1
    path, _ = write_particles(tmp_path / "p.cs", before.with_columns(rotation=flat))
    dataset = cryosparc.read(path)
    assert "alignments2D/pose" in dataset
    assert "alignments3D/pose" not in dataset
    np.testing.assert_allclose(cryosparc.particles_of(dataset)["rotation"], flat, atol=1e-6)


def test_of_several_classes_the_most_probable_gives_the_pose(tmp_path):
    classes = {}
    for number, posterior in ((0, [0.9, 0.2, 0.4]), (1, [0.1, 0.8, 0.6])):
        classes |= {
            f"alignments_class_{number}__pose": np.full((3, 3), 0.1 * (number + 1), dtype="f4"),
            f"alignments_class_{number}__shift": np.full((3, 2), float(number), dtype="f4"),
            f"alignments_class_{number}__class": np.full(3, number, dtype="u4"),
            f"alignments_class_{number}__class_posterior": np.array(posterior, dtype="f4"),
        }
    particles = cryosparc.particles_of(cryosparc.read(write(tmp_path / "p.cs", **some_fields(**classes))))
    assert particles["class_number"].tolist() == [1, 2, 2]
    np.testing.assert_allclose(particles["max_probability"], [0.9, 0.8, 0.6], rtol=1e-6)
    np.testing.assert_allclose(particles["origin_angstrom"][:, 0], [0, 1.1, 1.1], rtol=1e-6)


def test_passthrough_files_are_joined_by_uid_whatever_their_order(tmp_path):
    main = write(tmp_path / "main.cs", **some_fields())
    other = write(
        tmp_path / "passthrough.cs",
        uid=np.array([3, 9, 1, 2], dtype="u8"),
        blob__psize_A=np.full(4, 7.0, dtype="f4"),
        ctf__df1_A=np.array([300, 900, 100, 200], dtype="f4"),
        ctf__df2_A=np.array([3, 9, 1, 2], dtype="f4"),
    )
    particles = cryosparc.particles_of(cryosparc.read(main, other))
    assert particles["defocus_u_angstrom"].tolist() == [100, 200, 300]
    assert particles.optics["pixel_size_angstrom"].tolist() == [1.1]  # the first file's fields win


def test_a_passthrough_file_of_other_particles_is_refused(tmp_path):
    main = write(tmp_path / "main.cs", **some_fields())
    other = write(tmp_path / "other.cs", uid=np.array([3, 4], dtype="u8"), ctf__df1_A=np.zeros(2, dtype="f4"))
    with pytest.raises(InconsistentDataError, match="got 2 of 3 that are not"):
        cryosparc.read(main, other)
    twice = write(tmp_path / "twice.cs", uid=np.array([1, 2, 3, 3], dtype="u8"), ctf__df1_A=np.zeros(4, dtype="f4"))
    with pytest.raises(InconsistentDataError, match="got 1 repetitions"):
        cryosparc.read(main, twice)


def test_groups_of_exposures_become_optics_groups(tmp_path):
    fields = some_fields(
        4,
        ctf__exp_group_id=np.array([5, 2, 5, 2], dtype="u4"),
        ctf__accel_kv=np.array([300, 200, 300, 200], dtype="f4"),
    )
    particles = cryosparc.particles_of(cryosparc.read(write(tmp_path / "p.cs", **fields)))
    assert particles["optics_group"].tolist() == [6, 3, 6, 3]
    assert particles.optics_values("voltage_kv").tolist() == [300, 200, 300, 200]


def test_copies_by_symmetry_go_out_with_uids_of_their_own_and_come_back_as_copies(tmp_path):
    before = expand(a_particle_set(n=3), "C2")
    path, _ = write_particles(tmp_path / "p.cs", before)
    dataset = cryosparc.read(path)
    assert len(np.unique(dataset["uid"])) == 6
    after = cryosparc.particles_of(dataset)
    np.testing.assert_array_equal(after.uid, before.uid)
    np.testing.assert_array_equal(after["symmetry_copy"], [0, 1] * 3)
    again, _ = write_particles(tmp_path / "again.cs", after)
    np.testing.assert_array_equal(np.load(again)["uid"], dataset["uid"])
    np.testing.assert_array_equal(np.load(again)["sym_expand/src_uid"], dataset["sym_expand/src_uid"])


def test_micrographs_are_read_with_their_ctf(tmp_path):
    path = write(
        tmp_path / "mics.cs",
        uid=np.array([1, 2], dtype="u8"),
        micrograph_blob__path=np.array([b"J2/motioncorrected/a.mrc", b"J2/motioncorrected/b.mrc"]),
        micrograph_blob__psize_A=np.full(2, 0.9, dtype="f4"),
        mscope_params__accel_kv=np.full(2, 300, dtype="f4"),
        ctf__df1_A=np.array([9000, 8000], dtype="f4"),
        ctf__phase_shift_rad=np.array([np.pi / 2, 0], dtype="f4"),
    )
    dataset = cryosparc.read(path)
    assert dataset.holds == "micrographs"
    micrographs = cryosparc.micrographs_of(dataset)
    assert micrographs["micrograph_name"].tolist() == ["J2/motioncorrected/a.mrc", "J2/motioncorrected/b.mrc"]
    np.testing.assert_allclose(micrographs["phase_shift_degrees"], [90, 0], atol=1e-5)
    assert micrographs.optics["micrograph_pixel_size_angstrom"].tolist() == [0.9]
    assert micrographs.optics["voltage_kv"].tolist() == [300]


def test_aberrations_that_are_not_converted_are_named(tmp_path):
    fields = some_fields(ctf__tilt_A=np.zeros((3, 2), dtype="f4"), ctf__tetra_A=np.ones((3, 4), dtype="f4"))
    dataset = cryosparc.read(write(tmp_path / "p.cs", **fields))
    assert cryosparc.unconverted_aberrations(dataset) == ("ctf/tetra_A",)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\x95CSDAT123", "compressed stream"),
        (b"\x93NUMPY\x01\x00v\x00{'descr'", "EOF|header|array"),
        (b"", "No data|EOF|pickle"),
    ],
)
def test_broken_files_are_refused_with_a_reason(tmp_path, content, found):
    path = tmp_path / "bad.cs"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=found):
        cryosparc.read(path)


def test_arrays_without_named_fields_are_refused(tmp_path):
    np.save(tmp_path / "plain.npy", np.zeros(3))
    with pytest.raises(FormatError, match="named fields, uid among them"):
        cryosparc.read(tmp_path / "plain.npy")
    with pytest.raises(FormatError, match="No such file"):
        cryosparc.read(tmp_path / "none.cs")


def test_a_missing_field_is_named_and_so_is_what_to_give(tmp_path):
    path = write(
        tmp_path / "picks.cs",
        uid=np.array([1], dtype="u8"),
        location__center_x_frac=np.array([0.1], dtype="f4"),
        location__center_y_frac=np.array([0.1], dtype="f4"),
    )
    with pytest.raises(FormatError, match=r"location/micrograph_path.*passthrough"):
        cryosparc.picks_of(cryosparc.read(path))


def test_particles_without_box_or_sides_of_micrographs_are_refused(tmp_path):
    particles = a_particle_set(n=2)
    with pytest.raises(InputError, match="sides of every micrograph"):
        write_particles(tmp_path / "p.cs", particles, micrograph_shapes={})
    bare = ParticleSet(columns={"image_name": np.array(["1@a.mrcs"], dtype=object)})
    with pytest.raises(InconsistentDataError, match="pixel_size_angstrom"):
        write_particles(tmp_path / "p.cs", bare)
    assert not (tmp_path / "p.cs").exists()
