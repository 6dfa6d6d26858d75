"""The scores of Leopard-EM 1.2, for comparisons: its slices, grid, window and normalisation.

What differs from `halfmap.template_matching.refine`, and why that is the better one, stands in the theory page.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from halfmap.grid import ImageGrid
from halfmap.kernels import slice_extraction
from halfmap.template_matching.boxes import Candidates, check_box
from halfmap.template_matching.filters import FilteredMicrograph, bandpass, filter_micrograph, frequencies
from halfmap.template_matching.local_grid import leopard_rotations
from halfmap.template_matching.model import ParticleOptics, cut_boxes
from halfmap.template_matching.params import FilterParams, RefineTemplateParams
from halfmap.template_matching.projection import edge_weights, padded_moments, square_sum
from halfmap.template_matching.refine import Refined
from halfmap.template_matching.search import Statistics
from halfmap.tensors import Rotations, Volumes


@dataclass(frozen=True, kw_only=True, eq=False)
class CubicTemplate:
    """The transform of a template without padding, and the points at which slices are read.

    Parameters
    ----------
    transform : float32, shape (n + 1, n + 1, n // 2 + 1, 2): z and y from -n/2, x from 0, real and imaginary part, on
        the scale of slices.
    grid : of its projections.
    indices : int64, shape (Q,): of the coefficients in a flattened half transform: all but that of zero frequency and
        redundant mates, the corners of the square among them. Those whose mate lies beside them in the half transform,
        on the last column and the corner of the first, stand at the end.
    points : float64, shape (Q, 2): their wave numbers.
    partners : int64, shape (P,): which of the last P each of them is the mate of. A real image takes the mean of a
        coefficient there and the conjugate of its partner.
    """

    transform: Tensor
    grid: ImageGrid
    indices: Tensor
    points: Tensor
    partners: Tensor

    @classmethod
    def of(cls, values: Volumes, grid: ImageGrid) -> "CubicTemplate":
        """Return the transform of a template, an even cube."""
        n = grid.side
        half = n // 2
        shifted = torch.fft.fftshift(grid.rfft(values.to(torch.float32)), dim=(0, 1))
        y, x = torch.meshgrid(torch.arange(-half, half), torch.arange(half), indexing="ij")
        usual = ((x > 0) | (y > 0)).flatten()
        rows = torch.arange(-half, half)
        last = torch.stack([torch.full_like(rows, half), rows], dim=-1)
        points = torch.cat([torch.stack([x, y], dim=-1).reshape(-1, 2)[usual], last, torch.tensor([[0, -half]])])
        return cls(
            transform=torch.nn.functional.pad(torch.view_as_real(shifted * n), (0, 0, 0, 0, 0, 1, 0, 1)).contiguous(),
            grid=ImageGrid.square(n, grid.pixel_size_angstrom),
            indices=(points[:, 1] % n) * (half + 1) + points[:, 0],
            points=points.to(torch.float64),
            partners=torch.cat([(half - rows) % n, torch.tensor([n])]),
        )

    @property
    def weights(self) -> Tensor:
        """How often each coefficient counts in a sum over pixels, in 2 n²: float32, shape (Q,)."""
        weights = torch.ones(len(self.points))
        weights[-len(self.partners) :] = 0.5
        return weights

    def square_sum(self, slices: Tensor, gain: Tensor) -> Tensor:
        """Return Σ P² over the pixels of projections, shape (D, R): slices (R, Q) times gains (D, Q)."""
        last = slice(len(self.points) - len(self.partners), None)
        others, mixed = slices.clone(), slices[:, last]
        others[:, last] /= 2.0
        mates = (mixed * mixed[:, self.partners]).real
        cross = (gain[:, last] * gain[:, last][:, self.partners]) @ mates.T
        n = self.grid.side
        return square_sum(others, gain.square(), n) + cross * (0.25 * 2.0 * n * n)

    def slices(self, rotations: Rotations) -> Tensor:
        """Return central slices, complex64, shape (R, Q): 0 where a point lies outside the cube of wave numbers."""
        planes = rotations[:, :2, :].contiguous()
        read = slice_extraction.extract_slices(
            self.transform.numpy(), planes.numpy(), self.points.numpy(), cubic=True, n_threads=torch.get_num_threads()
        )
        return torch.view_as_complex(torch.from_numpy(read))


@cache
def passed_share(shape: tuple[int, int], params: FilterParams) -> float:
    """Return which share of a micrograph's coefficients the pass band lets through."""
    passed = bandpass(frequencies(shape), params)
    return float(passed.sum() + passed[:, 1 : (shape[1] + 1) // 2].sum()) / (shape[0] * shape[1])


def refine_as_leopard(
    micrograph: Tensor,
    candidates: Candidates,
    template: CubicTemplate,
    box: int,
    params: RefineTemplateParams,
) -> Refined:
    """Refine the particles of one micrograph as Leopard-EM 1.2 does.

    Parameters
    ----------
    micrograph : shape (y, x), as recorded: particles dark.
    candidates : the particles; positions are rounded to whole pixels. Outside the statistics' maps the mean should be
        0 and the deviation huge, so that nothing is found there.
    template : of the micrograph's pixel size.
    box : side of the box about each particle, in pixels.
    params : the settings; ranges and steps of defocus, tilt (θ) and psi, and the filters.

    Returns
    -------
    Refined
        Without uncertainties; the scores at the start are not computed, and NaN.

    Raises
    ------
    InputError
        The box is odd or no larger than the template.
    """
    check_box(box, template.grid.side)
    filtered = filter_micrograph(micrograph, params, seed=params.seed, as_leopard=True)
    turns = leopard_rotations(
        theta_range_degrees=params.tilt_range_degrees if params.orientations else 0.0,
        theta_step_degrees=params.tilt_step_degrees,
        psi_range_degrees=params.psi_range_degrees if params.orientations else 0.0,
        psi_step_degrees=params.psi_step_degrees,
    )
    defocus = torch.tensor(params.defocus_offsets_angstrom(), dtype=torch.float64)
    position = candidates.position_pixel.round()
    found, rotations = [], []
    for row in range(len(candidates)):
        tried = candidates.rotations[row] @ turns
        best = search_as_leopard(
            filtered,
            template,
            position[row].to(torch.int64),
            candidates.optics.take(torch.tensor([row])),
            candidates.statistics,
            row,
            slices=template.slices(tried),
            box=box,
            defocus_angstrom=defocus,
        )
        found.append(best)
        rotations.append(tried[best.rotation])
    unknown = torch.full((len(found),), torch.nan, dtype=torch.float64)
    return Refined(
        position_pixel=position + torch.tensor([best.shift_pixel for best in found]),
        rotations=torch.stack(rotations),
        defocus_offset_angstrom=defocus[torch.tensor([best.defocus for best in found])],
        pixel_size_offset_angstrom=torch.zeros_like(unknown),
        mip=torch.tensor([best.mip for best in found], dtype=torch.float64),
        z=torch.tensor([best.z for best in found], dtype=torch.float64),
        start_mip=unknown,
        start_z=unknown,
        uncertainty=unknown[:, None].expand(-1, 6),
        n_correlations=torch.tensor([best.n_correlations for best in found]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class LeopardBest:
    """The best of a grid, as Leopard-EM takes it.

    Parameters
    ----------
    rotation : number of the orientation.
    defocus : number of the defocus.
    shift_pixel : (x, y) from the given position, whole.
    mip, z : score, and less the mean of the search, divided by the square root of its standard deviation.
    n_correlations : scores computed.
    """

    rotation: int
    defocus: int
    shift_pixel: tuple[int, int]
    mip: float
    z: float
    n_correlations: int


def search_as_leopard(
    filtered: FilteredMicrograph,
    template: CubicTemplate,
    position_pixel: Tensor,
    optics: ParticleOptics,
    statistics: Statistics,
    particle: int,
    *,
    slices: Tensor,
    box: int,
    defocus_angstrom: Tensor,
) -> LeopardBest:
    """Try all orientations, defoci and positions of one particle.

    Parameters
    ----------
    filtered : the micrograph.
    template : whose ``slices``, complex64, shape (R, Q), were taken.
    position_pixel : whole, (x, y) of the particle's centre.
    optics : of it, of length 1.
    statistics, particle : of the search, and the number of the particle there.
    box : side of the box; positions tried are those at which the template lies in it.
    defocus_angstrom : offsets, float64, shape (D,).

    References
    ----------
    ``core_refine_template`` of Leopard-EM 1.2.
    """
    grid, n = template.grid, template.grid.side
    height, width = filtered.values.shape
    corner = position_pixel - box // 2
    values = cut_boxes(filtered.values, corner[None], box, reflect=True)[0] / filtered.root_mean_square
    window = box - n + 1
    patches = values.unfold(0, n, 1).unfold(1, n, 1).reshape(-1, n, n)
    sums = patches.sum((1, 2), dtype=torch.float64) - n * n * float(values.mean(dtype=torch.float64))
    weights = template.weights[:, None]
    seen = torch.view_as_real(grid.rfft(patches).flatten(-2).index_select(-1, template.indices)) * weights
    spatial = template.points / (n * grid.pixel_size_angstrom)
    many = ParticleOptics(**{name: value.expand(len(defocus_angstrom)) for name, value in vars(optics).items()})
    ctf, _ = many.with_defocus_added(defocus_angstrom).ctf(spatial)
    gain = ctf * filtered.curves.at(template.points.norm(dim=-1) / n).to(torch.float32)
    right = torch.view_as_real(slices).flatten(-2)
    edges = torch.view_as_real(edge_weights(grid).flatten().index_select(0, template.indices)) * weights
    edge_mean = ((gain[..., None] * edges).flatten(-2) @ right.T) * (2.0 * n * n)
    moments = padded_moments(edge_mean, template.square_sum(slices, gain), side=n, padded_shape=(box, box))
    scale = passed_share((height, width), filtered.curves.params) ** 0.5 * box / (box + 1)
    factor = moments.square_sum.rsqrt() * scale
    half = window // 2
    y, x = torch.meshgrid(torch.arange(-half, half + 1), torch.arange(-half, half + 1), indexing="ij")
    offsets = torch.stack([x, y], dim=-1).reshape(-1, 2)
    mean, deviation = statistics.at(torch.full((len(offsets),), particle), offsets)
    best: LeopardBest | None = None
    left = torch.empty_like(seen)
    scores = torch.empty((len(offsets), len(slices)))
    level = sums.to(torch.float32)[:, None]
    inverse = deviation.rsqrt()[:, None]
    for d in range(len(gain)):
        torch.mul(seen, gain[d, :, None], out=left)
        torch.mm(left.flatten(-2), right.T, out=scores)
        scores = scores.mul_(2.0 * n * n).sub_(level * moments.edge_mean[d]).mul_(factor[d])
        z = (scores - mean[:, None]) * inverse
        highest, place = z.flatten().max(dim=0)
        if best is None or float(highest) > best.z:
            at, rotation = divmod(int(place), len(slices))
            best = LeopardBest(
                rotation=rotation,
                defocus=d,
                shift_pixel=(int(offsets[at, 0]), int(offsets[at, 1])),
                mip=float(scores.flatten()[place]),
                z=float(highest),
                n_correlations=len(slices) * len(gain) * len(offsets),
            )
    assert best is not None
    return best
