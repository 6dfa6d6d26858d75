"""States of a step, kept as it goes on, so that a killed job goes on from the last one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from halfmap.errors import FormatError
from halfmap.inference.iterate import iterate
from halfmap.io import states
from halfmap.project.job import JobContext

State = TypeVar("State")

KEPT = 2
"""A machine that loses its power may leave the last file broken; then the one before it counts."""


class StepStates(Generic[State]):
    """The last states of a step, in ``state/`` of the job's folder.

    Parameters
    ----------
    context : the job.
    name : of the step.
    state_type : class of the states.
    """

    def __init__(self, context: JobContext, name: str, state_type: type[State]) -> None:
        self._context = context
        self._folder = context.folder / "state"
        self._name = name
        self._type = state_type

    def save(self, number: int, state: State) -> None:
        """Keep a state, by rename when it is complete, and the one before it; older ones are removed.

        Parameters
        ----------
        number : grows from state to state.
        """
        self._folder.mkdir(exist_ok=True)
        states.save(self._folder / f"{self._name}_{number:06d}.safetensors", state)
        self._remove_all_but(KEPT)

    def newest(self) -> State | None:
        """Return the last state that is whole; None where there is none."""
        for path in reversed(self._paths()):
            try:
                return states.load(path, self._type)
            except FormatError as error:
                self._context.progress.message(f"Passed over a saved state: {error}")
                path.unlink()
        return None

    def follow(
        self,
        state: State,
        advance: Callable[[State], State],
        is_done: Callable[[State], bool],
        number: Callable[[State], int],
    ) -> Iterator[State]:
        """Yield the states that follow, each once it is complete and saved, until one is done.

        Parameters
        ----------
        state : to go on from; not yielded itself.
        advance : gives the next state.
        is_done : tells whether a state is the last.
        number : of a state; it grows from state to state.

        Raises
        ------
        KeyboardInterrupt
            The job is cancelled.
        """

        def further(before: State) -> State:
            if self._context.is_cancelled():
                raise KeyboardInterrupt
            return advance(before)

        for current in iterate(state, further, is_done):
            self.save(number(current), current)
            yield current

    def keep_only_newest(self) -> None:
        """Remove all but the last state, when the job is complete."""
        self._remove_all_but(1)

    def forget(self) -> None:
        """Remove all, when what came of them is kept elsewhere."""
        self._remove_all_but(0)

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._name}_[0-9]*.safetensors"))

    def _remove_all_but(self, n: int) -> None:
        paths = self._paths()
        for path in paths[: len(paths) - n]:
            path.unlink()
