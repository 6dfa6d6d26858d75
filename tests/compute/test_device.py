"""Which devices a user's choice names."""

import pytest
import torch

from halfmap.compute.device import describe_devices, select_devices, task_device, working_on
from halfmap.errors import ComputeError, InputError


@pytest.fixture
def n_gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    n: int = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
    return n


def names(text: str) -> list[str]:
    return [str(device) for device in select_devices(text)]


@pytest.mark.parametrize(
    ("n_gpus", "text", "expected"),
    [
        (0, "auto", ["cpu"]),
        (0, "cpu", ["cpu"]),
        (2, "cpu", ["cpu"]),
        (2, "auto", ["cuda:0", "cuda:1"]),
        (3, "all", ["cuda:0", "cuda:1", "cuda:2"]),
        (3, "2,0", ["cuda:2", "cuda:0"]),
        (3, "0:1", ["cuda:0", "cuda:1"]),
        (4, "0,1:2,3", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        (3, "1:1", ["cuda:1"]),
        (3, " cuda:1 , cuda:2 ", ["cuda:1", "cuda:2"]),
    ],
    indirect=["n_gpus"],
)
def test_choices_name_devices(n_gpus: int, text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize("text", ["", "gpu", "0;1", "-1", "0,,1", "cuda"])
@pytest.mark.parametrize("n_gpus", [2], indirect=True)
def test_other_words_are_refused(n_gpus: int, text: str) -> None:
    with pytest.raises(InputError, match="must be auto, cpu, all or GPU numbers; got"):
        select_devices(text)


@pytest.mark.parametrize(
    ("n_gpus", "text", "message"),
    [
        (0, "0", "number 0 where torch finds no GPU at all"),
        (0, "all", "must find a GPU"),
        (1, "0,1", "number 1 where torch finds GPU 0 alone"),
        (2, "1:2:5", "number 2, 5 where torch finds GPUs 0 to 1"),
    ],
    indirect=["n_gpus"],
)
def test_a_gpu_that_is_not_there_is_an_error(n_gpus: int, text: str, message: str) -> None:
    with pytest.raises(ComputeError, match=message):
        select_devices(text)


def test_the_machine_is_described() -> None:
    cpu = describe_devices()[0]
    assert cpu.device == "cpu"
    assert cpu.model
    assert cpu.n_cores >= 1
    assert cpu.memory_bytes > 0


def test_a_task_finds_the_device_of_its_surroundings() -> None:
    with working_on("cuda:1"):
        assert str(task_device()) == "cuda:1"
    assert str(task_device()) == "cpu"


@pytest.mark.parametrize("n_gpus", [0], indirect=True)
def test_a_device_left_open_is_chosen_where_the_task_runs(n_gpus: int) -> None:
    with working_on("auto"):
        assert str(task_device()) == "cpu"


@pytest.mark.gpu
def test_a_real_gpu_is_described() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    assert describe_devices()[1].memory_bytes > 0
    assert names("0") == ["cuda:0"]
