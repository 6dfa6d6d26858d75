import subprocess
import sys
from pathlib import Path

HALFMAP = Path(sys.executable).with_name("halfmap")
STEPS = ("Simulate", "AutoPick", "Extract", "Class2D", "Select")


def test_demo_ends_with_a_page_of_class_averages_and_of_what_was_kept(tmp_path):
    words = [HALFMAP, "demo", "--number", "2", "--classes", "4", "--workers", "1"]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    page = Path(result.stdout.splitlines()[-1])
    text = page.read_text()
    for words in ("Class averages", "Kept", "Against the truth", "Picks", "Mean of all"):
        assert words in text
    assert "Junk among the particles" in result.stderr
    for step in STEPS:
        assert (page.parent / step / "SUCCESS").exists()
    again = subprocess.run(
        [HALFMAP, "demo", "--continue", page.parent], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == str(page)
