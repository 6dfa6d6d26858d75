"""Images that show too little to be placed by steps: what a search knows of their places stands in for them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class FaintImages:
    """Gaussian observations of where particles lie in images that have no other say.

    A step sees one peak of a likelihood. An image that could as well lie elsewhere would be drawn to a peak of its
    noise, and be sure of it.

    Parameters
    ----------
    is_faint : bool, shape (T,).
    place_angstrom : of each species, float64, shape (P, T, 2): where its particles are taken to lie.
    precision : of each species, float64, shape (P, T, 2), in 1/Å² along x and y; zero where nothing is observed.
    """

    is_faint: Tensor
    place_angstrom: Sequence[Tensor]
    precision: Sequence[Tensor]

    @property
    def concern(self) -> str:
        """A sentence about them."""
        numbers = ", ".join(str(t + 1) for t in self.is_faint.nonzero().flatten().tolist())
        return (
            f"{int(self.is_faint.sum())} of {len(self.is_faint)} images show too little for the search to tell where "
            f"they lie (number {numbers}): they had no say, and lie where they are expected on the average; look at "
            "their error bars before they count in a map."
        )

    def added(
        self, species: int, place_angstrom: Tensor, active: Sequence[str], gradient: Tensor, hessian: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return a species' local gradient, (P, T, d), and Hessian, (P, T, d, d), with the observations'.

        Parameters
        ----------
        species : its number.
        place_angstrom : shape (P, T, 2), where its particles lie now.
        active : names of the d local parameters.
        """
        gradient, hessian = gradient.clone(), hessian.clone()
        for axis, name in enumerate(("shift_x", "shift_y")):
            i, precision = active.index(name), self.precision[species][..., axis]
            gradient[..., i] += precision * (place_angstrom - self.place_angstrom[species])[..., axis]
            hessian[..., i, i] += precision
        return gradient, hessian

    def energy(self, places_angstrom: Sequence[Tensor]) -> float:
        """Return half the squared distance of places from what was observed, in standard deviations."""
        return sum(
            float((precision * (now - place).square()).sum()) / 2
            for precision, now, place in zip(self.precision, places_angstrom, self.place_angstrom, strict=True)
        )
