import subprocess
import sys
from pathlib import Path

HALFMAP = Path(sys.executable).with_name("halfmap")


def test_demo_ends_with_a_page_of_picks_and_particles(tmp_path):
    words = [HALFMAP, "demo", "--number", "1", "--workers", "1"]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    page = Path(result.stdout.splitlines()[-1])
    text = page.read_text()
    assert "Mean of all" in text
    assert "Against the truth" in text
    for step in ("Simulate", "AutoPick", "Extract"):
        assert (page.parent / step / "SUCCESS").exists()
    again = subprocess.run(
        [HALFMAP, "demo", "--continue", page.parent], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == str(page)
