"""Acquisition folders as Warp, WarpTools and RELION leave them in the midst of writing; among it Live2D's defects."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from halfmap.data.micrographs import MicrographSet
from halfmap.errors import InputError
from halfmap.io import relion, star
from halfmap.sessions.index import index_of
from halfmap.sessions.observation import Observation
from halfmap.sessions.watch import Watch
from halfmap.sessions.watching import Source, open_source, recognise
from support.live_folders import GRID, PER_MICROGRAPH, LiveFolder


def looked(source: Source, before: Observation | None = None, times: int = 2) -> Observation:
    seen = before or Observation()
    for _ in range(times):
        seen = source.poll(seen)
    return seen


def positions(seen: Observation) -> dict[str, list[float]]:
    return {name: one.particles["position_pixel"][:, 0].tolist() for name, one in seen.stacks.items()}


@pytest.mark.parametrize("version", [1, 2])
def test_settings_of_warp_are_read_and_say_where_they_were_found(tmp_path: Path, version: int) -> None:
    LiveFolder(tmp_path, version=version)
    assert recognise(tmp_path) == f"warp{version}"
    settings = open_source(tmp_path, Path("unused")).settings()
    assert settings.number("pixel_size_angstrom", 0.0) == 4.0
    assert settings.text("net_name") == "BoxNet2Mask_test"
    assert settings.values["diameter_angstrom"].provenance == "previous.settings: Picking/Diameter"
    assert settings.mask_radius_angstrom == 60.0  # 1.2 times the radius
    entry = "PixelSizeX, PixelSizeY" if version == 1 else "Import/PixelSize"
    assert entry in settings.values["pixel_size_angstrom"].provenance


def test_a_session_that_exports_no_particles_is_refused_by_the_name_of_the_box(tmp_path: Path) -> None:
    LiveFolder(tmp_path).write_settings(export=False)
    with pytest.raises(InputError, match="Export particles"):
        open_source(tmp_path, Path("unused"))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert recognise(tmp_path) is None
    with pytest.raises(InputError, match=r"previous\.settings"):
        open_source(tmp_path, Path("unused"))


def test_settings_with_a_document_type_are_no_settings(tmp_path: Path) -> None:
    """Entities that expand without end come with one."""
    (tmp_path / "previous.settings").write_text('<!DOCTYPE x [<!ENTITY a "a">]><Settings>&a;</Settings>')
    assert recognise(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "value"), [("diameter", "inf"), ("diameter", "1e300"), ("box", "nan"), ("score", "x")]
)
def test_settings_with_numbers_that_are_none_are_no_settings(tmp_path: Path, name: str, value: str) -> None:
    LiveFolder(tmp_path, n_micrographs=1).write_settings(**{name: value})
    assert recognise(tmp_path) is None


@pytest.mark.parametrize(
    "items", ["{}", "[1, 2]", '[{"Path": 3}]', '[{"Path": "a.tif", "Particles": "many"}]', '["\\ud800"]', "[[]]"]
)
def test_lists_of_items_that_make_no_sense_change_nothing(tmp_path: Path, items: str) -> None:
    LiveFolder(tmp_path, version=2, n_micrographs=1)
    (tmp_path / "previous.settings").rename(tmp_path / "session.settings")
    (tmp_path / "processed_items.json").write_text(items)
    seen = looked(open_source(tmp_path, Path("unused")))
    assert all(one.picks == -1 for one in seen.micrographs.values())


@pytest.mark.parametrize("name", ["0@particles/a.mrcs", "x@particles/a.mrcs", "1@", "@", "1@../../etc/passwd", ""])
def test_image_names_that_make_no_sense_give_no_particles(tmp_path: Path, name: str) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=2)
    folder.arrive(range(2))
    source = open_source(tmp_path, Path("unused"))
    seen = looked(source)
    folder.rows["mic000"][0][12] = name
    folder.write_table()
    again = looked(source, seen, times=4)
    assert again.n_particles in (PER_MICROGRAPH, 2 * PER_MICROGRAPH)


@pytest.mark.parametrize("version", [1, 2])
def test_each_particle_is_there_once_however_they_come(tmp_path: Path, version: int) -> None:
    """Live2D left out one particle at the first append, and could not read stacks of half precision."""
    folder = LiveFolder(tmp_path, version=version, n_micrographs=3)
    source = open_source(tmp_path, Path("unused"))
    seen = Observation()
    for number in range(3):
        folder.arrive(range(number, number + 1))
        seen = looked(source, seen)
    index = index_of(seen)
    assert len(index) == 3 * PER_MICROGRAPH == len(np.unique(index.particles.uid))
    expected = [f"{k + 1:07d}@{folder.name(number)}" for number in range(3) for k in range(PER_MICROGRAPH)]
    assert index.particles["image_name"].tolist() == expected


def test_a_phase_plate_is_not_forgotten(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=1)
    folder.phase_plate = True
    folder.arrive(range(1))
    index = index_of(looked(open_source(tmp_path, Path("unused"))))
    np.testing.assert_array_equal(index.particles["phase_shift_degrees"], 30.0)


def test_an_absent_table_means_try_again_and_never_no_particles(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=2)
    folder.arrive(range(2))
    source = open_source(tmp_path, Path("unused"))
    seen = looked(source)
    folder.table.rename(tmp_path / "moving")
    again = looked(source, seen)
    assert again.n_particles == seen.n_particles == 2 * PER_MICROGRAPH


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_half_written_table_changes_nothing(tmp_path: Path, share: float) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=2)
    folder.arrive(range(2))
    source = open_source(tmp_path, Path("unused"))
    seen = looked(source)
    text = folder.table.read_text()
    folder.table.write_text(text[: int(share * len(text))].rsplit(" ", 1)[0] + "\n")
    again = looked(source, seen)
    assert again.n_particles == seen.n_particles


def test_a_stack_counts_when_it_is_whole_and_has_stopped_growing(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=2)
    folder.arrive(range(2))
    path = tmp_path / folder.name(1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    source = open_source(tmp_path, Path("unused"))
    seen = looked(source, times=3)
    assert set(seen.stacks) == {folder.name(0)}
    assert "truncated" in seen.waiting[folder.name(1)].reason or "bytes" in seen.waiting[folder.name(1)].reason
    assert seen.waiting[folder.name(1)].tries == 3
    path.write_bytes(whole)
    assert set(looked(source, seen).stacks) == {folder.name(0), folder.name(1)}


def test_a_stack_named_before_it_is_there_is_waited_for(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=2)
    folder.arrive(range(2))
    (tmp_path / folder.name(1)).rename(tmp_path / "late")
    source = open_source(tmp_path, Path("unused"))
    seen = looked(source)
    assert [one.name for one in seen.quarantine] == [folder.name(1)]
    (tmp_path / "late").rename(tmp_path / folder.name(1))
    assert looked(source, seen).n_particles == 2 * PER_MICROGRAPH


def test_a_stack_with_another_number_of_images_than_rows_is_waited_for(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=2)
    folder.arrive(range(2))
    folder.add_rows(0, keep=15)
    folder.write_table()
    seen = looked(open_source(tmp_path, Path("unused")))
    assert set(seen.stacks) == {folder.name(1)}
    assert "15 images" in seen.waiting[folder.name(0)].reason


def test_a_micrograph_that_is_processed_again_is_replaced_and_others_stay_as_they_are(tmp_path: Path) -> None:
    """Live2D went by row numbers: CTF and images shifted against each other, and a shrinking table was its end."""
    folder = LiveFolder(tmp_path, n_micrographs=3)
    folder.arrive(range(3))
    source = open_source(tmp_path, Path("unused"))
    seen = looked(source)
    before = index_of(seen)
    folder.process(1, keep=12, moved=0.5)
    folder.write_table()
    again = looked(source, seen)
    after = index_of(again)
    assert [len(again.stacks[folder.name(k)]) for k in range(3)] == [20, 12, 20]
    of_first = before.particles["micrograph_name"] == "mic000.mrc"
    kept = np.isin(before.particles.uid, after.particles.uid)
    assert kept[of_first].all()
    assert not kept[before.particles["micrograph_name"] == "mic001.mrc"].any()
    assert kept.sum() == 40
    assert after.section[after.particles["micrograph_name"] == "mic001.mrc"].tolist() == list(range(12))


def test_rows_that_change_before_their_stack_wait_for_it(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=2)
    folder.arrive(range(2))
    source = open_source(tmp_path, Path("unused"))
    seen = looked(source)
    old = positions(seen)
    folder.add_rows(0, moved=3.0)
    folder.write_table()
    waiting = source.poll(seen)
    assert positions(waiting) == old
    folder.process(0, moved=3.0)
    folder.write_table()
    done = looked(source, waiting)
    assert positions(done)[folder.name(0)][0] == old[folder.name(0)][0] + 3.0
    assert len(done.stacks[folder.name(0)]) == PER_MICROGRAPH


def test_rows_that_change_alone_are_taken_after_some_looks(tmp_path: Path) -> None:
    """A new CTF comes without a new stack."""
    folder = LiveFolder(tmp_path, n_micrographs=2)
    folder.arrive(range(2))
    source = open_source(tmp_path, Path("unused"))
    seen = looked(source)
    folder.add_rows(0, moved=3.0)
    folder.write_table()
    assert positions(looked(source, seen, times=4))[folder.name(0)][0] == 103.0


def test_micrographs_that_leave_the_table_take_their_particles_along_and_it_is_said(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=3)
    folder.arrive(range(3))
    source = open_source(tmp_path, Path("unused"))
    seen = looked(source)
    del folder.rows["mic001"]
    folder.write_table()
    again = source.poll(seen)
    assert again.n_particles == 2 * PER_MICROGRAPH
    assert "lost 1 stacks" in again.notices[0]


def test_bad_images_are_set_aside_with_their_reason(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=2)
    folder.images[3] = np.nan
    folder.images[5] = 7.0
    folder.arrive(range(2))
    seen = looked(open_source(tmp_path, Path("unused")))
    assert seen.n_particles == 2 * PER_MICROGRAPH - 2
    assert "NaN" in seen.quarantine[0].reason
    assert len(index_of(seen)) == 2 * PER_MICROGRAPH - 2


def test_the_clock_of_this_machine_does_not_matter(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=2)
    folder.arrive(range(2))
    for number, stamp in ((0, 4_000_000_000), (1, 1_000)):
        os.utime(tmp_path / folder.name(number), (stamp, stamp))
    assert looked(open_source(tmp_path, Path("unused"))).n_particles == 2 * PER_MICROGRAPH


def test_nothing_in_an_acquisition_folder_is_ever_written_to(tmp_path: Path) -> None:
    """Live2D opened Warp's stacks for writing."""
    folder = LiveFolder(tmp_path / "acquisition", n_micrographs=2)
    folder.arrive(range(2))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.path.rglob("*")}
    for path in folder.path.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    seen = looked(open_source(folder.path, Path("unused")))
    for path in folder.path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert seen.n_particles == 2 * PER_MICROGRAPH
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.path.rglob("*")}


