"""``halfmap pick network``: particles as a taught network finds them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from halfmap.picking.network.params import NetworkPickParams
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    from torch import Tensor

    from halfmap.compute.broadcast import Broadcast
    from halfmap.picking.micrograph_picks import MicrographPicks
    from halfmap.picking.network.card import Detector


@dataclass(frozen=True, kw_only=True)
class PickNetworkJobParams(NetworkPickParams):
    """Inputs and settings of ``halfmap pick network``."""

    micrographs: Path
    """STAR file of the micrographs."""

    model: Path | None = None
    """Detector that ``halfmap pick train`` has written. Default: a general one that comes with halfmap."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the micrographs. Default: that of their table; older tables do not know it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkTask:
    """What every worker needs.

    Parameters
    ----------
    settings : of the picking.
    network : handle of the `DetectorNetwork`.
    """

    settings: NetworkPickParams
    network: "Broadcast"


def run(context: JobContext, params: PickNetworkJobParams) -> Path:
    """Pick, and return the path of ``autopick.star``.

    Raises
    ------
    InconsistentDataError
        The model is no detector.
    """
    from halfmap.jobs.picking import pick_all
    from halfmap.picking.network.card import concern

    detector = read_detector(params.model)
    said = concern(detector.card, params.diameter_angstrom)
    if said is not None:
        context.progress.message(said)
    return pick_all(
        context,
        params.micrographs,
        pick_with_network,
        NetworkTask(settings=params, network=context.executor.broadcast(detector.network)),
        pixel_size_angstrom=params.pixel_size_angstrom,
        radius_angstrom=params.diameter_angstrom / 2,
        title="Network picking",
    )


def read_detector(path: Path | None) -> "Detector":
    """Return the detector of a file, or the one that comes with halfmap.

    Raises
    ------
    InconsistentDataError
        The file is broken, or of something else; nothing in it is executed.
    InputError
        There is no such file.
    """
    from halfmap.errors import InputError
    from halfmap.picking.network import card

    if path is None:
        return card.general()
    if not path.is_file():
        raise InputError(f"--model must be the model.safetensors of halfmap pick train; got {path}; check the path.")
    return card.from_bytes(path.read_bytes(), str(path))


def pick_with_network(micrograph: "Tensor", *, pixel_size_angstrom: float, params: NetworkTask) -> "MicrographPicks":
    """Pick in one micrograph with the network that all workers share."""
    from halfmap.picking.network.detect import pick

    network = params.network.load().to(micrograph.device)
    return pick(micrograph, pixel_size_angstrom=pixel_size_angstrom, network=network, params=params.settings)


JOB = JobType(
    command="pick network",
    folder="AutoPick",
    parameters=PickNetworkJobParams,
    run=run,
    summary="Find particles with a taught network, or the one that comes with halfmap",
    inputs=("micrographs", "model"),
)
