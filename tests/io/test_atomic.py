import errno

import pytest

from halfmap.errors import ProjectError
from halfmap.io.atomic import remove_partial, replacing, write_json, write_text


def fail_writing(path, error):
    with replacing(path) as temporary:
        temporary.write_text("part")
        raise error


def test_file_appears_whole_and_leaves_nothing_beside_it(tmp_path):
    write_json(tmp_path / "deep/down/x.json", {"a": 1})
    assert (tmp_path / "deep/down/x.json").read_text() == '{\n  "a": 1\n}\n'
    assert [path.name for path in (tmp_path / "deep/down").iterdir()] == ["x.json"]


def test_last_good_file_stays_when_writing_fails(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "good")
    with pytest.raises(RuntimeError, match="half"):
        fail_writing(path, RuntimeError("half way"))
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_said_with_the_remedy(tmp_path):
    with pytest.raises(ProjectError, match=r"x.txt must be writable; got 'No space left on device'; free space"):
        fail_writing(tmp_path / "x.txt", OSError(errno.ENOSPC, "No space left on device"))
    assert not list(tmp_path.iterdir())


def test_trouble_with_another_file_is_not_blamed_on_the_one_written(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "x.txt"):
        (tmp_path / "elsewhere.txt").read_text()


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    for name in ("deep/.x.mrcs.77.partial", ".y.star.1.partial", "deep/x.mrcs", ".hidden", "z.partial"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_partial(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"x.mrcs", ".hidden", "z.partial"}
