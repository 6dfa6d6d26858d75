"""The order in which the results of chunks are added: fixed, whoever finishes first."""

from dataclasses import dataclass
from typing import Generic, TypeVar

Node = TypeVar("Node")


@dataclass(frozen=True, kw_only=True, eq=False)
class Addition(Generic[Node]):
    """An addition that can be done now: ``left + right`` gives the node ``(level, number)``."""

    level: int
    number: int
    left: Node
    right: Node


class AdditionTree(Generic[Node]):
    """A binary tree over chunk numbers, filled in any order, for any number of chunks.

    Chunk i is node (0, i), and node (l, j) is node (l − 1, 2j) plus node (l − 1, 2j + 1). What stays alone at the end
    is added from the last to the first. So the sum depends on the number of chunks alone, and not more than two nodes
    for each level wait when chunks come in order.
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int], Node] = {}

    def put(self, level: int, number: int, node: Node) -> Addition[Node] | None:
        """Add a node; return the addition that it makes possible, whose nodes leave the tree."""
        partner = self._nodes.pop((level, number ^ 1), None)
        if partner is None:
            self._nodes[level, number] = node
            return None
        left, right = (partner, node) if number % 2 else (node, partner)
        return Addition(level=level + 1, number=number // 2, left=left, right=right)

    def leftovers(self) -> list[Node]:
        """Return the nodes without a partner, the earliest chunks first; add the last two until one is left."""
        return [self._nodes[key] for key in sorted(self._nodes, reverse=True)]
