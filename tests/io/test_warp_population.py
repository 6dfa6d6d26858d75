import numpy as np
import pytest

from halfmap.data.population import DataSource, Member, Population, SourceItem, Species, SpeciesParticles
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.geometry.euler import array_from_euler
from halfmap.io import warp_population as files

SPECIES = """<?xml version="1.0" encoding="utf-8"?>
<Species>
\t<Param Name="GUID" Value="6b1f0a2c-1111" />
\t<Param Name="Name" Value="apo" />
\t<Param Name="PixelSize" Value="1.3500" />
\t<Param Name="DiameterAngstrom" Value="130" />
\t<Param Name="Symmetry" Value="O" />
\t<Param Name="GlobalResolution" Value="-1" />
\t<Param Name="Novelty" Value="7" />
\t<Parent GUID="none" />
\t<UsedDataSources>
\t\t<DataSource GUID="s" Version="v" />
\t</UsedDataSources>
</Species>
"""

SOURCE = """<?xml version="1.0" encoding="utf-8"?>
<DataSource>
\t<Param Name="GUID" Value="2d40" />
\t<Param Name="Name" Value="tilts" />
\t<Param Name="PixelSizeX" Value="1.5" />
\t<Param Name="DosePerAngstromFrame" Value="-2.64" />
\t<UsedSpecies />
\t<Files>
\t\t<File Hash="h1" Name="TS_1.tomostar" Weight="1" Bfactor="0" />
\t\t<File Hash="h2" Name="TS_2.tomostar" Weight="0.5" Bfactor="-12" />
\t</Files>
</DataSource>
"""


def particles(samples=1, n=3, **others):
    rng = np.random.default_rng(1)
    angles = rng.uniform(5, 175, (3, n, samples))
    values = {
        "position_angstrom": rng.uniform(0, 1000, (n, samples, 3)),
        "rotation": array_from_euler(*angles),
        "random_subset": np.array([1, 2, 1]),
        "source_name": np.array(["TS_1.tomostar"] * n, dtype=object),
        "source_hash": np.array(["a_b-c"] * n, dtype=object),
        "uid": np.arange(1, n + 1),
    }
    return SpeciesParticles(**(values | others))


def test_a_population_round_trips(tmp_path):
    path = tmp_path / "m" / "demo.population"
    population = Population(
        name="demo & co",
        species=(Member(guid="a", path="species/x/x.species"),),
        sources=(Member(guid="b", path="../warp_tiltseries/demo.source"),),
        refinement_options={"NIterations": "3"},
    )
    files.write_population(path, population)
    again = files.read_population(path)
    assert again.name == population.name
    assert [vars(member) for member in (*again.species, *again.sources)] == [
        {"guid": "a", "path": "species/x/x.species"},
        {"guid": "b", "path": "../warp_tiltseries/demo.source"},
    ]
    assert again.refinement_options == {"NIterations": "3"}
    before = path.read_bytes()
    files.write_population(path, again)
    assert path.read_bytes() == before
    assert files.member_path(path, again.sources[0]) == tmp_path / "m" / "../warp_tiltseries/demo.source"
    assert files.member_path(path, Member(guid="", path="species\\x\\x.species")).parts[-3:] == (
        "species",
        "x",
        "x.species",
    )


def test_a_species_has_defaults_and_keeps_what_it_does_not_know(tmp_path):
    path = tmp_path / "apo.species"
    path.write_text(SPECIES)
    species = files.read_species(path)
    assert (species.guid, species.symmetry, species.box_pixel) == ("6b1f0a2c-1111", "O", 192)
    assert species.resolution_angstrom is None
    assert species.b_factor_angstrom2 is None
    assert species.used_sources == {"s": "v"}
    assert species.further["HelicalUnits"] == "1"
    assert species.further["Novelty"] == "7"
    files.write_species(path, species)
    text = path.read_text()
    assert '<Param Name="PixelSize" Value="1.3500" />' in text
    assert '<Parent GUID="none" />' in text
    again = files.read_species(path)
    assert vars(again) == vars(species)


def test_a_resolution_and_a_b_factor_are_written_as_m_does(tmp_path):
    path = tmp_path / "s.species"
    species = Species(
        guid="g",
        name="s",
        pixel_size_angstrom=1.0,
        diameter_angstrom=100.0,
        resolution_angstrom=3.25,
        b_factor_angstrom2=-81.6,
        n_temporal_samples=3,
    )
    files.write_species(path, species)
    assert '"GlobalBFactor" Value="-82"' in path.read_text()
    again = files.read_species(path)
    assert (again.resolution_angstrom, again.b_factor_angstrom2, again.n_temporal_samples) == (3.25, -82, 3)
    with pytest.raises(InputError, match=r"whole number of Å; got 99\.5"):
        files.write_species(path, Species(guid="g", name="s", pixel_size_angstrom=1.0, diameter_angstrom=99.5))


def test_a_source_reads_the_sign_of_its_dose(tmp_path):
    path = tmp_path / "tilts.source"
    path.write_text(SOURCE)
    source = files.read_source(path)
    assert source.pixel_size_angstrom == 1.5
    assert source.exposure_e_per_angstrom2 == 2.64
    assert source.dose_per_frame_e_per_angstrom2 is None
    assert source.max_images == -1
    assert source.is_of_tilt_series
    assert source.items[1] == source.items[1]
    assert [(item.hash, item.weight, item.b_factor_angstrom2) for item in source.items] == [
        ("h1", 1, 0),
        ("h2", 0.5, -12),
    ]


