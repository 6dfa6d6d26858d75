"""What may be wrong with a resolution, as data."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from halfmap.data.volumes import Volume
from halfmap.fourier import shells
from halfmap.postprocessing import masks
from halfmap.postprocessing.directional import DirectionalFsc
from halfmap.postprocessing.half_map_fsc import GUARD_SHELLS, THRESHOLD, HalfMapFsc, molecular_volume_angstrom3
from halfmap.postprocessing.sharpening import SharpenedMap

Kind: TypeAlias = Literal[
    "resolution at the Nyquist frequency",
    "resolution limited by the band of the last iteration",
    "FSC does not fall to zero",
    "FSC never falls enough to randomise phases",
    "half maps are one map",
    "half maps hardly agree",
    "half maps are masked already",
    "resolution read where the mask is not corrected for",
    "FSC rises again",
    "no resolution",
    "nothing beyond the join",
    "mask correlates",
    "mask costs resolution",
    "mask too tight",
    "mask generous",
    "mask has a hard edge",
    "mask reaches the box's edge",
    "no mask",
    "no B-factor",
    "B-factor does not sharpen",
    "resolution depends on the direction",
]


@dataclass(frozen=True, kw_only=True)
class Concern:
    """One thing that may be wrong.

    Parameters
    ----------
    kind : which.
    text : a sentence with its numbers, and what to do.
    level : ``bad`` where the resolution should not be trusted.
    """

    kind: Kind
    text: str
    level: Literal["plain", "warning", "bad"] = "warning"

    @property
    def words(self) -> str:
        """What it is and the sentence, as a log or a page says it."""
        return f"{self.kind[0].upper()}{self.kind[1:]}. {self.text}"


_NEAR_NYQUIST = 1.1
_TAIL_SHARE, _TAIL_FSC = 0.1, 0.1
_MASK_FSC = 0.1
_OF_ONE_MAP_FSC = 0.9999
_LOWEST_SHELLS, _LOWEST_FSC = 4, 0.5
_MASKED_SHARE = 0.25
_HARD_STEP = 0.8
_SPACIOUS = 5.0
_ANISOTROPY_RATIO = 1.35


def concerns_about_fsc(fsc: HalfMapFsc) -> list[Concern]:
    """Return what the curves give cause to doubt.

    Notes
    -----
    The Nyquist frequency limits a resolution within a tenth of it, and the band of a last iteration one that stands
    above 0.143 where the band ends. Shells beyond the band are not looked at. The FSC is not falling to zero where it
    has crossed 0.143 before its last tenth, whose mean still exceeds 0.1. It rises again where, after the first
    crossing, three neighbouring shells exceed 0.143 by their noise. The mask correlates where the FSC of random phases
    exceeds 0.1 at the resolution. An FSC above 0.9999 in all shells is that of a map with itself. Half maps hardly
    agree where the unmasked FSC of the lowest four shells is below 0.5 in the mean.
    """
    found: list[Concern] = []
    if float(fsc.unmasked[1 : fsc.end_shell + 1].min()) > _OF_ONE_MAP_FSC:
        return [
            Concern(
                kind="half maps are one map",
                text="The unmasked FSC is 1 in every shell: one map is the other, but for its scale, and nothing is "
                "told of the resolution. Name half 1 and half 2 of one refinement.",
                level="bad",
            )
        ]
    resolution, nyquist = fsc.resolution_angstrom, 2 * fsc.grid.pixel_size_angstrom
    curve = fsc.corrected[: fsc.end_shell + 1]
    n_tail = max(3, math.ceil(_TAIL_SHARE * len(curve)))
    tail = float(curve[-n_tail:].mean())
    if not math.isfinite(resolution):
        return [
            Concern(
                kind="no resolution",
                text="The corrected FSC begins below 0.143: the half maps have nothing in common. Check that they are "
                "of one refinement and that the mask covers the particle.",
                level="bad",
            )
        ]
    if fsc.is_of_join:
        return [
            Concern(
                kind="nothing beyond the join",
                text=f"The corrected FSC falls below 0.143 at {fsc.crossing_angstrom:.3g} Å, no further than what the "
                f"halves shared below {resolution:.3g} Å reaches: that is all that counts. The particles may hold "
                "nothing, or the reference was wrong; look at 2D classes, or begin with another reference.",
                level="bad",
            )
        ]
    lowest = float(fsc.unmasked[1 : _LOWEST_SHELLS + 1].mean())
    if lowest < _LOWEST_FSC:
        return [
            Concern(
                kind="half maps hardly agree",
                text=f"The unmasked FSC of the lowest {_LOWEST_SHELLS} shells is {lowest:.2f} in the mean, where half "
                f"maps of one particle agree by nearly 1: what is read at {resolution:.3g} Å may be chance and the "
                "mask. Check that they are of one refinement.",
                level="bad",
            )
        ]
    is_reached = bool((curve < THRESHOLD).any())
    if fsc.is_limited_by_band:
        found.append(
            Concern(
                kind="resolution limited by the band of the last iteration",
                text=f"The FSC stands above 0.143 up to {resolution:.3g} Å, where the band of the last iteration ends; "
                "what lies beyond holds no data and does not count. To see how far the particles reach, refine on with "
                "--start-from the last numbered iteration, this mask as --mask, and --solvent-flattened-fsc.",
                level="warning",
            )
        )
    elif not is_reached or resolution < _NEAR_NYQUIST * nyquist:
        where = "The FSC never falls below 0.143" if not is_reached else f"The resolution of {resolution:.3g} Å is near"
        found.append(
            Concern(
                kind="resolution at the Nyquist frequency",
                text=f"{where}{': the sampling limits it,' if not is_reached else ' the limit of the sampling,'} "
                f"{nyquist:.3g} Å. Extract with smaller pixels to see what the data hold.",
                level="bad" if not is_reached else "warning",
            )
        )
    if tail > _TAIL_FSC and fsc.last_shell < len(curve) - n_tail:
        found.append(
            Concern(
                kind="FSC does not fall to zero",
                text=f"The mean of the corrected FSC over its last {n_tail} shells is {tail:.2f} instead of 0. The "
                "halves may share something: particles, an applied mask, a reference, or interpolated pixels.",
                level="bad",
            )
        )
    elif is_reached and (again := _rises_again(fsc)) is not None:
        found.append(
            Concern(
                kind="FSC rises again",
                text=f"After its first crossing at {resolution:.3g} Å the corrected FSC exceeds 0.143 again up to "
                f"{again:.3g} Å. The first crossing is reported; look at the curve.",
            )
        )
    if fsc.masked is not fsc.unmasked:
        found += _concerns_about_masking(fsc)
    return found


def concerns_about_halves(half1: Volume, half2: Volume) -> list[Concern]:
    """Return whether two half maps have been masked before: what that mask correlates is not corrected for.

    Notes
    -----
    In the sphere inscribed in the box, over a quarter of the voxels hold the same value in both; noise seldom does.
    """
    grid = half1.grid
    inside = grid.radii() <= min(grid.shape) / 2 * grid.pixel_size_angstrom
    share = float((half1.values == half2.values)[inside].double().mean())
    if share <= _MASKED_SHARE:
        return []
    return [
        Concern(
            kind="half maps are masked already",
            text=f"{100 * share:.0f} % of the voxels hold the same value in both half maps, as outside a mask. What "
            "that mask adds to the FSC is not taken away, and the resolution may be too good: name the unmasked, "
            "unfiltered half maps.",
            level="bad",
        )
    ]


def concerns_about_mask(mask: Volume, molecular_mass_kilodalton: float | None = None) -> list[Concern]:
    """Return what a mask's shape gives cause to doubt.

    Notes
    -----
    The edge is hard where neighbouring voxels differ by more than 0.8. The volume is that of the voxels above one half;
    it should be at least the molecule's, and five times it is generous.
    """
    found = []
    values = mask.values
    step = max(float(values.diff(dim=axis).abs().max()) for axis in range(3))
    if step > _HARD_STEP:
        found.append(
            Concern(
                kind="mask has a hard edge",
                text=f"Neighbouring voxels of the mask differ by up to {step:.2g}. A hard edge correlates the halves "
                "by itself: give the mask a soft edge of several voxels.",
            )
        )
    if any(bool((face > 0.5).any()) for axis in range(3) for face in (values.select(axis, 0), values.select(axis, -1))):
        found.append(
            Concern(
                kind="mask reaches the box's edge",
                text="The mask reaches the edge of the box: the particle may be cut off, or the threshold of the mask "
                "too low.",
            )
        )
    if molecular_mass_kilodalton is not None:
        volume, molecule = masks.volume_angstrom3(mask), molecular_volume_angstrom3(molecular_mass_kilodalton)
        ratio = volume / molecule
        figures = (
            f"The mask holds {volume:.3g} Å³ and a particle of {molecular_mass_kilodalton:g} kDa {molecule:.3g} Å³"
        )
        if ratio < 1:
            found.append(
                Concern(kind="mask too tight", text=f"{figures}: the mask cuts it. Lower its threshold.", level="bad")
            )
        elif ratio > _SPACIOUS:
            found.append(
                Concern(
                    kind="mask generous",
                    text=f"{figures}: noise in the rest lowers the FSC. A tighter mask may show a better resolution.",
                    level="plain",
                )
            )
    return found


def concerns_about_sharpening(sharpened: SharpenedMap, *, is_automatic: bool) -> list[Concern]:
    """Return what the fit of the B-factor gives cause to doubt."""
    if not is_automatic:
        return []
    if not math.isfinite(sharpened.guinier.slope_angstrom2):
        return [
            Concern(
                kind="no B-factor",
                text="Too few shells lie between the lowest resolution of the Guinier fit and its end: the map was not "
                "sharpened. Give --b-factor, or a lower resolution to --fit-from.",
            )
        ]
    if sharpened.b_factor_angstrom2 > 0:
        return [
            Concern(
                kind="B-factor does not sharpen",
                text=f"The fitted B-factor is {sharpened.b_factor_angstrom2:.0f} Å²: amplitudes rise with resolution "
                "and the map was dampened. The halves may be sharpened already; name the unfiltered ones.",
            )
        ]
    return []


def concerns_about_directions(directional: DirectionalFsc) -> list[Concern]:
    """Return whether directions differ too much: by more than 35 % where a tenth on either side is left out."""
    shares = torch.tensor([0.1, 0.9], dtype=torch.float64)
    best, worst = directional.resolution_angstrom.quantile(shares).tolist()
    if worst <= _ANISOTROPY_RATIO * best:
        return []
    x, y, z = directional.worst_direction.tolist()
    return [
        Concern(
            kind="resolution depends on the direction",
            text=f"A tenth of the directions is better than {best:.3g} Å, a tenth worse than {worst:.3g} Å; the "
            f"worst is (x, y, z) = ({x:.2f}, {y:.2f}, {z:.2f}). Views may be missing.",
        )
    ]


def _concerns_about_masking(fsc: HalfMapFsc) -> list[Concern]:
    found = []
    if fsc.randomise_from_shell is None:
        found.append(
            Concern(
                kind="FSC never falls enough to randomise phases",
                text="The unmasked FSC never falls below the value at which phases are randomised, so that the masked "
                "FSC is not corrected.",
                level="bad",
            )
        )
        return found
    at = min(fsc.last_shell, len(fsc.randomised) - 1)
    if at < fsc.randomise_from_shell + GUARD_SHELLS:
        found.append(
            Concern(
                kind="resolution read where the mask is not corrected for",
                text=f"The masked FSC falls below 0.143 within {GUARD_SHELLS} shells of where phases are randomised, "
                f"{fsc.randomise_from_angstrom:.3g} Å, where what the mask adds cannot be told; without a mask it "
                f"falls at {fsc.resolution_of(fsc.unmasked):.3g} Å. Give --randomise-from a lower resolution.",
            )
        )
    elif float(fsc.randomised[at]) > _MASK_FSC:
        found.append(
            Concern(
                kind="mask correlates",
                text=f"Maps with random phases correlate by {float(fsc.randomised[at]):.2f} at the resolution, by the "
                "mask alone. It is too tight or its edge too sharp: widen it.",
            )
        )
    unmasked = _first_below(fsc.unmasked)
    corrected = _first_below(fsc.corrected)
    if unmasked > corrected:
        found.append(
            Concern(
                kind="mask costs resolution",
                text="The unmasked FSC reaches further than the corrected one: the mask misses part of the particle or "
                "correlates by itself. It is used all the same; make another.",
            )
        )
    return found


def _first_below(curve: Tensor) -> int:
    below = torch.nonzero(curve < THRESHOLD).flatten()
    return int(below[0]) if len(below) else len(curve)


def _rises_again(fsc: HalfMapFsc) -> float | None:
    """Return the finest resolution of three neighbouring shells above the threshold by noise, behind the crossing."""
    # a masked map has fewer independent coefficients, by the share of the box that the mask holds
    share = min(1.0, 0.476 / fsc.box_over_particle)
    deviation = 1 / torch.sqrt((shells.shell_counts(fsc.grid) / 2 * share).clamp_min(1))
    above = fsc.corrected > THRESHOLD + deviation
    runs = above[:-2] & above[1:-1] & above[2:]
    runs[: fsc.last_shell + 1] = False
    places = torch.nonzero(runs).flatten()
    if not len(places):
        return None
    return max(fsc.grid.shape) * fsc.grid.pixel_size_angstrom / (int(places[-1]) + 2)