def test_micrographs_are_listed_with_what_warp_says_of_them(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=2)
    folder.arrive(range(2))
    (tmp_path / "mic009.xml").write_text("<Movie CTFResolutionEstimate=")  # being written
    seen = looked(open_source(tmp_path, Path("unused")))
    row = seen.micrographs["mic001"]
    assert (row.defocus_angstrom, row.resolution_angstrom, row.motion_angstrom) == (12000.0, 4.5, 0.75)
    assert (row.picks, row.accepted) == (PER_MICROGRAPH, True)
    assert set(seen.micrographs) == {"mic000", "mic001"}


def test_warptools_is_followed_by_its_list_of_items_and_its_exported_table(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path, version=2, n_micrographs=2)
    folder.arrive(range(2))
    particles = relion.read_particles(folder.table)
    folder.table.unlink()
    (tmp_path / "previous.settings").rename(tmp_path / "session.settings")
    items = [
        {"Path": f"movies/mic{k:03d}.tif", "ProcessingStatus": 1 if k else 4, "Defocus": 1.5, "Resolution": 3.2,
         "Motion": None, "Particles": 20}
        for k in range(2)
    ]  # fmt: skip
    (tmp_path / "processed_items.json").write_text(json.dumps(items))
    assert recognise(tmp_path) == "warptools"
    source = open_source(tmp_path, Path("unused"))
    seen = looked(source)
    assert seen.n_particles == 0
    assert [one.accepted for one in seen.micrographs.values()] == [False, True]
    assert seen.micrographs["mic000"].defocus_angstrom == 15000.0
    relion.write_particles(tmp_path / "matching_export.star", particles)
    (tmp_path / "processed_items.json").write_text("[{")
    again = looked(source, seen)
    assert again.n_particles == 2 * PER_MICROGRAPH
    assert len(again.micrographs) == 2


