"""Particles find their items by hash, else by name; what finds none says why."""

import numpy as np
import pytest

from halfmap.data.population import DataSource, SourceItem, SpeciesParticles
from halfmap.errors import InconsistentDataError
from halfmap.multiparticle.linking import check_apart, find_duplicates, joined, link, root_name


def particles(names: list[str], hashes: list[str] | None = None, x: list[float] | None = None) -> SpeciesParticles:
    n = len(names)
    position = np.full((n, 1, 3), 500.0)
    position[:, 0, 0] = np.arange(n) * 100.0 if x is None else x
    return SpeciesParticles(
        position_angstrom=position,
        rotation=np.tile(np.eye(3), (n, 1, 1, 1)),
        random_subset=np.arange(n) % 2 + 1,
        source_name=np.array(names, dtype=object),
        source_hash=np.array(hashes or [""] * n, dtype=object),
        uid=np.arange(1, n + 1),
    )


def source(name: str, items: dict[str, str]) -> DataSource:
    return DataSource(
        guid=f"guid-{name}",
        name=name,
        pixel_size_angstrom=1.0,
        dimensions_pixel=(1000.0, 1000.0, 1000.0),
        items=tuple(SourceItem(name=item, hash=hashed) for item, hashed in items.items()),
    )


ONE = source("one", {"TS_1.tomostar": "h1", "TS_2.tomostar": "h2"})


@pytest.mark.parametrize(
    "name", ["TS_1.tomostar", "tomostar/TS_1.tomostar", "TS_1.mrc.tomostar", "TS_1", "TS_1_10.00Apx.mrc"]
)
def test_a_name_finds_its_item_in_whatever_spelling(name):
    found = link(particles([name]), [ONE])
    assert found.particles.source_name.tolist() == ["TS_1.tomostar"]
    assert found.particles.source_hash.tolist() == ["h1"]


def test_a_hash_goes_before_a_name_and_other_data_under_a_name_do_not_match():
    found = link(particles(["TS_1.tomostar", "TS_1.tomostar"], ["h2", "gone"]), [ONE])
    assert found.particles.source_name.tolist() == ["TS_2.tomostar"]
    assert found.is_linked.tolist() == [True, False]
    assert "other raw data" in found.unmatched[0].reason


def test_names_that_do_not_match_say_how_many_and_why():
    names = ["ts_1", "ts_1", "run7_TS_2", "TS_3", "TS_9", "grid_4"]
    found = link(particles(names), [ONE], not_used={"TS_3": "it was filtered out"})
    reasons = {one.name: (one.n_particles, one.reason) for one in found.unmatched}
    assert found.unmatched[0].name == "ts_1"
    assert reasons["ts_1"] == (2, "the item is called TS_1: upper and lower case differ")
    assert "resembles TS_2" in reasons["run7_TS_2"][1]
    assert reasons["TS_3"][1] == "it was filtered out"
    assert "nearest name" in reasons["TS_9"][1]
    assert "add its source" in reasons["grid_4"][1]
    assert len(found.particles) == 0


def test_the_link_counts_particles_and_items_of_each_source_and_those_outside():
    two = source("two", {"A.tomostar": "h3"})
    found = link(particles(["TS_1", "TS_1", "TS_2", "A"], x=[10.0, 20.0, 30.0, 1200.0]), [ONE, two])
    assert found.n_of_source == {"one": (3, 2), "two": (1, 1)}
    assert found.n_outside == 1


def test_an_item_that_two_sources_have_by_name_must_be_named_by_its_source():
    other = source("other", {"TS_1.tomostar": "h9"})
    with pytest.raises(InconsistentDataError, match="--sources"):
        link(particles(["TS_1"]), [ONE, other])
    assert link(particles(["TS_1"]), [other]).particles.source_hash.tolist() == ["h9"]


def test_sources_with_the_same_data_or_name_are_refused():
    with pytest.raises(InconsistentDataError, match="different data"):
        check_apart([ONE], source("two", {"X.tomostar": "h2", "Y.tomostar": "h8"}))
    with pytest.raises(InconsistentDataError, match="names"):
        check_apart([ONE], source("one", {"X.tomostar": "h7"}))
    check_apart([ONE], source("two", {"X.tomostar": "h7"}))


def test_a_particle_at_the_place_of_another_of_its_item_is_a_duplicate():
    present = particles(["a", "a", "b"], ["h1", "h1", "h2"], [0.0, 50.0, 0.0])
    added = particles(["a", "b", "b", "b", "c"], ["h1", "h2", "h2", "h2", "h3"], [3.0, 100.0, 52.0, 104.0, 0.0])
    assert find_duplicates(added, present, distance_angstrom=5.0).tolist() == [True, False, False, True, False]


def test_joined_particles_keep_the_columns_of_both():
    first, second = particles(["a"], ["h1"]), particles(["b"], ["h2"])
    first = first.take(np.array([0]))
    both = joined(SpeciesParticles(**{**vars(first), "further": {"wrpScore": np.array(["3"], dtype=object)}}), second)
    assert both.further["wrpScore"].tolist() == ["3", "null"]
    assert both.source_hash.tolist() == ["h1", "h2"]


def test_root_names_have_no_folder_and_no_ending():
    assert [root_name(one) for one in ("x/TS_1.tomostar", "a.mrc.tomostar", r"c:\b\m.eer", "")] == [
        "TS_1",
        "a",
        "m",
        "",
    ]
