"""The memory model: its data, its bounds, its moods, and that it keeps the protocol itself."""

import dataclasses
import random
from collections import deque

import pytest

from tokenloom.compiler.errors import TokenloomError
from tokenloom.sim.memory import (
    MEMORIES,
    AxiChecker,
    AxiMaster,
    Memory,
    linear_reader,
    memory_profile,
)

PROFILES = [name for name in MEMORIES if name != "ideal"]
CLOCK = 300.0
OKAY, SLVERR, DECERR = 0, 2, 3


class Port:
    """A master that queues what it is told and keeps what it gets; watched by the checker."""

    def __init__(self, profile, seed=1, *, data=bytes(1 << 16), beat=32, clock=CLOCK, lazy=0.0):
        self.memory = Memory(profile, seed, data, clock_mhz=clock, beat_bytes=beat)
        self.checker = AxiChecker(
            beat_bytes=beat, reads=profile.reads, writes=profile.writes, patience=1000
        )
        self.beat, self.size = beat, beat.bit_length() - 1
        self.random, self.lazy = random.Random(seed), lazy
        self.asked, self.addresses, self.words = deque(), deque(), deque()
        self.got, self.acknowledged, self.accepted, self.beats = [], [], [], []
        self.now = 0
        self.master = AxiMaster()

    def read(self, address, beats=1):
        self.asked.append((address, beats))

    def write(self, address, data, strobe=None):
        self.addresses.append(address)
        self.words.append((data, (1 << self.beat) - 1 if strobe is None else strobe))

    def cycle(self):
        master, out = self.master, self.memory.out
        eager = lambda: self.random.random() >= self.lazy  # noqa: E731
        if not master.ar.valid and self.asked and eager():
            master.ar.addr, beats = self.asked.popleft()
            master.ar.valid, master.ar.len, master.ar.size, master.ar.burst = (
                1,
                beats - 1,
                self.size,
                1,
            )
        if not master.aw.valid and self.addresses and eager():
            master.aw.addr = self.addresses.popleft()
            master.aw.valid, master.aw.size, master.aw.burst = 1, self.size, 1
        if not master.w_valid and self.words and eager():
            data, master.w_strobe = self.words.popleft()
            master.w_data[: self.beat] = data
            master.w_valid = master.w_last = 1
        master.r_ready, master.b_ready = eager(), eager()
        self.checker.check(master, out)
        took = [
            master.ar.valid and out.ar_ready,
            master.aw.valid and out.aw_ready,
            master.w_valid and out.w_ready,
        ]
        if out.r_valid and master.r_ready:
            self.beats.append(self.now)
            self.got.append((bytes(out.r_data)[: self.beat], out.r_resp, out.r_last))
        if out.b_valid and master.b_ready:
            self.acknowledged.append((self.now, out.b_resp))
        self.memory.cycle(master)
        if took[0]:
            self.accepted.append(self.now)
            master.ar.valid = 0
        if took[1]:
            master.aw.valid = 0
        if took[2]:
            master.w_valid = 0
        self.now += 1

    def until(self, done, most=100_000):
        for _ in range(most):
            if done():
                return
            self.cycle()
        raise AssertionError("nothing more came")

    def latency(self, address):
        """Cycles from the address to the first word of a read on its own."""
        seen = len(self.beats)
        self.read(address)
        self.until(lambda: len(self.beats) > seen)
        return self.beats[-1] - self.accepted[-1]


def calm(name="hbm2", **more):
    """A profile without chance and refresh."""
    quiet = dict(jitter=0.0, tail=0.0, tail_every=0, busy=0.0, refresh_every=0.0)
    return dataclasses.replace(memory_profile(name), **{**quiet, **more})


