"""Values written once, mapped by those who read them."""

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from halfmap.compute import broadcast
from halfmap.errors import ComputeError, InconsistentDataError, InputError
from support import executor_tasks as tasks


def loaded(handle: broadcast.Broadcast) -> object:
    return broadcast.read(handle.path)


def test_arrays_tensors_and_nouns_survive_the_round_trip(tmp_path: Path) -> None:
    value = {
        "reference": tasks.Reference(values=np.arange(12, dtype=np.complex64).reshape(3, 4), name="apo"),
        "slices": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "number": torch.tensor(3, dtype=torch.int64),
        "empty": torch.zeros(0, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    }
    read = loaded(broadcast.store(value, tmp_path))
    assert isinstance(read, dict)
    np.testing.assert_array_equal(read["reference"].values, value["reference"].values)
    assert read["reference"].name == "apo"
    np.testing.assert_array_equal(read["fortran"], value["fortran"])
    for name in ("slices", "transposed", "conjugate", "number", "empty"):
        assert read[name].dtype == value[name].dtype
        assert torch.equal(read[name], value[name])


def test_large_arrays_are_mapped_and_changes_stay_private(tmp_path: Path) -> None:
    handle = broadcast.store(np.zeros(100_000, dtype=np.float32), tmp_path)
    first, second = loaded(handle), loaded(handle)
    assert isinstance(first, np.ndarray)
    assert isinstance(second, np.ndarray)
    owner = first
    while not isinstance(owner, mmap.mmap):
        owner = owner.obj if isinstance(owner, memoryview) else owner.base
    first[0] = 5.0
    assert second[0] == 0.0
    again = loaded(handle)
    assert isinstance(again, np.ndarray)
    assert again[0] == 0.0


def test_equal_values_share_a_file_and_others_do_not(tmp_path: Path) -> None:
    first = broadcast.store(np.arange(5), tmp_path)
    assert broadcast.store(np.arange(5), tmp_path) == first
    assert broadcast.store(np.arange(6), tmp_path).path != first.path
    assert len(list(tmp_path.iterdir())) == 2


def test_a_process_loads_a_value_once_and_remembers_only_the_latest(tmp_path: Path) -> None:
    handles = [broadcast.store(np.full(3, number), tmp_path) for number in range(40)]
    first = handles[0].load()
    assert handles[0].load() is first
    for handle in handles[1:]:
        handle.load()
    assert handles[0].load() is not first


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_a_file_of_arrays_is_loaded_by_its_kind(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"map{suffix}"
    if suffix == ".npy":
        np.save(path, np.arange(4.0))
        np.testing.assert_array_equal(broadcast.store(path, tmp_path).load(), np.arange(4.0))
    else:
        from safetensors.torch import save_file

        save_file({"values": torch.arange(4.0)}, path)
        assert torch.equal(broadcast.store(path, tmp_path).load()["values"], torch.arange(4.0))


def test_a_file_changed_after_its_broadcast_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "optics.txt"
    path.write_text("300 kV")
    handle = broadcast.store(path, tmp_path)
    path.write_text("200 kV")
    with pytest.raises(InconsistentDataError, match=r"optics.txt must stay as it is"):
        handle.load()


def test_a_value_whose_file_is_gone_is_named(tmp_path: Path) -> None:
    handle = broadcast.store({"unread": np.arange(7)}, tmp_path)
    handle.path.unlink()
    with pytest.raises(ComputeError, match="must be readable by every worker"):
        handle.load()


def test_what_cannot_be_pickled_or_found_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be picklable"):
        broadcast.store(lambda: 0, tmp_path)
    with pytest.raises(InputError, match="must be a file"):
        broadcast.store(tmp_path / "absent.npy", tmp_path)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broadcast.os, "replace", full)
    with pytest.raises(ComputeError, match=r"room for .* bytes; got 'No space left on device'"):
        broadcast.store(np.arange(5), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_discarded_value_leaves_no_file_and_a_file_of_the_callers_stays(tmp_path: Path) -> None:
    handle = broadcast.store({"references": np.ones(5)}, tmp_path)
    handle.load()
    handle.discard()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ComputeError, match="must be readable"):
        handle.load()
    assert broadcast.store({"references": np.ones(5)}, tmp_path).load()["references"].sum() == 5
    mine = tmp_path / "mine.txt"
    mine.write_text("reference")
    broadcast.store(mine, tmp_path).discard()
    assert mine.exists()
