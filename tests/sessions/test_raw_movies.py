"""Raw movies alone: micrographs, their CTF and their particles are made while the session runs."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import halfmap
from halfmap.errors import FormatError, HalfmapError, InputError
from halfmap.grid import ImageGrid
from halfmap.io import mrc, relion
from halfmap.sessions import raw_movies, raw_source
from halfmap.sessions.micrograph_files import micrograph_path
from halfmap.sessions.observation import Observation
from halfmap.sessions.preparation import BATCH, MISTAKE, RAW, make, make_batch
from halfmap.sessions.raw_movies import MoviePlan, MoviesSource
from halfmap.sessions.raw_source import Preparation
from halfmap.sessions.settings import LiveSettings
from halfmap.sessions.watching import open_source, recognise

PIXEL, N_FRAMES = 3.0, 5
GRID = ImageGrid(shape=(600, 620), pixel_size_angstrom=PIXEL)
PLAN = f"""movies = "Movies/*.mrc"
[motion]
gain = "gain.mrc"
pixel_size_angstrom = {PIXEL}
dose_per_frame_e_per_angstrom2 = 5.0
patches = [1, 1]
spectrum_pixel = 256
[ctf]
box_pixel = 256
max_resolution_angstrom = 8.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "acquisition"
    (found / "Movies").mkdir(parents=True)
    (found / "movies.toml").write_text(PLAN)
    (found / "gain.mrc").touch()
    monkeypatch.setattr(raw_movies, "QUIET_SECONDS", 0.0)
    return found


def test_settings_of_movies_are_those_of_the_jobs_that_follow(folder: Path) -> None:
    plan = MoviePlan.read(folder / "movies.toml")
    assert plan.motion["gain"] == str(folder / "gain.mrc")
    assert plan.pixel_size_angstrom == PIXEL
    assert recognise(folder) == "movies"
    source = open_source(folder, folder.parent / "s")
    assert source.settings().number("micrograph_pixel_size_angstrom", 0.0) == PIXEL
    assert source.micrographs_folder == folder.parent / "s" / RAW
    (folder / "movies.toml").write_text(PLAN.replace("gain =", "bin = 2.0\ngain =").replace("= 8.0", "= 16.0"))
    assert MoviePlan.read(folder / "movies.toml").pixel_size_angstrom == 2 * PIXEL


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("movies = ", FormatError, "TOML"),
        ("[motion]\n", FormatError, "by a pattern"),
        ('movies = "*.tif"\nfast = true', FormatError, "fast"),
        ('movies = "*.tif"', InputError, "pixel_size_angstrom"),
        (PLAN.replace("patches", "patch"), InputError, "did you mean `patches`"),
        (PLAN.replace("5.0", "0.0"), InputError, "dose-per-frame"),
        (PLAN + "min_defocus_angstrom = -3.0", InputError, "min-defocus"),
        (PLAN.replace("gain.mrc", "other.mrc"), InputError, r"gain in .* must be a file"),
        (PLAN.replace('"gain.mrc"', "3"), InputError, "got 3"),
        (PLAN.replace("5.0", "-1.0"), InputError, r"table \[motion\] of .*movies.toml .*dose-per-frame"),
        (PLAN.replace(f"{PIXEL}", "inf"), InputError, "pixel_size_angstrom .* got inf"),
        (PLAN.replace("[ctf]", 'movies = "b"\n[ctf]'), InputError, "must leave out .* got movies"),
        (PLAN + "pixel_size_angstrom = 2.0", InputError, "must leave out .* got pixel_size"),
        (PLAN.replace("= 8.0", "= 6.0"), InputError, r"table \[ctf\] of .* 6.30 Å; got 6 Å"),
        *(
            (PLAN.replace("Movies/*.mrc", at), InputError, "below this folder")
            for at in ("", "/data/*", "../*", "a**/*")
        ),
    ],
)
def test_a_wrong_description_of_movies_is_told_when_the_folder_is_opened(
    folder: Path, text: str, error: type[HalfmapError], said: str
) -> None:
    (folder / "movies.toml").write_text(text)
    with pytest.raises(error, match=said):
        open_source(folder, folder.parent / "s")