@pytest.mark.parametrize("lazy", [0.0, 0.6])
@pytest.mark.parametrize("beat", [32, 64])
@pytest.mark.parametrize("name", PROFILES)
def test_random_traffic(name, beat, lazy):
    """Reads and writes of different places, any order of address and data, own errors none."""
    rng = random.Random(3)
    contents = bytearray(rng.randbytes(1 << 15))
    port = Port(memory_profile(name), data=bytes(contents), beat=beat, lazy=lazy)
    most = 512 // beat
    wanted = []
    for _ in range(400):
        beats = rng.randint(1, most)
        start = rng.randrange(0, 1 << 14, 512) + (512 - beats * beat)
        port.read(start, beats)
        for i in range(beats):
            low = start + i * beat
            wanted.append((bytes(contents[low : low + beat]), OKAY, i == beats - 1))
    for _ in range(300):
        address = (1 << 14) + rng.randrange(0, 1 << 14, beat)
        data, strobe = rng.randbytes(beat), rng.getrandbits(beat) | 1
        port.write(address, data, strobe)
        for i in range(beat):
            if strobe >> i & 1:
                contents[address + i] = data[i]
    port.until(lambda: len(port.got) == len(wanted) and len(port.acknowledged) == 300)
    assert port.got == wanted
    assert port.memory.peek(0, 1 << 15) == bytes(contents)
    count = port.memory.counters()
    assert (count.reads, count.writes) == (400, 300)
    assert count.read_bytes == beat * len(wanted)
    assert count.read_errors == count.write_errors == 0


def test_a_write_lands_when_it_is_acknowledged():
    """A read accepted before the acknowledgement gets the old data, one after it the new."""
    port = Port(calm())
    port.write(0, b"\1" * 32)
    port.until(lambda: not port.words and not port.master.w_valid and not port.master.aw.valid)
    port.read(0)
    port.until(lambda: port.acknowledged)
    port.read(0)
    port.until(lambda: len(port.got) == 2)
    assert [data[0] for data, _, _ in port.got] == [0, 1]
    assert port.accepted[0] < port.acknowledged[0][0] < port.accepted[1]


def cycles(nanoseconds):
    return nanoseconds * CLOCK / 1000


@pytest.mark.parametrize("name", ["hbm2", "ddr4"])
def test_latencies_of_rows(name):
    """Closed, open, and another row of the same bank."""
    profile = calm(name)
    port = Port(profile, data=bytes(1 << 20))
    unit = 32 / profile.bytes_per_ns
    closed, hit = port.latency(0), port.latency(64)
    conflict = port.latency(profile.banks * profile.row_bytes)
    other_bank = port.latency(profile.row_bytes)
    base = profile.latency + unit
    for got, want in (
        (hit, base),
        (closed, base + profile.activate),
        (other_bank, base + profile.activate),
        (conflict, base + profile.activate + profile.precharge),
    ):
        assert abs(got - cycles(want)) <= 2


def test_activations_of_a_bank_keep_their_distance():
    profile = calm(row_cycle=400.0)
    port = Port(profile, data=bytes(1 << 20))
    for i in range(4):
        port.read(i * profile.banks * profile.row_bytes)
    port.until(lambda: len(port.beats) == 4)
    for before, after in zip(port.beats, port.beats[1:], strict=False):
        assert abs(after - before - cycles(400.0)) <= 2


def test_refresh_stops_everything():
    clock = 600.0  # a port faster than the bus, or the queue would hide it
    port = Port(calm(refresh_every=3900.0), clock=clock)
    for i in range(3000):
        port.read(512 * (i % 64), 16)
    port.until(lambda: len(port.beats) == 48000)
    gaps = [b - a for a, b in zip(port.beats, port.beats[1:], strict=False)]
    long = [at for at, gap in zip(port.beats, gaps, strict=False) if gap > 0.15 * clock]
    periods = [b - a for a, b in zip(long[1:], long[2:], strict=False)]
    assert len(long) > 20
    assert all(abs(period - 3.9 * clock) < 5 for period in periods)


@pytest.mark.parametrize("seed", range(5))
def test_linear_reader_gets_the_reachable_part(seed):
    """On the port's own clock, and behind a wider port at the core's."""
    profile = memory_profile("hbm2")
    for clock, beat in ((450.0, 32), (300.0, 64), (225.0, 64)):
        got = linear_reader(profile, seed, clock_mhz=clock, beat_bytes=beat, cycles=400_000)
        part = got * clock / 1000 / profile.bytes_per_ns
        assert 0.920 < part <= 0.925


