import pytest

from halfmap.classification.ranking.structures import (
    HELD_OUT_SPECIMENS,
    TRAINING_FILES,
    TRAINING_SPECIMENS,
    check_training_structure,
)
from halfmap.errors import InputError
from halfmap.simulation.specimens import PRESETS

TRAINED = (*TRAINING_SPECIMENS, *TRAINING_FILES)
FERRITIN, GALACTOSIDASE = PRESETS["ferritin-like-o-130"][0], PRESETS["betagal-like-d2-180"][0]


def test_the_ranker_learns_from_sixty_structures_or_more_each_once():
    assert len(TRAINED) == len(set(TRAINED)) >= 60


def test_at_least_five_structures_are_held_out_and_none_of_them_is_learned_from():
    assert len(HELD_OUT_SPECIMENS) >= 5
    assert not set(HELD_OUT_SPECIMENS) & set(TRAINED)


@pytest.mark.parametrize("word", ["ferritin", "betagal", "galactosidase"])
def test_apoferritin_and_galactosidase_are_never_learned_from(word):
    assert not [name for name in TRAINED if word in name.lower()]


def test_nothing_built_like_them_is_learned_from():
    for name in TRAINING_SPECIMENS:
        shape, symmetry = name.split("-")[:2]
        for other in (FERRITIN, GALACTOSIDASE):
            assert (shape, symmetry.upper()) != (other.shape, other.symmetry)


@pytest.mark.parametrize("name", TRAINED)
def test_the_list_passes_its_own_check(name):
    check_training_structure(name)


@pytest.mark.parametrize(
    "name", ["apoferritin_24mer_centred", "betagal_3.54A", "Beta-Galactosidase", "hollow-o-120-5", *HELD_OUT_SPECIMENS]
)
def test_a_structure_that_judges_is_refused(name):
    with pytest.raises(InputError, match="must not be one that it is judged by"):
        check_training_structure(name)
