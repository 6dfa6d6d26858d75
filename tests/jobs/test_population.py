"""A population from an empty folder to species, through the functions that the commands are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import halfmap
from halfmap.cli.main import main
from halfmap.data.image_series import FrameSeries, SeriesOptics
from halfmap.data.volumes import Volume
from halfmap.errors import FormatError, InconsistentDataError, InputError, ProjectError
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion, star, warp_population
from halfmap.io.relion_tomo import read_tomograms
from halfmap.io.relion_tomo_particles import read_optimisation_set, read_tomo_particles, visible_tilts
from halfmap.io.warp_series import read_series, write_series
from halfmap.io.warp_settings import WarpSettings, write_settings
from halfmap.jobs.population_files import open_population
from halfmap.jobs.population_given import given_maps, linked_particles
from halfmap.jobs.population_images import images_of_item
from halfmap.splines.grids import SplineGrid
from support import warp_projects as projects


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".halfmap").mkdir()
    return tmp_path


def said(lines: list[str]) -> str:
    return "\n".join(lines)


def with_source(**options: object) -> list[str]:
    settings = projects.write_project(Path("warp"))
    halfmap.population_create(folder="m", name="demo")
    return halfmap.population_add_source(population="m", processing=str(settings), name="tilts", **options)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("population")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / ".halfmap").mkdir()
        make_species(symmetry="O", temporal_samples=2)
    return folder


@pytest.fixture
def species_path(project, made_once):
    """Return the species file of a copy of a population that was made once."""
    shutil.copytree(made_once, project, dirs_exist_ok=True)
    return next(project.glob("m/species/*/apo.species"))


def make_species(**options: object) -> Path:
    with_source()
    half1, _ = projects.write_half_maps(Path("maps"))
    particles = projects.write_particles(Path("run_data.star"), ("TS_1.tomostar", "TS_2.tomostar"))
    values = {"name": "apo", "diameter_angstrom": projects.DIAMETER, "half1": half1, "particles": particles}
    return halfmap.population_add_species(population="m", **{**values, **options}).main_output


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_source_says_what_passes_and_what_does_not_and_why():
    for one, attributes in (("TS_4", {"UnselectFilter": "True"}), ("TS_5", {"UnselectManual": "True"})):
        projects.write_item(Path("warp"), projects.series(one), **attributes)
    projects.write_item(Path("warp"), projects.one_tilt("TS_6"))
    projects.write_item(Path("warp"), projects.without_images("TS_7"))
    lines = said(with_source(max_images=3))
    assert "tilts: 3 tilt series pass." in lines
    assert "1 not used, as it was filtered out for its quality." in lines
    assert "1 not used, as it was deselected by hand." in lines
    assert "TS_6 is set aside: a tilt series must have at least two tilts" in lines
    assert "TS_7 is set aside: none of its images is used" in lines
    source = open_population(Path("m")).sources[0]
    assert [item.name for item in source.source.items] == ["TS_1.tomostar", "TS_2.tomostar", "TS_3.tomostar"]
    assert all(len(item.hash) == 27 for item in source.source.items)
    assert source.read_item(source.source.items[0]).is_used.tolist() == [True, True, True, False, False]
    assert source.versions.has_version(source.source.version)


def test_items_that_were_filtered_out_are_taken_in_when_asked_for():
    projects.write_item(Path("warp"), projects.series("TS_4"), UnselectFilter="True")
    assert "1 of them were filtered out or deselected" in said(with_source(include_unselected=True))
    assert len(open_population(Path("m")).sources[0].source.items) == 4


def test_only_named_items_become_a_source_and_a_name_without_item_is_an_error():
    Path("few.txt").write_text("TS_2.tomostar\n")
    with_source(files="few.txt")
    assert [item.name for item in open_population(Path("m")).sources[0].source.items] == ["TS_2.tomostar"]
    Path("few.txt").write_text("TS_8\n")
    with pytest.raises(InputError, match="none of TS_8"):
        halfmap.population_add_source(population="m", processing="warp/tilts.settings", name="more", files="few.txt")


def test_raw_data_and_metadata_stay_as_they_are_and_overlapping_sources_are_refused():
    settings = projects.write_project(Path("warp"))
    before = {path: path.read_bytes() for path in Path("warp").rglob("*") if path.is_file()}
    halfmap.population_create(folder="m", name="demo")
    halfmap.population_add_source(population="m", processing=str(settings), name="tilts")
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(InconsistentDataError, match="different data"):
        halfmap.population_add_source(population="m", processing=str(settings), name="again")
    assert len(open_population(Path("m")).sources) == 1


def test_movies_that_are_gone_are_replaced_by_averages_and_items_without_any_are_set_aside():
    settings = projects.write_project(Path("warp"), ("TS_1", "TS_2"))
    for path in (Path("warp/frames")).iterdir():
        path.unlink()
    (Path("warp/frames/average")).mkdir()
    (Path("warp/frames/average/TS_1_0.mrc")).write_bytes(b"average")
    halfmap.population_create(folder="m", name="demo")
    lines = said(halfmap.population_add_source(population="m", processing=str(settings)))
    assert "The movies of 1 items are not there" in lines
    assert "TS_2 is set aside" in lines


def test_a_species_has_all_files_of_m_but_the_network(species_path):
    path = species_path
    folder, report = path.parent, Path("Population/job001/report.html").read_text()
    kinds = "angdist anisores denoised filt filtanisotropic filtlocal filtsharp half1 half2 localbfac localres mask"
    expected = {"apo.species", *(f"apo_{kind}.mrc" for kind in kinds.split(" "))}
    expected |= {f"apo_{kind}.star" for kind in ("fsc", "localres", "particles")}
    assert set(files(folder)) == expected
    species = warp_population.read_species(path)
    assert species.pixel_size_angstrom == 4.0
    assert species.n_temporal_samples == 2
    assert species.resolution_angstrom == pytest.approx(14.0, abs=2.5)
    assert species.denoised_to_angstrom == pytest.approx(12.0, abs=4.0)
    assert species.denoised_to_angstrom <= species.resolution_angstrom
    assert files(folder / "versions" / species.version) == files(folder)
    particles = warp_population.read_species_particles_of_m(folder / "apo_particles.star")
    assert particles.position_angstrom.shape == (8, 2, 3)
    # RELION's coordinate of the first particle times 4 Å, less its shift
    assert particles.position_angstrom[0, 0] == pytest.approx([118.0, 164.0, 200.0], abs=1e-5)
    assert set(particles.source_name) == {"TS_1.tomostar", "TS_2.tomostar"}
    curve = star.read(folder / "apo_fsc.star").tables[0]
    assert curve.labels == (
        "wrpResolution", "wrpFSCUnmasked", "wrpFSCRandomized", "wrpFSCCorrected", "wrpFSCMasked"
    )  # fmt: skip
    assert set(np.unique(mrc.read_volume(folder / "apo_mask.mrc").values)) == {0.0, 1.0}
    assert "Half-maps and mask" in report


def test_names_that_do_not_match_are_named_with_their_reason_and_none_at_all_is_an_error():
    with_source()
    sources, told = open_population(Path("m")).sources, []
    particles = projects.write_particles(Path("mixed.star"), ("TS_1", "ts_2", "other"))
    pixels = {"coordinate_pixel_size_angstrom": None, "shift_pixel_size_angstrom": None}
    link, _ = linked_particles(particles, sources, **pixels, say=told.append)
    assert len(link.particles) == 4
    log = said(told)
    assert "coordinates in pixels of the tilt series, 4 Å" in log
    assert "4 of 12 particles are in an item: 4 in 1 items of tilts" in log
    assert "the item is called TS_2: upper and lower case differ" in log
    assert "no item has a name like it" in log
    lost = projects.write_particles(Path("lost.star"), ("elsewhere",))
    half1, _ = projects.write_half_maps(Path("maps"))
    with pytest.raises(InputError, match="none of 4 in tilts"):
        halfmap.population_add_species(population="m", name="lost", diameter_angstrom=80, half1=half1, particles=lost)
    assert not open_population(Path("m")).species


def test_particles_of_one_half_set_alone_are_said():
    with_source()
    path = projects.write_particles(Path("run_data.star"), ("TS_1", "TS_2"))
    pixels = {"coordinate_pixel_size_angstrom": None, "shift_pixel_size_angstrom": None}
    sources, told = open_population(Path("m")).sources, []
    link, _ = linked_particles(path, sources, **pixels, say=told.append)
    assert "half-set" not in said(told)
    first = link.particles.take(link.particles.random_subset == 1)
    warp_population.write_species_particles_of_m("first.star", first)
    linked_particles(Path("first.star"), sources, **pixels, say=told.append)
    assert "none of them is in half-set 2" in said(told)


def test_maps_of_other_pixels_are_resampled_and_a_given_mask_becomes_binary():
    paths, told = projects.write_half_maps(Path("maps")), []
    grid = ImageGrid.cubic(40, projects.PIXEL)
    soft = torch.exp(-((grid.radii() / 40) ** 4)).float()
    mrc.write_volume("soft.mrc", Volume(values=soft, grid=grid))
    given = given_maps(
        paths,
        diameter_angstrom=projects.DIAMETER,
        mask=Path("soft.mrc"),
        mask_threshold=None,
        mask_low_pass_angstrom=15.0,
        pixel_size_angstrom=None,
        resample_to_angstrom=5.0,
        say=told.append,
    )
    assert given.half1.grid == given.mask.grid == ImageGrid.cubic(32, 5.0)
    assert given.mask.values.unique().tolist() == [0.0, 1.0]
    assert "brought from 40 px of 4 Å to 32 px of 5 Å" in said(told)


def test_half_maps_and_masks_that_do_not_belong_together_are_refused_before_anything_is_written():
    half1, half2 = projects.write_half_maps(Path("maps"))
    other = mrc.read_volume(half2)
    mrc.write_volume("other.mrc", Volume(values=other.values.flip(0).roll(8, 2), grid=other.grid))
    mrc.write_volume("small.mrc", Volume(values=torch.ones(36, 36, 36), grid=ImageGrid.cubic(36, 4.0)))
    dark = [Path("dark_half1.mrc"), Path("dark_half2.mrc")]
    for path, half in zip(dark, (half1, half2), strict=True):
        volume = mrc.read_volume(half)
        mrc.write_volume(path, Volume(values=-volume.values, grid=volume.grid))
    with pytest.raises(InconsistentDataError, match="agree at low resolution"):
        make_species(half1=half1, half2="other.mrc")
    values = {"population": "m", "name": "x", "diameter_angstrom": 80, "half1": half1, "particles": "run_data.star"}
    with pytest.raises(InconsistentDataError, match="must have the box"):
        halfmap.population_add_species(**values, mask="small.mrc")
    with pytest.raises(InconsistentDataError, match="different halves"):
        halfmap.population_add_species(**{**values, "half2": half1})
    with pytest.raises(InputError, match="must be bright"):
        halfmap.population_add_species(**{**values, "half1": dark[0]})
    with pytest.raises(InputError, match="must fit into its half-maps' box of 160 Å"):
        halfmap.population_add_species(**{**values, "diameter_angstrom": 400})
    with pytest.raises(InputError, match="lie in the tomogram"):
        halfmap.population_add_species(**values, coordinate_pixel_size_angstrom=40.0)
    assert not Path("m/species").exists()
    assert not list(Path("m").glob(".lock"))


def test_particles_are_added_once(species_path):
    path = species_path
    before = warp_population.read_species(path).version
    projects.write_particles(Path("more.star"), ("TS_2.tomostar", "TS_3.tomostar"), per_item=6)
    lines = said(halfmap.population_add_particles(population="m", species="apo", particles="more.star"))
    assert "4 are left out" in lines
    species = warp_population.read_species(path)
    assert species.previous_version == before
    assert len(warp_population.read_species_particles_of_m(path.with_name("apo_particles.star"))) == 16
    with pytest.raises(InputError, match="must be new"):
        halfmap.population_add_particles(population="m", species="apo", particles="more.star")
    with pytest.raises(InputError, match="A source must be one of tilts"):
        halfmap.population_add_particles(population="m", species="apo", particles="more.star", sources="others")


def test_a_mask_put_in_place_by_hand_is_noticed_checked_and_versioned_and_rolled_back(species_path):
    path = species_path
    mask = path.with_name("apo_mask.mrc")
    first = files(path.parent)
    volume = mrc.read_volume(mask)
    assert "changed since version" not in said(halfmap.population_status(population="m"))
    with pytest.raises(InputError, match="as its version has it"):
        halfmap.population_update_mask(population="m", species="apo")
    mrc.write_volume(mask, Volume(values=torch.ones(20, 20, 20), grid=ImageGrid.cubic(20, 4.0)))
    assert f"changed since version {warp_population.read_species(path).version}" in said(
        halfmap.population_status(population="m")
    )
    with pytest.raises(InconsistentDataError, match="must have the box"):
        halfmap.population_update_mask(population="m", species="apo")
    with pytest.raises(ProjectError, match="changed since"):
        halfmap.population_versions(population="m", action="checkout", member="apo", version="x")
    wide = torch.nn.functional.max_pool3d(volume.values[None, None], 3, 1, 1)[0, 0]
    mrc.write_volume(mask, Volume(values=wide, grid=volume.grid))
    halfmap.population_update_mask(population="m", species="apo")
    assert "changed since" not in said(halfmap.population_status(population="m"))
    history = open_population(Path("m")).species[0].versions.history()
    assert len(history) == 2
    listed = said(halfmap.population_versions(population="m"))
    assert all(version in listed for version, _, _ in history)
    halfmap.population_versions(population="m", action="checkout", member="apo", version=history[0][0][:6])
    assert files(path.parent) == first


def test_a_mask_that_is_the_old_one_changes_nothing_and_a_map_to_make_one_from_must_be_there(species_path):
    before = files(species_path.parent)
    halfmap.population_update_mask(population="m", species="apo", from_="halves")
    log = Path("Population/job002/run.log").read_text()
    assert "nothing has changed" in log
    assert "of memory for" not in log  # nothing is measured
    assert files(species_path.parent) == before
    halfmap.population_update_mask(population="m", species="apo", from_="denoised")
    assert "from denoised, low-passed at 15 Å" in Path("Population/job003/run.log").read_text()
    one, other = (mrc.read_volume(species_path.with_name(f"apo_{kind}.mrc")).values for kind in ("mask", "denoised"))
    assert float(other[one > 0].mean()) > 3 * float(other[one == 0].abs().mean())
    species_path.with_name("apo_denoised.mrc").unlink()
    with pytest.raises(InputError, match=r"apo_denoised.mrc"):
        halfmap.population_update_mask(population="m", species="apo", from_="denoised")


def test_items_are_excluded_and_included_again_by_versions_of_their_source(species_path):
    source = open_population(Path("m")).sources[0]
    before, metadata = source.source, source.path.with_name("TS_2.xml").read_bytes()
    lines = said(halfmap.population_items(population="m", action="exclude", source="tilts", names="TS_2"))
    assert "tilts uses 2 items now" in lines
    listed = said(halfmap.population_items(population="m"))
    assert "it was excluded" in listed
    assert f"apo was made with version {before.version[:8]} of tilts" in said(halfmap.population_status(population="m"))
    assert source.path.with_name("TS_2.xml").read_bytes() == metadata
    with pytest.raises(InputError, match="among those it uses"):
        halfmap.population_items(population="m", action="exclude", source="tilts", names="TS_2")
    with pytest.raises(InputError, match="must keep an item"):
        halfmap.population_items(population="m", action="exclude", source="tilts", names=("TS_1", "TS_3"))
    halfmap.population_items(population="m", action="include", source="tilts", names="TS_2.tomostar")
    now = open_population(Path("m")).sources[0].source
    assert [item.hash for item in now.items] == [item.hash for item in before.items]
    assert now.version == before.version
    assert "was made with" not in said(halfmap.population_status(population="m"))
    with pytest.raises(InputError, match="in none of its versions"):
        halfmap.population_items(population="m", action="include", source="tilts", names="TS_8")


def test_a_source_goes_back_to_metadata_of_an_earlier_version():
    with_source()
    source = open_population(Path("m")).sources[0]
    halfmap.population_items(population="m", action="exclude", source="tilts", names="TS_3")
    metadata = source.path.with_name("TS_1.xml")
    original = metadata.read_bytes()
    metadata.write_bytes(original.replace(b"-85", b"-84"))
    assert "TS_1.xml" in said(halfmap.population_status(population="m"))
    halfmap.population_versions(
        population="m", action="checkout", member="tilts", version=source.source.version, discard=True
    )
    assert metadata.read_bytes() == original
    assert len(open_population(Path("m")).sources[0].source.items) == 3
    assert read_series(metadata).axis_angle_degrees[0] == -85.0


def test_a_command_waits_for_no_other_but_says_who_is_at_work():
    with_source()
    ready = "import sys, time; from pathlib import Path; from halfmap.jobs.population_files import changing\n"
    ready += "with changing(Path('m'), print): print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", ready], stdout=subprocess.PIPE, env={**os.environ})
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ProjectError, match="must be free"):
            halfmap.population_items(population="m", action="exclude", source="tilts", names="TS_1")
        assert f"in use by process {other.pid}" in said(halfmap.population_status(population="m"))
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    lines = said(halfmap.population_items(population="m", action="exclude", source="tilts", names="TS_1"))
    assert "its lock was taken over" in lines


def test_names_folders_and_members_that_are_not_there_are_named():
    with pytest.raises(InputError, match=r"must be a \.population file"):
        halfmap.population_status(population="nowhere.population")
    with pytest.raises(InputError, match="A name must be"):
        halfmap.population_create(folder="m", name="a/b")
    with_source()
    with pytest.raises(InputError, match="must hold none yet"):
        halfmap.population_create(folder="m", name="second")
    with pytest.raises(InputError, match="one of tilts"):
        halfmap.population_versions(population="m", action="checkout", member="apo", version="a")
    with pytest.raises(InputError, match="A species must be one of none yet"):
        halfmap.population_update_mask(population="m", species="apo", from_="filt")
    source = open_population(Path("m")).sources[0].path
    source.rename(source.with_suffix(".gone"))
    with pytest.raises(FormatError, match=r"tilts\.source"):
        halfmap.population_status(population="m")


def test_a_species_that_is_moved_and_moved_back_is_as_it_was_and_its_particles_with_it(species_path):
    first = mrc.read_volume(species_path.with_name("apo_filt.mrc"))
    halfmap.population_shift(population="m", species="apo", x_angstrom=8.0)
    moved = mrc.read_volume(species_path.with_name("apo_filt.mrc"))
    inner = first.grid.radii() < 40
    shifted = moved.values.roll(2, 2)[inner]
    # two voxels are exact; the soft sphere and the FSC weights change a little
    assert float((shifted - first.values[inner]).std()) < 0.05 * float(first.values[inner].std())
    particles = open_population(Path("m")).species[0].particles()
    point = np.array([10.0, 0.0, 0.0])
    now = particles.position_angstrom + particles.rotation @ (point - [8.0, 0.0, 0.0])
    history = open_population(Path("m")).species[0].versions.history()
    halfmap.population_versions(population="m", action="checkout", member="apo", version=history[0][0])
    old = open_population(Path("m")).species[0].particles()
    assert now == pytest.approx(old.position_angstrom + old.rotation @ point, abs=1e-4)


def test_maps_get_another_pixel_size_and_box_and_particles_stay(species_path):
    before = species_path.with_name("apo_particles.star").read_text()
    halfmap.population_resample(population="m", species="apo", pixel_size_angstrom=5.0, diameter_angstrom=90)
    species = warp_population.read_species(species_path)
    assert (species.pixel_size_angstrom, species.diameter_angstrom, species.box_pixel) == (5.0, 90.0, 36)
    assert mrc.read_volume(species_path.with_name("apo_mask.mrc")).grid == ImageGrid.cubic(36, 5.0)
    assert species.resolution_angstrom == pytest.approx(14.0, abs=2.5)
    assert species_path.with_name("apo_particles.star").read_text() == before


def test_symmetry_is_expanded_and_trajectories_resampled_in_versions(species_path):
    lines = said(halfmap.population_expand_symmetry(population="m", species="apo", remaining="C4"))
    assert "apo has 48 particles of 2 poses, 8 of 2 before; symmetry C4" in lines
    lines = said(halfmap.population_resample_trajectories(population="m", species="apo", samples=3))
    assert "48 particles of 3 poses" in lines
    species = warp_population.read_species(species_path)
    assert (species.symmetry, species.n_temporal_samples) == ("C4", 3)
    with pytest.raises(InputError, match="contained in C4"):
        halfmap.population_expand_symmetry(population="m", species="apo", remaining="C5")


def exported(kind: str, **options: object) -> Path:
    projects.write_averages(Path("warp"), ("TS_1", "TS_2"))
    small = {"image_pixel_size_angstrom": 8.0, "image_box_pixel": 20}
    job = halfmap.population_export(population="m", species="apo", kind=kind, workers=1, **{**small, **options})
    return job.main_output


def test_exported_images_have_a_pose_each_in_a_table_of_relion(species_path):
    table = relion.read_particles(exported("images"))
    position = open_population(Path("m")).species[0].particles().position_angstrom
    assert len(position) == 8
    assert len(table) == 8 * len(projects.TILTS)  # all lie wholly in all images
    assert set(np.bincount(table["tilt_index"])) == {8}
    header = mrc.read_header(table["image_name"][0].split("@")[1])
    assert header.shape == (4 * len(projects.TILTS), 20, 20)
    assert header.pixel_size_angstrom == pytest.approx(8.0)


def test_exported_stacks_and_tomograms_of_relion_5_say_where_particles_are(species_path):
    main = exported("relion5", image_pixel_size_angstrom=4.0, image_box_pixel=40)
    particles_name, tomograms_name = read_optimisation_set(main)
    tomograms = read_tomograms(tomograms_name, project_root=".")
    known = {one.name: one for one in tomograms.series}
    found = read_tomo_particles(particles_name, known)
    species = open_population(Path("m")).species[0].particles()
    # nothing is deformed, and poses of two equal samples are one pose
    assert found.position_angstrom == pytest.approx(species.position_angstrom[:, :1], abs=1e-3)
    assert found.rotation == pytest.approx(species.rotation[:, :1], abs=1e-5)
    assert visible_tilts(found).all()
    for name in found.further["rlnImageName"]:
        assert mrc.read_header(name).shape == (len(projects.TILTS), 40, 40)
    assert not list(main.parent.rglob("TS_1.mrcs"))


def test_exported_sub_tomograms_lie_beside_weights_that_are_even(species_path):
    main = exported("sub-tomograms")
    table = star.read(main)["particles"]
    assert star.read(main)["general"].value("rlnTomoSubTomosAre2DStacks") == "0"
    data, weight = (mrc.read_volume(table.text(label)[0]) for label in ("rlnImageName", "rlnCtfImage"))
    assert data.grid == weight.grid == ImageGrid.cubic(20, 8.0)
    inner = weight.values[1:, 1:, 1:]
    assert torch.allclose(inner, inner.flip(0, 1, 2), rtol=1e-4, atol=1e-6 * float(inner.max()))
    assert float(inner.min()) >= 0


def test_copies_by_symmetry_are_no_particles_for_relion_5(species_path):
    halfmap.population_expand_symmetry(population="m", species="apo", remaining="C1")
    with pytest.raises(InconsistentDataError, match="objects of their own"):
        exported("relion5")


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a command says."""
    with pytest.raises(SystemExit) as ended:
        main(["population", *words])
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    return out


