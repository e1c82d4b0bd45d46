"""The golden collectives, the commands' groups and the duration formula."""

import dataclasses

import numpy as np
import pytest

from tokenloom.hw.ring.collective import (
    MOST_NODES,
    Op,
    chunks,
    collective,
    command,
    duration,
    refusal,
    sends,
)
from tokenloom.hw.ring.frame import LANES
from tokenloom.sim.bench import seeded


def test_groups_fill_the_chunk():
    for words in range(1, 300):
        for hop in (1, 7, 30):
            given = command(Op.ALL_REDUCE, words, hop=hop)
            groups = given.groups()
            assert sum(groups) == words
            assert groups == sorted(groups) and groups[-1] - groups[0] <= 1
            assert groups[0] >= min(hop, words) and groups[-1] < 2 * hop + (words < hop) * words


def test_duration_is_the_closed_form_when_no_turn_waits():
    for nodes in range(2, 9):
        for words in (30, 61, 128, 1000):
            for op in (Op.ALL_REDUCE, Op.REDUCE_SCATTER, Op.ALL_GATHER, Op.SHIFT):
                given = command(op, words, hop=30)
                last = given.groups()[-1]
                closed = sends(op, nodes) * words + last + 2
                assert duration(given, nodes, hop=30) == closed
                assert duration(given, nodes, hop=31) >= closed


def test_a_group_smaller_than_a_hop_waits_in_every_slot():
    for nodes in (2, 4, 8):
        given = command(Op.ALL_REDUCE, 5, hop=30)
        assert duration(given, nodes, hop=30) == 2 * (nodes - 1) * 30 + 5 + 2


def test_the_sum_is_the_same_for_every_number_of_nodes():
    """A vector's parts on 1 to 8 nodes: the sum does not know how many there were."""
    rng = np.random.default_rng(seeded().getrandbits(32))
    parts = rng.integers(-(1 << 60), 1 << 60, (8, 16, LANES), dtype=np.int64)
    total = parts.sum(axis=0)
    for nodes in (2, 4, 8):
        mine = parts.reshape(nodes, 8 // nodes, 16, LANES).sum(axis=1)
        given = command(Op.ALL_REDUCE, 16 // nodes, hop=5)
        assert (collective(given, mine) == total).all()


def test_the_other_collectives_make_an_all_reduce():
    rng = np.random.default_rng(seeded().getrandbits(32))
    data = rng.integers(-(1 << 63), (1 << 63) - 1, (4, 12, LANES), dtype=np.int64)
    scattered = collective(command(Op.REDUCE_SCATTER, 3, hop=5), data)
    gathered = collective(command(Op.ALL_GATHER, 3, hop=5), scattered)
    assert (gathered == collective(command(Op.ALL_REDUCE, 3, hop=5), data)).all()
    sent = collective(command(Op.SEND, 12, hop=5, root=3, last=1), data)
    assert (sent[1] == data[3]).all() and (sent[[0, 2, 3]] == data[[0, 2, 3]]).all()
    shifted = data
    for _ in range(4):
        shifted = collective(command(Op.SHIFT, 12, hop=5), shifted)
    assert (shifted == data).all()


def test_refusal():
    with pytest.raises(ValueError, match="vectors"):
        collective(command(Op.SHIFT, 3, hop=5), np.zeros((2, 4, LANES), np.int64))


@pytest.mark.parametrize("op", list(Op))
def test_the_vector_has_to_lie_in_the_memory(op):
    for nodes in range(2, MOST_NODES + 1):
        for memory in (64, 1000):
            words = (memory - 3) // chunks(op, nodes)
            given = command(op, words, hop=5, root=1)
            rest = memory - words * chunks(op, nodes)
            limits = {"memory": memory, "window": 128}
            assert not refusal(given, nodes, **limits, source=rest, target=rest)
            for place in ("source", "target"):
                assert f"word {memory + 1} of" in refusal(
                    given, nodes, **limits, **{place: rest + 1}
                )
            longer = command(op, memory // chunks(op, nodes) + 1, hop=5, root=1)
            assert "memory" in refusal(longer, nodes, **limits)


@pytest.mark.parametrize("op", list(Op))
def test_neither_vector_reaches_into_the_other(op):
    given, limits = command(op, 10, hop=5, root=1), {"memory": 200, "window": 128}
    for nodes in (2, 3):
        length = 10 * chunks(op, nodes)
        for places in ((0, length), (length + 7, 7), (7, 7)):
            assert not refusal(given, nodes, **limits, source=places[0], target=places[1])
        for places in ((0, length - 1), (length + 6, 7), (7, 8), (8, 7)):
            assert f"of {length} words at {places[0]} and" in refusal(
                given, nodes, **limits, source=places[0], target=places[1]
            )


def test_other_refusals():
    good = command(Op.SEND, 10, hop=5, root=0, last=1)
    for nodes, change, message in (
        (1, {}, "nodes"), (9, {}, "nodes"), (2, {"op": 6}, "collective 6"),
        (2, {"root": 2}, "root"), (2, {"last": 2}, "last"), (2, {"last": 0}, "itself"),
        (2, {"words": 0}, "words"),
        (2, {"op": Op.SHIFT, "size": 0}, "group"), (2, {"op": Op.SHIFT, "size": 33}, "group"),
        (2, {"op": Op.SHIFT, "size": 32, "larger": 33}, "group"),
    ):  # fmt: skip
        asked = dataclasses.replace(good, **change)
        assert message in refusal(asked, nodes, memory=64, window=32)
    assert not refusal(good, 2, memory=64, window=32)
