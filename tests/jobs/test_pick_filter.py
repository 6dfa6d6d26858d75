import numpy as np
import pytest

import halfmap
from halfmap.errors import InputError
from halfmap.io.relion_picks import read_autopick
from halfmap.jobs.micrograph_masks import TABLE, write_mask
from support.pick_projects import SHAPE, PickProject


@pytest.fixture
def project(tmp_path, monkeypatch):
    made = PickProject(tmp_path / "project")
    monkeypatch.chdir(made.root)
    merits = {name: np.arange(len(true), dtype=float) for name, true in made.positions.items()}
    made.picks = made.write_picks("a", made.positions, merits)
    return made


def mask_the_left_half(project, names):
    """Write masks of half the micrograph's resolution and their list."""
    for name in names:
        excluded = np.zeros((SHAPE[0] // 2, SHAPE[1] // 2), dtype=bool)
        excluded[:, : SHAPE[1] // 4] = True
        path = project.root / "masks" / f"{name.split('/')[1]}.png"
        path.parent.mkdir(exist_ok=True)
        write_mask(path, excluded)
    rows = "\n".join(f"{name} masks/{name.split('/')[1]}.png 10.0 0.5 carbon" for name in names)
    labels = "_rlnMicrographName\n_halfmapMaskName\n_halfmapMaskPixelSize\n_halfmapExcludedFraction\n_halfmapReason"
    path = project.root / "masks.star"
    path.write_text(f"data_{TABLE}\n\nloop_\n{labels}\n{rows}\n")
    return path


def test_picks_above_the_limit_are_kept_with_their_uid_and_the_others_gone(project):
    before = read_autopick(project.picks, project.root)
    result = halfmap.pick_filter(picks=project.picks, min_fom=4.0, workers=1)
    after = read_autopick(result.main_output, project.root)
    np.testing.assert_array_equal(after.uid, before.uid[before.figure_of_merit > 4.0])


def test_every_micrograph_keeps_a_coordinate_file_though_nothing_is_left_in_it(project):
    result = halfmap.pick_filter(picks=project.picks, min_fom=1e3, workers=1)
    after = read_autopick(result.main_output, project.root)
    assert len(after) == 0
    assert list(after.micrographs) == project.names
    assert (result.folder / "Micrographs/mic2_autopick.star").exists()


def test_picks_in_a_mask_are_dropped_though_its_pixels_are_larger(project):
    masks = mask_the_left_half(project, project.names)
    result = halfmap.pick_filter(picks=project.picks, exclude_mask=masks, workers=1)
    after = read_autopick(result.main_output, project.root)
    for name, true in project.positions.items():
        here = after.in_micrograph(name).position_pixel
        assert len(here) == (true[:, 0] > SHAPE[1] / 2).sum()
        assert (here[:, 0] > SHAPE[1] / 2 - 1).all()  # half a pixel of the mask


def test_micrographs_without_a_mask_keep_their_picks(project):
    masks = mask_the_left_half(project, project.names[:1])
    result = halfmap.pick_filter(picks=project.picks, exclude_mask=masks, workers=1)
    after = read_autopick(result.main_output, project.root)
    name = project.names[1]
    assert len(after.in_micrograph(name)) == len(project.positions[name])


def test_masks_of_other_micrographs_are_refused(project):
    masks = mask_the_left_half(project, ["Micrographs/other.mrc"])
    with pytest.raises(InputError, match=r"masks of .* must belong to the picks' micrographs"):
        halfmap.pick_filter(picks=project.picks, exclude_mask=masks, workers=1)


def test_a_filter_must_be_told_what_to_drop(project):
    with pytest.raises(InputError, match=r"add --min-fom or --exclude-mask"):
        halfmap.pick_filter(picks=project.picks, workers=1)
