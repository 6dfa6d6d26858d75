"""What searches over whole images find, carried over to the parameters of a series."""

from dataclasses import replace

import torch
from torch import Tensor

from halfmap.multiparticle import solve
from halfmap.multiparticle.faint_images import FaintImages
from halfmap.multiparticle.fit import Comparison, Parameters, moved
from halfmap.multiparticle.normal_equations import assemble
from halfmap.multiparticle.parameters import design
from halfmap.multiparticle.window_search import image_defoci, image_shifts

DEFOCUS_DEVIATION_ANGSTROM = 100.0
"How exactly found defoci are taken: much more so than priors are."
FAINT = 0.25
"Of the resolution: images whose place is less certain than that are not left to steps, which see one peak alone."

Observed = dict[str, tuple[Tensor, Tensor]]
"""By name of a local parameter, change and precision of it in every particle of an image, each of shape (T,)."""


def with_shifts_searched(
    comparison: Comparison, start: Parameters, parameters: Parameters, *, reach_angstrom: float, is_first: bool
) -> tuple[Parameters, Comparison]:
    """Look for shifts of whole images, and move what can explain them.

    Parameters
    ----------
    comparison : of the series; its resolution decides how finely to look.
    start, parameters : where images are expected, and where to look from.
    reach_angstrom : how far to look.
    is_first : whether every image is to be moved; otherwise those that steps have led to another place than is likely.

    Returns
    -------
    parameters : those given, where the images do not become likelier.
    comparison : without images that the search cannot place, but for what it knows of them; the one given, where no
        image would be left.
    """
    models, before = (comparison.models(place) for place in (parameters, start))
    taking_part = torch.cat([model.counted for model in models]).double()
    n_seen = taking_part.sum(0).clamp(min=1.0)
    moves = torch.cat([now.seen.position_angstrom - then.seen.position_angstrom
                       for now, then in zip(models, before, strict=True)])  # fmt: skip
    offset = (moves * taking_part[..., None]).sum(0) / n_seen[:, None]
    expected = comparison.layouts[0].widths.image_warp_angstrom
    found = image_shifts(
        comparison.images, models, comparison.noise,
        reach_angstrom=reach_angstrom, expected_angstrom=expected, moved_angstrom=offset,
    )  # fmt: skip
    limit = FAINT * min(comparison.resolutions)
    is_faint = (taking_part.sum(0) > 0) & (found.variance.mean(1) > limit**2)
    is_moved = is_faint | (found.mean.norm(dim=1) > limit) | is_first
    # what an image adds to what was expected of it; one that stays is held where it is
    precision = (1 / found.variance - 1 / expected**2).clamp(min=0.0)
    towards = (found.mean / found.variance + offset / expected**2) / precision.clamp(min=1e-12)
    change = torch.where(is_moved[:, None] & (precision > 0), towards, 0.0)
    observed = {f"shift_{axis}": (change[:, i], precision[:, i] / n_seen) for i, axis in enumerate("xy")}
    there = _explaining(comparison, parameters, observed)
    clear = [one & ~is_faint for one in comparison.counted]
    if bool(is_faint.any()) and any(bool(one.any()) for one in clear):
        faint = FaintImages(
            is_faint=is_faint,
            place_angstrom=[model.seen.position_angstrom + change for model in models],
            precision=[(model.counted & is_faint)[..., None] * (precision / n_seen[:, None]) for model in models],
        )
        comparison = replace(comparison, counted=clear, faint=faint)
    return _likelier(comparison, parameters, there), comparison


def with_defoci_searched(comparison: Comparison, parameters: Parameters, *, reach_angstrom: float) -> Parameters:
    """Look for defoci of whole images up to a distance; return those given, where the images do not become likelier."""
    found = image_defoci(
        comparison.images,
        comparison.models(parameters),
        comparison.noise,
        reach_angstrom=reach_angstrom,
        expected_angstrom=comparison.layouts[0].widths.defocus_angstrom,
    )
    precision = torch.full_like(found, DEFOCUS_DEVIATION_ANGSTROM**-2)
    return _likelier(comparison, parameters, _explaining(comparison, parameters, {"defocus": (found, precision)}))


def _likelier(comparison: Comparison, parameters: Parameters, there: Parameters) -> Parameters:
    before, after = (sum(float(one.chi2.sum()) for one in comparison.looked_at(place)) for place in (parameters, there))
    return there if after < before else parameters


def _explaining(comparison: Comparison, parameters: Parameters, observed: Observed) -> Parameters:
    """Return the likeliest parameters under which local ones have changed as observed in every particle of an image."""
    parts = []
    for state, layout, taking_part in zip(parameters.species, comparison.layouts, comparison.counted, strict=True):
        plan = design(parameters.series, state.position_angstrom, state.rotation, layout)
        active = plan.active
        hessian = torch.zeros((*taking_part.shape, len(active), len(active)), dtype=torch.float64)
        gradient = torch.zeros((*taking_part.shape, len(active)), dtype=torch.float64)
        for name, (change, precision) in observed.items():
            if name in active:
                i = active.index(name)
                hessian[..., i, i] = taking_part.double() * precision
                gradient[..., i] = -hessian[..., i, i] * change
        parts.append(assemble(gradient, hessian, plan.particle, plan.columns, plan.shared, layout.n_shared))
    equations = solve.with_prior(sum(parts[1:], start=parts[0]), comparison.prior, parameters.shared, parameters.own)
    return moved(parameters, comparison.layouts, *solve.step(equations))
