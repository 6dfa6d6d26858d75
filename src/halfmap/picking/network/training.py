"""Teaching a detector: crops, epochs, the best of them, and its calibration."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from halfmap import keyed_random
from halfmap.errors import InconsistentDataError
from halfmap.learning.augment import quarter_turned
from halfmap.learning.measures import PrecisionRecall, precision_recall
from halfmap.learning.train import FitState, fit, initialise
from halfmap.picking.agreement import matched
from halfmap.picking.network.calibration import CalibrationFit, calibrate
from halfmap.picking.network.detect import candidates
from halfmap.picking.network.examples import OUTPUT, Crops, CropSource, LabelledMicrograph
from halfmap.picking.network.loss import detector_loss
from halfmap.picking.network.model import REACH, DetectorNetwork, score
from halfmap.picking.network.params import DetectorTrainingParams
from halfmap.picking.network.preparation import DIAMETER_PIXEL

MATCH_PIXEL = 0.25 * DIAMETER_PIXEL
"""A peak so near to a label is that particle."""

CONTRAST_SPREAD = 0.15
"""Standard deviation of the logarithm of the contrast that crops are given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedPeaks:
    """Peaks in micrographs, where particles are picked.

    Parameters
    ----------
    score : shape (n,).
    is_labelled : whether a label lies there, bool, shape (n,).
    n_labels : there.
    part : of the usable area of the micrographs that this is.
    """

    score: NDArray[np.float64]
    is_labelled: NDArray[np.bool_]
    n_labels: int
    part: float

    @property
    def curve(self) -> PrecisionRecall:
        """Precision and recall, where every peak without a label counts as wrong."""
        return precision_recall(self.score, self.is_labelled, n_positive=self.n_labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingState:
    """A training between two epochs.

    Parameters
    ----------
    fit : where the fit stands.
    average_precision : on held-out micrographs after each epoch, float64, shape (epochs done,).
    best : where the fit stood after the best epoch.
    """

    fit: FitState
    average_precision: NDArray[np.float64]
    best: FitState


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedDetector:
    """A taught and calibrated detector, and what is known of it.

    Parameters
    ----------
    network : calibrated.
    losses, average_precision : of each epoch.
    best_epoch : from 1.
    calibration : of the scores.
    judged : peaks of the held-out micrographs, their scores calibrated.
    """

    network: DetectorNetwork
    losses: NDArray[np.float64]
    average_precision: NDArray[np.float64]
    best_epoch: int
    calibration: CalibrationFit
    judged: JudgedPeaks


def train(
    taught: Sequence[LabelledMicrograph],
    held_out: Sequence[LabelledMicrograph],
    params: DetectorTrainingParams,
    *,
    device: torch.device | None = None,
    start: TrainingState | None = None,
    after_epoch: Callable[[TrainingState], None] | None = None,
) -> TrainedDetector:
    """Teach a detector.

    Parameters
    ----------
    taught, held_out : micrographs to teach with, and to choose the best epoch and calibrate by.
    params : how.
    device : where the network works. Default: the CPU.
    start : a state of the same training, to go on from.
    after_epoch : is told the state after each epoch.

    Raises
    ------
    InconsistentDataError
        There are no labels in either part.
    """
    for kind, some in (("taught with", taught), ("held out", held_out)):
        if not sum(len(one.position_pixel) for one in some):
            raise InconsistentDataError(
                f"Micrographs that are {kind} must hold labelled particles; got none in {len(some)}; give more, or "
                "check coordinates, pixel size and diameter."
            )
    device = torch.device("cpu") if device is None else device
    source = CropSource(taught)
    share = expected_share(source, taught, params.expected_per_micrograph)
    network = DetectorNetwork(params.channels)
    initialise(network, params.seed)
    with torch.no_grad():
        network.get_parameter("answer.bias").fill_(math.log(max(share, 1e-3)))
    network.to(device)
    state = start

    def loss(rows: NDArray[np.int64], epoch: int) -> Tensor:
        around = _varied(source.around_particles(rows, seed=params.seed, epoch=epoch), rows, params.seed, epoch, 0)
        anywhere = _varied(source.anywhere(rows, seed=params.seed, epoch=epoch), rows, params.seed, epoch, 1)
        images = torch.cat([around.images, anywhere.images]).to(device)
        odds = network(images).cpu() if device.type != "cpu" else network(images)
        near, far = odds[: len(rows)], odds[len(rows) :]
        positive = torch.cat([near[around.labelled], far[anywhere.labelled]])
        unlabelled = far[anywhere.usable & ~anywhere.labelled]
        return detector_loss(params.loss, positive, unlabelled, share)

    def keep(fitted: FitState) -> None:
        nonlocal state
        network.eval()
        precision = judge(network, held_out, device).curve.average_precision
        network.train()
        before = state.average_precision if state is not None else np.zeros(0)
        is_best = state is None or precision > before.max()
        state = TrainingState(
            fit=fitted,
            average_precision=np.append(before, precision),
            best=fitted if state is None or is_best else state.best,
        )
        if after_epoch is not None:
            after_epoch(state)

    losses = fit(
        network,
        params.crops_per_epoch,
        loss,
        params,
        start=None if start is None else start.fit,
        after_epoch=keep,
    )
    assert state is not None
    network.load_state_dict(dict(state.best.weights))
    judged = judge(network, held_out, device)
    known = judge(network, taught, device)
    n_expected = params.expected_per_micrograph * sum(
        peaks.part * sum(one.part for one in some) for peaks, some in ((judged, held_out), (known, taught))
    )
    calibration = calibrate(
        np.concatenate([judged.score, known.score]),
        np.concatenate([judged.is_labelled, known.is_labelled]),
        (judged.n_labels + known.n_labels) / n_expected,
        has_taught=np.arange(len(judged.score) + len(known.score)) >= len(judged.score),
    )
    judged = replace(judged, score=calibration.slope * judged.score + calibration.shift)
    network.slope.fill_(calibration.slope)
    network.shift.fill_(calibration.shift)
    network.share.fill_(float(expit(judged.score).mean()))
    return TrainedDetector(
        network=network.cpu().eval(),
        losses=losses,
        average_precision=state.average_precision,
        best_epoch=int(state.average_precision.argmax()) + 1,
        calibration=calibration,
        judged=judged,
    )


def expected_share(source: CropSource, micrographs: Sequence[LabelledMicrograph], per_micrograph: float) -> float:
    """Return the expected share of particles' pixels among those without a label; 0 where all have one."""
    n_labels = sum(len(one.position_pixel) for one in micrographs)
    pixels_of_one = source.n_labelled / n_labels
    expected = per_micrograph * sum(one.part for one in micrographs) * pixels_of_one
    rest = source.n_usable - source.n_labelled
    return min(max(expected - source.n_labelled, 0.0) / rest, 0.5) if rest else 0.0


def judge(
    network: DetectorNetwork, micrographs: Sequence[LabelledMicrograph], device: torch.device | None = None
) -> JudgedPeaks:
    """Find the peaks in micrographs and see which are labelled; scores are not calibrated."""
    scores, labelled = [], []
    n_labels, n_pickable, n_usable = 0, 0, 0
    for one in micrographs:
        peaks = candidates(score(network, one.values.to(device or "cpu")).cpu(), one.pickable)
        found, known = matched(peaks.position, one.position_pixel, distance=MATCH_PIXEL)
        hit = np.zeros(len(peaks), dtype=bool)
        hit[found] = True
        scores.append(peaks.height)
        labelled.append(hit)
        last = np.array(one.pickable.shape[::-1]) - 1
        x, y = np.minimum(np.rint(one.position_pixel), last).astype(np.int64).T
        counts = one.pickable.numpy()[y, x]
        counts[known] = True
        n_labels += int(counts.sum())
        n_pickable += int(one.pickable.sum())
        n_usable += int(one.usable.sum())
    return JudgedPeaks(
        score=np.concatenate(scores),
        is_labelled=np.concatenate(labelled),
        n_labels=n_labels,
        part=n_pickable / max(n_usable, 1),
    )


def _varied(crops: Crops, uids: NDArray[np.int64], seed: int, epoch: int, kind: int) -> Crops:
    """Turn and mirror crops, and change their contrast."""
    keys = 2 * uids + kind
    frame = (REACH,) * 4
    masks = torch.stack([crops.labelled, crops.usable], dim=1)
    planes = torch.cat([crops.images[:, None], torch.nn.functional.pad(masks, frame).float()], dim=1)
    turned = quarter_turned(planes, keys, seed=seed, epoch=epoch)
    contrast = np.exp(CONTRAST_SPREAD * keyed_random.normal(seed, "contrast of crops", keys, iteration=epoch))
    middle = slice(REACH, REACH + OUTPUT)
    return Crops(
        images=turned[:, 0] * torch.from_numpy(contrast).float()[:, None, None],
        labelled=turned[:, 1, middle, middle] > 0.5,
        usable=turned[:, 2, middle, middle] > 0.5,
    )