def test_commands_are_typed_with_the_population_first(capsys):
    settings = str(projects.write_project(Path("warp")))
    assert typed(capsys, "create", "m", "--name", "demo").strip() == "m/demo.population"
    assert "tilts: 3 tilt series pass." in typed(capsys, "add-source", "m", settings, "--name", "tilts")
    assert "tilts uses 1 items now" in typed(capsys, "items", "m", "exclude", "tilts", "TS_1", "TS_2.tomostar")
    assert "TS_1" in typed(capsys, "items", "m/demo.population")
    version = open_population(Path("m")).sources[0].source.previous_version
    assert f"tilts is at version {version}" in typed(capsys, "versions", "m", "checkout", "tilts", version)
    assert "tilts" in typed(capsys, "status", "m")


def test_frame_series_become_a_source_by_their_movies():
    folder = Path("warp")
    (folder / "frames").mkdir(parents=True)
    (folder / "frames" / "mic_1.tif").write_bytes(b"raw frames")
    one = FrameSeries(
        name="mic_1",
        image_size_angstrom=(800.0, 600.0),
        dose_e_per_angstrom2=1.5 * np.arange(4),
        is_used=np.ones(4, dtype=bool),
        optics=SeriesOptics(pixel_size_angstrom=2.0),
        movement_x_angstrom=SplineGrid(values=torch.zeros(4, 1, 1, dtype=torch.float64)),
    )
    write_series(folder / "warp_frameseries" / "mic_1.xml", one)
    write_series(folder / "warp_frameseries" / "mic_2.xml", one)
    settings = WarpSettings(
        pixel_size_angstrom=2.0,
        data_folder="frames",
        processing_folder="warp_frameseries",
        extension="*.tif",
        gain_path="gain.mrc",
        dose_per_frame_e_per_angstrom2=1.5,
    )
    write_settings(folder / "frames.settings", settings)
    halfmap.population_create(folder="m", name="demo")
    lines = said(halfmap.population_add_source(population="m", processing="warp/frames.settings", max_images=2))
    assert "frames: 1 frame series pass." in lines
    assert "mic_2 is set aside" in lines
    source = open_population(Path("m")).sources[0]
    assert source.source.dimensions_pixel == (400.0, 300.0, 0.0)
    assert source.source.gain_path == "../gain.mrc"
    item = source.source.items[0]
    assert (item.name, len(item.hash)) == ("mic_1.tif", 27)
    series = source.read_item(item)
    assert series.is_used.tolist() == [True, True, False, False]
    assert series.dose_e_per_angstrom2 == pytest.approx(one.dose_e_per_angstrom2)


