"""A species and a data source as their files hold them."""

from dataclasses import dataclass
from pathlib import Path

from halfmap.data.image_series import FrameSeries, TiltSeries
from halfmap.data.population import DataSource, SourceItem, Species, SpeciesParticles
from halfmap.errors import HalfmapError
from halfmap.io import warp_population, warp_xml
from halfmap.io.warp_series import SeriesSizes, read_series, write_series
from halfmap.jobs.population_tilt_averages import TiltAverages
from halfmap.jobs.versioned_folder import VersionedFolder
from halfmap.multiparticle.linking import root_name

_FEWEST_TILTS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenSpecies:
    """A species and where its files are.

    Parameters
    ----------
    path : the ``.species`` file.
    species : what it says.
    """

    path: Path
    species: Species

    def file(self, kind: str) -> Path:
        """Return the file of a kind: ``half1.mrc``, ``mask.mrc``, ``particles.star`` …"""
        return warp_population.species_file(self.path, kind)

    def particles(self) -> SpeciesParticles:
        """Read its particles."""
        return warp_population.read_species_particles_of_m(self.file("particles.star"))

    @property
    def versions(self) -> VersionedFolder:
        """Its files and their earlier versions."""
        stem = self.path.stem

        def listed(main: Path, folder: Path) -> list[str]:
            return sorted(
                path.name
                for path in folder.iterdir()
                if path.is_file() and (path.name == main.name or path.name.startswith(f"{stem}_"))
            )

        def version_of(main: Path) -> tuple[str, str]:
            species = warp_population.read_species(main)
            return species.version, species.previous_version

        return VersionedFolder(main=self.path, list_files=listed, version_of=version_of, holds_nothing_else=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenSource:
    """A data source and where its files are.

    Parameters
    ----------
    path : the ``.source`` file; the metadata of its items lie beside it.
    source : what it says.
    """

    path: Path
    source: DataSource

    def metadata_path(self, item: SourceItem) -> Path:
        """Return the file with an item's metadata, ``TS_1.xml``."""
        return self.path.with_name(f"{root_name(item.name)}.xml")

    def read_item(self, item: SourceItem, path: Path | None = None) -> TiltSeries | FrameSeries:
        """Read an item; of its images only those of the lowest dose are used, if the source has a limit.

        Parameters
        ----------
        path : of its metadata, if they lie elsewhere than beside the source.

        Raises
        ------
        FormatError
            Its metadata are missing or broken.
        """
        series = read_series(path or self.metadata_path(item), self.sizes)
        return series.with_first_images(self.source.max_images) if self.source.max_images > 0 else series

    def write_item(self, folder: Path, item: SourceItem, series: TiltSeries | FrameSeries) -> None:
        """Write an item's metadata into the folder of a version that is being made.

        Which images are used is left as it was: the limit of the source is not of the item.
        """
        live = self.metadata_path(item)
        is_used = read_series(live, self.sizes).is_used
        write_series(folder / live.name, series.with_values(is_used=is_used), base=live)

    @property
    def sizes(self) -> SeriesSizes:
        """What the metadata of older versions do not say of an item, and the source does."""
        x, y, z = (side * self.source.pixel_size_angstrom for side in self.source.dimensions_pixel)
        if not self.source.is_of_tilt_series:
            dose = self.source.dose_per_frame_e_per_angstrom2
            return SeriesSizes(image_size_angstrom=(x, y), dose_per_frame_e_per_angstrom2=dose)
        return SeriesSizes(volume_size_angstrom=(x, y, z))

    def items_not_used(self) -> dict[str, str]:
        """Return the root names of items that lie beside the source and are not of it → why."""
        used = {root_name(item.name) for item in self.source.items}
        return {
            path.stem: why_not_used(path, self.sizes)
            for path in sorted(self.path.parent.glob("*.xml"))
            if path.stem not in used
        }

    @property
    def versions(self) -> VersionedFolder:
        """Its file, the metadata of its items, and their earlier versions."""

        def listed(main: Path, folder: Path) -> list[str]:
            items = warp_population.read_source(main).items
            names = [main.name, self.averages.name, *(f"{root_name(item.name)}.xml" for item in items)]
            return sorted(name for name in names if (folder / name).is_file())

        def version_of(main: Path) -> tuple[str, str]:
            source = warp_population.read_source(main)
            return source.version, source.previous_version

        return VersionedFolder(
            main=self.path,
            list_files=listed,
            version_of=version_of,
            holds_nothing_else=False,
            elsewhere=self.averages,
        )

    @property
    def averages(self) -> TiltAverages:
        """Averages of tilts that were made anew."""
        return TiltAverages(source=self.path)


def why_not_used(metadata: Path, sizes: SeriesSizes) -> str:
    """Return why an item whose metadata lie beside a source is not used: a clause."""
    try:
        series = read_series(metadata, sizes)
    except HalfmapError as error:
        return str(error)
    if not series.is_selected:
        by_hand = warp_xml.read(metadata).root.attributes.get("UnselectManual", "")
        return "it was deselected by hand" if warp_xml.flag(by_hand) else "it was filtered out for its quality"
    return why_unusable(series) or "it was excluded, or processed later than the source was made"


def why_unusable(series: TiltSeries | FrameSeries) -> str | None:
    """Return why a series cannot be refined: a clause; None where it can."""
    if not series.is_used.any():
        return "none of its images is used"
    if isinstance(series, TiltSeries) and len(series) < _FEWEST_TILTS:
        return "a tilt series must have at least two tilts; it has one"
    return None
