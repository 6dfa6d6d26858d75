"""The ranker's network: a small convolutional one beside a table of numbers."""

import itertools

import torch
from torch import Tensor, nn

from halfmap.classification.ranking.features import FEATURES, SIDE
from halfmap.tensors import Images

OUTPUTS = ("log odds of a good class", "log odds of purity", "FRC to the nearest projection")
"""What it predicts; the last two only help it to learn."""


class RankerNetwork(nn.Module):
    """Log odds that class averages are good.

    Parameters
    ----------
    width : channels of the first layer; the others follow.

    Notes
    -----
    Four convolutions that halve the sides, with group normalisation, see a picture and the distance from its
    centre; their mean and their greatest answer join the numbers of `FEATURES`, of which each comes with a mark
    whether it is known. ``mean`` and ``deviation`` bring the numbers to a common scale; ``slope`` and ``shift``
    calibrate the first output.
    """

    mean: Tensor
    deviation: Tensor
    slope: Tensor
    shift: Tensor

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # layers fill themselves from the global generator, which is not ours
            self._build(width)
        self.register_buffer("mean", torch.zeros(len(FEATURES)))
        self.register_buffer("deviation", torch.ones(len(FEATURES)))
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def _build(self, width: int) -> None:
        channels = (2, width, 2 * width, 3 * width, 4 * width)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise(channels)):
            kernel = 5 if number == 0 else 3
            layers += [
                nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2, bias=False),
                nn.GroupNorm(4, after),
                nn.SiLU(),
            ]
        self.eye = nn.Sequential(*layers)
        self.seen = nn.Linear(2 * channels[-1], 2 * width)
        self.joined = nn.Linear(2 * width + 2 * len(FEATURES), 4 * width)
        self.answer = nn.Linear(4 * width, len(OUTPUTS))

    def forward(self, images: Images, features: Tensor) -> Tensor:
        """Return `OUTPUTS`, not calibrated.

        Parameters
        ----------
        images : float32, shape (n, 64, 64).
        features : float32, shape (n, number of `FEATURES`); nan where unknown.

        Returns
        -------
        shape (n, 3)
        """
        axis = (torch.arange(SIDE, dtype=images.dtype) - SIDE // 2) / (SIDE / 2)
        radius = torch.hypot(axis[:, None], axis).expand_as(images)
        maps = self.eye(torch.stack([images, radius], dim=1)).flatten(2)
        seen = torch.nn.functional.silu(self.seen(torch.cat([maps.mean(dim=2), maps.amax(dim=2)], dim=1)))
        known = torch.isfinite(features)
        scaled = torch.where(known, (features - self.mean) / self.deviation, 0.0).clamp(-4.0, 4.0)
        joined = self.joined(torch.cat([seen, scaled, known.to(scaled.dtype)], dim=1))
        answer: Tensor = self.answer(torch.nn.functional.silu(joined))
        return answer

    def log_odds(self, images: Images, features: Tensor) -> Tensor:
        """Return the calibrated log odds of a good class, the mean over eight views of each picture, shape (n,).

        The views are turned by quarters and mirrored about the centre pixel.
        """
        views = []
        for mirrored in (False, True):
            seen = _mirrored(images) if mirrored else images
            for _ in range(4):
                views.append(self(seen, features)[:, 0])
                seen = _mirrored(seen).transpose(1, 2)  # a quarter turn
        return self.slope * torch.stack(views).mean(dim=0) + self.shift


def _mirrored(images: Images) -> Images:
    """Exchange left and right about pixel ``n // 2``; the first column, which has no mate, stays."""
    return (
        torch.cat([images[..., :1], images[..., 1:].flip(-1)], dim=-1) if images.shape[-1] % 2 == 0 else images.flip(-1)
    )
