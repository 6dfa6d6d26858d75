"""Populations, data sources and species of M: their files, read tolerantly and changed in place."""

from collections.abc import Mapping
from pathlib import Path

from halfmap.data.population import DataSource, Member, Population, SourceItem, Species
from halfmap.errors import FormatError, InconsistentDataError, InputError
from halfmap.io import warp_xml
from halfmap.io.species_particles import read_species_particles_of_m, write_species_particles_of_m
from halfmap.io.warp_params import Params, put, set_params, set_section
from halfmap.io.warp_xml import XmlDocument, XmlElement

__all__ = [
    "member_path",
    "read_population",
    "read_source",
    "read_source_of",
    "read_species",
    "read_species_of",
    "read_species_particles_of_m",
    "species_file",
    "species_path",
    "write_population",
    "write_source",
    "write_species",
    "write_species_particles_of_m",
]

_POPULATION, _SOURCE, _SPECIES = "Population", "DataSource", "Species"
_OPTIONS = "LastRefinementOptions"

_FURTHER_OF_SOURCE = {"DontVersion": "False", "RelativeWeight": "1", "RelativeBFactor": "0, 0, 0"}
_FURTHER_OF_SPECIES = {
    "DontVersion": "False",
    "HelicalUnits": "1",
    "HelicalTwist": "0",
    "HelicalRise": "0",
    "HelicalHeight": "0",
    "DoEwald": "False",
    "EwaldReverse": "True",
    "UseForAlignment": "True",
    "ApplyDenoising": "True",
    "MaskAutoThreshold": "0.02",
    "MaskAutoResolution": "10",
    "MaskUseManual": "True",
}
"M's parameters that no field holds, with its defaults."


def read_population(path: str | Path) -> Population:
    """Read a ``.population`` file.

    Raises
    ------
    FormatError
        It cannot be read or is something else.
    """
    document = _read(path, _POPULATION)
    options = document.root.first(_OPTIONS)
    return Population(
        name=document.root.params.get("Name", document.path.stem),
        species=_members(document, "Species"),
        sources=_members(document, "Sources"),
        refinement_options={} if options is None else options.params,
    )


def write_population(path: str | Path, population: Population) -> None:
    """Write a ``.population`` file; of an existing one what it does not know stays."""
    document = _open(path, _POPULATION)
    set_params(document, {"Name": population.name})
    for section, child, members in (
        ("Species", "Species", population.species),
        ("Sources", "Source", population.sources),
    ):
        rows = [{"GUID": member.guid, "Path": member.path} for member in members]
        set_section(document, section, child, rows)
    options = document.root.first(_OPTIONS)
    if population.refinement_options and (options is None or options.params != population.refinement_options):
        put(document, _OPTIONS, warp_xml.text_of_params(_OPTIONS, population.refinement_options))
    document.write(path)


def read_source(path: str | Path) -> DataSource:
    """Read a ``.source`` file.

    Raises
    ------
    FormatError
        It cannot be read, is something else, or has no GUID or pixel size.

    Notes
    -----
    A negative dose per frame is the negated exposure of a movie, and 0 says nothing.
    """
    document = _read(path, _SOURCE)
    values = Params(document, {**_FURTHER_OF_SOURCE, **document.root.params})
    dose = values.number("DosePerAngstromFrame", 0.0)
    pixel_size = values.number("PixelSizeX", 1.35)
    files = document.root.first("Files")
    return DataSource(
        guid=values.required("GUID"),
        name=values.text("Name", document.path.stem),
        version=values.text("Version", ""),
        previous_version=values.text("PreviousVersion", ""),
        pixel_size_angstrom=values.number("PixelSize", pixel_size),
        dimensions_pixel=(
            values.number("DimensionsX", 3712.0),
            values.number("DimensionsY", 3712.0),
            values.number("DimensionsZ", 1400.0),
        ),
        max_images=values.whole("FrameLimit", -1),
        dose_per_frame_e_per_angstrom2=dose if dose > 0 else None,
        exposure_e_per_angstrom2=-dose if dose < 0 else None,
        eer_group_frames=values.whole("EERGroupFrames", 10),
        gain_path=values.text("GainPath", ""),
        defects_path=values.text("DefectsPath", ""),
        gain_flip_x=values.flag("GainFlipX", False),
        gain_flip_y=values.flag("GainFlipY", False),
        gain_transpose=values.flag("GainTranspose", False),
        items=() if files is None else tuple(_item(document, file) for file in files.all("File")),
        used_species=_versions(document, "UsedSpecies"),
        further=values.rest(),
    )


