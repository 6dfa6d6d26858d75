"""Parameters of fitting a network."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt


@dataclass(frozen=True, kw_only=True)
class TrainingParams:
    """How a network is fitted."""

    epochs: Annotated[int, Ge(1)] = 60
    """Times that every item is seen."""

    batch: Annotated[int, Ge(1)] = 32
    """Items in a step."""

    learning_rate: Annotated[float, Gt(0)] = 2e-3
    """Greatest step length; it rises over the first twentieth of the steps and falls to 0 as a cosine."""

    weight_decay: Annotated[float, Ge(0)] = 0.02
    """Share of the weights that each step, times its length, takes away."""

    seed: int = 1
    """Seed of initial weights, order and augmentation."""
