"""The collectives of the ring: commands, what they compute, and how long they take."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenloom.hw.ring.frame import LANES

__all__ = [
    "MOST_NODES", "Command", "Op", "Words", "chunks", "collective", "command", "duration",
    "hop_cycles", "refusal", "sends",
]  # fmt: skip

MOST_NODES = 8

Words = npt.NDArray[np.int64]


class Op(enum.IntEnum):
    """What a command asks for. c is its `words`, i the node's rank, N the number of nodes.

    The first three divide a vector of N chunks of c words; the others know only one chunk.
    """

    ALL_REDUCE = 0
    """Every node gets the sum of all vectors."""
    REDUCE_SCATTER = 1
    """Node i gets chunk i of the sum of all vectors."""
    ALL_GATHER = 2
    """Every node gets chunk i of node i, for all i."""
    BROADCAST = 3
    """All other nodes get the chunk of node `root`."""
    SEND = 4
    """Node `last` gets the chunk of node `root`; nodes between hand it on."""
    SHIFT = 5
    """Every node gets the chunk of the node before it."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command as the nodes' ports have it; the same for every node.

    Attributes
    ----------
    op : Op
    words : int
        c, the words of a chunk.
    size, larger : int
        Chunks go round in groups of `size` words; the groups in the last `larger` words of a
        chunk are one word larger.
    root, last : int
        Ranks, for BROADCAST and SEND.
    """

    op: Op
    words: int
    size: int
    larger: int = 0
    root: int = 0
    last: int = 0

    def groups(self) -> list[int]:
        """The groups' sizes."""
        sizes, rest = [], self.words
        while rest:
            sizes.append(min(rest, self.size + (rest <= self.larger)))
            rest -= sizes[-1]
        return sizes


def hop_cycles(wire: int, own: int) -> int:
    """Cycles from a word's turn in a node to its turn in the next one: `own` and the wire's."""
    return wire + own


def command(op: Op, words: int, *, hop: int, root: int = 0, last: int = 0) -> Command:
    """The command with the shortest duration: as many groups as can be of at least `hop` words.

    Parameters
    ----------
    op, words, root, last
        As in `Command`.
    hop : int
        See `hop_cycles`; on a wire that takes a frame every t cycles, divided by t.
    """
    groups = max(1, words // hop)
    size = words // groups
    return Command(
        op=op, words=words, size=size, larger=words % groups * (size + 1), root=root, last=last
    )


def chunks(op: Op, nodes: int) -> int:
    """Chunks of a node's vector."""
    return nodes if op <= Op.ALL_GATHER else 1


def refusal(
    given: Command, nodes: int, *, memory: int, window: int, source: int = 0, target: int = 0
) -> str:
    """Why a node refuses a command; empty when it does not.

    Parameters
    ----------
    given : Command
    nodes : int
    memory, window : int
        Words of the node's memory and of its receive buffer.
    source, target : int
        `cmd_from`, `cmd_to`.
    """
    if given.op not in list(Op):
        return f"there is no collective {given.op}"
    if not 2 <= nodes <= MOST_NODES:
        return f"nodes has to be from 2 to {MOST_NODES}, not {nodes}"
    for name, rank in (("root", given.root), ("last", given.last)):
        if not 0 <= rank < nodes:
            return f"{name} has to be below {nodes}, not {rank}"
    if given.op is Op.SEND and given.root == given.last:
        return f"node {given.root} cannot send to itself"
    if given.words < 1:
        return f"words has to be positive, not {given.words}"
    group = given.size + (given.larger > 0)
    if given.op not in (Op.BROADCAST, Op.SEND) and not (1 <= given.size and group <= window):
        return f"a group has to be from 1 to {window} words, not {group}"
    end = max(source, target) + chunks(given.op, nodes) * given.words
    if end > memory:
        return f"the vector ends at word {end} of a memory of {memory}"
    length = chunks(given.op, nodes) * given.words
    if 0 < abs(source - target) < length:
        return f"vectors of {length} words at {source} and {target} reach into each other"
    return ""


def collective(given: Command, vectors: Words, target: Words | None = None) -> Words:
    """The golden function: what lies at `cmd_to` afterwards.

    Parameters
    ----------
    given : Command
    vectors : int64 array (nodes, words, LANES)
        What lies at `cmd_from`: N chunks per node, or one for BROADCAST, SEND and SHIFT. Sums are
        modulo 2^64; the compiler proves that none gets there.
    target : array of that shape, optional
        What lies at `cmd_to` before, when that is another place. Nobody copies what a node has
        already: its own chunk in ALL_GATHER, the root's in BROADCAST.

    Raises
    ------
    ValueError
        When the array is not of that shape.
    """
    nodes, c = len(vectors), given.words
    length = chunks(given.op, nodes) * c
    if vectors.shape[1:] != (length, LANES):
        raise ValueError(f"vectors has to be {(nodes, length, LANES)}, not {vectors.shape}")
    result = (vectors if target is None else target).copy()
    total = vectors.sum(axis=0)
    for node in range(nodes):
        if given.op is Op.ALL_REDUCE:
            result[node] = total
        elif given.op is Op.SHIFT:
            result[node] = vectors[node - 1]
        elif given.op is Op.BROADCAST and node != given.root:
            result[node] = vectors[given.root]
        elif given.op is Op.SEND and node == given.last:
            result[node] = vectors[given.root]
        elif given.op is Op.REDUCE_SCATTER:
            result[node, node * c : (node + 1) * c] = total[node * c : (node + 1) * c]
        elif given.op is Op.ALL_GATHER:
            for other in range(nodes):
                if other != node:
                    chunk = slice(other * c, (other + 1) * c)
                    result[node, chunk] = vectors[other, chunk]
    return result


def sends(op: Op, nodes: int) -> int:
    """How often a word of a node's own crosses the ring's links."""
    if op is Op.ALL_REDUCE:
        return 2 * (nodes - 1)
    return nodes - 1 if op in (Op.REDUCE_SCATTER, Op.ALL_GATHER) else 1


def duration(given: Command, nodes: int, *, hop: int) -> int:
    """Cycles from the cycle in which all nodes take the command to that of the last `done`.

    For a wire without errors that takes a frame per cycle. When no group is smaller than `hop`
    that is `sends * words + (the last group's size) + 2`, with `sends` = 2(N-1) for ALL_REDUCE,
    N-1 for REDUCE_SCATTER and ALL_GATHER and 1 for SHIFT; otherwise every turn waits for what the
    node before sent in its turn before, and this evaluates that recurrence. BROADCAST and SEND
    take `words + hop * (nodes after the root) + 2`.
    """
    if given.op in (Op.BROADCAST, Op.SEND):
        far = nodes - 1 if given.op is Op.BROADCAST else (given.last - given.root) % nodes
        return given.words + hop * far + 2
    now = 0  # of the last turn
    flying: list[int] = []  # when the words sent in the slot before can be taken
    for size in given.groups():
        for _slot in range(sends(given.op, nodes)):
            leaving = []
            for k in range(max(size, len(flying))):
                now = max(now + 1, flying[k] if k < len(flying) else 0)
                if k < size:
                    leaving.append(now + hop)
            flying = leaving
    for arrival in flying:
        now = max(now + 1, arrival)
    return now + 2
