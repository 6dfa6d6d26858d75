from pathlib import Path

import pytest

from support.live_folders import LiveFolder
from support.live_servers import a_server


@pytest.fixture
def server(tmp_path):
    with a_server(tmp_path) as found:
        yield found


@pytest.fixture(scope="session")
def filled(tmp_path_factory) -> LiveFolder:
    """A folder of three micrographs, to be copied."""
    folder = LiveFolder(tmp_path_factory.mktemp("filled") / "grid", n_micrographs=3)
    folder.arrive(range(3))
    return folder


@pytest.fixture
def grid(server, filled) -> Path:
    """An acquisition folder under the root of the server."""
    return filled.copied(server.data / "grid1").path
