import base64
import hashlib

import numpy as np
import pytest
import torch

from halfmap.data.image_series import SeriesOptics, TiltSeries
from halfmap.data.population import SpeciesParticles
from halfmap.errors import FormatError
from halfmap.io import data_hash
from halfmap.splines.grids import SplineGrid


def series(**changes):
    return TiltSeries(
        name="TS_1",
        image_size_angstrom=(100.0, 100.0),
        dose_e_per_angstrom2=np.zeros(2),
        is_used=np.ones(2, dtype=bool),
        optics=SeriesOptics(pixel_size_angstrom=2.0),
        volume_size_angstrom=(100.0, 100.0, 50.0),
        tilt_angle_degrees=np.array([-3.0, 3.0]),
        axis_angle_degrees=np.zeros(2),
        axis_offset_angstrom=np.zeros((2, 2)),
    ).with_values(**changes)


def test_a_hash_is_27_characters_of_base64_without_slash_and_plus():
    # SHA-1 of nothing, da39a3ee5e6b4b0d3255bfef95601890afd80709, has a slash but no plus in Base64
    assert data_hash.text_of_hash(b"") == "2jmj7l5rSw0yVb-vlWAYkK-YBwk"
    digest = next(d for d in (hashlib.sha1(bytes([i])).digest() for i in range(256)) if b"+" in base64.b64encode(d))
    found = next(bytes([i]) for i in range(256) if hashlib.sha1(bytes([i])).digest() == digest)
    expected = base64.b64encode(digest).decode().replace("=", "").replace("/", "-").replace("+", "_")
    assert data_hash.text_of_hash(found) == expected
    assert len(expected) == 27


def test_the_hash_of_data_is_that_of_name_and_first_half_mebibyte(tmp_path):
    path = tmp_path / "a.tif"
    data = np.random.default_rng(0).bytes(600_000)
    path.write_bytes(data)
    expected = data_hash.text_of_hash("TS_1".encode("utf-16-le") + data[:524288])
    assert data_hash.data_hash("TS_1", path) == expected
    path.write_bytes(data[:524288] + b"another end")
    assert data_hash.data_hash("TS_1", path) == expected
    assert data_hash.data_hash("TS_2", path) != expected
    with pytest.raises(FormatError, match="readable raw data"):
        data_hash.data_hash("TS_1", tmp_path / "none")


def test_a_source_version_changes_with_any_number_but_not_with_names():
    first = data_hash.version_of_source([series()], {})
    assert len(first) == 27
    assert data_hash.version_of_source([series(further={"a": "b"})], {}) == first
    changes = (
        {"defocus_angstrom": SplineGrid(values=torch.ones((1, 1, 1)))},
        {"is_used": np.array([True, False])},
        {"level_angle_x_degrees": 0.5},
        {"optics": SeriesOptics(pixel_size_angstrom=2.0, even_zernike=np.eye(8)[0])},
    )
    versions = {data_hash.version_of_source([series(**change)], {}) for change in changes}
    versions |= {first, data_hash.version_of_source([series()], {"s": "v"})}
    assert len(versions) == 6


def test_a_species_version_changes_with_poses_maps_and_sources():
    rotation = np.tile(np.eye(3), (2, 1, 1, 1))
    particles = SpeciesParticles(
        position_angstrom=np.zeros((2, 1, 3)),
        rotation=rotation,
        random_subset=np.array([1, 2]),
        source_name=np.array(["a", "a"], dtype=object),
        source_hash=np.array(["h", "h"], dtype=object),
        uid=np.array([1, 2]),
    )
    maps = [np.full((2, 2, 2), value, dtype=np.float32) for value in (1, 2, 3)]
    first = data_hash.version_of_species(particles, maps, {})
    assert len(first) == 8
    assert data_hash.version_of_species(particles, maps, {}) == first
    others = {
        data_hash.version_of_species(particles.with_poses(np.ones((2, 1, 3)), rotation), maps, {}),
        data_hash.version_of_species(particles, maps[::-1], {}),
        data_hash.version_of_species(particles, maps, {"s": "v"}),
    }
    assert len(others | {first}) == 4
