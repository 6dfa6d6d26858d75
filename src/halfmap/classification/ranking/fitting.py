"""Fitting a ranker to examples, judging it on structures it has not seen, and calibrating it."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_from_tensors
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from halfmap import keyed_random
from halfmap.classification.ranking.features import FEATURES, GROUPS
from halfmap.classification.ranking.labels import Examples
from halfmap.classification.ranking.network import RankerNetwork
from halfmap.errors import InconsistentDataError
from halfmap.learning.augment import Variation, varied
from halfmap.learning.params import TrainingParams
from halfmap.learning.train import fit, initialise

DROPPED: dict[str, float] = {"accuracy": 0.5, "resolution": 0.1, "frc": 0.5, "ssnr": 0.3, "size": 0.1}
"""How often each group of features is hidden, so that the ranker can do without it."""

_VARIATION = Variation()
_PURITY_WEIGHT, _FRC_WEIGHT = 0.5, 2.0
_NEWTON_STEPS = 50
_RIDGE = 1e-3


def fit_ranker(examples: Examples, params: TrainingParams) -> tuple[RankerNetwork, NDArray[np.float64]]:
    """Fit a network to examples.

    Returns
    -------
    The network, not calibrated, and its mean loss in each epoch.

    Notes
    -----
    Cross entropy of the first output against `Examples.is_good`, and, to learn more from each example, of the second
    against the purity and the squared error of the third against the FRC. In every epoch pictures are turned and
    varied and groups of features hidden anew. Examples count by `Examples.weight`.
    """
    network = RankerNetwork()
    initialise(network, params.seed)
    mean, deviation = _scales(examples.features)
    network.mean.copy_(mean)
    network.deviation.copy_(deviation)
    images, features = torch.from_numpy(examples.images), torch.from_numpy(examples.features)
    good = torch.from_numpy(examples.is_good).float()
    purity, frc = torch.from_numpy(examples.purity).float(), torch.from_numpy(examples.frc).float()
    weight = torch.from_numpy(examples.weight / examples.weight.mean()).float()

    def loss(rows: NDArray[np.int64], epoch: int) -> Tensor:
        seen = varied(images[rows], rows, _VARIATION, seed=params.seed, epoch=epoch)
        answer = network(seen, _hidden(features[rows], rows, params.seed, epoch))
        each = (
            binary_cross_entropy_with_logits(answer[:, 0], good[rows], reduction="none")
            + _PURITY_WEIGHT * binary_cross_entropy_with_logits(answer[:, 1], purity[rows], reduction="none")
            + _FRC_WEIGHT * (answer[:, 2] - frc[rows]).square()
        )
        return (each * weight[rows]).mean()

    return network, fit(network, len(examples), loss, params)


def folds_of(examples: Examples, n_folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each example, shape (n,): whole groups of structures, folds of nearly equal number of groups.

    Raises
    ------
    InconsistentDataError
        There are fewer groups than folds.
    """
    groups, place = np.unique(examples.group, return_inverse=True)
    if len(groups) < n_folds:
        raise InconsistentDataError(
            f"There must be at least {n_folds} structures for {n_folds} folds; got {len(groups)}; use fewer folds."
        )
    return keyed_random.permutation(seed, "folds", len(groups))[place] % n_folds


def log_odds(network: RankerNetwork, images: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the calibrated log odds of pictures and features, shape (n,)."""
    if not len(images):
        return np.zeros(0)
    with torch.no_grad():
        return network.log_odds(torch.from_numpy(images), torch.from_numpy(features)).double().numpy()


def calibrate(network: RankerNetwork, raw: NDArray[np.float64], is_good: NDArray[np.bool_]) -> None:
    """Set slope and shift of a network so that probabilities come true.

    Parameters
    ----------
    network : changed in place.
    raw : uncalibrated log odds of examples that the network, or its like, has not seen.
    is_good : whether they are good.
    """
    slope, shift = platt(raw, is_good)
    network.slope.fill_(slope)
    network.shift.fill_(shift)


def platt(raw: NDArray[np.float64], is_good: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and shift of the logistic curve that fits best.

    References
    ----------
    Platt 1999, "Probabilistic outputs for support vector machines", section 2: targets drawn in by
    (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2), so that separable data do not give infinite slopes.
    """
    weights = logistic(raw[:, None], is_good)
    return float(weights[0]), float(weights[1])


def logistic(columns: NDArray[np.float64], is_good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the weights of columns, shape (k,), and the constant after them, of a logistic regression.

    Newton's steps on Platt's targets with a slight pull to 0.
    """
    n_good = int(is_good.sum())
    target = np.where(is_good, (n_good + 1) / (n_good + 2), 1 / (len(is_good) - n_good + 2))
    design = np.concatenate([columns, np.ones((len(columns), 1))], axis=1)
    weights = np.zeros(design.shape[1])
    ridge = _RIDGE * np.eye(len(weights))
    for _ in range(_NEWTON_STEPS):
        probability = 1 / (1 + np.exp(-(design @ weights)))
        curvature = design.T @ (design * (probability * (1 - probability))[:, None]) + ridge
        step = np.linalg.solve(curvature, design.T @ (target - probability) - ridge @ weights)
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    return weights


def to_bytes(network: RankerNetwork) -> bytes:
    """Return a network as the bytes of a safetensors file."""
    return bytes_from_tensors({name: value.contiguous() for name, value in network.state_dict().items()})


def from_bytes(content: bytes) -> RankerNetwork:
    """Return the network of a safetensors file; nothing in it is executed.

    Raises
    ------
    InconsistentDataError
        The bytes are of another network.
    """
    network = RankerNetwork()
    try:
        network.load_state_dict(tensors_from_bytes(content))
    except (RuntimeError, SafetensorError) as error:
        raise InconsistentDataError(
            f"The ranker's weights must be those of its network; got others ({error}); "
            "make them anew with halfmap train class-ranker."
        ) from error
    return network.eval()


def _scales(features: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the known values of each feature; 0 and 1 where none is known."""
    known = np.isfinite(features)
    count = np.maximum(known.sum(axis=0), 1)
    values = np.where(known, features, 0.0).astype(np.float64)
    mean = values.sum(axis=0) / count
    variance = np.where(known, (values - mean) ** 2, 0.0).sum(axis=0) / count
    deviation = np.where(variance > 0, np.sqrt(variance), 1.0)
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _hidden(features: Tensor, rows: NDArray[np.int64], seed: int, epoch: int) -> Tensor:
    chance = keyed_random.uniform(seed, "hidden features", rows, iteration=epoch, size=len(GROUPS))
    hide = torch.zeros(len(rows), len(FEATURES), dtype=torch.bool)
    for number, (name, columns) in enumerate(GROUPS.items()):
        hide[:, list(columns)] |= torch.from_numpy(chance[:, number] < DROPPED[name])[:, None]
    return features.masked_fill(hide, math.nan)
