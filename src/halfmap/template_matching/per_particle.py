"""Dataclasses of tensors whose first axis is the particle."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class PerParticle:
    """What is known of N particles: every field is a tensor of shape (N, ...)."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self, rows: Tensor) -> Self:
        """Return some particles, in the order given."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def put(self, rows: Tensor, part: Self) -> Self:
        """Return all particles, with others in place of some."""
        values = {field.name: getattr(self, field.name).clone() for field in fields(self)}
        for name, value in values.items():
            value[rows] = getattr(part, name)
        return type(self)(**values)

    def chosen(self, first: Tensor, other: Self) -> Self:
        """Return these particles where ``first``, bool, shape (N,), is true, and the others elsewhere."""
        rows = torch.nonzero(~first).flatten()
        return self.put(rows, other.take(rows))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the particles of several parts, one after the other."""
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})
