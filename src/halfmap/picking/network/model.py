"""The detector: a small fully convolutional network without any padding or normalisation inside."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from halfmap.tensors import Images

CHANNELS = 16
DILATIONS = (1, 2, 2, 2)
"""Distance between the taps of the two convolutions of each block."""

REACH = 2 + 2 * sum(DILATIONS)
"""Pixels that the network looks beyond the one that it judges."""

TILE = 256
"""Side of the output computed at once: what fits a cache and bounds the memory."""


class DetectorNetwork(nn.Module):
    """Log-odds that a particle's centre lies at a pixel.

    Notes
    -----
    A convolution of 5 x 5 and four residual blocks of two dilated ones of 3 x 3: every output sees 33 x 33 pixels, two
    diameters of the particle. There is no pooling and no normalisation by what else is in the picture, so a pixel's
    score depends on its surroundings alone: dense prediction and patches agree. ``slope`` and ``shift`` calibrate, and
    ``share`` of the peaks where that was done were particles.
    References: He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition"; Yu and Koltun 2016,
    "Multi-scale context aggregation by dilated convolutions".
    """

    slope: Tensor
    shift: Tensor
    share: Tensor

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # layers fill themselves from the global generator, which is not ours
            self.first = nn.Conv2d(1, channels, 5)
            self.blocks = nn.ModuleList(_Block(channels, dilation) for dilation in DILATIONS)
            self.mixed = nn.Conv2d(channels, channels, 1)
            self.answer = nn.Conv2d(channels, 1, 1)
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("share", torch.full((), 0.5))

    def forward(self, images: Images) -> Images:
        """Return log-odds, not calibrated.

        Parameters
        ----------
        images : float32, shape (n, y, x).

        Returns
        -------
        shape (n, y - 2 REACH, x - 2 REACH)
        """
        seen = torch.relu(self.first(images[:, None]))
        for block in self.blocks:
            seen = block(seen)
        answer: Tensor = self.answer(torch.relu(self.mixed(seen)))
        return answer[:, 0]


class _Block(nn.Module):
    """Two convolutions beside a bypass."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.before = nn.Conv2d(channels, channels, 3, dilation=dilation)
        self.after = nn.Conv2d(channels, channels, 3, dilation=dilation)

    def forward(self, seen: Tensor) -> Tensor:
        """Return what is seen and a correction, 2 dilations narrower at each side."""
        cut = 2 * self.dilation
        change = self.after(torch.relu(self.before(seen)))
        return torch.relu(seen[..., cut:-cut, cut:-cut] + 0.5 * change)


@torch.no_grad()
def score(network: DetectorNetwork, values: Tensor) -> Tensor:
    """Return log-odds for every pixel of a picture, not calibrated, float32, shape (y, x).

    Parameters
    ----------
    values : float32, shape (y, x); 0, its mean, is seen around it.
    """
    height, width = values.shape
    padded = pad(values, (REACH, REACH, REACH, REACH))
    result = torch.empty_like(values)
    for y, x in itertools.product(range(0, height, TILE), range(0, width, TILE)):
        bottom, right = min(y + TILE, height), min(x + TILE, width)
        tile = padded[y : bottom + 2 * REACH, x : right + 2 * REACH]
        result[y:bottom, x:right] = network(tile[None])[0]
    return result