def test_movies_are_taken_once_when_they_have_come_to_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = MoviesSource(folder, folder.parent / "s")
    for name in ("b.mrc", "a.mrc", "notes.txt"):
        (folder / "Movies" / name).write_text(name)
    monkeypatch.setattr(raw_movies, "QUIET_SECONDS", 10.0)
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert source.next_batch({})[1] == {}
    now = 109.0
    (folder / "Movies/b.mrc").write_text("still growing")
    assert source.next_batch({})[1] == {}
    now = 111.0
    assert list(source.next_batch({})[1]) == ["Movies/a.mrc"]
    (folder / "movies.toml").write_text("half wri")  # what is known of the movies holds
    now = 130.0
    number, found = source.next_batch({"Movies/c.mrc": "broken"})
    assert list(found) == ["Movies/a.mrc", "Movies/b.mrc"]
    source.write_batch(number, found, LiveSettings())
    part = folder.parent / "s" / RAW / "0001.part"
    batch = json.loads((part / BATCH).read_text())
    assert batch["movies"]["paths"] == [str(path) for path in found.values()]
    assert batch["movies"]["ctf"] == {"box_pixel": 256, "max_resolution_angstrom": 8.0}
    part.rename(part.with_name("0001"))
    assert source.next_batch({}) == (2, {})


def test_the_gain_and_sums_that_a_session_has_made_itself_are_not_taken_for_movies(folder: Path) -> None:
    (folder / "movies.toml").write_text(PLAN.replace("Movies/*.mrc", "**/*.mrc"))
    source = MoviesSource(folder, folder / "Live/s")
    for name in ("Movies/a.mrc", "Live/s/raw/0001.part/motion/a.mrc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    assert list(source.next_batch({})[1]) == ["Movies/a.mrc"]


def test_movies_that_take_long_to_look_through_are_looked_at_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    now, looks = 100.0, list[float]()

    class Slow(MoviesSource):
        conditions = None

        def __init__(self) -> None:
            self.micrographs_folder = Path()

        def next_batch(self, failed: Mapping[str, str]) -> tuple[int, dict[str, Path]]:
            nonlocal now
            looks.append(now)
            now += 2.0
            return 1, {}

    monkeypatch.setattr(time, "monotonic", lambda: now)
    preparation = Preparation(Slow(), devices="cpu", workers=1, heard=lambda: None)
    for _ in range(200):
        preparation.step(LiveSettings(), is_wanted=True)
        now += 0.5
    assert looks[:3] == [100.0, 142.0, 184.0]  # two seconds, and twenty times as long a pause


class Ended:
    """A process that has made nothing of a batch, and says why."""

    is_alive = False

    def __init__(self, returncode: int = MISTAKE) -> None:
        self.process = SimpleNamespace(returncode=returncode)

    def last_words(self) -> str:
        return f"exit code {MISTAKE}: the gain has other sides"

    def end(self) -> None:
        pass


def test_movies_that_failed_are_tried_again_when_their_description_or_gain_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_source, "Child", lambda *_: Ended())
    monkeypatch.setattr(raw_source, "_PAUSE", 0.0)
    (folder / "Movies/a.mrc").write_text("a")
    preparation = Preparation(MoviesSource(folder, folder.parent / "s"), devices="cpu", workers=1, heard=lambda: None)

    def step() -> str:
        return preparation.step(LiveSettings(), is_wanted=True)

    left_out = "No particles can be found in Movies/a.mrc, it is left out: the gain has other sides"
    assert [step() for _ in range(4)] == ["", left_out, "", ""]
    (folder / "gain.mrc").write_text("another")
    assert [step() for _ in range(4)] == ["", left_out, "", ""]
    (folder / "movies.toml").write_text(PLAN.replace("patches", "group_frames = 2\npatches"))
    assert [step() for _ in range(3)] == ["", left_out, ""]


def test_movies_of_a_batch_that_failed_are_each_tried_alone_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[str]] = []

    def child(work: Path, arguments: Sequence[str], _: object) -> Ended:
        part = work / RAW / f"{int(arguments[2]):04d}.part"
        names = json.loads((part / BATCH).read_text())["micrographs"]
        tried.append([Path(name).stem for name in names])
        if {"b", "c"} & set(tried[-1]):
            return Ended()
        part.rename(part.with_suffix(""))
        return Ended(0)

    monkeypatch.setattr(raw_source, "Child", child)
    monkeypatch.setattr(raw_source, "_PAUSE", 0.0)
    for name in "abcd":
        (folder / f"Movies/{name}.mrc").write_text(name)
    preparation = Preparation(MoviesSource(folder, folder.parent / "s"), devices="cpu", workers=1, heard=lambda: None)
    for _ in range(8):
        preparation.step(LiveSettings(), is_wanted=True)
    assert [sorted(names) for names in tried] == [["a", "b", "c", "d"], ["a"], ["b"], ["c"], ["d"]]


def test_what_keeps_movies_from_being_found_is_said_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_source, "_PAUSE", 0.0)
    preparation = Preparation(MoviesSource(folder, folder.parent / "s"), devices="cpu", workers=1, heard=lambda: None)
    said = [preparation.step(LiveSettings(), is_wanted=True) for _ in range(3)]
    assert said[0].startswith("No movie is at Movies/*.mrc below")
    assert said[1:] == ["", ""]
    (folder / "movies.toml").write_text(PLAN.replace("patches", "patch"))
    said = [preparation.step(LiveSettings(), is_wanted=True) for _ in range(2)]
    assert "did you mean `patches`" in said[0]
    assert said[1] == ""