def test_a_project_of_relion_is_followed_by_its_newest_tables(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path / "from", n_micrographs=3)
    folder.arrive(range(3))
    particles = relion.read_particles(folder.table)
    project = tmp_path / "project"
    names = particles["image_name"].astype(str)
    for job, n in (("job003", 2), ("job007", 3)):
        part = project / "Extract" / job
        part.mkdir(parents=True)
        shutil.copytree(folder.path / "particles", part / "particles")
        rows = np.arange(n * PER_MICROGRAPH)
        own = [name.replace("@", f"@Extract/{job}/") for name in names[rows]]
        table = particles.take(rows).with_columns(image_name=np.array(own, dtype=object))
        relion.write_particles(part / "particles.star", table)
        os.utime(part / "particles.star", (1_700_000_000 + n, 1_700_000_000 + n))
    (project / "default_pipeline.star").touch()
    assert recognise(project) == "relion"
    source = open_source(project, Path("unused"))
    seen = looked(source)
    assert seen.n_particles == 3 * PER_MICROGRAPH
    assert all(name.startswith("Extract/job007/") for name in seen.stacks)
    assert looked(open_source(project / "Extract/job003", Path("unused"))).n_particles == 2 * PER_MICROGRAPH
    assert source.settings().values["pixel_size_angstrom"].value == GRID.pixel_size_angstrom


