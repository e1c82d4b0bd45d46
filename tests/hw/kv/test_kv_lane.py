"""A channel's part of the KV writer: which steps write here, what, and when all is acknowledged."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
import pytest
from cocotb.triggers import FallingEdge, Timer

from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured
from tests.hw.words import pack
from tokenloom.hw.kv.kv_lane import KvLane
from tokenloom.sim.bench import run_block

INPUTS = (
    "index issue shifting is_v home offset dims_left codes shift byte_write wide swap w_ready "
    "b_valid"
).split()


@cocotb.test()
async def steps(dut: Any) -> None:
    given, rng, _ = configured()
    columns, word = given["columns"], given["port_bits"] // 8
    await begin(dut, INPUTS)
    index = rng.randrange(columns)
    dut.index.value = index
    waiting: bytes | None = None  # the write at the port
    kept = (0, 0)  # byte_write and wide of the step issued last
    flying: deque[int] = deque()  # cycles in which taken writes are acknowledged
    groups = [0, 0]  # writes without acknowledgement: of the closed group, of the next
    writes = {"shift": 0, "key": 0, "value": 0, "none": 0}
    closings = 0
    for now in range(6000):
        rate = (1.0, 0.5, 0.1)[now // 2000]
        accept = int(rng.random() < rate)
        acknowledged = int(bool(flying) and flying[0] <= now)
        values = {name: rng.getrandbits(len(getattr(dut, name))) for name in INPUTS[2:11]}
        values |= {"byte_write": kept[0], "wide": kept[1], "issue": 0, "swap": 0}
        values |= {"w_ready": accept, "b_valid": acknowledged}
        # A step's data follow its issue by a cycle.
        after = kept
        new: bytes | None = None
        free = waiting is None or accept
        if free and sum(groups) < given["steps_max"] and rng.random() < 0.6:
            kind = rng.choice(("shift", "key", "value"))
            home = rng.choice((index, index, rng.randrange(columns)))
            codes = bytes(rng.getrandbits(8) for _ in range(32))
            shift = rng.randrange(25)
            offset = rng.choice((-index, 31 - index, 32 - index, rng.randrange(-columns, 33)))
            left = rng.choice((32, 64, offset + index, offset + index + 1, rng.randrange(1, 33)))
            at = offset + index
            if kind == "shift":
                mine, data = home == index, bytes([shift]) * word
            elif kind == "key":
                mine, data = home == index, codes * (word // 32)
            else:
                mine = 0 <= at < 32 and at < left
                data = bytes([codes[at]]) * word if mine else b""
            values |= {
                "issue": 1, "shifting": int(kind == "shift"), "home": home,
                "is_v": rng.getrandbits(1) if kind == "shift" else int(kind == "value"),
                "offset": offset & 1023, "dims_left": left & 2047, "codes": pack(codes, 8),
                "shift": shift,
            }  # fmt: skip
            after = int(kind != "key"), pack(codes, 8)
            writes[kind if mine else "none"] += 1
            new = data if mine else None
        elif not groups[0] and groups[1] and rng.random() < 0.3:
            values["swap"] = 1
        for name, value in values.items():
            getattr(dut, name).value = value
        await Timer(1, "ns")
        assert dut.w_valid.value == (waiting is not None), now
        assert dut.busy.value == (waiting is not None and not accept), now
        if waiting is not None:
            assert int(dut.w_data.value).to_bytes(word, "little") == waiting, now
        assert (dut.old_any.value == 1) == (groups[0] > 0), now
        assert (dut.new_any.value == 1) == (groups[1] > 0), now
        await FallingEdge(dut.clk)

        if waiting is not None and accept:
            earliest = max(now + rng.randrange(1, 12), flying[-1] if flying else 0)
            flying.append(earliest)
            waiting = None
        if values["issue"]:
            waiting, kept = new, after
        if acknowledged:
            flying.popleft()
            groups[0 if groups[0] else 1] -= 1
        groups[1] += new is not None
        if values["swap"]:
            groups = [groups[1], 0]
            closings += 1
    assert min(writes.values()) > 50, writes
    assert closings > 30


@pytest.mark.parametrize(("columns", "port_bits"), [(6, 256), (64, 512)])
def test_kv_lane(columns: int, port_bits: int) -> None:
    bench = {"columns": columns, "port_bits": port_bits, "steps_max": 7}
    block = KvLane(**bench, token_bits=max(1, (columns - 1).bit_length()))
    run_block(block, __name__, parameters=bench)
