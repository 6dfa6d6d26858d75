"""A detector as a file: safetensors with a JSON card, and nothing that executes."""

import dataclasses
import importlib.resources
import json
import math
import re
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_from_tensors

from halfmap.errors import InconsistentDataError
from halfmap.learning.measures import precision_recall
from halfmap.picking.network.model import DetectorNetwork
from halfmap.picking.network.params import DetectorTrainingParams
from halfmap.picking.network.preparation import DIAMETER_PIXEL, MEAN_SIGMA, SPREAD_SIGMA
from halfmap.picking.network.training import TrainedDetector

VERSION = 2
_KEY = "halfmap_detector"
_LONGEST_HEADER = 1 << 20
_SHIPPED = "general.safetensors"


@dataclass(frozen=True, kw_only=True)
class DetectorCard:
    """What is known of a detector.

    Parameters
    ----------
    version : of the card.
    diameter_pixel, mean_sigma, spread_sigma : how micrographs are prepared for it: the particles' diameter in its
        pixels, and the windows of local mean and deviation in diameters.
    diameter_angstrom : of the particles that it has learned from; None where they were of many sizes.
    source : what it has learned from.
    specimens : built-in specimens among that.
    n_micrographs, n_labels : that taught it.
    n_held_out_labels : by which it was judged.
    channels : feature planes of the network.
    expected_per_micrograph, loss, epochs, seed : of the training.
    best_epoch : whose weights these are.
    average_precision : on held-out micrographs, every peak without a label counted as wrong.
    precision_at_even_odds, recall_at_even_odds : of the held-out peaks whose figure of merit is 0 or more.
    labelled_share : of the particles, as the calibration has found it.
    """

    version: int = VERSION
    diameter_pixel: int = DIAMETER_PIXEL
    mean_sigma: float = MEAN_SIGMA
    spread_sigma: float = SPREAD_SIGMA
    diameter_angstrom: float | None
    source: str
    specimens: tuple[str, ...] = ()
    n_micrographs: int
    n_labels: int
    n_held_out_labels: int
    channels: int
    expected_per_micrograph: float
    loss: str
    epochs: int
    seed: int
    best_epoch: int
    average_precision: float
    precision_at_even_odds: float | None
    recall_at_even_odds: float
    labelled_share: float

    @classmethod
    def of(
        cls, trained: TrainedDetector, params: DetectorTrainingParams, *, n_micrographs: int, n_labels: int, source: str
    ) -> "DetectorCard":
        """Write the card of a detector."""
        curve = precision_recall(trained.judged.score, trained.judged.is_labelled, n_positive=trained.judged.n_labels)
        taken = int((curve.threshold >= 0).sum())
        return cls(
            diameter_angstrom=params.diameter_angstrom,
            source=source,
            n_micrographs=n_micrographs,
            n_labels=n_labels,
            n_held_out_labels=trained.judged.n_labels,
            channels=params.channels,
            expected_per_micrograph=params.expected_per_micrograph,
            loss=params.loss,
            epochs=params.epochs,
            seed=params.seed,
            best_epoch=trained.best_epoch,
            average_precision=float(trained.average_precision.max()),
            precision_at_even_odds=float(curve.precision[taken - 1]) if taken else None,
            recall_at_even_odds=float(curve.recall[taken - 1]) if taken else 0.0,
            labelled_share=trained.calibration.labelled_share,
        )

    def text(self) -> str:
        """Return the card as JSON for people."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
    """A network and its card."""

    network: DetectorNetwork
    card: DetectorCard


def to_bytes(detector: Detector) -> bytes:
    """Return a detector as the bytes of a safetensors file, its card in the header."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in detector.network.state_dict().items()}
    return bytes_from_tensors(tensors, metadata={_KEY: json.dumps(dataclasses.asdict(detector.card))})


def from_bytes(content: bytes, name: str) -> Detector:
    """Return the detector of a file; nothing in it is executed.

    Parameters
    ----------
    content : of the file.
    name : of the file, for messages.

    Raises
    ------
    InconsistentDataError
        The file is broken, or of something else, or of another version.
    """
    card = _card(_header(content, name), name)
    try:
        tensors = tensors_from_bytes(content)
        network = DetectorNetwork(card.channels)
        network.load_state_dict(tensors)
    except (RuntimeError, SafetensorError) as error:
        raise _foreign(name, f"weights that are not ({' '.join(str(error).split())[:200]})") from error
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise _foreign(name, "weights that are not finite")
    return Detector(network=network.eval(), card=card)


@cache
def general() -> Detector:
    """Return the detector that the package ships."""
    content = importlib.resources.files("halfmap.picking.network").joinpath(_SHIPPED).read_bytes()
    return from_bytes(content, _SHIPPED)


def concern(card: DetectorCard, diameter_angstrom: float) -> str | None:
    """Return what a user should know who picks particles of that diameter; None where all fits."""
    taught = card.diameter_angstrom
    if taught is None or abs(math.log(diameter_angstrom / taught)) < math.log(1.2):
        return None
    return (
        f"The detector has learned from particles of {taught:g} Å and is now given {diameter_angstrom:g} Å. It sees "
        "all particles at one size, so this works for particles that look alike; otherwise teach one for this size."
    )


def _header(content: bytes, name: str) -> dict[str, Any]:
    """Return the metadata of a safetensors file."""
    if len(content) < 8:
        raise _foreign(name, f"{len(content)} bytes")
    (length,) = struct.unpack("<Q", content[:8])
    if not 2 <= length <= min(_LONGEST_HEADER, len(content) - 8):
        raise _foreign(name, "a file without the header of safetensors")
    try:
        header = json.loads(content[8 : 8 + length])
    except ValueError:
        raise _foreign(name, "a file whose header is no JSON") from None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _card(metadata: dict[str, Any], name: str) -> DetectorCard:
    if _KEY not in metadata:
        raise _foreign(name, "a safetensors file without the card of a detector")
    try:
        content = json.loads(metadata[_KEY])
        version = content.pop("version")
    except (ValueError, TypeError, AttributeError, KeyError):
        raise _foreign(name, "a card that cannot be read") from None
    if version != VERSION:
        raise _foreign(name, f"a card of version {version}; this halfmap reads {VERSION}")
    try:
        card = DetectorCard(**{**content, "specimens": tuple(content.get("specimens", ()))})
    except TypeError as error:
        unknown = re.sub(r"^\S+ ", "", str(error))
        raise _foreign(name, f"a card with other fields ({unknown})") from None
    prepared = (card.diameter_pixel, card.mean_sigma, card.spread_sigma)
    if not (isinstance(card.channels, int) and 4 <= card.channels <= 64):
        raise _foreign(name, f"a network of {card.channels!r} channels")
    if not np.allclose(prepared, (DIAMETER_PIXEL, MEAN_SIGMA, SPREAD_SIGMA)):
        raise _foreign(name, f"one for micrographs prepared in another way ({prepared})")
    return card


def _foreign(name: str, found: str) -> InconsistentDataError:
    return InconsistentDataError(
        f"{name} must be a detector that halfmap pick train has written; got {found}; choose its model.safetensors."
    )
