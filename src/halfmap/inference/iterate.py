"""The one loop of every step that goes on until it is done."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

State = TypeVar("State")


def iterate(state: State, advance: Callable[[State], State], is_done: Callable[[State], bool]) -> Iterator[State]:
    """Yield the states that follow, each when it is complete, until one is done.

    Parameters
    ----------
    state : to go on from; not yielded itself.
    advance : gives the next state.
    is_done : tells whether a state is the last.
    """
    while not is_done(state):
        state = advance(state)
        yield state


def grown(history: Mapping[str, NDArray[np.float64]], row: Mapping[str, float]) -> dict[str, NDArray[np.float64]]:
    """Return the columns of a row, one longer than in a history; those that it lacks begin with the row."""
    return {name: np.append(history.get(name, np.zeros(0)), np.float64(value)) for name, value in row.items()}
