"""The network: from how strong all bands are around a voxel to the share of each that is kept there."""

import torch
from torch import Tensor, nn

from halfmap.denoising.bands import N_BANDS, N_ENERGIES

WIDTH = 32
_LEAST = 1e-3
"""Energies are told apart down to this share of their mean."""


class GainNetwork(nn.Module):
    """Gains of bands, 0 to 1, from their local energies.

    Notes
    -----
    Three layers for each voxel by itself. What it sees are logarithms of energies, which do not change where the map is
    turned or mirrored, and all it can do is to keep less of what is there: it has no hand, no place and no shape of its
    own to put into a map. ``scale``, ``middle`` and ``spread`` standardise its input; ``is_local`` is 0 for bands whose
    gain is the same everywhere.
    """

    scale: Tensor
    middle: Tensor
    spread: Tensor
    is_local: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # layers fill themselves from the global generator, which is not ours
            self.first = nn.Linear(N_ENERGIES, WIDTH)
            self.second = nn.Linear(WIDTH, WIDTH)
            self.answer = nn.Linear(WIDTH, N_BANDS)
        self.register_buffer("scale", torch.ones(N_ENERGIES))
        self.register_buffer("middle", torch.zeros(N_ENERGIES))
        self.register_buffer("spread", torch.ones(N_ENERGIES))
        self.register_buffer("is_local", torch.ones(N_BANDS))

    def standardise(self, energies: Tensor) -> None:
        """Take the scale of the input from energies, shape (n, N_ENERGIES)."""
        self.scale = energies.mean(0).clamp(min=torch.finfo(torch.float32).tiny)
        logarithms = self._logarithms(energies)
        self.middle = logarithms.mean(0)
        self.spread = logarithms.std(0).clamp(min=1e-3)

    def start_at(self, gains: Tensor, is_local: Tensor) -> None:
        """Make the answer the same gains everywhere, from which learning then departs.

        Parameters
        ----------
        gains : shape (N_BANDS,).
        is_local : bool, shape (N_BANDS,); the gains of other bands stay the same everywhere.
        """
        self.is_local = is_local.float()
        with torch.no_grad():
            self.answer.weight.zero_()
            self.answer.bias.copy_(torch.logit(gains.clamp(0.02, 0.98)))

    def forward(self, energies: Tensor) -> Tensor:
        """Return gains, shape (n, N_BANDS).

        Parameters
        ----------
        energies : of `in_bands`, float32, shape (n, N_ENERGIES).
        """
        seen = (self._logarithms(energies) - self.middle) / self.spread
        seen = torch.nn.functional.silu(self.first(seen))
        seen = torch.nn.functional.silu(self.second(seen))
        return torch.sigmoid(self.is_local * torch.nn.functional.linear(seen, self.answer.weight) + self.answer.bias)

    def _logarithms(self, energies: Tensor) -> Tensor:
        return (energies / self.scale + _LEAST).log()
