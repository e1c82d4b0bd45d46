"""The ring: every collective on 2 to 8 nodes against the golden function, cycle by cycle."""

import dataclasses

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tokenloom.hw.ring.collective import (
    Command,
    Op,
    chunks,
    collective,
    duration,
    hop_cycles,
    refusal,
)
from tokenloom.hw.ring.collective import command as collective_command
from tokenloom.hw.ring.ring import Ring
from tokenloom.sim.bench import parameters, run_block, seeded
from tokenloom.sim.ring_bench import Rings, vectors
from tokenloom.sim.ring_system import RingSystem

OPTIONS = {"addr_bits": 11, "window": 128, "timeout": 200, "retries": 8, "patience": 1500}


def sizes(given):
    """Words of a node's memory and of a link's window."""
    return {"memory": 1 << given["addr_bits"], "window": given["window"]}


def command(op, words, *, hop, window, **ranks):
    """The command with groups of at least `hop` words, or of as many as are sure to fit."""
    return collective_command(op, words, hop=min(hop, (window + 1) // 2), **ranks)


def at_full_rate(asked, latency, window):
    """The window holds the round trip and two groups, so that nobody waits for credits."""
    return 2 * latency + 7 <= window and 2 * max(asked.groups()) <= window


@cocotb.test()
async def collectives_are_exact_and_as_long_as_predicted(dut):
    given, random = parameters(), seeded()
    rng = np.random.default_rng(random.getrandbits(32))
    window, exact = given["window"], 0
    rings = Rings(dut)
    for nodes in given["nodes"]:
        for latency in given["latency"]:
            await rings.reset(nodes, latency=latency, seed=random.getrandbits(64) | 1)
            hop = hop_cycles(latency, Ring.OWN)
            for op in Op:
                for words in given["words"]:
                    root = random.randrange(nodes)
                    last = (root + random.randrange(1, nodes)) % nodes
                    asked = command(op, words, hop=hop, window=window, root=root, last=last)
                    count = words * chunks(op, nodes)
                    data = vectors(rng, nodes, count, corners=words < 40)
                    await rings.load_all(data)
                    took = await rings.run(asked, limit(given))
                    assert (await rings.read_all(count) == collective(asked, data)).all(), asked
                    least = duration(asked, nodes, hop=hop)
                    assert took >= least, (asked, nodes, took)
                    if at_full_rate(asked, latency, window):
                        assert took == least, (asked, nodes, took)
                        exact += 1
    # A narrow window is never at full rate; the usual one always is.
    done = len(given["nodes"]) * len(given["latency"]) * len(Op) * len(given["words"])
    assert exact == done or window < OPTIONS["window"]
    assert int(dut.again.value) == 0


@cocotb.test()
async def groups_of_any_size_that_fits(dut):
    """What `command` would not choose: tiny groups, one as large as the window, any larger ones."""
    given, random = parameters(), seeded()
    rng = np.random.default_rng(random.getrandbits(32))
    memory, window = sizes(given).values()
    rings, latency = Rings(dut), 3
    for nodes in given["nodes"]:
        await rings.reset(nodes, latency=latency, seed=random.getrandbits(64) | 1)
        for number in range(given["commands"]):
            op = random.choice([op for op in Op if op not in (Op.BROADCAST, Op.SEND)])
            words = random.randrange(1, min(memory // nodes, 300))
            size = random.choice([1, min(2, window - 1), random.randrange(1, window), window - 1])
            larger = random.choice([0, words, random.randrange(words + 1)])
            if number == 0:  # without larger ones a group may fill the window
                size, larger = window, 0
            asked = Command(op=op, words=words, size=size, larger=larger)
            assert not refusal(asked, nodes, **sizes(given)), asked
            data = vectors(rng, nodes, words * chunks(op, nodes))
            await rings.load_all(data)
            took = await rings.run(asked, limit(given))
            found = await rings.read_all(words * chunks(op, nodes))
            assert (found == collective(asked, data)).all(), asked
            least = duration(asked, nodes, hop=hop_cycles(latency, Ring.OWN))
            assert took == least or took > least and not at_full_rate(asked, latency, window), asked


# Of 65,536 frames; a burst hurts 8.5 in the mean.
HOSTILE = {"flip": 300, "drop": 300, "twice": 300, "swap": 300, "burst": 60}
PACES = [(1, 1), (5, 7), (1, 3)]


def everyone_knows(given):
    """Cycles in which an error has gone round."""
    return 8 * given["patience"] + given["timeout"] * given["retries"]


def limit(given):
    """Cycles in which a collective ends on a clean wire."""
    return 20_000 * max(1, OPTIONS["window"] // given["window"])


@cocotb.test()
async def collectives_survive_errors_and_late_nodes(dut):
    given, random = parameters(), seeded()
    rng = np.random.default_rng(random.getrandbits(32))
    memory, window = sizes(given).values()
    rings = Rings(dut)
    total = dict.fromkeys(HOSTILE, 0)
    for nodes in given["nodes"]:
        latency = random.randrange(2, 30)
        pace = random.choice(PACES)
        await rings.reset(
            nodes, latency=latency, pace=pace, faults=HOSTILE, seed=random.getrandbits(64) | 1
        )
        for number in range(given["commands"]):
            # Neither vector reaches into the other.
            most = min(100, 1 + memory * 900 // 2048 // nodes)
            op, words = random.choice(list(Op)), random.randrange(1, most)
            root = random.randrange(nodes)
            last = (root + random.randrange(1, nodes)) % nodes
            # Groups of any size that fits, too.
            hop = random.choice([1, 3, hop_cycles(latency, Ring.OWN), 60])
            asked = command(op, words, hop=hop, window=window, root=root, last=last)
            count = words * chunks(op, nodes)
            source, target = random.choice(
                [(0, 0), (0, memory * 900 // 2048), (memory * 1000 // 2048, 3)]
            )
            data = vectors(rng, nodes, count)
            before = vectors(rng, nodes, count)
            await rings.load_all(before, target)
            await rings.load_all(data, source)
            rings.command(asked, source=source, target=target)
            for node in random.sample(range(nodes), nodes):
                await rings.start(1 << node)
                if random.random() < 0.5:
                    await rings.wait(random.choice([1, 5, 300]))
            assert await rings.finished(100_000), (number, asked)
            found = await rings.read_all(count, target)
            want = collective(asked, data, data if source == target else before)
            assert (found == want).all(), (number, asked)
        for name, seen in rings.counts().items():
            total[name] += seen
        assert int(dut.again.value) > 0
    assert min(total.values()) > 10, total


@cocotb.test()
async def after_a_reset_nothing_is_left_of_before(dut):
    """Nodes are reset in the midst of a collective, one after the other; the links are not."""
    given, random = parameters(), seeded()
    rng = np.random.default_rng(random.getrandbits(32))
    memory, window = sizes(given).values()
    rings = Rings(dut)
    for nodes in given["nodes"]:
        latency = random.choice([5, 25, 60])
        faults = random.choice([{}, HOSTILE])
        await rings.reset(nodes, latency=latency, faults=faults, seed=random.getrandbits(64) | 1)
        words = min(60, memory // nodes)
        asked = command(Op.ALL_REDUCE, words, hop=15, window=window)
        # Every other time the first words after a reset are on their way, and the next words will
        # have their numbers.
        for turn in range(1, 15):
            data = vectors(rng, nodes, words * nodes)
            await rings.load_all(data)
            rings.command(asked)
            if turn % 2:
                await rings.start()
                await rings.wait(random.randrange(6, latency + 12))
            else:
                await rings.run(asked, limit(given))
                found = await rings.read_all(words * nodes)
                assert (found == collective(asked, data)).all(), (nodes, turn)
            # The host counts, once around.
            dut.session.value = (250 + turn) % 256
            # All at once, or one after the other, until the last have died of waiting.
            order = [1 << node for node in random.sample(range(nodes), nodes)]
            for mask in random.choice([order, [(1 << nodes) - 1]]):
                dut.restart.value = mask
                await rings.wait(random.choice([1, 3]))
                dut.restart.value = 0
                await rings.wait(random.choice([1, 40, 200, 2 * given["patience"]]))
            # Not before the links are up again, as after any reset.
            await rings.wait(3 * latency + 60)
            assert int(dut.error.value) == 0


async def until_all_fail(rings, limit):
    """Every node reports an error; returns each node's."""
    for _ in range(limit // 50):
        bits = [int(rings.dut.error.value) >> (4 * i) & 15 for i in range(rings.nodes)]
        if all(bits):
            return bits
        await rings.wait(50)
    raise AssertionError(f"errors {bits} after {limit} cycles")


@cocotb.test()
async def a_dead_link_is_everybodys_error(dut):
    given, random = parameters(), seeded()
    memory, window = sizes(given).values()
    rings = Rings(dut)
    for what in ("cut_data", "cut_status"):
        for moment in (0, 30, 200):
            nodes = max(given["nodes"])
            await rings.reset(nodes, latency=10)
            # More than a window, or everything is on its way before anybody misses anything.
            words = min(max(100, window), memory // nodes)
            rings.command(command(Op.ALL_REDUCE, words, hop=15, window=window))
            dead = random.randrange(nodes)
            if moment == 0:
                getattr(dut, what).value = 1 << dead
            await rings.start()
            await rings.wait(moment)
            getattr(dut, what).value = 1 << dead
            bits = await until_all_fail(rings, everyone_knows(given))
            after = (dead + 1) % nodes
            assert bits[dead] & 4 if what == "cut_status" else bits[dead] & 4 or bits[after] & 8
            assert not any(b & 3 for b in bits)


async def refused(rings, nodes, asked, **places):
    """Golden function and hardware refuse the command, and nobody writes."""
    assert refusal(asked, nodes, **sizes(parameters()), **places), asked
    await rings.reset(nodes, latency=3)
    rings.command(asked, **places)
    await rings.start()
    assert not await rings.finished(20), asked
    await rings.wait(20)
    assert int(rings.dut.error.value) == sum(1 << 4 * i for i in range(nodes)), asked
    assert int(rings.dut.frames.value) == 0


@cocotb.test()
async def wrong_commands_are_errors(dut):
    given = parameters()
    rng = np.random.default_rng(seeded().getrandbits(32))
    window = given["window"]
    rings = Rings(dut)
    good = command(Op.ALL_REDUCE, 10, hop=15, window=window)
    for change in (
        {"op": 6}, {"op": 7}, {"words": 0}, {"size": 0}, {"size": window + 1},
        {"size": window, "larger": window + 1}, {"root": 7}, {"last": 7}, {"root": 2}, {"last": 2},
        {"op": Op.SEND, "root": 1, "last": 1},
    ):  # fmt: skip
        await refused(rings, 2, dataclasses.replace(good, **change))
    # Vectors that reach into each other, by a word or almost all.
    for op in (Op.ALL_REDUCE, Op.SHIFT, Op.SEND):
        length = 10 * chunks(op, 2)
        asked = dataclasses.replace(good, op=op, root=0, last=1)
        for places in ((0, length - 1), (length + 5, 6), (6, 7), (7, 6)):
            await refused(rings, 2, asked, source=places[0], target=places[1])
        for places in ((3, 3 + length), (length, 0)):
            await rings.reset(2, latency=3)
            data = vectors(rng, 2, length)
            await rings.load_all(data, places[1])
            await rings.load_all(data, places[0])
            await rings.run(asked, limit(given), source=places[0], target=places[1])
            want = collective(asked, data)
            assert (await rings.read_all(length, places[1]) == want).all(), (op, places)
    # A node that has another command than the node before it.
    await rings.reset(2, latency=3)
    rings.command(good)
    await rings.start(1)
    await rings.wait(2)
    rings.command(command(Op.SHIFT, 10, hop=9, window=window))
    await rings.start(2)
    bits = await until_all_fail(rings, everyone_knows(given))
    assert (bits[0] | bits[1]) & 2


@cocotb.test()
async def a_vector_may_end_with_the_memory_and_no_word_later(dut):
    given = parameters()
    rng = np.random.default_rng(seeded().getrandbits(32))
    memory, window = sizes(given).values()
    rings = Rings(dut)
    hop = hop_cycles(3, Ring.OWN)
    for nodes in given["nodes"]:
        for op in Op:
            # The most words that a command can name and the memory has.
            words = min(memory - 1, memory // chunks(op, nodes))
            asked = command(op, words, hop=hop, window=window, root=1, last=0)
            count = words * chunks(op, nodes)
            rest = memory - count
            if op in (Op.ALL_REDUCE, Op.SHIFT):
                assert not refusal(asked, nodes, **sizes(given), source=rest, target=rest)
                await rings.reset(nodes, latency=3)
                data = vectors(rng, nodes, count)
                await rings.load_all(data, rest)
                await rings.run(asked, limit(given), source=rest, target=rest)
                assert (await rings.read_all(count, rest) == collective(asked, data)).all(), asked
            await refused(rings, nodes, asked, source=rest + 1)
            await refused(rings, nodes, asked, target=rest + 1)
            if words < memory - 1:
                longer = command(op, words + 1, hop=hop, window=window, root=1, last=0)
                await refused(rings, nodes, longer)


@pytest.mark.parametrize(
    "bench",
    [
        {"nodes": [2, 4], "latency": [25], "words": [1, 17, 64], "commands": 12},
        {"nodes": [8], "latency": [25], "words": [33], "commands": 4},
        deep(
            {
                "nodes": [2, 3, 4, 5, 8],
                "latency": [2, 25, 50],
                "words": [1, 2, 33, 61, 127],
                "commands": 60,
            }
        ),
    ],
)
def test_ring(bench):
    block = RingSystem(most=8 if 8 in bench["nodes"] else 4, **OPTIONS)
    run_block(block, "tests.hw.ring.test_ring", parameters={**OPTIONS, **bench})
