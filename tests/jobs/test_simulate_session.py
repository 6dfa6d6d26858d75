import json
from pathlib import Path

import numpy as np
import pytest
import torch

import halfmap
from halfmap.data.volumes import Volume
from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.io import relion
from halfmap.io.mrc import StackSource, read_header, read_image, write_volume
from halfmap.jobs import simulate_session
from halfmap.sessions.observation import Observation
from halfmap.sessions.watching import open_source, recognise

SIDE = 32
SETTINGS = {
    "number": 47,
    "particles_per_micrograph": 6,
    "box_pixel": SIDE,
    "pixel_size_angstrom": 5.0,
    "snr": 1.0,
    "speed_up": 1e6,
    "reprocessed_fraction": 0.5,
    "half_written_fraction": 0.5,
    "workers": 1,
    "out": "Simulate/job001",
}
LAYOUTS = ("warp1", "warp2", "warptools", "relion")


@pytest.fixture(scope="module", params=LAYOUTS)
def session(request, tmp_path_factory):
    """Return layout and job folder of a session, and what a watcher saw at each moment of waiting."""
    root = tmp_path_factory.mktemp(request.param)
    (root / ".halfmap").mkdir()
    folder = root / "Simulate" / "job001" / simulate_session.FOLDER
    watcher = Watcher(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(simulate_session, "_wait_until", lambda moment, is_cancelled: watcher.look())
        result = halfmap.simulate_session(**SETTINGS, map=write_maps(root), layout=request.param)
    return request.param, result, watcher


def write_maps(folder: Path) -> tuple[Path, ...]:
    """Write two maps of two unequal balls each, near and far from each other; return their paths."""
    grid = ImageGrid(shape=(SIDE, SIDE, SIDE), pixel_size_angstrom=5.0)
    positions = grid.positions()
    found = []
    for number, distance in enumerate((20.0, 40.0)):
        offset = torch.tensor([distance, 0.0, 0.0])
        values = sum(
            torch.exp(-((positions - sign * offset) ** 2).sum(-1) / (2 * (15 + 4 * sign) ** 2)) for sign in (1, -1)
        )
        found.append(folder / f"balls{number}.mrc")
        write_volume(found[-1], Volume(values=values.float(), grid=grid))
    return tuple(found)


class Watcher:
    """A live session's eyes on the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source, self.observation = folder, None, Observation()
        self.names_waiting: set[str] = set()
        self.taken: list[tuple[str, tuple[float, float], np.ndarray]] = []

    def look(self) -> None:
        if self.source is None:
            if recognise(self.folder) is None:
                return
            self.source = open_source(self.folder, Path("unused"))
        before = self.observation.stacks
        self.observation = self.source.poll(self.observation)
        self.names_waiting |= set(self.observation.waiting)
        for name, stack in self.observation.stacks.items():
            if before.get(name) is stack:
                continue
            images = StackSource(np.array([f"{one + 1}@{name}" for one in stack.section]), self.folder).read(
                np.arange(len(stack))
            )
            names = stack.particles["micrograph_name"].tolist()
            places = map(tuple, stack.particles["position_pixel"].tolist())
            self.taken += zip((Path(one).stem for one in names), places, images, strict=True)

    def until_settled(self) -> Observation:
        for _ in range(12):
            self.look()
        return self.observation


def truth_of(result):
    table = relion.read_particles(result.folder / simulate_session.TRUTH)
    return table, [Path(name).stem for name in table["micrograph_name"].tolist()]


def test_a_watcher_ends_with_all_particles_that_are_left(session):
    layout, result, watcher = session
    seen = watcher.until_settled()
    truth, names = truth_of(result)
    left = truth[simulate_session.DROPPED_COLUMN] == "0"
    assert 0 < left.sum() < len(truth) == 47
    assert watcher.source.kind == layout
    assert seen.n_particles == left.sum()
    found = {
        (Path(name).stem, *place)
        for stack in seen.stacks.values()
        for name, place in zip(
            stack.particles["micrograph_name"].tolist(), stack.particles["position_pixel"].tolist(), strict=True
        )
    }
    places = truth["position_pixel"].tolist()
    assert found == {(name, *place) for name, place, keep in zip(names, places, left, strict=True) if keep}
    assert not seen.waiting


def test_whatever_was_taken_at_any_moment_is_what_the_micrograph_shows_there(session):
    _, result, watcher = session
    watcher.until_settled()
    truth, _ = truth_of(result)
    folder = {Path(name).stem: name for name in truth["micrograph_name"].tolist()}
    root = result.folder.parents[1]
    assert len(watcher.taken) > 47  # those that were processed again were taken twice
    for name, (x, y), image in watcher.taken:
        whole = read_image(root / folder[name])
        left, top = round(x) - SIDE // 2, round(y) - SIDE // 2
        shown = 10.0 - whole[top : top + SIDE, left : left + SIDE]
        np.testing.assert_allclose(image, shown, atol=5e-3)  # half precision of values below 8


def test_half_written_stacks_were_named_and_waited_for(session):
    _, result, watcher = session
    events = [json.loads(line) for line in (result.folder / simulate_session.EVENTS).read_text().splitlines()]
    half = {one["micrograph"] for one in events if one["event"] == "half written"}
    assert half
    assert half <= {Path(name).stem[:8] for name in watcher.names_waiting}


def test_defocus_and_quality_of_micrographs_are_found(session):
    _, result, watcher = session
    seen = watcher.until_settled()
    truth, names = truth_of(result)
    assert len(seen.micrographs) == 8
    for name, one in seen.micrographs.items():
        own = np.array([other == name for other in names])
        mean = 0.5 * (truth["defocus_u_angstrom"] + truth["defocus_v_angstrom"])[own].mean()
        assert abs(one.defocus_angstrom - mean) < 150  # of some, particles of other heights were dropped; σ 100 Å
        assert 11.0 <= one.resolution_angstrom <= 14.0


def test_stacks_have_the_number_type_of_the_program(session):
    layout, _, watcher = session
    seen = watcher.until_settled()
    modes = {read_header(watcher.folder / name).mode for name in seen.stacks}
    assert modes == ({2} if layout == "warp1" else {12})


def test_thumbnails_and_good_tables_are_those_of_warp(session):
    layout, _, watcher = session
    assert len(list(watcher.folder.glob("thumbnails/*.png"))) == (0 if layout == "relion" else 8)
    assert len(list(watcher.folder.glob("goodparticles_*.star"))) == (1 if layout in ("warp1", "warp2") else 0)
    assert not list(watcher.folder.glob("*.star_*"))
    assert (watcher.folder / "processed_items.json").exists() == (layout == "warptools")


def test_the_pace_is_kept(tmp_path, monkeypatch):
    (tmp_path / ".halfmap").mkdir()
    monkeypatch.chdir(tmp_path)
    pace = {"interval_seconds": 30.0, "speed_up": 100.0, "reprocessed_fraction": 0.0, "half_written_fraction": 0.0}
    result = halfmap.simulate_session(**SETTINGS | pace | {"number": 18}, map=write_maps(tmp_path))
    times = [json.loads(line)["time"] for line in (result.folder / simulate_session.EVENTS).read_text().splitlines()]
    assert len(times) == 3
    assert np.diff(times).min() > 0.3 - 0.1  # writing one may take less of the next interval, not all of it


def test_several_optics_groups_are_refused():
    with pytest.raises(InputError, match="one optics group"):
        simulate_session.SimulateSessionParams(optics_groups=2)
