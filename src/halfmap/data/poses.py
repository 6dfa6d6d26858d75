"""`Poses`: where each particle is and how it is turned, along its exposure; one pose is the simple case."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap.data.particles import ParticleSet
from halfmap.errors import InputError, ShapeError


@dataclass(frozen=True, kw_only=True, eq=False)
class Poses:
    """Trajectories of poses: N particles, T points along the dose.

    Parameters
    ----------
    uid : shape (N,), int64.
    rotation : shape (N, T, 3, 3), float64: A of the conventions, a point v of the reference lies at
        (A v)_xy − origin.
    origin_angstrom : shape (N, T, 2), float64: the shift (x, y) that centres the image.
    dose_e_per_angstrom2 : shape (T,), float64: accumulated dose at each point, not decreasing.
    """

    uid: NDArray[np.int64]
    rotation: Tensor
    origin_angstrom: Tensor
    dose_e_per_angstrom2: Tensor

    def __post_init__(self) -> None:
        n = len(self.uid)
        t = self.dose_e_per_angstrom2.shape[0] if self.dose_e_per_angstrom2.ndim == 1 else -1
        for name, expected in (("rotation", (n, t, 3, 3)), ("origin_angstrom", (n, t, 2))):
            if tuple(getattr(self, name).shape) != expected:
                raise ShapeError(
                    f"{name} of {n} particles at {t} doses must have shape {expected}; got "
                    f"{tuple(getattr(self, name).shape)}."
                )
        if t < 1:
            raise ShapeError(
                "A pose must have at least one point along the dose, of shape (T,); got none; give [0] for one."
            )
        if bool((self.dose_e_per_angstrom2.diff() < 0).any()):
            raise InputError("The dose of a trajectory must not decrease; got points out of order; sort them by dose.")

    @classmethod
    def single(cls, uid: ArrayLike, rotation: Tensor, origin_angstrom: Tensor) -> Self:
        """Return one pose for each particle.

        Parameters
        ----------
        uid : shape (N,).
        rotation : shape (N, 3, 3).
        origin_angstrom : shape (N, 2).
        """
        return cls(
            uid=np.asarray(uid, dtype=np.int64),
            rotation=rotation[:, None],
            origin_angstrom=origin_angstrom[:, None],
            dose_e_per_angstrom2=rotation.new_zeros(1),
        )

    @classmethod
    def of_particles(cls, particles: ParticleSet) -> Self:
        """Return the poses of a particle set; a missing offset counts as 0.

        Raises
        ------
        InconsistentDataError
            The particles have no rotations.
        """
        origin = torch.from_numpy(np.array(particles.get("origin_angstrom", 0.0)))
        return cls.single(particles.uid, particles.tensor("rotation"), origin)

    def __len__(self) -> int:
        return len(self.uid)

    @property
    def n_points(self) -> int:
        """Number T of points along the dose."""
        return self.dose_e_per_angstrom2.shape[0]

    def take(self, indices: ArrayLike) -> Self:
        """Return the poses of these particles, by index or boolean mask."""
        rows = np.asarray(indices)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        at = torch.from_numpy(rows).to(self.rotation.device)
        return replace(self, uid=self.uid[rows], rotation=self.rotation[at], origin_angstrom=self.origin_angstrom[at])

    def at_point(self, point: int) -> Self:
        """Return the one pose of each particle at a point of the trajectory."""
        only = slice(point, point + 1) if point != -1 else slice(-1, None)
        return replace(
            self,
            rotation=self.rotation[:, only],
            origin_angstrom=self.origin_angstrom[:, only],
            dose_e_per_angstrom2=self.dose_e_per_angstrom2[only],
        )

    def repeated(self, dose_e_per_angstrom2: Tensor) -> Self:
        """Return trajectories that stand still at a single pose.

        Raises
        ------
        ShapeError
            There are already several points.
        """
        if self.n_points != 1:
            raise ShapeError(f"A pose to repeat must be single; got {self.n_points} points; choose one with at_point.")
        t = dose_e_per_angstrom2.shape[0]
        return replace(
            self,
            rotation=self.rotation.expand(-1, t, -1, -1),
            origin_angstrom=self.origin_angstrom.expand(-1, t, -1),
            dose_e_per_angstrom2=dose_e_per_angstrom2,
        )

    def written_to(self, particles: ParticleSet) -> ParticleSet:
        """Return particles with these single poses, matched by uid.

        Raises
        ------
        ShapeError
            There are several points along the dose.
        InconsistentDataError
            A particle has no pose here.
        """
        if self.n_points != 1:
            raise ShapeError(f"A pose to write must be single; got {self.n_points} points; choose one with at_point.")
        carrier = ParticleSet(
            columns={
                "uid": self.uid,
                "rotation": self.rotation[:, 0].detach().cpu().numpy(),
                "origin_angstrom": self.origin_angstrom[:, 0].detach().cpu().numpy(),
            }
        )
        return particles.join(carrier, "rotation", "origin_angstrom")
