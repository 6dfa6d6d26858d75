"""Simulated series on disk, read as a user's files are, and what a refinement makes of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import halfmap
from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.image_source import ImageSource
from halfmap.data.population import Species, SpeciesParticles
from halfmap.data.volumes import Volume
from halfmap.io import mrc
from halfmap.io.detector import Detector
from halfmap.io.frames import open_movie
from halfmap.io.species_particles import read_species_particles_of_m
from halfmap.io.tomostar import average_path
from halfmap.io.warp_series import SeriesSizes, read_series
from halfmap.io.warp_settings import read_settings
from halfmap.multiparticle.references import ReferencePair, reference_pair
from halfmap.multiparticle.refine import SeriesProblem, SeriesResult, SpeciesProblem
from halfmap.simulation.series_agreement import MapFrame, SeriesAgreement, compare_series


@dataclass(frozen=True, eq=False)
class SimulatedFiles:
    """What `halfmap simulate tilt-series` or `frame-series` left in a folder."""

    folder: Path

    @property
    def is_of_tilts(self) -> bool:
        return (self.folder / "tomostar").is_dir()

    @property
    def items(self) -> list[str]:
        """Names of the series."""
        metadata = self.folder / ("warp_tiltseries" if self.is_of_tilts else "warp_frameseries")
        return sorted(path.stem for path in metadata.glob("*.xml"))

    def series(self, item: str, *, true: bool = False) -> TiltSeries | FrameSeries:
        folder = self.folder / "truth" if true else self.folder
        kind = "warp_tiltseries" if self.is_of_tilts else "warp_frameseries"
        sizes = SeriesSizes()
        if not self.is_of_tilts:
            settings = read_settings(self.folder / "warp_frameseries.settings")
            frames = len(open_movie(self._movie(item), pixel_size_angstrom=settings.pixel_size_angstrom))
            dose = (settings.exposure_e_per_angstrom2 or 0.0) / frames
            sizes = SeriesSizes(n_frames=frames, dose_per_frame_e_per_angstrom2=dose)
        return read_series(folder / kind / f"{item}.xml", sizes)

    def images(self, item: str) -> ImageSource:
        if not self.is_of_tilts:
            pixel_size = self.series(item).optics.pixel_size_angstrom
            gain = self.folder / "gain.mrc"
            return open_movie(
                self._movie(item),
                pixel_size_angstrom=pixel_size,
                detector=Detector(gain_path=gain if gain.exists() else None),
            )
        series = self.series(item)
        tomostar = self.folder / "tomostar" / f"{item}.tomostar"
        return mrc.StackSource([f"1@{average_path(tomostar, name)}" for name in series.movie_names])

    def _movie(self, item: str) -> Path:
        return next((self.folder / "frames").glob(f"{item}.*"))

    def particles(self, species: str, item: str | None = None, *, true: bool = False) -> SpeciesParticles:
        folder = "truth" if true else "species"
        found = read_species_particles_of_m(self.folder / folder / f"{species}_particles.star")
        if item is None:
            return found
        return found.take(np.array([str(name).split(".")[0] == item for name in found.source_name], dtype=bool))

    def halves(self, species: str) -> tuple[Volume, Volume]:
        first, second = (mrc.read_volume(self.folder / "species" / f"{species}_half{half}.mrc") for half in (1, 2))
        return first, second

    def mask(self, species: str) -> Volume:
        return mrc.read_volume(self.folder / "species" / f"{species}_mask.mrc")

    def true_map(self, species: str) -> Volume:
        return mrc.read_volume(self.folder / "truth" / f"{species}_map.mrc")

    def species(self, name: str, symmetry: str = "C1") -> Species:
        grid = self.true_map(name).grid
        return Species(
            guid=name,
            name=name,
            pixel_size_angstrom=grid.pixel_size_angstrom,
            diameter_angstrom=grid.side * grid.pixel_size_angstrom / 2,
            symmetry=symmetry,
        )

    def references(self, name: str, resolution_angstrom: float, halves: tuple[Volume, Volume] | None = None
                   ) -> ReferencePair:  # fmt: skip
        first, second = halves or self.halves(name)
        diameter = self.species(name).diameter_angstrom
        return reference_pair(first, second, resolution_angstrom, diameter_angstrom=diameter, mask=self.mask(name))

    def problem(
        self,
        item: str,
        resolution_angstrom: dict[str, float],
        *,
        series: TiltSeries | FrameSeries | None = None,
        particles: dict[str, SpeciesParticles] | None = None,
        halves: dict[str, tuple[Volume, Volume]] | None = None,
    ) -> SeriesProblem:
        """Return what a refinement is given: of each named species, up to its resolution."""
        species = [
            SpeciesProblem(
                name=name,
                particles=particles[name] if particles else self.particles(name, item),
                references=self.references(name, resolution, (halves or {}).get(name)),
                diameter_angstrom=self.species(name).diameter_angstrom,
            )
            for name, resolution in resolution_angstrom.items()
        ]
        return SeriesProblem(series=series or self.series(item), images=self.images(item), species=tuple(species))

    def agreement(
        self,
        item: str,
        species: str,
        series: TiltSeries | FrameSeries | None = None,
        poses: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        resolution_angstrom: float = 12.0,
        frame: MapFrame | None = None,
        symmetry: str = "C1",
    ) -> SeriesAgreement:
        """Compare a series and poses with the truth; those of the files where none are given."""
        start = self.particles(species, item)
        position, rotation = poses or (start.position_angstrom, start.rotation)
        true = self.particles(species, item, true=True)
        return compare_series(
            self.series(item, true=True),
            series or self.series(item),
            (torch.from_numpy(true.position_angstrom), torch.from_numpy(true.rotation)),
            (torch.from_numpy(position), torch.from_numpy(rotation)),
            diameter_angstrom=self.species(species).diameter_angstrom,
            resolution_angstrom=resolution_angstrom,
            symmetry=symmetry,
            frame=frame,
        )

    def agreement_of(self, item: str, species: str, result: SeriesResult, number: int = 0, **settings
                     ) -> SeriesAgreement:  # fmt: skip
        """Compare what a refinement made of a series; the species' number is its place in the problem."""
        fitted = result.species[number]
        assert fitted is not None
        poses = fitted.position_angstrom, fitted.rotation
        return self.agreement(item, species, result.series, poses, **settings)


def make_population(folder: Path, specimen: str, **simulation: Any) -> Path:
    """Make a population ``m`` of one species 100 Å wide from simulated tilt series, in a project; return its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / ".halfmap").mkdir()
        halfmap.simulate_tilt_series(
            specimen=(specimen,), pixel_size_angstrom=4.0, tilt_step_degrees=20.0, workers=1, out="sim", **simulation
        )
        halfmap.population_create(folder="m", name="demo")
        halfmap.population_add_source(population="m", processing="sim/warp_tiltseries.settings", name="tilts")
        halfmap.population_add_species(
            population="m",
            name="one",
            diameter_angstrom=100,
            half1=next(Path("sim/species").glob("*_half1.mrc")),
            mask=next(Path("sim/species").glob("*_mask.mrc")),
            particles=Path(f"sim/species/{specimen}_particles.star"),
            workers=1,
        )
    return folder
