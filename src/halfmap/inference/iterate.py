"""The one loop of every step that goes on until it is done."""

from collections.abc import Callable, Iterator
from typing import TypeVar

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
