"""`halfmap live`; what serves is imported when it starts."""

from collections.abc import Iterator

from halfmap.project.job import ImmediateCommand
from halfmap.web.settings import LiveParams, with_settings_file


def run(params: LiveParams) -> Iterator[str]:
    """Yield the addresses to open, then serve until interrupted."""
    from halfmap.web.server import serve

    yield from serve(params)


COMMAND = ImmediateCommand(
    command="live",
    parameters=LiveParams,
    run=run,
    summary="Classify while the microscope runs, in the browser",
    completed=with_settings_file,
)
