import numpy as np
import pytest

from halfmap.classification.agreement import JUNK, Truth
from halfmap.classification.ranking.labels import CENTRED_WITHIN, Examples, purity_of_classes


def a_truth(structure):
    n = len(structure)
    return Truth(
        structure=np.array(structure),
        rotation=np.broadcast_to(np.eye(3), (n, 3, 3)),
        origin_angstrom=np.zeros((n, 2)),
        symmetries=("C1", "C1"),
    )


def purities(structure, class_number, *, found=None, classes=(1, 2), diameters=(100.0, 200.0)):
    truth = a_truth(structure)
    origins = truth.origin_angstrom if found is None else np.array(found, dtype=float)
    return purity_of_classes(truth, class_number, origins, diameters, classes).tolist()


def test_purity_is_the_share_of_the_most_frequent_structure():
    assert purities([1, 1, 2, 1, 2, 2], [1, 1, 1, 1, 2, 2]) == [0.75, 1.0]


def test_junk_counts_against_a_class_however_much_there_is():
    assert purities([1, JUNK, JUNK, JUNK, JUNK, 2], [1, 1, 1, 1, 2, 2]) == [0.25, 0.5]


def test_an_empty_class_has_no_purity():
    assert purities([1, 1], [1, 1]) == [1.0, 0.0]


def test_particles_found_far_from_where_they_lie_count_as_junk():
    limit = CENTRED_WITHIN * 100.0
    found = [(limit - 1, 0), (0, limit + 1), (0, 0), (limit + 1, 0)]
    assert purities([1, 1, 1, 2], [1, 1, 1, 2], found=found) == [pytest.approx(2 / 3), 1.0]


def some_examples(purity, frc):
    n = len(purity)
    return Examples(
        images=np.zeros((n, 4, 4), dtype=np.float32),
        features=np.zeros((n, 2), dtype=np.float32),
        purity=np.array(purity),
        frc=np.array(frc),
        n_particles=np.ones(n, dtype=np.int64),
        stack=np.arange(n),
        structures=np.array(["a"] * n, dtype=object),
        group=np.arange(n),
    )


def test_a_good_class_is_pure_and_looks_like_its_structure():
    examples = some_examples([0.9, 0.9, 0.5, 0.1], [0.9, 0.1, 0.9, 0.1])
    assert examples.is_pure.tolist() == [True, True, False, False]
    assert examples.is_good.tolist() == [True, False, False, False]


def test_examples_are_taken_and_joined_with_all_their_columns():
    examples = some_examples([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    joined = Examples.joined([examples.take(np.array([2])), examples.take(np.array([True, True, False]))])
    assert joined.purity.tolist() == [0.3, 0.1, 0.2]
    assert joined.stack.tolist() == [2, 0, 1]
    assert len(joined) == 3
