import subprocess
import sys
from pathlib import Path

HALFMAP = Path(sys.executable).with_name("halfmap")
STEPS = (
    "Movies",
    "MotionCorr",
    "Simulate",
    "CtfFind",
    "AutoPick",
    "Extract",
    "Class2D",
    "Select",
    "InitialModel",
    "Refine3D",
)
SHORTER = (
    *("--movies", "1", "--number", "2", "--classes", "4", "--epochs", "1"),
    *("--minibatches", "10", "--initial-resolution", "40", "--max-iterations", "1"),
)


def test_demo_ends_with_a_page_of_a_map_of_class_averages_and_of_what_was_kept(tmp_path):
    words = [HALFMAP, "demo", *SHORTER, "--workers", "1"]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    page = Path(result.stdout.splitlines()[-1])
    text = page.read_text()
    for words in (
        "The map",
        "The map against the truth",
        "Class averages",
        "Kept",
        "Against the truth",
        "Picks",
        "Pupil and teacher",
        "Motion against the truth",
        "Defocus against the truth",
        "Mean of all",
    ):
        assert words in text
    assert "Junk among the particles" in result.stderr
    assert "against the truth (FSC 0.5)" in result.stderr
    assert "Motion left in 1 movies" in result.stderr
    for step in STEPS:
        assert (page.parent / step / "SUCCESS").exists()
        assert f'href="{step}/report.html"' in text
    again = subprocess.run(
        [HALFMAP, "demo", "--continue", page.parent], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == str(page)
