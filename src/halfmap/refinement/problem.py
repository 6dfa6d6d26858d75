"""`RefinementProblem`: the images of a 3D refinement, in two halves, as the E-step's tasks read them."""

from dataclasses import dataclass, fields

from numpy.typing import ArrayLike
from torch import Tensor

from halfmap.compute.executor import Executor
from halfmap.data.half_sets import HalfSets
from halfmap.data.image_source import ImageSource
from halfmap.errors import InputError
from halfmap.geometry.symmetry_names import canonical_name
from halfmap.refinement.params import RefinementParams
from halfmap.refinement.volume_problem import VolumeProblem


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinementProblem(VolumeProblem):
    """Particles in two halves, and their images.

    Parameters
    ----------
    half_sets : the particles, with all their columns.
    """

    half_sets: HalfSets

    @classmethod
    def of_halves(
        cls,
        half_sets: HalfSets,
        images: ImageSource,
        params: RefinementParams,
        executor: Executor,
        *,
        solvent_mask: Tensor | None = None,
        index: ArrayLike | None = None,
        background_mean: ArrayLike = 0.0,
        background_deviation: ArrayLike = 1.0,
    ) -> "RefinementProblem":
        """Put particles and images together; see `VolumeProblem.of`.

        Raises
        ------
        InputError
            Numbers of particles and images differ, the mask is larger than the box, a symmetry is unknown, or a
            solvent-flattened FSC has no mask.
        ShapeError
            The solvent mask has another shape than the maps.
        """
        if params.solvent_flattened_fsc and solvent_mask is None:
            raise InputError(
                "A solvent-flattened FSC must have a mask; got none; give one with --mask, or leave out "
                "--solvent-flattened-fsc."
            )
        if params.relax_symmetry is not None:
            canonical_name(params.relax_symmetry)
        whole = VolumeProblem.of(
            half_sets.particles,
            images,
            executor,
            mask_diameter_angstrom=params.mask_diameter_angstrom,
            mask_edge_pixel=params.mask_edge_pixel,
            symmetry=params.symmetry,
            ctf=params.ctf,
            ctf_intact_first_peak=params.ctf_intact_first_peak,
            seed=params.seed,
            solvent_mask=solvent_mask,
            index=index,
            background_mean=background_mean,
            background_deviation=background_deviation,
        )
        return cls(half_sets=half_sets, **{field.name: getattr(whole, field.name) for field in fields(whole)})
