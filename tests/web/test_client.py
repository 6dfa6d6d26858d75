"""The command, its server and the client for scripts, in processes of their own."""

import os
import signal
import subprocess
import sys
import time

import pytest

from halfmap.errors import ComputeError, InputError
from halfmap.web.client import LiveClient
from halfmap.web.settings import LiveParams, with_settings_file


def test_the_command_prints_an_address_with_which_a_script_drives_a_session(tmp_path, filled):
    (tmp_path / "project" / ".halfmap").mkdir(parents=True)
    grid = filled.copied(tmp_path / "data" / "grid1")
    (tmp_path / "live.toml").write_text('microscope_name = "Krios 1"\npoll_seconds = 0.2\nport = 1\n')
    words = ["live", "--root", str(grid.path.parent), "--port", "0", "--devices", "cpu", "--read-only-link", "--force"]
    command = [sys.executable, "-c", "from halfmap.cli.main import main; main()", *words]
    process = subprocess.Popen(
        [*command, "--settings", str(tmp_path / "live.toml")], stdout=subprocess.PIPE, text=True,
        cwd=tmp_path / "project", env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        address, looking = (process.stdout.readline().split()[-1] for _ in range(2))
        live = LiveClient(address)
        assert live.get("me")["microscope"] == "Krios 1"
        since = live.get("me")["seq"]
        session = live.open("data", "grid1")["id"]
        assert live.stage(session, classes=3) == {"classes": 3}
        kinds = []
        for event in live.events(since):
            kinds.append(event["type"])
            if event["type"] == "counts":
                break
        assert "changed" in kinds
        end = time.monotonic() + 20
        while live.session(session)["source"]["particles"] < 60:
            assert time.monotonic() < end
            time.sleep(0.1)
        with pytest.raises(InputError, match="at least as many particles"):
            live.start(session, classes=1000)
        viewer = LiveClient(looking)
        assert viewer.sessions()[0]["id"] == session
        with pytest.raises(InputError, match=r"403.*operator"):
            viewer.stop(session)
        with pytest.raises(InputError, match="401"):
            LiveClient(address.partition("?")[0], "wrong").sessions()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        process.stdout.close()
    with pytest.raises(ComputeError, match="must answer"):
        live.sessions()
    assert "token" not in (tmp_path / "project" / "Live" / "server.log").read_text()


def test_flags_override_the_settings_file_and_unknown_names_are_refused(tmp_path):
    path = tmp_path / "live.toml"
    path.write_text('port = 9000\nroot = ["/a", "/b"]\n')
    values = with_settings_file({"settings": str(path), "port": "8181"})
    assert (values["port"], values["root"]) == ("8181", ["/a", "/b"])
    with pytest.raises(InputError, match="must exist"):
        with_settings_file({"settings": str(tmp_path / "none.toml")})


def test_a_header_of_users_needs_a_trusted_proxy_and_tls_both_files():
    with pytest.raises(InputError, match="trusted proxy"):
        LiveParams(remote_user_header="X-User")
    with pytest.raises(InputError, match="a certificate and a key"):
        LiveParams(tls_key="key.pem")


def test_help_loads_neither_the_server_nor_torch(tmp_path):
    code = (
        "import sys\nfrom halfmap.cli.main import main\n"
        "try:\n    main(['live', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('fastapi', 'uvicorn', 'torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--read-only-link" in done.stdout