@pytest.mark.parametrize("peak", [1.0, 2.0, 3.4])
def test_a_slow_memory_yields_the_same_part(peak):
    profile = dataclasses.replace(memory_profile("hbm2"), bytes_per_ns=peak)
    got = linear_reader(profile, 1, clock_mhz=100.0, beat_bytes=64, cycles=400_000)
    assert 0.920 < got * 0.1 / peak <= 0.925


def test_linear_reader_is_bound_by_its_port():
    assert 7.99 < linear_reader(calm("onchip"), 1, beat_bytes=32, clock_mhz=80.0) / 4 <= 8


def test_seeds_differ_and_repeat():
    def record(seed):
        port = Port(memory_profile("hbm2"), seed)
        return [port.latency(512 * i) for i in range(20)]

    first = record(1)
    assert record(1) == first
    assert len({tuple(record(seed)) for seed in range(1, 9)}) == 8


def test_ready_is_seldom_there_before_valid():
    port = Port(memory_profile("hbm2"))
    idle = []
    for _ in range(2000):
        out = port.memory.out
        idle.append(out.ar_ready or out.aw_ready or out.w_ready)
        port.cycle()
    assert 0 < sum(idle) < 100


def test_queue_is_finite():
    profile = calm(reads=4, latency=5000.0)
    port = Port(profile)
    for i in range(9):
        port.read(512 * i)
    for _ in range(200):
        port.cycle()
    assert len(port.accepted) == 4
    port.until(lambda: len(port.beats) == 9)


@pytest.mark.parametrize("rate", [0.02, 0.5])
def test_error_rate(rate):
    profile = calm(error_rate=rate)
    port = Port(profile, data=bytes([7]) * (1 << 16))
    for i in range(2000):
        port.read(512 * (i % 64), 4)
        port.write(512 * (i % 64), bytes([7]) * 32)
    port.until(lambda: len(port.beats) == 8000 and len(port.acknowledged) == 2000)
    count = port.memory.counters()
    for errors in (count.read_errors, count.write_errors):
        assert 0.7 * rate < errors / 2000 < 1.3 * rate
    bursts = [port.got[i : i + 4] for i in range(0, 8000, 4)]
    failed = [burst for burst in bursts if any(resp for _, resp, _ in burst)]
    assert len(failed) == count.read_errors
    assert {resp for burst in failed for _, resp, _ in burst} == {OKAY, SLVERR, DECERR}
    # Wrong data only where a response says so.
    for burst in bursts:
        for data, resp, _ in burst:
            assert resp or data == bytes([7]) * 32
    assert sum(1 for _, resp in port.acknowledged if resp) == count.write_errors


@pytest.mark.parametrize("times", [0, 1, 3])
def test_error_address_fails_so_often(times):
    port = Port(calm(error_address=0x205, error_times=times))
    for _ in range(5):
        port.read(0x200)
        port.read(0x220)
    port.until(lambda: len(port.got) == 10)
    assert [resp for _, resp, _ in port.got[::2]] == [SLVERR] * times + [OKAY] * (5 - times)
    assert {resp for _, resp, _ in port.got[1::2]} == {OKAY}


def test_addresses_outside_fail():
    port = Port(calm(), data=bytes(1 << 12))
    port.read((1 << 12) - 32, 1)
    port.read(1 << 12, 2)
    port.write(1 << 20, bytes([1]) * 32)
    port.until(lambda: len(port.got) == 3 and port.acknowledged)
    assert [resp for _, resp, _ in port.got] == [OKAY, DECERR, DECERR]
    assert port.acknowledged[0][1] == DECERR
    assert port.memory.peek(0, 1 << 12) == bytes(1 << 12)


def test_unknown_memory_is_refused():
    with pytest.raises(TokenloomError, match="--memory hbm3: .* allowed are ideal, hbm2, ddr4"):
        memory_profile("hbm3")