def write_source(path: str | Path, source: DataSource) -> None:
    """Write a ``.source`` file; of an existing one what it does not know stays."""
    document = _open(path, _SOURCE)
    dose = source.dose_per_frame_e_per_angstrom2 or 0.0
    if source.exposure_e_per_angstrom2 is not None:
        dose = -source.exposure_e_per_angstrom2
    params = {
        "GUID": source.guid,
        "Version": source.version,
        "PreviousVersion": source.previous_version,
        "Name": source.name,
        "PixelSize": warp_xml.text_of_number(source.pixel_size_angstrom),
        **{
            f"Dimensions{axis}": warp_xml.text_of_number(side)
            for axis, side in zip("XYZ", source.dimensions_pixel, strict=True)
        },
        "FrameLimit": str(source.max_images),
        "GainPath": source.gain_path,
        "DefectsPath": source.defects_path,
        "GainFlipX": warp_xml.text_of_flag(source.gain_flip_x),
        "GainFlipY": warp_xml.text_of_flag(source.gain_flip_y),
        "GainTranspose": warp_xml.text_of_flag(source.gain_transpose),
        "DosePerAngstromFrame": warp_xml.text_of_number(dose),
        "EERGroupFrames": str(source.eer_group_frames),
    }
    set_params(document, params | _texts(source.further))
    set_section(document, "UsedSpecies", "Species", _rows_of_versions(source.used_species))
    files = [
        {
            "Hash": item.hash,
            "Name": item.name,
            "Weight": warp_xml.text_of_number(item.weight),
            "Bfactor": warp_xml.text_of_number(item.b_factor_angstrom2),
        }
        for item in source.items
    ]
    set_section(document, "Files", "File", files)
    document.write(path)


def read_species(path: str | Path) -> Species:
    """Read a ``.species`` file; maps and particles are beside it, see `species_file`.

    Raises
    ------
    FormatError
        It cannot be read, is something else, or has no GUID.

    Notes
    -----
    A resolution of −1, or none above 0, means that there is none yet.
    """
    document = _read(path, _SPECIES)
    values = Params(document, {**_FURTHER_OF_SPECIES, **document.root.params})
    resolution = values.number("GlobalResolution", -1.0)
    b_factor = values.number("GlobalBFactor", 0.0)
    denoised_to = values.number("DenoisedAtResolution", -1.0)
    samples = max(values.whole("TemporalResolutionMovement", 1), values.whole("TemporalResolutionRotation", 1))
    return Species(
        guid=values.required("GUID"),
        name=values.text("Name", document.path.stem),
        version=values.text("Version", ""),
        previous_version=values.text("PreviousVersion", ""),
        pixel_size_angstrom=values.number("PixelSize", 1.0),
        diameter_angstrom=values.number("DiameterAngstrom", 50.0),
        symmetry=values.text("Symmetry", "C1"),
        molecular_weight_kda=values.number("MolecularWeightkDa", 100.0),
        n_temporal_samples=samples,
        resolution_angstrom=resolution if resolution > 0 else None,
        b_factor_angstrom2=b_factor if resolution > 0 or b_factor else None,
        denoised_to_angstrom=denoised_to if denoised_to > 0 else None,
        used_sources=_versions(document, "UsedDataSources"),
        further=values.rest(),
    )


