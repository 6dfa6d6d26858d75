"""Picks and micrographs chosen by eye."""

from pathlib import Path

import numpy as np
import pytest

from halfmap.data.micrographs import MicrographSet
from halfmap.data.picks import Picks
from halfmap.errors import InputError
from halfmap.io import relion
from halfmap.sessions.manual_picks import PickEdits, save_manual_picks

NAMES = ("MotionCorr/job002/a.mrc", "MotionCorr/job002/b.mrc", "MotionCorr/job002/c.mrc")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".halfmap").mkdir()
    columns = {"micrograph_name": np.array(NAMES, dtype=object), "optics_group": np.ones(3, dtype=np.int64)}
    (tmp_path / "CtfFind/job003").mkdir(parents=True)
    relion.write_micrographs(tmp_path / "CtfFind/job003/micrographs_ctf.star", MicrographSet(columns=columns))
    own = [
        Picks.of_micrograph(name, [[10.0 * k, 20.0] for k in range(4)], source="log", figure_of_merit=np.arange(4.0))
        for name in NAMES[:2]
    ]
    (tmp_path / "AutoPick/job004").mkdir(parents=True)
    relion.write_autopick(tmp_path / "AutoPick/job004", Picks.concatenate(own), project_root=tmp_path)
    return tmp_path


def edits(**values: object) -> PickEdits:
    return PickEdits(**({"added": {}, "removed": {}, "accepted": {}, "thresholds": {}} | values))  # type: ignore[arg-type]


def saved(project: Path, **values: object) -> Path:
    return save_manual_picks(
        project,
        project / "CtfFind/job003/micrographs_ctf.star",
        edits(**values),
        picks=project / "AutoPick/job004",
    )


def test_ten_added_and_two_removed_leave_eight(project: Path) -> None:
    added = [(5.5 * k, 3.0) for k in range(10)]
    path = save_manual_picks(
        project,
        project / "CtfFind/job003/micrographs_ctf.star",
        edits(added={NAMES[2]: added}, removed={NAMES[2]: added[3:5]}),
    )
    picks = relion.read_picks(path, NAMES, project_root=project)
    np.testing.assert_allclose(picks.in_micrograph(NAMES[2]).position_pixel, added[:3] + added[5:])


def test_edits_are_applied_to_the_picks_of_a_job_and_nothing_is_overwritten(project: Path) -> None:
    first = saved(project, threshold=1.0, thresholds={NAMES[1]: 3.0}, removed={NAMES[0]: [(20.0, 20.0)]})
    second = saved(project)
    assert [path.parent.name for path in (first, second)] == ["job005", "job006"]
    assert (first.parent / "SUCCESS").exists()
    picks = relion.read_picks(first, NAMES, project_root=project)
    assert picks.in_micrograph(NAMES[0]).position_pixel[:, 0].tolist() == [10.0, 30.0]
    assert picks.in_micrograph(NAMES[1]).position_pixel[:, 0].tolist() == [30.0]
    assert len(relion.read_picks(second, NAMES, project_root=project)) == 8


def test_rejected_micrographs_are_in_neither_table(project: Path) -> None:
    path = saved(project, accepted={NAMES[0]: False})
    table = relion.read_micrographs(path.parent / "micrographs_selected.star")
    assert table["micrograph_name"].tolist() == list(NAMES[1:])
    assert set(relion.read_picks(path, NAMES, project_root=project).micrograph_name) == {NAMES[1]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"added": {"other.mrc": [(1.0, 2.0)]}}, "must be in"),
        ({"removed": {NAMES[0]: [(11.0, 20.0)]}}, "read the picks again"),
        ({"accepted": dict.fromkeys(NAMES, False)}, "accept one"),
    ],
)
def test_edits_that_fit_nothing_are_refused(project: Path, values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        saved(project, **values)
