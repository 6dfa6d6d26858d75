import numpy as np
import pytest

from halfmap.errors import InputError
from halfmap.selection.conditions import Condition

VALUES = np.array([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=2", [0, 1, 0]),
        ("a == 2", [0, 1, 0]),
        ("a!=2", [1, 0, 1]),
        ("a<2", [1, 0, 0]),
        ("a<=2", [1, 1, 0]),
        ("a > 2", [0, 0, 1]),
        ("a>=2", [0, 1, 1]),
    ],
)
def test_comparisons_mean_what_they_say(text, expected):
    np.testing.assert_array_equal(Condition.parse(text).holds(VALUES), np.array(expected, dtype=bool))


def test_text_can_be_equal_or_not():
    names = np.array(["one", "two"], dtype=object)
    np.testing.assert_array_equal(Condition.parse("n=one").holds(names), [True, False])
    np.testing.assert_array_equal(Condition.parse("n!=one").holds(names), [False, True])
    with pytest.raises(InputError, match="must compare numbers"):
        Condition.parse("n<one").holds(names)


@pytest.mark.parametrize("text", ["", "a", "a=", "=3", "a~3"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(InputError, match="LABEL=VALUE"):
        Condition.parse(text)
