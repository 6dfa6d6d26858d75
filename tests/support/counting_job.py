"""A job of no scientific use, with one field of every kind, that can fail in every way."""

import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MultipleOf

from halfmap.errors import InputError
from halfmap.io.atomic import write_text
from halfmap.project.job import JobContext, JobType
from halfmap.units import Length


@dataclass(frozen=True, kw_only=True)
class CountingParams:
    """What the counting itself needs."""

    box_pixel: Annotated[int, Ge(2), MultipleOf(2)] = 256
    """Side of the box."""

    mask_diameter: Annotated[Length, Gt(0)] | None = None
    """Diameter of the mask."""

    amplitude: Annotated[float, Ge(0), Le(1)] = 0.1
    """Share of the amplitude."""

    shape: Literal["disc", "square"] = "disc"
    """Shape to count."""

    def __post_init__(self) -> None:
        if self.shape == "square" and self.mask_diameter is not None:
            raise InputError("--mask-diameter must go with --shape disc; got square; leave one out.")


@dataclass(frozen=True, kw_only=True)
class CountingJobParams(CountingParams):
    """Inputs and settings of ``halfmap count``."""

    numbers: Path
    """File of numbers."""

    extra: tuple[Path, ...] = ()
    """More files."""

    recenter_angstrom: tuple[float, float, float] | None = None
    """Where to count from."""

    steps: Annotated[int, Ge(1)] = 3
    """How far to count."""

    step_seconds: Annotated[float, Ge(0)] = 0.0
    """Pause after each step."""

    invert: bool = True
    """Count down."""

    fail: Literal["no", "user", "bug", "disk", "memory", "tensor", "limit", "output", "file"] = "no"
    """How to fail, half-way."""

    seed: int = 1
    """Seed of everything drawn at random."""


def run(context: JobContext, params: CountingJobParams) -> Path:
    """Count, keeping a state that an interrupted run goes on from."""
    state = context.folder / "state.txt"
    counted = state.read_text().split() if context.continuing and state.exists() else []
    context.log(f"goes on from {len(counted)}" if counted else "counts from the beginning")
    context.progress.start("Counting", params.steps)
    context.progress.advance(len(counted))
    for step in range(len(counted), params.steps):
        if step == params.steps // 2 and not context.continuing:
            _fail(context, params.fail)
        counted.append(str(step * context.seed))
        write_text(state, " ".join(counted))
        context.progress.advance()
        time.sleep(params.step_seconds)
        if context.is_cancelled():
            return state
    output = context.folder / "counted.txt"
    if params.fail != "output":
        write_text(output, " ".join([*counted, params.numbers.read_text().strip()]))
    return output


def _fail(context: JobContext, how: str) -> None:
    if how == "user":
        raise InputError("Numbers must be positive; got -1 in line 3; mend the file.")
    if how == "bug":
        raise ZeroDivisionError("division by zero")
    if how == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(context.folder / "counted.txt"))
    if how == "file":
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "nowhere")
    if how == "memory":
        raise MemoryError
    if how == "tensor":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes\nat c10::alloc")
    if how == "limit":
        context.expect_memory(1 << 40, "counting")


JOB = JobType(
    command="count",
    folder="Count",
    parameters=CountingJobParams,
    run=run,
    summary="Count to a number",
    inputs=("numbers", "extra"),
)
