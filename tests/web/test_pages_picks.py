"""Picks made by eye in a real browser, through the real server, to particles that are cut out."""

import json

import numpy as np

import halfmap
from halfmap.io import relion
from support.blob_micrographs import PIXEL_SIZE
from support.chromium import chromium
from support.live_servers import a_server
from support.pages_server import listening
from support.pick_projects import PickProject


def test_ten_picks_of_which_two_are_deleted_leave_eight_particles(tmp_path):
    project = PickProject(tmp_path / "project")
    (project.root / "CtfFind/job001").mkdir(parents=True)
    project.micrographs.rename(project.root / "CtfFind/job001/micrographs_ctf.star")
    places = project.positions[project.names[0]][:10]
    with (
        a_server(tmp_path, root=(project.root,), work=tmp_path / "work") as server,
        listening(server.guarded) as address,
        chromium(tmp_path / "profile") as page,
    ):
        page.size(1400, 1000)
        page.go(f"{address}?token={server.token}")
        page.click(".folder .primary")
        page.click("#tab-micrographs")
        page.until("document.querySelectorAll('tbody a').length === 2")
        page.ask("[...document.querySelectorAll('tbody a')].find((one) => one.innerText === 'mic1').click()")
        page.until("document.querySelector('#micrograph')?.dataset.view")
        page.until("document.querySelector('#pick-count').innerText === '0 picks'")
        assert int(page.ask("document.querySelector('#radius').value")) == round(100 / 1.2 / PIXEL_SIZE)  # of the mask
        page.until_drawn("#micrograph", 20)  # grey values; from now on the canvas stays where it is
        for number, (x, y) in enumerate(places):
            page.click_at(*_on_screen(page, x, y))
            page.until(f"document.querySelector('#pick-count').innerText === '{number + 1} picks'")
        for number, (x, y) in enumerate(places[3:5]):
            page.click_at(*_on_screen(page, x, y))
            page.until(f"document.querySelector('#pick-count').innerText === '{9 - number} picks'")
        page.click("#save-picks")
        page.until("document.querySelector('.toasts').innerText.includes('ManualPick/job')")
        assert not page.problems
    (job,) = (project.root / "ManualPick").iterdir()
    particles = halfmap.extract(
        micrographs=job / "micrographs_selected.star",
        picks=job / "autopick.star",
        box_pixel=32,
        workers=1,
        out=tmp_path / "out",
    )
    table = relion.read_particles(particles.main_output)
    assert len(table) == 8
    kept = np.delete(places, [3, 4], axis=0)
    found = table["position_pixel"]
    distance = np.linalg.norm(found[:, None] - kept[None], axis=-1).min(axis=1)
    assert distance.max() < 1.0  # pixel of the micrograph; clicks are to a pixel of the screen, which is finer


def _on_screen(page, x, y):
    page.ask("document.querySelector('#micrograph').scrollIntoView()")
    view = json.loads(page.ask("document.querySelector('#micrograph').dataset.view"))
    left, top = page.ask("(r => [r.left, r.top])(document.querySelector('#micrograph').getBoundingClientRect())")
    return left + view["x"] + x * view["scale"], top + view["y"] + y * view["scale"]
