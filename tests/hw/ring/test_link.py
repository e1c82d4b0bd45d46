"""A link: every word once and in order over a hostile wire, full rate, and dead links reported."""

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.hw.memory.test_tape_reader import begin
from tests.hw.ring.link_pair import WIRE, LinkPair
from tokenloom.hw.ring.frame import payload, status
from tokenloom.hw.ring.link_rx import LinkRx
from tokenloom.hw.ring.link_tx import LinkTx
from tokenloom.sim.bench import parameters, run_block, seeded
from tokenloom.sim.link_model import FAULTS

INPUTS = [*WIRE, *"cut_data cut_status watch stop in_valid in_word in_tag out_ready".split()]
LIMITS = {"window": 64, "patience": 600, "timeout": 120, "retries": 6}
# Of 65,536 frames; a burst breaks 8.5 in the mean.
HOSTILE = {"flip": 300, "drop": 300, "twice": 300, "swap": 300, "burst": 60}


async def reset(dut, latency=10, pace=(1, 1), faults=None):
    for name in INPUTS:
        getattr(dut, name).value = 0
    dut.rst.value = 1
    dut.latency.value = latency
    dut.pace_num.value, dut.pace_den.value = pace
    for name, rate in (faults or {}).items():
        getattr(dut, f"rate_{name}").value = rate
    for _ in range(3):
        await FallingEdge(dut.clk)
    dut.rst.value = 0


async def transfer(dut, random, count, offer=1.0, take=1.0, most=60_000):
    """Sends `count` words; returns the cycles from the first word taken to the last one out."""
    words = [(random.getrandbits(512), random.getrandbits(4)) for _ in range(count)]
    sent = received = 0
    first = None
    offered = False
    for cycle in range(most):
        if not offered and sent < count:
            offered = random.random() < offer
        dut.in_valid.value = int(offered)
        if offered:
            dut.in_word.value, dut.in_tag.value = words[sent]
        dut.out_ready.value = int(random.random() < take)
        await RisingEdge(dut.clk)
        if offered and dut.in_ready.value == 1:
            offered = False
            first = cycle if first is None else first
            sent += 1
        if dut.out_valid.value == 1 and dut.out_ready.value == 1:
            assert received < sent, "a word nobody sent"
            got = (int(dut.out_word.value), int(dut.out_tag.value))
            assert got == words[received], f"word {received}"
            received += 1
        await FallingEdge(dut.clk)
        assert dut.tx_dead.value == 0 and dut.rx_dead.value == 0
        if received == count:
            break
    assert received == count, f"{received} of {count} words"
    dut.in_valid.value = 0
    dut.out_ready.value = 1
    for _ in range(200):  # nothing comes after the last
        await FallingEdge(dut.clk)
        assert dut.out_valid.value == 0
    return cycle - first


@cocotb.test()
async def words_arrive_once_and_in_order(dut):
    random = seeded()
    await begin(dut, INPUTS)
    cases = [(0.3, 0.9), (0.9, 0.3), (1.0, 1.0)]
    total = dict.fromkeys(FAULTS, 0)
    for offer, take in cases:
        await reset(dut, random.choice([2, 10, 24]), random.choice([(1, 1), (5, 7)]), HOSTILE)
        await transfer(dut, random, parameters()["words"], offer, take)
        for name in FAULTS:
            total[name] += int(getattr(dut, f"count_{name}").value)
    assert min(total.values()) > 3, total


@cocotb.test()
async def every_fault_alone(dut):
    random = seeded()
    await begin(dut, INPUTS)
    for name in FAULTS:
        await reset(dut, 10, (1, 1), {name: 4000 if name != "burst" else 800})
        await transfer(dut, random, 200)
        assert int(getattr(dut, f"count_{name}").value) > 5


@cocotb.test()
async def full_rate_and_latency_on_a_clean_wire(dut):
    random = seeded()
    await begin(dut, INPUTS)
    for latency in (2, 10, 28):
        assert 2 * latency + LinkTx.ROUND_TRIP <= LIMITS["window"]
        await reset(dut, latency)
        for _ in range(2 * latency + 20):
            await FallingEdge(dut.clk)
        assert dut.up.value == 1
        took = await transfer(dut, random, 300)
        assert took == 299 + LinkTx.LATENCY + latency + LinkRx.LATENCY


@cocotb.test()
async def a_receiver_that_takes_nothing_is_no_dead_link(dut):
    random = seeded()
    await begin(dut, INPUTS)
    await reset(dut)
    for _ in range(60):
        await FallingEdge(dut.clk)
    dut.in_valid.value = 1
    taken = 0
    for _ in range(3000):
        dut.in_word.value = taken
        await RisingEdge(dut.clk)
        taken += int(dut.in_ready.value)
        await FallingEdge(dut.clk)
    assert taken == LIMITS["window"], "the receiver's buffer is full and no word more is taken"
    assert dut.tx_dead.value == 0 and dut.again.value == 0
    dut.in_valid.value = 0
    dut.out_ready.value = 1
    for i in range(taken):
        await RisingEdge(dut.clk)
        assert dut.out_valid.value == 1 and int(dut.out_word.value) == i
        await FallingEdge(dut.clk)
    await transfer(dut, random, 100, 0.8, 0.8)


async def death(dut, side, limit):
    for cycle in range(limit):
        if getattr(dut, side).value == 1:
            return cycle
        await FallingEdge(dut.clk)
    raise AssertionError(f"{side} not reported within {limit} cycles")


@cocotb.test()
async def dead_links_are_reported(dut):
    patience, timeout, retries = (LIMITS[k] for k in ("patience", "timeout", "retries"))
    await begin(dut, INPUTS)
    longest = max(patience, timeout * retries) + 100
    for what in ("cut_data", "cut_status", "stop", "both"):
        for early in (False, True):  # before or after they have heard of each other
            await reset(dut)
            for _ in range(0 if early else 60):
                await FallingEdge(dut.clk)
            for name in ("cut_data", "cut_status") if what == "both" else (what,):
                getattr(dut, name).value = 1
            # Nobody waits: no error.
            for _ in range(2 * patience):
                await FallingEdge(dut.clk)
            assert dut.tx_dead.value == 0 and dut.rx_dead.value == 0
            dut.in_valid.value, dut.watch.value = 1, 1
            if what != "cut_status":
                await death(dut, "rx_dead", longest)
            await death(dut, "tx_dead", longest)


@pytest.mark.parametrize("words", [400])
def test_link(words):
    run_block(LinkPair(**LIMITS), "tests.hw.ring.test_link", parameters={"words": words})


def test_frames_are_whole_bytes():
    assert payload().size == 66 * 8 and status().size == 3 * 8


@pytest.mark.parametrize(
    ("block", "change", "message"),
    [
        (LinkTx, {"window": 96}, "window"),
        (LinkTx, {"credits": 0}, "credits"),
        (LinkTx, {"seq_bits": 8}, "seq_bits"),
        (LinkTx, {"timeout": 0}, "timeout"),
        (LinkTx, {"retries": 0}, "retries"),
        (LinkTx, {"idle": 0}, "idle"),
        (LinkTx, {"patience": 0}, "patience"),
        (LinkRx, {"credits": 3}, "credits"),
        (LinkRx, {"patience": 0}, "patience"),
    ],
)
def test_refusals(block, change, message):
    with pytest.raises(ValueError, match=message):
        block(**change)
