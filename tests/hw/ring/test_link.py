"""A link: every word once and in order over a hostile wire, full rate, and dead links reported."""

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.coverage import Coverage
from tests.hw.clocked import begin
from tests.hw.ring.link_pair import WIRE, LinkPair
from tokenloom.hw.ring.frame import SEQ_BITS, payload, status
from tokenloom.hw.ring.link_rx import LinkRx
from tokenloom.hw.ring.link_tx import LinkTx
from tokenloom.sim.bench import parameters, run_block, seeded
from tokenloom.sim.link_model import FAULTS

INPUTS = [
    *WIRE,
    *"cut_data cut_status session restart watch stop in_valid in_word in_tag out_ready".split(),
]
LIMITS = {"window": 64, "credits": 128, "patience": 601, "timeout": 120, "retries": 6}
SEEN = Coverage(
    "gap", "back_pressure", "full_rate", "window_full", "credits_exhausted", "replay",
    "replay_after_timeout", "last_word_lost", "sequence_wraps", "data_comes_back",
    "status_comes_back", "rx_dead", "tx_dead_of_timeouts", "tx_dead_of_silence",
    "reset_with_frames_on_the_way", *FAULTS,
)  # fmt: skip
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


async def transfer(dut, random, count, offer=1.0, take=1.0, most=60_000, clean=False):
    """Sends `count` words; returns the cycles from the first word taken to the last one out.

    On a `clean` wire no word is sent again.
    """
    bits = len(dut.in_word), len(dut.in_tag)
    words = [tuple(random.getrandbits(n) for n in bits) for _ in range(count)]
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
        SEEN.sample(
            gap=dut.up.value == 1 and not offered,
            back_pressure=dut.out_valid.value == 1 and dut.out_ready.value == 0,
            replay=dut.again.value == 1,
        )
        assert not (clean and dut.again.value == 1)
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
        assert dut.changed.value == 0, "a frame changed while it waited"
        if received == count:
            break
    assert received == count, f"{received} of {count} words"
    SEEN.hit("sequence_wraps", when=count > 1 << SEQ_BITS)
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
    words = parameters()["words"]
    # Some words more than there are sequence numbers.
    cases = [(0.3, 0.9, words), (0.9, 0.3, words), (1.0, 1.0, words + (1 << SEQ_BITS))]
    total = dict.fromkeys(FAULTS, 0)
    for offer, take, count in cases:
        await reset(dut, random.choice([2, 10, 24]), random.choice([(1, 1), (5, 7)]), HOSTILE)
        await transfer(dut, random, count, offer, take)
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
        SEEN.hit(name)


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
        # Once past the last sequence number.
        count = 300 if latency != 10 else (1 << SEQ_BITS) + 100
        took = await transfer(dut, random, count, clean=True)
        assert took == count - 1 + LinkTx.LATENCY + latency + LinkRx.LATENCY
        SEEN.hit("full_rate")
    # A wire that takes frames now and then: none is lost on its way there.
    await reset(dut, 10, (5, 7))
    await transfer(dut, random, 300, clean=True)


@cocotb.test()
async def frames_from_before_a_reset_are_broken(dut):
    """Both ends are reset and the wires are not: what is on its way is never taken for new."""
    random = seeded()
    await begin(dut, INPUTS)
    for turn in range(20):
        await reset(dut, random.choice([2, 10, 28]), random.choice([(1, 1), (5, 7)]))
        session = random.randrange(256)
        dut.session.value, dut.out_ready.value = session, random.getrandbits(1)
        while dut.up.value == 0:
            await FallingEdge(dut.clk)
        # The first words are on their way: the new ones will have their numbers.
        for word in range(random.choice([1, 3, 10, 50])):
            await put(dut, word)
        for _ in range(random.choice([0, 2, 10])):
            await FallingEdge(dut.clk)
        # The smallest difference, or any.
        dut.session.value = session ^ (1 << turn if turn < 8 else random.randrange(1, 256))
        dut.restart.value, dut.in_valid.value = 1, 0
        for _ in range(random.choice([1, 3])):
            await FallingEdge(dut.clk)
        dut.restart.value = 0
        await transfer(dut, random, 150, random.choice([0.5, 1.0]), random.choice([0.5, 1.0]))
        SEEN.hit("reset_with_frames_on_the_way")


@cocotb.test()
async def a_wire_longer_than_the_window(dut):
    """A window of words, then as many more as places come free: word by word as predicted."""
    random = seeded()
    await begin(dut, INPUTS)
    latency, window, count = 40, LIMITS["window"], 700
    trip = 2 * latency + LinkTx.ROUND_TRIP
    assert window < trip < LIMITS["timeout"]
    await reset(dut, latency)
    for _ in range(2 * latency + 20):
        await FallingEdge(dut.clk)
    took = await transfer(dut, random, count)
    taken = (count - 1) // window * trip + (count - 1) % window
    assert took == taken + LinkTx.LATENCY + latency + LinkRx.LATENCY
    SEEN.hit("window_full")