def write_species(path: str | Path, species: Species) -> None:
    """Write a ``.species`` file; of an existing one what it does not know stays.

    Raises
    ------
    InputError
        The diameter is not a whole number of Å, which M demands.
    """
    if species.diameter_angstrom != round(species.diameter_angstrom):
        raise InputError(
            f"The diameter of species {species.name} must be a whole number of Å; got {species.diameter_angstrom}; "
            "round it."
        )
    document = _open(path, _SPECIES)
    params = {
        "GUID": species.guid,
        "Version": species.version,
        "PreviousVersion": species.previous_version,
        "Name": species.name,
        "PixelSize": warp_xml.text_of_number(species.pixel_size_angstrom),
        "MolecularWeightkDa": warp_xml.text_of_number(species.molecular_weight_kda),
        "DiameterAngstrom": str(round(species.diameter_angstrom)),
        "Symmetry": species.symmetry,
        "TemporalResolutionMovement": str(species.n_temporal_samples),
        "TemporalResolutionRotation": str(species.n_temporal_samples),
        "GlobalResolution": warp_xml.text_of_number(species.resolution_angstrom or -1.0),
        "GlobalBFactor": str(round(species.b_factor_angstrom2 or 0.0)),
        "DenoisedAtResolution": warp_xml.text_of_number(species.denoised_to_angstrom or -1.0),
    }
    set_params(document, params | _FURTHER_OF_SPECIES | _texts(species.further))
    set_section(document, "UsedDataSources", "DataSource", _rows_of_versions(species.used_sources))
    document.write(path)


def species_path(population: str | Path, name: str, guid: str) -> Path:
    """Return where a new species of a population goes: ``species/<name>_<8 of GUID>/<name>.species`` beside it."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    return Path(population).parent / "species" / f"{name}_{guid[:8]}" / f"{name}.species"


def species_file(path: str | Path, suffix: str) -> Path:
    """Return a file of a species, such as ``half1.mrc``, ``mask.mrc`` or ``particles.star``, by its ``.species``."""
    path = Path(path)
    return path.with_name(f"{path.stem}_{suffix}")


def member_path(population: str | Path, member: Member) -> Path:
    """Return where a member's file is: its path counts from the population's folder."""
    return Path(population).parent / member.path.replace("\\", "/")


def read_source_of(population: str | Path, member: Member) -> DataSource:
    """Read a population's data source, and see that it is the one that is meant.

    Raises
    ------
    FormatError
        It is not where the population says, or broken.
    InconsistentDataError
        Its GUID is another.
    """
    source = read_source(_present(population, member))
    _check_guid(population, member, source.guid)
    return source


def read_species_of(population: str | Path, member: Member) -> Species:
    """Read a population's species, and see that it is the one that is meant; raises as `read_source_of`."""
    species = read_species(_present(population, member))
    _check_guid(population, member, species.guid)
    return species


def _present(population: str | Path, member: Member) -> Path:
    path = member_path(population, member)
    if not path.is_file():
        raise FormatError(
            population,
            expected=f"a file at {path.resolve()}",
            found="none",
            remedy="paths in a population count from its folder: move it together with its sources and species, or "
            "correct their Path in it",
        )
    return path


def _check_guid(population: str | Path, member: Member, guid: str) -> None:
    if guid.lower() != member.guid.lower():
        raise InconsistentDataError(
            f"{member_path(population, member)} must have the GUID {member.guid} by which {population} lists it; got "
            f"{guid}; restore the right file, or remove it from the population and add it again."
        )


def _read(path: str | Path, root: str) -> XmlDocument:
    document = warp_xml.read(path)
    if document.root.name != root:
        raise document.error(f"a file of M with <{root}>", f"<{document.root.name}>", "choose another file")
    return document


def _open(path: str | Path, root: str) -> XmlDocument:
    return _read(path, root) if Path(path).exists() else XmlDocument.new(root, path)


def _members(document: XmlDocument, section: str) -> tuple[Member, ...]:
    element = document.root.first(section)
    attributes = () if element is None else [child.attributes for child in element.children]
    return tuple(Member(guid=one.get("GUID", ""), path=one.get("Path", "")) for one in attributes)


def _versions(document: XmlDocument, section: str) -> dict[str, str]:
    element = document.root.first(section)
    children = () if element is None else element.children
    return {child.attributes.get("GUID", ""): child.attributes.get("Version", "") for child in children}


def _rows_of_versions(versions: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"GUID": guid, "Version": version} for guid, version in versions.items()]


def _item(document: XmlDocument, file: XmlElement) -> SourceItem:
    attributes = file.attributes
    return SourceItem(
        name=attributes.get("Name", ""),
        hash=attributes.get("Hash", ""),
        weight=warp_xml.number(attributes.get("Weight", "1"), "Weight of a File", document),
        b_factor_angstrom2=warp_xml.number(attributes.get("Bfactor", "0"), "Bfactor of a File", document),
    )


def _texts(further: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in further.items()}
