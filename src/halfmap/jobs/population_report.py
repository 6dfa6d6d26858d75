"""What pages say about a species: its half-maps and mask, resolution, particles and where they were found."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from halfmap.data.population import Species, SpeciesParticles
from halfmap.data.volumes import Volume
from halfmap.jobs.local_resolution_report import coloured_slices
from halfmap.jobs.postprocess_report import outlined_slices, postprocess_facts, postprocess_sections
from halfmap.jobs.volume_report import central_slices
from halfmap.multiparticle.directional_maps import view_table
from halfmap.multiparticle.linking import Link
from halfmap.multiparticle.species import SpeciesMaps
from halfmap.postprocessing.masks import automatic_threshold, low_passed
from halfmap.report.blocks import Axis, Block, Fact, Gallery, Histogram, Mark, Note, Section, Table
from halfmap.report.density import Density
from halfmap.report.surface import surface_picture

_SURFACE_ANGSTROM = 10.0
_LIMITS = (0.02, 0.98)
_TILE_PIXEL = 138


def given_section(half1: Volume, half2: Volume, mask: Volume, *, note: str) -> Section:
    """Return half-maps and mask as they were given: surfaces and slices, before anything is made of them."""
    resolution = max(_SURFACE_ANGSTROM, 3 * half1.grid.pixel_size_angstrom)
    smooth = [low_passed(half, resolution) for half in (half1, half2)]
    thresholds = [automatic_threshold(one) for one in smooth]
    pictures = [
        *(surface_picture(one.values.numpy(), level) for one, level in zip(smooth, thresholds, strict=True)),
        surface_picture(mask.values.numpy(), 0.5),
    ]
    captions = [*(f"half {number}, at {level:.3g}" for number, level in enumerate(thresholds, 1)), "mask"]
    mean = Volume(values=(half1.values + half2.values) / 2, grid=half1.grid)
    surfaces = Gallery(
        pictures=pictures,
        captions=captions,
        title="Surfaces",
        caption=f"Seen along z; half-maps low-passed at {resolution:g} Å.",
        tile_pixel=230,
    )
    blocks: list[Block] = [
        Note(text=note),
        surfaces,
        outlined_slices(mean, mask, "Mean of the half-maps, with the outline of the mask"),
        replace(central_slices(half1, "Half-map 1"), tile_pixel=_TILE_PIXEL),
        replace(central_slices(half2, "Half-map 2"), tile_pixel=_TILE_PIXEL),
    ]
    return Section(title="Half-maps and mask", blocks=blocks)


def species_facts(species: Species, maps: SpeciesMaps, n_particles: int) -> list[Fact]:
    """Return the tiles of a species."""
    grid = maps.half1.grid
    found = [fact for fact in postprocess_facts(maps.result) if fact.label in ("Resolution", "B-factor", "Mask")]
    return [
        *found,
        Fact(label="Particles", value=n_particles),
        Fact(label="Box", value=grid.side, unit="px", note=f"{grid.pixel_size_angstrom:.4g} Å each"),
        Fact(label="Symmetry", value=species.symmetry, note=f"diameter {species.diameter_angstrom:g} Å"),
    ]


def species_sections(maps: SpeciesMaps) -> list[Section]:
    """Return what was measured of a species' half-maps, and the maps made of them."""
    sections = [
        section
        for section in postprocess_sections(maps.result, is_mask_automatic=False)
        if section.title != "For the methods section"
    ]
    if maps.local is not None and maps.locally_filtered is not None:
        inside = maps.local.resolution.values[maps.mask.values > 0.5].numpy()
        low, high = (float(value) for value in np.quantile(inside, _LIMITS))
        marks = [Mark(value=maps.resolution_angstrom, label="whole map")]
        blocks: list[Block] = [
            coloured_slices(maps.local.resolution, maps.locally_filtered, maps.mask, limits=(low, high)),
            Histogram.of(
                inside,
                title="Resolution of the voxels in the mask",
                x=Axis(label="local resolution", unit="Å"),
                bins=40,
                marks=marks,
            ),
        ]
        sections.append(Section(title="Local resolution", blocks=blocks))
    shown = replace(central_slices(maps.denoised, "Denoised map"), tile_pixel=_TILE_PIXEL)
    reach = Note(text=f"Denoised to {maps.denoised_to_angstrom:.4g} Å; a denoised map has no resolution of its own.")
    sections.append(Section(title="Denoised map", blocks=[shown, reach]))
    return sections


def views_section(particles: SpeciesParticles, symmetry: str) -> Section:
    """Return from where particles were seen."""
    views = view_table(torch.from_numpy(particles.rotation[:, 0]), symmetry).reshape(45, 4, 90, 4).mean((1, 3))
    block = Density(
        title="Views, over their mean",
        x_edges=np.linspace(-180, 180, 91),
        y_edges=np.linspace(0, 180, 46),
        counts=views.numpy(),
        x=Axis(label="rot", unit="°"),
        y=Axis(label="tilt", unit="°"),
        caption="Counted in pixels of 7°, with all equivalent views.",
        colour=Axis(label="of the mean"),
    )
    return Section(title="Viewing directions", blocks=[block])


def link_section(link: Link, notes: Sequence[str]) -> Section:
    """Return which sources particles were found in, and what was not found and why."""
    n_given = len(link.is_linked)
    blocks: list[Block] = [Note(text=" ".join(notes))] if notes else []
    rows = [(name, n, items) for name, (n, items) in link.n_of_source.items()]
    blocks.append(Table(columns=("source", "particles", "items with particles"), rows=rows, title="Where they are"))
    if link.unmatched:
        missed = [(one.name, one.n_particles, one.reason) for one in link.unmatched]
        blocks.append(
            Table(columns=("name", "particles", "likely reason"), rows=missed, title="Names that no item has")
        )
    if link.n_outside:
        blocks.append(Note(text=outside_text(link), level="warning"))
    return Section(
        title="Particles", blocks=blocks, intro=f"{int(link.is_linked.sum())} of {n_given} particles are in an item."
    )


def outside_text(link: Link) -> str:
    """Return the sentence about particles that lie in no volume."""
    return (
        f"{link.n_outside} of {len(link.particles)} particles lie outside the tomogram or image of their item: the "
        "pixel size of the coordinates may be another; see --coordinate-pixel-size."
    )
