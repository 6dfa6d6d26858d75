"""What searches over whole images find, carried over to the parameters of a series."""

import torch
from torch import Tensor

from halfmap.multiparticle import solve
from halfmap.multiparticle.fit import Comparison, Parameters, moved
from halfmap.multiparticle.normal_equations import assemble
from halfmap.multiparticle.parameters import design
from halfmap.multiparticle.window_search import image_defoci, image_shifts

SHIFT_DEVIATION_ANGSTROM = 1.0
DEFOCUS_DEVIATION_ANGSTROM = 100.0
"How exactly found shifts and defoci are taken: much more so than priors are."


def with_images_searched(
    comparison: Comparison,
    parameters: Parameters,
    *,
    shift_angstrom: float = 0.0,
    defocus_angstrom: float = 0.0,
) -> Parameters:
    """Look for shifts or defoci of whole images, and move what can explain them.

    Parameters
    ----------
    comparison : of the series; its resolution decides how finely to look.
    parameters : where to look from.
    shift_angstrom, defocus_angstrom : how far to look; 0 not at all.

    Returns
    -------
    Those given, where the images do not become likelier.
    """
    models = comparison.models(parameters)
    found: dict[str, Tensor] = {}
    if shift_angstrom:
        shifts = image_shifts(
            comparison.images,
            models,
            comparison.noise,
            reach_angstrom=shift_angstrom,
            expected_angstrom=comparison.layouts[0].widths.image_warp_angstrom,
        )
        found |= {"shift_x": shifts[:, 0], "shift_y": shifts[:, 1]}
    if defocus_angstrom:
        found["defocus"] = image_defoci(
            comparison.images,
            models,
            comparison.noise,
            reach_angstrom=defocus_angstrom,
            expected_angstrom=comparison.layouts[0].widths.defocus_angstrom,
        )
    there = _explaining(comparison, parameters, found)
    before, after = (sum(float(one.chi2.sum()) for one in comparison.looked_at(place)) for place in (parameters, there))
    return there if after < before else parameters


def _explaining(comparison: Comparison, parameters: Parameters, found: dict[str, Tensor]) -> Parameters:
    """Return the likeliest parameters under which local ones have changed as found in every particle of an image."""
    parts = []
    for state, layout, taking_part in zip(parameters.species, comparison.layouts, comparison.counted, strict=True):
        plan = design(parameters.series, state.position_angstrom, state.rotation, layout)
        active = plan.active
        hessian = torch.zeros((*taking_part.shape, len(active), len(active)), dtype=torch.float64)
        gradient = torch.zeros((*taking_part.shape, len(active)), dtype=torch.float64)
        for name, change in found.items():
            if name in active:
                deviation = DEFOCUS_DEVIATION_ANGSTROM if name == "defocus" else SHIFT_DEVIATION_ANGSTROM
                i = active.index(name)
                hessian[..., i, i] = taking_part.double() / deviation**2
                gradient[..., i] = -hessian[..., i, i] * change
        parts.append(assemble(gradient, hessian, plan.particle, plan.columns, plan.shared, layout.n_shared))
    equations = solve.with_prior(sum(parts[1:], start=parts[0]), comparison.prior, parameters.shared, parameters.own)
    return moved(parameters, comparison.layouts, *solve.step(equations))
