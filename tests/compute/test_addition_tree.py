"""The order of additions depends on the number of chunks alone."""

import numpy as np
import pytest

from halfmap.compute.addition_tree import AdditionTree


def expression(n_chunks: int, order: list[int]) -> str:
    """Write the additions that the tree makes as text, with chunks finishing in this order."""
    tree: AdditionTree[str] = AdditionTree()
    for chunk in order:
        addition = tree.put(0, chunk, str(chunk))
        while addition is not None:
            addition = tree.put(addition.level, addition.number, f"({addition.left}+{addition.right})")
    rest = tree.leftovers()
    while len(rest) > 1:
        right, left = rest.pop(), rest.pop()
        rest.append(f"({left}+{right})")
    return rest[0]


@pytest.mark.parametrize(
    ("n_chunks", "expected"),
    [
        (1, "0"),
        (2, "(0+1)"),
        (3, "((0+1)+2)"),
        (4, "((0+1)+(2+3))"),
        (7, "(((0+1)+(2+3))+((4+5)+6))"),
    ],
)
def test_chunks_in_order_are_added_as_a_balanced_tree(n_chunks: int, expected: str) -> None:
    assert expression(n_chunks, list(range(n_chunks))) == expected


@pytest.mark.parametrize("n_chunks", [5, 8, 13])
def test_the_order_of_completion_does_not_change_the_additions(n_chunks: int) -> None:
    rng = np.random.default_rng(1)
    in_order = expression(n_chunks, list(range(n_chunks)))
    for _ in range(10):
        assert expression(n_chunks, rng.permutation(n_chunks).tolist()) == in_order


def test_few_nodes_wait_when_chunks_come_in_order() -> None:
    tree: AdditionTree[int] = AdditionTree()
    for chunk in range(1000):
        addition = tree.put(0, chunk, 1)
        while addition is not None:
            addition = tree.put(addition.level, addition.number, addition.left + addition.right)
        assert len(tree.leftovers()) <= 10
    assert sum(tree.leftovers()) == 1000