def test_why_a_batch_has_failed_is_the_last_line_that_its_process_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = MoviesSource(folder, folder.parent / "s")
    (folder / "Movies/a.mrc").write_text("no movie")
    source.write_batch(*source.next_batch({}), LiveSettings())
    (source.work / RAW / ".halfmap").mkdir()
    monkeypatch.chdir(source.work / RAW)
    assert make(source.work, 1, devices="cpu", workers=1) == MISTAKE
    assert "a.mrc: expected an MRC header" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_batch_of_movies_becomes_micrographs_with_their_ctf_and_particles(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = with_movies(folder, 3, monkeypatch)
    path = folder / f"Movies/{names[2]}.mrc"
    path.write_bytes(path.read_bytes()[:-5000])
    source = MoviesSource(folder, folder.parent / "s")
    number, found = source.next_batch({})
    assert (number, len(found)) == (1, 3)
    source.write_batch(number, found, LiveSettings(mask_radius_angstrom=84.0, final_resolution_angstrom=15.0))
    raw = folder.parent / "s" / RAW
    (raw / ".halfmap").mkdir()
    monkeypatch.chdir(raw)
    make_batch(folder.parent / "s", number, devices="cpu", workers=1)
    seen = source.poll(Observation(settings=source.settings()))
    assert sorted(seen.micrographs) == names[:2]
    assert all(np.isfinite(one.motion_angstrom) for one in seen.micrographs.values())
    assert [one for one in seen.notices if one.startswith(f"{names[2]} is set aside")]
    truth = relion.read_micrographs(folder.parent / "simulation/micrographs_ctf.star")
    defocus = dict(zip([Path(str(name)).stem for name in truth["micrograph_name"]],
                       (truth["defocus_u_angstrom"] + truth["defocus_v_angstrom"]) / 2, strict=True))  # fmt: skip
    for name in names[:2]:
        # 200 Å: a quarter of a ring at 8 Å
        assert seen.micrographs[name].defocus_angstrom == pytest.approx(defocus[name], abs=200)
        assert mrc.read_header(micrograph_path(source.micrographs_folder, name)).shape[1:] == (600, 620)
        assert (seen.micrographs[name].picks or 0) > 10
    seen = source.poll(seen)
    assert sum(len(stack) for stack in seen.stacks.values()) > 20


def with_movies(folder: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write movies of simulated micrographs that drift by a pixel and more from frame to frame; return their names."""
    simulation = folder.parent / "simulation"
    (folder.parent / ".halfmap").mkdir()
    monkeypatch.chdir(folder.parent)
    halfmap.simulate_micrographs(
        specimen=("compact-d3-140",), number=number, size_pixel=(620, 600), pixel_size_angstrom=PIXEL,
        out=simulation, devices="cpu", workers=1,
    )  # fmt: skip
    generator = np.random.default_rng(1)
    gain = generator.normal(1, 0.03, (600, 620)).astype(np.float32)
    names = []
    for name in relion.read_micrographs(simulation / "micrographs_ctf.star")["micrograph_name"].tolist():
        path = folder.parent / str(name)
        image = mrc.read_image(path)
        names.append(path.stem)
        with mrc.StackWriter(folder / f"Movies/{path.stem}.mrc", GRID) as writer:
            for frame in range(N_FRAMES):
                moved = np.roll(image, (frame, -2 * frame), axis=(0, 1)) / N_FRAMES
                noise = generator.normal(0, 0.2 * image.std(), image.shape)
                writer.write(((moved + noise) / gain).astype(np.float32))
    mrc.write_image(folder / "gain.mrc", gain, GRID)
    return names


@pytest.mark.slow
def test_from_movies_to_classes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from halfmap.sessions.session import Session

    with_movies(folder, 3, monkeypatch)
    session = Session(folder.parent / "s", folder, devices="cpu", workers=1, poll_seconds=0.2)
    settings = {"mask_radius_angstrom": 84.0, "classes": 2, "startup_cycles": 2, "refinement_cycles": 1}
    session.start_automatic(
        settings | {"initial_resolution_angstrom": 40.0, "final_resolution_angstrom": 15.0, "first_threshold": 30}
    )
    deadline = time.monotonic() + 300
    while len(session.cycles()) < 3 and time.monotonic() < deadline:
        session.tick()
        time.sleep(0.1)
    seen = session.snapshot()
    session.close()
    assert len(seen["cycles"]) == 3
    assert seen["kind"] == "movies"
