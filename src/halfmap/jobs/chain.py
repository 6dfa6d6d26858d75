"""Chains: jobs whose steps are other jobs, each in a folder of its own inside the chain's, each with its page."""

import shutil
from dataclasses import asdict
from typing import Any

from halfmap.jobs import registry
from halfmap.project.job import JobContext, JobResult
from halfmap.project.record import NAME
from halfmap.project.runner import continue_job, run_from_values


def run_step(context: JobContext, command: str, folder: str, **values: Any) -> JobResult:
    """Run a job inside the folder of a chain, or go on with it where the chain is continued.

    A step that has succeeded is not done again, whoever ran it: one that a user ran by hand with ``--out`` stands.

    Parameters
    ----------
    context : of the chain.
    command : of the step.
    folder : its folder within the chain's.
    values : its parameters.
    """
    job_type = registry.find_job(command)
    out, relay = context.folder / folder, _Relay(context)
    context.progress.message(f"halfmap {command}")
    try:
        if is_begun(context, folder):
            return continue_job(out, job_type, options=context.options, display=relay)
        if out.exists():
            shutil.rmtree(out)  # killed before it knew what to do
        options = asdict(context.options)
        return run_from_values(job_type, values, options=options, out=out, project=context.project, display=relay)
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None  # without the step's note: it is the chain that the user goes on with


def is_begun(context: JobContext, folder: str) -> bool:
    """Return whether a step of a chain has begun, so that its parameters stand."""
    return (context.folder / folder / NAME).exists()


class _Relay:
    """Shows the progress of a step as the chain's own, and passes on the wish that it stop."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._done = 0

    def update(self, label: str, done: int, total: int | None) -> None:
        """Show how far the step is."""
        if self._context.is_cancelled():
            raise KeyboardInterrupt
        if done == 0:
            self._context.progress.start(label, total)
        else:
            self._context.progress.advance(done - self._done)
        self._done = done

    def message(self, text: str) -> None:
        """Show a line of text."""
        self._context.progress.message(text)
