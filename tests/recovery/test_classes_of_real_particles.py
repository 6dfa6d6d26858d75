"""2D classification of real micrographs: apoferritin, and windows at random in one with ice as junk.

Classes in which junk is the majority are told from those of particles. That is not to say that all junk is found: many
windows show background and no more, which fits every class alike, and about half of them end in classes of particles.
"""

from pathlib import Path

import numpy as np
import pytest

import halfmap
from halfmap.io import mrc
from halfmap.io.images import read_micrograph
from halfmap.io.relion_classes import read_class_run
from halfmap.io.relion_picks import read_coordinates
from support.shared_data import shared_data

pytestmark = pytest.mark.slow  # classifies a thousand particles

N_MICROGRAPHS = 6
N_JUNK = 200
EDGE_PIXEL = 50


def coordinates(path: Path, positions: np.ndarray) -> None:
    rows = "".join(f"{x:.2f} {y:.2f}\n" for x, y in positions)
    path.write_text(f"\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n{rows}")


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    """Classes of curated particles and of windows at random in a micrograph with ice, and which particle is which."""
    real, folder = shared_data("apoferritin"), tmp_path_factory.mktemp("apoferritin")
    ice = read_micrograph(shared_data("difficult/ice_contaminated.mrc"))
    for name in ("micrographs", "coords"):
        (folder / name).mkdir()
    lines = (real / "micrographs_ctf.star").read_text().splitlines(keepends=True)
    rows = [line for line in lines if line.startswith("micrographs/")][:N_MICROGRAPHS]
    head = [line for line in lines if not line.startswith("micrographs/")]
    for row in rows:
        micrograph = row.split()[0]
        (folder / micrograph).symlink_to(real / micrograph)
        shape = read_micrograph(real / micrograph).shape
        curated = read_coordinates(real / f"coords/{Path(micrograph).stem}.star", micrograph).position_pixel
        inside = ((curated >= EDGE_PIXEL) & (curated < np.array(shape[::-1]) - EDGE_PIXEL)).all(axis=1)
        coordinates(folder / f"coords/{Path(micrograph).stem}.star", curated[inside])
    # the micrographs of an optics group are of one size
    larger = np.pad(ice, [(0, wanted - side) for wanted, side in zip(shape, ice.shape, strict=True)], mode="reflect")
    grid = halfmap.ImageGrid(shape=larger.shape, pixel_size_angstrom=1.5)
    mrc.write_image(folder / "micrographs/ice.mrc", larger.astype(np.float32), grid)
    at = np.random.default_rng(5).uniform(64, np.array(ice.shape[::-1]) - 64, size=(N_JUNK, 2))
    coordinates(folder / "coords/ice.star", at)
    added = "micrographs/ice.mrc 1 18000 18000 0 0.5\n"
    (folder / "all.star").write_text("".join(head).rstrip() + "\n" + "".join(rows) + added)
    extracted = halfmap.extract(
        micrographs=folder / "all.star", picks=folder / "coords", box_pixel=128, rescale_pixel=64,
        out=folder / "Extract", workers=1,
    )  # fmt: skip
    made = halfmap.class2d(
        particles=extracted.main_output, classes=12, mask_diameter_angstrom=140, out=folder / "Class2D", workers=1,
        threads=1,
    )  # fmt: skip
    run = read_class_run(made.folder, project=folder)
    is_junk = np.array([Path(name).stem == "ice" for name in run.particles["micrograph_name"]])
    assert is_junk.sum() > 0.9 * N_JUNK
    return run, is_junk


def test_the_largest_class_is_apoferritins_ring(classified):
    run, _ = classified
    average = run.averages["average"][int(np.argmax(run.averages["n_particles"]))]
    y, x = np.mgrid[:64, :64] - 32
    radius = np.rint(np.hypot(x, y) * 3.0 / 6.0).astype(int)  # rings 6 Å wide
    profile = np.bincount(radius.ravel(), average.ravel()) / np.bincount(radius.ravel())
    assert 36 <= 6.0 * profile[:12].argmax() <= 60  # the shell reaches from about 40 to 65 Å from the centre
    assert profile[0] < 0.8 * profile.max()  # hollow
    assert np.nanmin(run.averages["frc_resolution_angstrom"]) < 16


def test_classes_are_scored_below_a_half_where_junk_is_the_majority_and_above_where_particles_are(classified):
    """Of classes of 50 particles or more: of fewer, an average shows little."""
    run, is_junk = classified
    number, score = run.particles["class_number"], run.averages["score"]
    for k in range(len(score)):
        mine = number == k + 1
        if mine.sum() >= 50:
            assert (score[k] < 0.5) == (is_junk[mine].mean() > 0.5), f"class {k + 1}"


def test_the_choice_by_score_drops_half_of_the_junk_and_hardly_a_particle(classified):
    """Found: 52 % of the junk dropped, 97 % of the particles kept; junk 20 % of all before, 11 % after."""
    run, is_junk = classified
    kept = run.averages["score"][run.particles["class_number"] - 1] >= 0.5
    assert kept[~is_junk].mean() > 0.85
    assert kept[is_junk].mean() < 0.65
    assert is_junk[~kept].mean() > 0.5
    assert is_junk[kept].mean() < 0.75 * is_junk.mean()
