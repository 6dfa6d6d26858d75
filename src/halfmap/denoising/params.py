"""What can be set about denoising."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt


@dataclass(frozen=True, kw_only=True)
class DenoisingParams:
    """How a pair of half maps is denoised."""

    to_angstrom: Annotated[float, Gt(0)] | None = None
    """Resolution beyond which nothing is kept. Default: a fifth finer in frequency than where the FSC is 0.143."""

    seed: int = 1
    """Seed of the networks' first weights and of the voxels that they learn from."""
