"""Tables: rows go by uid, remembered text lasts as long as its column."""

import numpy as np
import pytest

from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError, InputError, ShapeError
from support.particle_sets import a_particle_set, some_picks


def test_select_after_shuffle_gives_the_same_particles():
    particles = a_particle_set(20)
    order = np.random.default_rng(0).permutation(20)
    shuffled = particles.take(order)
    wanted = particles.uid[[3, 17, 5]]
    first, second = particles.select_uids(wanted), shuffled.select_uids(wanted)
    for name in particles.columns:
        np.testing.assert_array_equal(first[name], second[name])
    assert first.uid.tolist() == wanted.tolist()


def test_all_tilts_of_a_particle_are_selected_together():
    particles = a_particle_set(6, uid=[7, 8, 7, 9, 8, 7], tilt_index=[0, 0, 1, 0, 1, 2])
    chosen = particles.select_uids([8, 7])
    assert chosen.uid.tolist() == [8, 8, 7, 7, 7]
    assert chosen["tilt_index"].tolist() == [0, 1, 0, 1, 2]


def test_unknown_uids_are_counted_and_named():
    particles = a_particle_set(4, uid=[1, 2, 3, 4])
    with pytest.raises(InconsistentDataError, match="got 2 that are not, the first 9"):
        particles.select_uids([1, 9, 10])


def test_join_matches_by_uid_not_by_row():
    particles = a_particle_set(5)
    other = particles.with_columns(score=np.arange(5.0)).take([4, 2, 0, 1, 3])
    assert particles.join(other, "score")["score"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_join_from_a_table_with_repeated_uids_is_refused():
    particles = a_particle_set(2, uid=[1, 1])
    with pytest.raises(InconsistentDataError, match="each uid once"):
        particles.join(particles, "defocus_u_angstrom")


def test_replacing_a_column_forgets_its_text_and_no_other():
    texts = {
        "class_number": {"rlnClassNumber": np.array([b"01", b"02"])},
        "random_subset": {"x": np.array([b"1", b"1"])},
    }
    particles = ParticleSet(columns={"uid": [1, 2], "class_number": [1, 2], "random_subset": [1, 1]}, remembered=texts)
    changed = particles.with_columns(class_number=[3, 4])
    assert set(changed.remembered) == {"random_subset"}
    assert particles.take([1]).remembered["class_number"]["rlnClassNumber"].tolist() == [b"02"]


def test_columns_cannot_be_changed_behind_the_remembered_text():
    particles = a_particle_set(3)
    with pytest.raises(ValueError, match="read-only"):
        particles["defocus_u_angstrom"][0] = 1.0


def test_the_callers_array_stays_writable():
    values = np.zeros(3)
    a_particle_set(3, ctf_scale=values)
    values[0] = 1.0


def test_tensor_is_a_copy_that_may_be_changed():
    particles = a_particle_set(3)
    particles.tensor("rotation")[:] = 0
    assert abs(particles["rotation"]).max() > 0.1


@pytest.mark.parametrize(
    ("name", "values"),
    [("rotation", np.zeros((3, 2, 2))), ("position_pixel", np.zeros(3)), ("defocus_u_angstrom", np.zeros((3, 1)))],
)
def test_columns_of_a_wrong_shape_are_refused(name, values):
    with pytest.raises(ShapeError, match=f"Column {name} must have shape"):
        a_particle_set(3, **{name: values})


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ShapeError, match="one length"):
        a_particle_set(3, ctf_scale=np.ones(4))
    with pytest.raises(ShapeError, match="must have 3 rows; got 4"):
        a_particle_set(3).with_columns(ctf_scale=np.ones(4))


def test_missing_columns_are_named_with_what_there_is():
    with pytest.raises(InconsistentDataError, match=r"must have the column norm_correction; got class_number, "):
        a_particle_set(2)["norm_correction"]
    assert a_particle_set(2).get("norm_correction", 1.0).tolist() == [1.0, 1.0]
    assert a_particle_set(2).get("position_pixel", 0.0).shape == (2, 2)


def test_a_single_value_becomes_a_column():
    particles = a_particle_set(2).with_columns(group_name="one", class_number=4)
    assert particles["group_name"].tolist() == ["one", "one"]
    assert particles["class_number"].tolist() == [4, 4]


def test_concatenation_then_splitting_gives_back_the_parts():
    first, second = a_particle_set(4, seed=1), a_particle_set(3, seed=2, stack="other.mrcs")
    joined = ParticleSet.concatenate([first, second])
    assert len(joined) == 7
    for name in first.columns:
        np.testing.assert_array_equal(joined.take(np.arange(4))[name], first[name])
        np.testing.assert_array_equal(joined.take(np.arange(7) >= 4)[name], second[name])


def test_tables_with_different_columns_are_not_joined_silently():
    first = a_particle_set(2)
    with pytest.raises(InconsistentDataError, match="got ctf_scale in only one of the first and number 2"):
        ParticleSet.concatenate([first, first.with_columns(ctf_scale=1.0)])
    with pytest.raises(InputError, match="at least one particle set"):
        ParticleSet.concatenate([])


def test_masks_of_the_wrong_length_are_refused():
    with pytest.raises(ShapeError, match=r"must have shape \(3,\)"):
        a_particle_set(3).take(np.array([True, False]))


def test_dataframe_has_one_column_for_each_component():
    frame = a_particle_set(3).to_dataframe()
    assert {"position_pixel_x", "origin_angstrom_y", "rotation_13", "image_name", "uid"} <= set(frame.columns)
    assert len(frame) == 3


def test_empty_selections_keep_their_columns():
    empty = a_particle_set(3).take([])
    assert len(empty) == 0
    assert empty["rotation"].shape == (0, 3, 3)
    assert len(some_picks(5).select_uids([])) == 0
