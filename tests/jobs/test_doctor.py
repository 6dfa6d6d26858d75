"""`halfmap doctor`: one line each, and what to do about what is missing."""

import shutil
from types import SimpleNamespace

import pytest

from halfmap.jobs import doctor


def lines() -> list[str]:
    return list(doctor.run(doctor.DoctorParams()))


def line(subject: str) -> str:
    return next(text for text in lines() if text[3:].startswith(subject))


def test_every_part_has_one_line():
    subjects = [text[3:25].strip() for text in lines()]
    assert len(set(subjects)) == len(subjects)
    assert all("\n" not in text for text in lines())
    assert {"python", "halfmap", "torch", "numpy", "numba", "threads", "memory", "disk", "dask", "topaz"} <= set(
        subjects
    )


def test_an_optional_part_that_is_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert line("topaz").startswith("-")
    assert "if you want it: pip install 'halfmap[topaz]'" in line("topaz")


def test_a_library_that_is_missing_is_marked(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: "")
    assert line("numba").startswith("!")
    assert "pip install numba" in line("numba")


@pytest.mark.parametrize(
    ("patched", "subject", "remedy"),
    [("_LEAST_MEMORY_BYTES", "memory", "at least 2 GiB"), ("_LEAST_DISK_BYTES", "disk", "make room")],
)
def test_too_little_room_is_marked_with_a_remedy(monkeypatch, patched, subject, remedy):
    monkeypatch.setattr(doctor, patched, 1 << 60)
    assert line(subject).startswith("!")
    assert remedy in line(subject)


def test_fewer_threads_than_cores_are_marked(monkeypatch):
    monkeypatch.setattr("halfmap.compute.threads.usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert line("threads").startswith("!")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert line("threads").startswith("ok")


def test_gpus_are_listed_by_name_and_memory(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    properties = SimpleNamespace(name="Card", multi_processor_count=100)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: properties)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda number: ((70 + number) << 30, 80 << 30))
    assert line("GPU 0") == f"ok {'GPU 0':<22}Card, 70.0 GiB free"
    assert line("GPU 1").endswith("Card, 71.0 GiB free")


@pytest.mark.parametrize(("built", "remedy"), [(None, "built for the CPU alone"), ("12.8", "update the driver")])
def test_a_gpu_that_torch_cannot_use_is_told_with_a_remedy(monkeypatch, built, remedy):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", built)
    monkeypatch.setattr("torch.version.hip", None)
    monkeypatch.setattr(shutil, "which", lambda program: "/usr/bin/nvidia-smi" if program == "nvidia-smi" else None)
    assert line("GPUs").startswith("!")
    assert remedy in line("GPUs")