def test_a_table_of_micrographs_alone_is_listed(tmp_path: Path) -> None:
    columns = {
        "micrograph_name": np.array(["MotionCorr/job002/a.mrc", "MotionCorr/job002/b.mrc"], dtype=object),
        "defocus_u_angstrom": np.array([9000.0, 11000.0]),
        "defocus_v_angstrom": np.array([8000.0, 10000.0]),
        "ctf_max_resolution_angstrom": np.array([3.0, 5.0]),
        "optics_group": np.ones(2, dtype=np.int64),
    }
    path = tmp_path / "CtfFind/job003/micrographs_ctf.star"
    path.parent.mkdir(parents=True)
    relion.write_micrographs(path, MicrographSet(columns=columns))
    assert recognise(tmp_path) == "micrographs"
    seen = looked(open_source(tmp_path, Path("unused")))
    assert seen.micrographs["b"].defocus_angstrom == 10500.0
    assert seen.micrographs["b"].resolution_angstrom == 5.0


def test_a_table_whose_columns_have_another_order_and_more_of_them_is_read(tmp_path: Path) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=1)
    folder.arrive(range(1))
    table = star.read(folder.table).tables[0]
    columns = {label: table.raw(label) for label in reversed(table.labels)}
    columns["rlnExtra"] = star.compact_text(["1"] * len(table))
    star.write(folder.table, [star.StarTable(name="", columns=columns)])
    assert looked(open_source(tmp_path, Path("unused"))).n_particles == PER_MICROGRAPH


def test_particles_that_were_there_when_a_folder_is_opened_make_no_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = LiveFolder(tmp_path, n_micrographs=4)
    folder.arrive(range(3))
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    watch = Watch(open_source(tmp_path, Path("unused")), 1.0)
    for number in range(6):
        if number == 4:
            folder.arrive(range(4))
        watch.take(watch.look())
        now += 30.0
        if number == 3:
            assert watch.counted[-1][1] == 3 * PER_MICROGRAPH
            assert watch.rate_per_hour() == 0.0
    assert watch.observation.n_particles == 4 * PER_MICROGRAPH
    assert watch.rate_per_hour() == pytest.approx(PER_MICROGRAPH / 150 * 3600)  # since the second look
