"""Which map a job's folder stands for."""

import pytest

from halfmap.errors import InputError
from halfmap.io import star
from halfmap.io.relion_models import strings
from halfmap.jobs.reference_choice import choose_reference


def files(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("names", "chosen", "what"),
    [
        (
            ("run_class001.mrc", "run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc", "mask.mrc"),
            ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc"),
            "unfiltered half maps",
        ),
        (
            tuple(f"run_it{n:03d}_half{h}_class001.mrc" for n in (2, 11) for h in (1, 2)),
            ("run_it011_half1_class001.mrc", "run_it011_half2_class001.mrc"),
            "half maps of iteration 11",
        ),
        (("initial_model.mrc", "run_it100_class001.mrc"), ("initial_model.mrc",), "initial model"),
        (("postprocess.mrc", "postprocess_masked.mrc", "mask.mrc"), ("postprocess.mrc",), "post-processed map"),
        (("run_class001.mrc",), ("run_class001.mrc",), "final map"),
        (("run_it009_class001.mrc", "run_it025_class001.mrc"), ("run_it025_class001.mrc",), "last map"),
        (("resampled.mrc", "mask.mrc"), ("resampled.mrc",), "the map"),
    ],
)
def test_a_folder_stands_for_the_best_it_has(tmp_path, names, chosen, what):
    choice = choose_reference(files(tmp_path / "job001", *names))
    assert tuple(path.name for path in choice.paths) == chosen
    assert what in choice.why
    assert choice.missing == ()


def test_half_maps_that_post_processing_names_come_first_where_they_still_are(tmp_path):
    refined = files(tmp_path / "Refine3D/job004", "run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc")
    folder = files(tmp_path / "PostProcess/job005", "postprocess.mrc")
    names = {f"rlnUnfilteredMapHalf{h}": f"Refine3D/job004/run_half{h}_class001_unfil.mrc" for h in (1, 2)}
    columns = {label: strings([name]) for label, name in names.items()}
    star.write(folder / "postprocess.star", [star.StarTable(name="general", columns=columns, is_loop=False)])
    assert [path.parent for path in choose_reference(folder, tmp_path).paths] == [refined, refined]
    for path in refined.iterdir():
        path.unlink()
    assert choose_reference(folder, tmp_path).paths == (folder / "postprocess.mrc",)


def test_the_largest_class_of_the_last_iteration_is_chosen_and_named(tmp_path):
    classes = [f"run_it025_class00{k}.mrc" for k in (1, 2, 3)]
    folder = files(tmp_path / "Class3D/job006", *classes, "run_it024_class001.mrc")
    with pytest.raises(InputError, match=r"got run_it025_class001.mrc, run_it025_class002.mrc"):
        choose_reference(folder)
    columns = {"rlnReferenceImage": strings(classes), "rlnClassDistribution": strings([0.2, 0.5, 0.3])}
    star.write(folder / "run_it025_model.star", [star.StarTable(name="model_classes", columns=columns)])
    choice = choose_reference(folder)
    assert [path.name for path in choice.paths] == ["run_it025_class002.mrc"]
    assert "largest of 3 classes" in choice.why
    assert "50 % of the particles" in choice.why


def test_a_file_stands_for_itself_or_for_its_pair(tmp_path):
    folder = files(tmp_path, "map.mrc", "J7_map_half_A.mrc", "J7_map_half_B.mrc", "lone_half2.mrc")
    itself = choose_reference(folder / "map.mrc")
    assert itself.paths == (folder / "map.mrc",)
    assert itself.why == ""
    pair = (folder / "J7_map_half_A.mrc", folder / "J7_map_half_B.mrc")
    both = choose_reference(folder / "J7_map_half_B.mrc")
    assert both.paths == pair
    assert "J7_map_half_A.mrc and J7_map_half_B.mrc" in both.why
    alone = choose_reference(folder / "lone_half2.mrc")
    assert alone.paths == (folder / "lone_half2.mrc",)
    assert alone.missing == (folder / "lone_half1.mrc",)


def test_a_folder_without_a_map_or_with_several_names_what_is_there(tmp_path):
    with pytest.raises(InputError, match="got no map; name the file"):
        choose_reference(files(tmp_path / "empty"))
    names = [f"map{k}.mrc" for k in range(7)]
    with pytest.raises(InputError, match=r"map4.mrc and 2 more; name the file"):
        choose_reference(files(tmp_path / "many", *names))