@cocotb.test()
async def a_receiver_that_takes_nothing_is_no_dead_link(dut):
    random = seeded()
    await begin(dut, INPUTS)
    # At the second pace there is noise between the status frames.
    for pace in ((1, 1), (5, 7)):
        await reset(dut, pace=pace)
        for _ in range(60):
            await FallingEdge(dut.clk)
        dut.in_valid.value = 1
        taken = 0
        for _ in range(3000 if pace == (1, 1) else 500):
            dut.in_word.value = taken
            await RisingEdge(dut.clk)
            taken += int(dut.in_ready.value)
            await FallingEdge(dut.clk)
            assert dut.tx_dead.value == 0 and dut.again.value == 0
        assert taken == LIMITS["credits"], "the receiver's buffer is full and no word more is taken"
        SEEN.hit("credits_exhausted")
        dut.in_valid.value = 0
        dut.out_ready.value = 1
        for i in range(taken):
            await RisingEdge(dut.clk)
            assert dut.out_valid.value == 1 and int(dut.out_word.value) == i
            await FallingEdge(dut.clk)
        await transfer(dut, random, 100, 0.8, 0.8)


async def put(dut, value):
    """Hands a word in."""
    dut.in_valid.value, dut.in_word.value, dut.in_tag.value = 1, value, value % 16
    while True:
        await RisingEdge(dut.clk)
        taken = dut.in_ready.value == 1
        await FallingEdge(dut.clk)
        if taken:
            break
    dut.in_valid.value = 0


async def get(dut, limit):
    """Takes the next word; returns it, its cycle, and the words sent again until then."""
    again = 0
    for cycle in range(limit):
        await RisingEdge(dut.clk)
        again += int(dut.again.value)
        word = int(dut.out_word.value) if dut.out_valid.value == 1 else None
        await FallingEdge(dut.clk)
        if word is not None:
            return word, cycle, again
    raise AssertionError(f"no word within {limit} cycles")


@cocotb.test()
async def the_last_word_is_missed_at_once(dut):
    """Nothing follows a lost word but an idle frame: it asks for the word, no timeout is needed."""
    await begin(dut, INPUTS)
    await reset(dut, 5)
    dut.out_ready.value = 1
    for _ in range(60):
        await FallingEdge(dut.clk)
    for word in range(1, 4):
        dut.cut_data.value = 1
        await put(dut, word)
        for _ in range(10):
            await FallingEdge(dut.clk)
        dut.cut_data.value = 0
        found, cycle, again = await get(dut, LIMITS["timeout"])
        assert (found, again) == (word, 1)
        assert cycle < LIMITS["timeout"] // 2
        for _ in range(60):
            await FallingEdge(dut.clk)
            assert dut.again.value == 0 and dut.out_valid.value == 0
    SEEN.hit("last_word_lost")


@cocotb.test()
async def a_link_that_comes_back(dut):
    """Cut for as long as the link bears, each direction: no word is lost or doubled."""
    await begin(dut, INPUTS)
    patience, timeout, retries = (LIMITS[k] for k in ("patience", "timeout", "retries"))
    for what, longest in (("data", timeout * retries), ("status", patience)):
        await reset(dut, 5)
        for _ in range(60):
            await FallingEdge(dut.clk)
        cut = getattr(dut, f"cut_{what}")
        cut.value = 1
        for word in range(1, 6):
            await put(dut, word)
        dut.out_ready.value = what == "data"
        again = 0
        for _ in range(longest - 40):
            await RisingEdge(dut.clk)
            again += int(dut.again.value)
            await FallingEdge(dut.clk)
            assert dut.tx_dead.value == 0
        # All five words once per timeout.
        assert again == 5 * ((longest - 40) // timeout)
        SEEN.hit("replay_after_timeout", when=again)
        cut.value = 0
        dut.out_ready.value = 1
        for word in range(1, 6):
            assert (await get(dut, 2 * timeout))[0] == word
        for _ in range(3 * patience):
            await FallingEdge(dut.clk)
            assert dut.out_valid.value == 0 and dut.tx_dead.value == 0
        SEEN.hit(f"{what}_comes_back")
        # All failures are forgotten: it bears as much again.
        cut.value = 1
        await put(dut, 6)
        for _ in range(longest - 40):
            await FallingEdge(dut.clk)
            assert dut.tx_dead.value == 0


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
            waited = 0
            if what != "cut_status":
                waited = await death(dut, "rx_dead", longest)
                assert waited == patience
                SEEN.hit("rx_dead")
            waited += await death(dut, "tx_dead", longest)
            assert waited == (timeout * retries + 1 if what == "cut_data" else patience)
            SEEN.hit("tx_dead_of_timeouts" if what == "cut_data" else "tx_dead_of_silence")


@cocotb.test()
async def a_dead_receiver_says_nothing_more(dut):
    """Even when its wire comes back: so the sender is dead in turn, of silence."""
    await begin(dut, INPUTS)
    await reset(dut)
    for _ in range(60):
        await FallingEdge(dut.clk)
    dut.cut_data.value, dut.watch.value = 1, 1
    await death(dut, "rx_dead", LIMITS["patience"] + 100)
    for _ in range(60):
        await FallingEdge(dut.clk)
    dut.cut_data.value = 0
    dut.in_valid.value, dut.out_ready.value = 1, 1
    assert await death(dut, "tx_dead", LIMITS["patience"] + 100) == LIMITS["patience"]


@cocotb.test()
async def every_point_is_hit(dut):
    SEEN.check()


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
