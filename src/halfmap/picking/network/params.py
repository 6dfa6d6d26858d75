"""What can be set about teaching and using a detector."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Le

from halfmap.learning.params import TrainingParams

LossKind: TypeAlias = Literal["ge-binomial", "pn", "pu"]


@dataclass(frozen=True, kw_only=True)
class DetectorTrainingParams(TrainingParams):
    """How a detector is taught."""

    diameter_angstrom: Annotated[float, Gt(0)]
    """Diameter of the particles; of their longest view, if they are not round."""

    expected_per_micrograph: Annotated[float, Gt(0)]
    """Particles that a micrograph holds on average, labelled or not. A guess within a factor of two will do."""

    loss: LossKind = "ge-binomial"
    """ge-binomial: the number expected holds for what is not labelled; pu: the risk without bias that it implies; pn:
    what is not labelled is taken for background."""

    channels: Annotated[int, Ge(4), Le(64)] = 16
    """Feature planes of the network: with more it can tell more kinds of things apart, and takes longer."""

    epochs: Annotated[int, Ge(1)] = 10
    """Most rounds of training; that with the best average precision on held-out micrographs is kept."""

    batch: Annotated[int, Ge(1)] = 8
    """Crops around labelled particles in a step, and crops from anywhere."""

    crops_per_epoch: Annotated[int, Ge(1)] = 400
    """Crops of each of the two kinds in an epoch."""

    held_out_fraction: Annotated[float, Gt(0), Le(0.5)] = 0.2
    """Share of the labelled particles in micrographs that are held out, to choose the best epoch and to calibrate."""


@dataclass(frozen=True, kw_only=True)
class NetworkPickParams:
    """How particles are found by a network."""

    diameter_angstrom: Annotated[float, Gt(0)]
    """Diameter of the particles; of their longest view, if they are not round."""

    threshold: Annotated[float, Ge(-6)] = -3.0
    """Least figure of merit of a pick: log-odds of being a particle. 0 is as likely as not; -3 is 1 in 20, as low as is
    worth to look at; extraction takes its own, --min-fom."""

    min_distance_angstrom: Annotated[float, Gt(0)] | None = None
    """Least distance between two picks. Default: half the diameter."""

    white_particles: bool = False
    """Particles are brighter than the background, not darker."""

    edge_distance_angstrom: Annotated[float, Ge(0)] | None = None
    """Least distance of a pick from the edge of the micrograph. Default: half the diameter."""

    @property
    def pick_distance_angstrom(self) -> float:
        """Least distance between two picks, in Å."""
        return 0.5 * self.diameter_angstrom if self.min_distance_angstrom is None else self.min_distance_angstrom

    @property
    def margin_angstrom(self) -> float:
        """Least distance of a pick from the edge, in Å."""
        return 0.5 * self.diameter_angstrom if self.edge_distance_angstrom is None else self.edge_distance_angstrom