def test_frames_have_the_pixels_of_raw_data_where_warp_has_binned_its_images():
    folder = Path("warp")
    movie = folder / "frames" / "mic_1.mrc"
    grid = ImageGrid(shape=(60, 80), pixel_size_angstrom=1.0)
    movie.parent.mkdir(parents=True)
    with mrc.StackWriter(movie, grid, 4) as writer:
        writer.write(np.ones((4, *grid.shape), dtype=np.float32))
    one = FrameSeries(
        name="mic_1",
        image_size_angstrom=(80.0, 60.0),
        dose_e_per_angstrom2=np.arange(4.0),
        is_used=np.ones(4, dtype=bool),
        optics=SeriesOptics(pixel_size_angstrom=2.0),
        further={"DataDirectory": "../frames"},
    )
    write_series(folder / "warp_frameseries" / "mic_1.xml", one)
    settings = WarpSettings(
        pixel_size_angstrom=1.0,
        bin_times=1.0,
        data_folder="frames",
        processing_folder="warp_frameseries",
        extension="*.mrc",
        dose_per_frame_e_per_angstrom2=1.0,
    )
    write_settings(folder / "frames.settings", settings)
    halfmap.population_create(folder="m", name="demo")
    halfmap.population_add_source(population="m", processing="warp/frames.settings")
    source = open_population(Path("m")).sources[0]
    item = source.source.items[0]
    assert images_of_item(source, item, source.read_item(item)).grid == grid


def test_metadata_of_versions_that_did_not_say_sizes_take_them_from_the_settings():
    settings = projects.write_project(Path("warp"), ("TS_1",))
    metadata = Path("warp/warp_tiltseries/TS_1.xml")
    stated = ' VolumeDimensionsAngstrom="1000, 1000, 400"'
    assert stated in metadata.read_text()
    metadata.write_text(metadata.read_text().replace(stated, ""))
    halfmap.population_create(folder="m", name="demo")
    halfmap.population_add_source(population="m", processing=str(settings), name="tilts")
    source = open_population(Path("m")).sources[0]
    assert source.read_item(source.source.items[0]).volume_size_angstrom == (1000.0, 1000.0, 400.0)
    silent = Path("warp/silent.settings")
    silent.write_text(settings.read_text().replace('"DimensionsZ" Value="100"', '"DimensionsZ" Value="0"'))
    with pytest.raises(InputError, match="size of the tomogram"):
        halfmap.population_add_source(population="m", processing=str(silent), name="again")
