"""Micrographs and their masks."""

import numpy as np
import pytest

from halfmap.data.micrographs import MicrographMask, MicrographSet
from halfmap.errors import InconsistentDataError, ShapeError
from support.particle_sets import a_micrograph_set, some_optics


def a_mask(shape=(20, 30), pixel_size_angstrom=6.0, reason="carbon"):
    excluded = np.zeros(shape, dtype=bool)
    excluded[:5] = True
    return MicrographMask(
        micrograph_name="a.mrc", excluded=excluded, pixel_size_angstrom=pixel_size_angstrom, reason=reason
    )


def test_positions_are_looked_up_at_the_masks_own_pixel_size():
    mask = a_mask()  # rows 0 to 4 of 6 Å: micrograph rows of 1.5 Å up to 4.5 × 4 = 18
    inside = mask.excludes(np.array([[40.0, 0.0], [40.0, 17.9], [40.0, 18.1], [40.0, 60.0]]), 1.5)
    assert inside.tolist() == [True, True, False, False]


def test_positions_outside_the_mask_are_excluded():
    positions = np.array([[-10.0, 50.0], [50.0, -10.0], [500.0, 50.0], [50.0, 500.0], [50.0, 50.0]])
    assert a_mask().excludes(positions, 1.5).tolist() == [True, True, True, True, False]


def test_united_masks_exclude_what_either_excludes():
    other = MicrographMask(
        micrograph_name="a.mrc", excluded=a_mask().excluded[::-1], pixel_size_angstrom=6.0, reason="ice, carbon"
    )
    united = a_mask().united(other)
    assert united.fraction_excluded == 0.5
    assert united.reason == "carbon, ice"


def test_masks_of_different_sampling_are_not_united():
    with pytest.raises(InconsistentDataError, match="one shape and pixel size"):
        a_mask().united(a_mask(pixel_size_angstrom=3.0))


def test_masks_must_be_boolean_images():
    with pytest.raises(ShapeError, match="boolean with axes"):
        MicrographMask(micrograph_name="a", excluded=np.zeros((3, 3)), pixel_size_angstrom=1.0, reason="")


def test_micrographs_of_several_sessions_are_joined():
    second = a_micrograph_set(2, micrograph_name=["x.mrc", "y.mrc"], optics_group=[1, 1])
    optics = some_optics(1, voltage_kv=[200.0]).without_columns(
        "pixel_size_angstrom", "image_size_pixel", "image_dimensionality", "ctf_premultiplied"
    )
    second = MicrographSet(columns=second.columns, optics=optics)
    joined = MicrographSet.concatenate([a_micrograph_set(2), second])
    assert joined.optics_values("voltage_kv").tolist() == [300.0, 300.0, 200.0, 200.0]


def test_micrographs_need_names():
    with pytest.raises(InconsistentDataError, match="must have the column micrograph_name"):
        MicrographSet(columns={"defocus_u_angstrom": [1.0]})
