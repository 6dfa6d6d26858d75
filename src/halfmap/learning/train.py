"""The one loop that fits a network, deterministic for a seed, machine and number of threads."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from halfmap import keyed_random
from halfmap.errors import ComputeError, InputError
from halfmap.learning.params import TrainingParams


def initialise(network: nn.Module, seed: int) -> None:
    """Give a network its first weights.

    Parameters
    ----------
    network : its matrices and kernels are drawn; vectors named ``bias`` become 0, other vectors (scales) 1.
    seed : each parameter draws under its own name.

    References
    ----------
    He, Zhang, Ren, Sun 2015, "Delving deep into rectifiers", equation 10: variance 2 / inputs.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            inputs = math.prod(parameter.shape[1:])
            drawn = keyed_random.normal(seed, f"initial weights {name}", 0, size=tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn * math.sqrt(2.0 / inputs)))


@dataclass(frozen=True, kw_only=True, eq=False)
class FitState:
    """A network between two epochs, with all that the next one needs.

    Parameters
    ----------
    losses : mean loss of each epoch so far, float64, shape (epochs done,).
    weights : the network's parameters and buffers, by name.
    moments : what the optimiser keeps of each parameter, by its number and name.
    """

    losses: NDArray[np.float64]
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]


def fit(
    network: nn.Module,
    n_items: int,
    loss: Callable[[NDArray[np.int64], int], Tensor],
    params: TrainingParams,
    *,
    start: FitState | None = None,
    after_epoch: Callable[[FitState], None] | None = None,
) -> NDArray[np.float64]:
    """Fit a network by AdamW.

    Parameters
    ----------
    network : changed in place.
    n_items : number of items to learn from.
    loss : of the items with these numbers, in this epoch (from 0); it augments them under keyed draws.
    params : how.
    start : a state of the same fit, to go on from to the same end.
    after_epoch : is told the state after each epoch.

    Returns
    -------
    Mean loss of each epoch, shape (epochs,).

    Raises
    ------
    InputError
        There are no items.
    ComputeError
        The loss is not finite.

    References
    ----------
    Loshchilov, Hutter 2019, "Decoupled weight decay regularization", algorithm 2.
    """
    if n_items < 1:
        raise InputError("There must be at least one item to learn from; got none; give some.")
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": params.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=params.learning_rate,
    )
    steps = math.ceil(n_items / params.batch)
    means = np.empty(params.epochs)
    n_done = 0
    if start is not None:
        n_done = len(start.losses)
        means[:n_done] = start.losses
        network.load_state_dict(start.weights)
        _restore(optimiser, start.moments)
    total, step = params.epochs * steps, n_done * steps
    network.train()
    for epoch in range(n_done, params.epochs):
        order = keyed_random.permutation(params.seed, "order of items", n_items, iteration=epoch)
        losses = []
        for rows in np.array_split(order, steps):
            for group in optimiser.param_groups:
                group["lr"] = params.learning_rate * _share(step / total)
            optimiser.zero_grad()
            value = loss(rows, epoch)
            if not bool(torch.isfinite(value)):
                raise ComputeError(
                    f"The loss must be finite; got {float(value)} in epoch {epoch + 1}; lower the learning rate."
                )
            value.backward()
            optimiser.step()
            losses.append(float(value.detach()) * len(rows))
            step += 1
        means[epoch] = math.fsum(losses) / n_items
        if after_epoch is not None:
            after_epoch(_state(network, optimiser, means[: epoch + 1]))
    network.eval()
    return means


def _state(network: nn.Module, optimiser: torch.optim.Optimizer, losses: NDArray[np.float64]) -> FitState:
    """Copy what `fit` goes on from."""
    kept = optimiser.state_dict()["state"]
    return FitState(
        losses=losses.copy(),
        weights={name: value.detach().clone() for name, value in network.state_dict().items()},
        moments={f"{number}.{name}": value.clone() for number, of in kept.items() for name, value in of.items()},
    )


def _restore(optimiser: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Give an optimiser the moments of a state."""
    content = optimiser.state_dict()
    for key, value in moments.items():
        number, name = key.split(".")
        content["state"].setdefault(int(number), {})[name] = value.clone()
    optimiser.load_state_dict(content)


def _share(progress: float, warm: float = 0.05) -> float:
    """Return the step length as a share of the greatest, progress running from 0 to 1."""
    if progress < warm:
        return (progress + 1e-3) / (warm + 1e-3)
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warm) / (1 - warm))