def test_a_source_round_trips(tmp_path):
    path = tmp_path / "frames.source"
    source = DataSource(
        guid="g",
        name="frames",
        pixel_size_angstrom=0.834,
        dimensions_pixel=(4096.0, 4096.0, 1000.0),
        items=(SourceItem(name="a.tif", hash="x"),),
        max_images=32,
        dose_per_frame_e_per_angstrom2=1.25,
        gain_path="gain.mrc",
        gain_flip_y=True,
        used_species={"s": "v"},
        further={"DontVersion": "True"},
    )
    files.write_source(path, source)
    again = files.read_source(path)
    expected = {name: value for name, value in vars(source).items() if name not in ("items", "further")}
    assert {name: vars(again)[name] for name in expected} == expected
    assert vars(again.items[0]) == vars(source.items[0])
    assert again.further["DontVersion"] == "True"
    before = path.read_bytes()
    files.write_source(path, source)
    assert path.read_bytes() == before


def test_a_member_with_another_guid_is_refused(tmp_path):
    path = tmp_path / "p.population"
    (tmp_path / "apo.species").write_text(SPECIES)
    member = Member(guid="6B1F0A2C-1111", path="apo.species")
    assert files.read_species_of(path, member).name == "apo"
    with pytest.raises(InconsistentDataError, match="must have the GUID other"):
        files.read_species_of(path, Member(guid="other", path="apo.species"))


@pytest.mark.parametrize("read", [files.read_species_of, files.read_source_of])
def test_a_member_that_is_not_where_the_population_says_is_told(tmp_path, read):
    with pytest.raises(
        FormatError, match=r"p\.population: expected a file at .*gone\.x; found none; paths in a population"
    ):
        read(tmp_path / "p.population", Member(guid="g", path="gone.x"))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.species"
    path.write_text(SOURCE)
    with pytest.raises(FormatError, match="found <DataSource>"):
        files.read_species(path)
    path.write_text("<Species></Species>")
    with pytest.raises(FormatError, match="a Param GUID"):
        files.read_species(path)


def test_paths_of_a_species():
    path = files.species_path("m/a.population", "70S / A", "0123456789")
    assert path.as_posix() == "m/species/70S___A_01234567/70S___A.species"
    assert files.species_file(path, "half1.mrc").name == "70S___A_half1.mrc"


@pytest.mark.parametrize("samples", [1, 3])
def test_particles_of_a_species_round_trip(tmp_path, samples):
    path = tmp_path / "s_particles.star"
    extra = {"wrpNote": np.array(["x", "", "y"], dtype=object)}
    before = particles(samples, further=extra)
    files.write_species_particles_of_m(path, before)
    again = files.read_species_particles_of_m(path)
    np.testing.assert_allclose(again.position_angstrom, before.position_angstrom, atol=5e-7)  # Å: 6 decimals
    np.testing.assert_allclose(again.rotation, before.rotation, atol=5e-8)  # 6 decimals of a degree
    assert again.further["wrpNote"].tolist() == ["x", "null", "y"]
    for name in ("random_subset", "source_name", "source_hash", "uid"):
        assert getattr(again, name).tolist() == getattr(before, name).tolist()


def test_particles_of_m_without_uids_get_those_of_their_positions(tmp_path):
    path = tmp_path / "s_particles.star"
    files.write_species_particles_of_m(path, particles())
    text = [line for line in path.read_text().splitlines() if "halfmapUid" not in line]
    path.write_text("\n".join(line.rsplit(" ", 1)[0] if line.count(" ") > 5 else line for line in text) + "\n")
    first = files.read_species_particles_of_m(path)
    assert len(set(first.uid.tolist())) == 3
    assert (first.uid > 3).all()


def test_one_angle_for_several_positions_is_repeated_and_other_numbers_are_refused(tmp_path):
    path = tmp_path / "s_particles.star"
    files.write_species_particles_of_m(path, particles(3))
    text = path.read_text()
    renamed = text.replace("wrpAngleRot2", "wrpOther")
    path.write_text(renamed)
    again = files.read_species_particles_of_m(path)
    np.testing.assert_array_equal(again.rotation[:, 2], again.rotation[:, 0])
    path.write_text(text.replace("wrpAngleRot3", "wrpOther"))
    with pytest.raises(FormatError, match="2 of angles and 3 of positions"):
        files.read_species_particles_of_m(path)


def test_particles_without_hashes_have_the_names_of_their_items_alone(tmp_path):
    path = tmp_path / "s_particles.star"
    files.write_species_particles_of_m(path, particles())
    path.write_text(path.read_text().replace("wrpSourceHash", "wrpOther"))
    again = files.read_species_particles_of_m(path)
    assert again.source_hash.tolist() == ["", "", ""]
    assert again.source_name.tolist() == ["TS_1.tomostar"] * 3


def test_a_half_set_that_there_is_not_is_named():
    with pytest.raises(InconsistentDataError, match="1 or 2; got 3 for 2 of 3"):
        particles(random_subset=np.array([3, 2, 3]))


def test_a_particle_whose_pose_is_not_finite_is_named(tmp_path):
    path = tmp_path / "s_particles.star"
    files.write_species_particles_of_m(path, particles())
    lines = path.read_text().splitlines()
    rows = [number for number, line in enumerate(lines) if line.count(" ") > 5]
    lines[rows[1]] = "nan " + lines[rows[1]].split(" ", 1)[1]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InconsistentDataError, match="others for 1 of 3, the first of them number 2"):
        files.read_species_particles_of_m(path)
