"""`halfmap doctor`."""

from collections.abc import Iterator
from dataclasses import dataclass

from halfmap.project.job import ImmediateCommand


@dataclass(frozen=True, kw_only=True)
class DoctorParams:
    """Nothing to choose."""


def run(params: DoctorParams) -> Iterator[str]:
    """Yield one line per part."""
    from halfmap.project.record import versions

    for name, version in versions().items():
        yield f"{name} {version}"


COMMAND = ImmediateCommand(
    command="doctor",
    parameters=DoctorParams,
    run=run,
    summary="Show versions, devices and optional parts, and what to do about gaps",
)
