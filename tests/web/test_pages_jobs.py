"""A job in a real browser, through the real server: from its form and a file that is chosen to its map."""

import numpy as np
import torch

from halfmap.data.volumes import Volume
from halfmap.grid import ImageGrid
from halfmap.io import mrc
from support.chromium import chromium
from support.live_servers import a_server
from support.pages_server import listening


def test_a_job_is_started_from_its_form_and_its_map_is_looked_at(tmp_path):
    with (
        a_server(tmp_path) as server,
        listening(server.guarded) as address,
        chromium(tmp_path / "profile") as page,
    ):
        (server.project / "maps").mkdir()
        distance = np.linalg.norm(np.indices((16, 16, 16)) - 8.0, axis=0).astype(np.float32)
        ball = Volume(values=torch.from_numpy(np.clip(6 - distance, -1, None)), grid=ImageGrid.cubic(16, 2.0))
        mrc.write_volume(server.project / "maps/ball.mrc", ball)
        page.size(1400, 1000)
        page.go(f"{address}?token={server.token}")
        page.until("document.querySelector('nav a[href$=jobs]')")
        page.ask("location.hash = '#/projects/project/new/volume%20crop'")
        page.click("#choose-volume")
        page.until("[...document.querySelectorAll('#picker .folders .link')].some((one) => one.innerText === 'maps/')")
        page.ask(
            "[...document.querySelectorAll('#picker .folders .link')].find((one) => one.innerText === 'maps/').click()"
        )
        page.click("#picker .file")
        page.until("document.querySelector('#field-volume').value === 'maps/ball.mrc'")
        page.set("#field-box_pixel", 12)
        page.click("#start-job")
        page.until("location.hash === '#/projects/project/jobs'", seconds=60)
        page.until("document.querySelector('#jobs .succeeded')", seconds=60)
        page.click("#jobs tbody a")
        page.until("document.querySelector('#report')?.offsetHeight > 100")
        page.click("#tab-maps")
        page.click("main ul a")
        page.until("document.querySelector('#level')")
        page.until("document.querySelector('#mesh').width > 300")
        page.until_drawn("#mesh", 20)  # grey values of the ball on the ground
        assert not page.problems
    (job,) = (server.project / "Volume").iterdir()
    assert (job / "SUCCESS").exists()
