"""Leopard-EM's tables against the truth from which its own files were made."""

import csv

import numpy as np
import pytest
import torch

from halfmap.errors import FormatError
from halfmap.geometry.rotations import angular_distance_degrees, matrix_from_euler
from halfmap.io import leopard
from halfmap.optics.ctf import ctf
from support.shared_data import shared_data

CTF_ORACLE = {
    "frequency": [
        [0.01953125, 0.0], [0.0, 0.0390625], [0.0390625, -0.0390625], [0.078125, 0.078125],
        [0.1171875, -0.109375], [0.15625, 0.0], [0.05859375, 0.17578125], [0.17578125, -0.17578125],
    ],
    "value": [0.95791, 0.60967, -0.15916, 0.74063, 0.2098, 0.43894, 0.84226, 0.29582],
}  # fmt: skip
HEADER = ",".join(leopard.NEEDED)
ROW = "m.mrc,866,253,10,20,30,-100,9200,8800,30,2.0,300,2.7,0.07"


def truth_columns():
    with open(shared_data("oracles/leopard12/ground_truth.csv")) as stream:
        rows = list(csv.DictReader(stream))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def apart(table, truth):
    given = matrix_from_euler(truth["phi"], truth["theta"], truth["psi"])
    return angular_distance_degrees(given, torch.from_numpy(table.particles["rotation"].copy())).numpy()


def test_true_poses_positions_and_defoci_are_read():
    table, truth = leopard.read(shared_data("oracles/leopard12/stack_truth.csv")), truth_columns()
    assert apart(table, truth).max() < 1e-6
    offset = table.particles["position_pixel"] - np.stack([truth["cx"], truth["cy"]], axis=-1)
    assert np.abs(offset).max() <= 0.5  # px: the table holds the nearest pixel
    np.testing.assert_allclose(table.particles["defocus_u_angstrom"], 9200 + truth["ddf"])
    np.testing.assert_allclose(table.particles["defocus_v_angstrom"], 8800 + truth["ddf"])
    assert set(table.particles["defocus_angle_degrees"]) == {30.0}
    assert table.micrographs["micrograph_name"].tolist() == ["micrograph.mrc"]
    assert table.micrographs["defocus_u_angstrom"].tolist() == [9200.0]
    assert table.particles.optics["micrograph_pixel_size_angstrom"].tolist() == [2.0]
    assert table.particles.optics["amplitude_contrast"].tolist() == [0.07]
    assert "even_zernike" not in table.particles.optics


def test_refined_values_are_preferred_and_nearer_to_the_truth_than_those_before():
    truth = truth_columns()
    before = leopard.read(shared_data("oracles/leopard12/stack_perturbed.csv"))
    after = leopard.read(shared_data("oracles/leopard12/refined_leopard.csv"))
    assert np.median(apart(after, truth)) < 0.8 * np.median(apart(before, truth))
    errors = [np.abs(table.particles["defocus_u_angstrom"] - 9200 - truth["ddf"]) for table in (before, after)]
    assert np.median(errors[1]) < np.median(errors[0])
    assert after.particles["figure_of_merit"].min() > 5
    offset = after.particles["position_pixel"] - np.stack([truth["cx"], truth["cy"]], axis=-1)
    assert np.abs(offset).max() < 1.5


def test_columns_with_holes_fall_back_to_the_values_before_refinement(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"{HEADER},refined_relative_defocus,even_zernikes\n{ROW},,\"{{'Z44c': 0.1}}\"\n{ROW},50,\n")
    table = leopard.read(path)
    assert table.particles["defocus_u_angstrom"].tolist() == [9100, 9100]
    assert table.particles.optics_values("even_zernike")[:, 8].tolist() == [0.1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found an empty file"),
        ("a,b\n1,2\n", "line 1: expected the columns of Leopard-EM"),
        (f"{HEADER}\n{ROW},7\n", "line 2: expected 14 values; found 15"),
        (f"{HEADER}\n{ROW}\n{ROW.replace('866', 'x')}\n", "line 3: expected a number in column pos_x_img"),
        (f"{HEADER}\n{ROW.replace('866', '')}\n", "line 2: expected a finite number in column pos_x_img"),
    ],
)
def test_what_is_no_table_of_leopard_is_refused_with_the_line(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        leopard.read(path)


@pytest.mark.parametrize("name", ["refined_leopard", "stack_perturbed", "stack_truth"])
def test_a_table_of_leopard_em_is_written_back_as_it_was(name, tmp_path):
    path = shared_data(f"oracles/leopard12/{name}.csv")
    table = leopard.LeopardColumns.read(path)
    table.with_columns().write(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == path.read_bytes()
    expected = leopard.MATCH_COLUMNS if leopard.INDEX not in table else (leopard.INDEX, *leopard.REFINED_COLUMNS)
    assert tuple(table.columns) == expected


def test_refined_columns_go_to_their_places_and_foreign_ones_are_kept_last(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f'my_note,{HEADER}\n"a, b",{ROW}\n')
    table = leopard.LeopardColumns.read(path).with_columns(refined_psi=["1.5"], refined_relative_defocus=["2"])
    names = list(table.columns)
    assert names[-1] == "my_note"
    assert names[names.index("psi") + 1] == "refined_psi"
    assert names[names.index("relative_defocus") + 1] == "refined_relative_defocus"
    table.write(path)
    assert leopard.LeopardColumns.read(path).columns["my_note"] == ["a, b"]
    assert len(leopard.REFINED_COLUMNS) == 51


def test_a_phase_plate_and_strong_astigmatism_are_read_as_the_ctf_that_made_them(tmp_path):
    """Values of torch-ctf 0.6.0, which Leopard-EM 1.2 calls: 300 kV, Cs 2.7 mm, 90° of phase shift, 400 Å."""
    path = tmp_path / "t.csv"
    row = ROW.replace("-100,9200,8800", "0,9200,8800")
    path.write_text(f"{HEADER},phase_shift,ctf_B_factor\n{row},90,20\n")
    particles = leopard.read(path).particles
    frequencies = torch.tensor(CTF_ORACLE["frequency"], dtype=torch.float64)
    values = ctf(
        frequencies,
        **{
            name: particles[name].copy()
            for name in ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_degrees")
        },
        **{
            name: particles.optics_values(name)
            for name in ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
        },
        phase_shift_degrees=particles["phase_shift_degrees"].copy(),
        b_factor_angstrom2=particles["ctf_b_factor_angstrom2"].copy(),
    )[0]
    np.testing.assert_allclose(values, CTF_ORACLE["value"], atol=5e-4)
