# amaranth: UnusedElaboratable=no
"""Attention as a whole: drained scores in, probabilities and context blocks out.

The bench plays the array, in the array's own timing and in the order of the compiler's program:
the next kv head's scores arrive while the softmax reads this one's.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tests.hw.belt_bench import STALLS, Belt
from tests.hw.words import pack
from tokenloom.hw.array.array_control import ArrayControl
from tokenloom.hw.array.row_lane import BLOCK_TAG, Target
from tokenloom.hw.attention.attention import Attention
from tokenloom.hw.attention.softmax import Softmax
from tokenloom.hw.numbers import formats
from tokenloom.hw.sequencer import isa
from tokenloom.hw.sequencer.isa import ARRAY_OP, CONTEXT_OP, SOFTMAX_OP, Kind
from tokenloom.sim.bench import parameters, run_block, seeded
from tokenloom.sim.golden import exact_product

BLOCK = formats.BLOCK
EDGE = 1
# From an operation's issue to the first value of row 0, when its first beat is its last.
FIRST_VALUE = 1 + EDGE + ArrayControl.DRAIN
PASS_PORTS = (
    "rows_used", "group", "group_rows", "slot_groups", "head_size", "pos", "v_floor", "first",
    "window",
)  # fmt: skip
ROW_PORTS = ("out_index", "out_slot", "out_last", "out_op", "accs")


class Pass:
    """One layer of a pass: what to drive, and what has to come, by cycle from its start.

    With `split` its heads lie across blocks and lanes: several context operations begin inside a
    head, and a row's heads are in different lanes.

    Attributes
    ----------
    rows : cycle -> row -> the drains' ports
    drive : cycle -> other ports
    want : cycle -> output ports that are high then, with what they come with
    ready : (port, first cycle, first cycle after) in which a ready is low
    saturated : whether any value saturates
    """

    def __init__(self, rng: random.Random, given: dict[str, int], *, split: bool) -> None:
        self.rng, self.given = rng, given
        self.rows: dict[int, dict[int, dict[str, int]]] = defaultdict(dict)
        self.drive: dict[int, dict[str, int]] = defaultdict(dict)
        self.want: dict[int, dict[str, Any]] = defaultdict(dict)
        self.busy: list[tuple[str, int, int]] = []
        self.saturated = 0
        c, w, lanes = given["columns"], given["drain"], given["rows"]
        nb = rng.randrange(1, given["dim_blocks"] + 1)
        # Sizes that fill the last block of a head, and that do not.
        size = 32 * nb - rng.choice((0, w * rng.randrange(32 // w)))
        self.used = rng.randrange(1, lanes + 1)
        self.group = rng.randrange(1, given["slots"] + 1)
        self.heads = rng.randrange(1, 5)
        if split:
            size = w * (2 * rng.randrange(16 // w) + 1)
            self.used, self.group, self.heads = max(1, lanes - 1), given["slots"], 4
        width = given["width_max"]
        self.size = min(size, width // self.group // w * w)
        self.blocks = -(-self.size // 32)
        self.heads = min(self.heads, width // (self.group * self.size))
        most = given["tokens_max"] - self.used
        self.pos = rng.choice((0, 31, 32 - self.used, most, rng.randrange(most + 1)))
        self.floor = rng.choice((0, 0, 1, 3))
        # Of a windowed pass everything counts from `first` on; of another both are noise.
        self.windowed = rng.getrandbits(1)
        self.window = rng.choice((0, 1, self.used, rng.randrange(1, most + 2)))
        self.first = BLOCK * rng.randrange(100)
        self.length = self.pos + self.used
        self.span = -(-self.length // BLOCK) * BLOCK
        self.group_rows = self.group * self.used
        self.groups = -(-self.group_rows // lanes)
        self.tiles = -(-self.length // c)
        self.words = self.span // w
        # (first free cycle of the array; of its drain), softmax, and what each has finished.
        self.array_free = self.drained = self.soft_free = self.ctx_free = 0
        self._play()

    def ports(self) -> dict[str, int]:
        return {
            "rows_used": self.used, "group": self.group, "group_rows": self.group_rows,
            "slot_groups": self.groups, "head_size": self.size,
            "pos": self.pos + self.windowed * self.first, "first": self.first,
            "window": self.window,
            "v_floor": self.floor,
        }  # fmt: skip

    def _place(self, lane: int, slot: int) -> tuple[int, int] | None:
        """Head in the group and row of the pass, if the slot has a query."""
        s = slot * self.given["rows"] + lane
        return (s // self.used, s % self.used) if s < self.group_rows else None

    def _array(self, wait: int, tiles: int, beats: int, op: int, value: Any, limit: int) -> int:
        """Plays an operation; `value(lane, slot, index)` are its sums; returns its issue cycle.

        The last drained value of the last lane comes in cycle `self.ended`.
        """
        c, w, lanes = self.given["columns"], self.given["drain"], self.given["rows"]
        drain = c // w
        lead = (beats - 1) * self.groups
        tile_span = self.groups * max(beats, drain)
        issue = max(wait, self.array_free) + self.rng.choice((0, 0, 3))
        issue += max(0, self.drained - (issue + 1 + lead))
        self.array_free = issue + tiles * tile_span
        self.drained = issue + 1 + (tiles - 1) * tile_span + lead + self.groups * drain
        for tile in range(tiles):
            for slot in range(self.groups):
                for phase in range(drain):
                    index = tile * c + phase * w
                    at = issue + FIRST_VALUE + tile * tile_span + lead + slot * drain + phase
                    final = (tile, slot, phase) == (tiles - 1, self.groups - 1, drain - 1)
                    for lane in range(lanes):
                        accs = value(lane, slot, index) if index < limit else None
                        self.rows[at + lane][lane] = {
                            "out_valid": int(index < limit),
                            "out_index": index,
                            "out_slot": slot,
                            "out_last": int(final),
                            "out_op": op,
                            "accs": self._noise(w) if accs is None else pack(accs, 64),
                        }
        self.ended = at + lanes - 1
        return issue

    def _noise(self, count: int) -> int:
        return self.rng.getrandbits(64 * count)

    def _play(self) -> None:
        rng, given = self.rng, self.given
        npr = np.random.default_rng(rng.getrandbits(32))
        shape = (self.heads, self.group, self.used)
        # Scores as sums; the drain's shift now and then so small that they saturate.
        shift = rng.choice((0, 5, 20, 31))
        reach = rng.choice((8, 15, 18, 33))
        acc = npr.integers(-(1 << reach), 1 << reach, (*shape, self.length)) << shift
        acc += npr.integers(0, 1 << shift, acc.shape)
        scores, _ = formats.drain(acc, shift)
        mask = np.arange(self.length) <= self.pos + np.arange(self.used)[:, None]
        if self.windowed and self.window:
            begin = self.pos + np.arange(self.used)[:, None] - self.window
            mask &= np.arange(self.length) > begin
        self.saturated += formats.drain(acc[np.broadcast_to(mask, acc.shape)], shift)[1]
        p, den = formats.exp2(scores, mask)
        p = np.pad(p, [(0, 0)] * 3 + [(0, self.span - self.length)])
        v_shift = npr.integers(0, 25, (self.heads, self.blocks, self.span)) >> rng.randrange(3)
        v = npr.integers(-128, 128, (self.heads, self.blocks, self.span, BLOCK))
        context = np.zeros((*shape, self.blocks * BLOCK), dtype=np.int64)
        keys_done: list[int] = []
        soft_done: list[int] = []
        values_done: list[int] = []
        self.done_context = 0

        def keys(head: int) -> None:
            wait = soft_done[(head - 1) * self.blocks - 1] + 1 if head >= 2 else 0
            op = isa.pack(
                ARRAY_OP,
                {
                    "kind": Kind.KEYS,
                    "shift": shift,
                    "parity": head & 1,
                    "kv_head": head,
                    "windowed": self.windowed,
                },
            )

            def value(lane: int, slot: int, index: int) -> Any:
                place = self._place(lane, slot)
                if place is None:
                    return None
                found = acc[head, place[0], place[1], index : index + given["drain"]]
                # Tokens behind the pass: whatever lies in memory.
                return [*found, *(rng.getrandbits(63) for _ in range(given["drain"] - len(found)))]

            limit = self.tiles * given["columns"]
            issue = self._array(wait, self.tiles, self.blocks, op, value, limit)
            tile_span = self.groups * max(self.blocks, given["columns"] // given["drain"])
            for tile in range(self.tiles):
                for block in range(self.blocks):
                    at = issue + 1 + EDGE + tile * tile_span + block * self.groups
                    first = tile * given["columns"]
                    part = v_shift[head, block, first : first + given["columns"]]
                    noise = rng.getrandbits(5 * given["columns"]) << 5 * len(part)
                    noise &= (1 << 5 * given["columns"]) - 1
                    self.drive[at] |= {
                        "v_we": 1, "v_bank": head & 1, "v_tile": tile, "v_block": block,
                        "v_shifts": pack(part, 5) | noise,
                    }  # fmt: skip
            keys_done.append(self.ended + Attention.KEYS_DONE)
            self.want[keys_done[-1]]["keys_done"] = 1

        keys(0)
        for head in range(self.heads):
            if head + 1 < self.heads:
                keys(head + 1)
            for block in range(self.blocks):
                out_bank = len(soft_done) & 1
                wait = keys_done[head] + 1
                if len(soft_done) >= 2:
                    wait = max(wait, values_done[len(soft_done) - 2] + 1)
                soft_done.append(self._softmax(wait, head, block, out_bank, p, v_shift))
                weights = p[head] << v_shift[head, block]
                c, s = formats.prob_quantise(weights.reshape(self.group, self.used, -1, BLOCK))
                left = (c << s[..., None]).reshape(-1, self.span)
                sums = exact_product(left, v[head, block]).reshape(self.group, self.used, BLOCK)
                count = min(BLOCK, self.size - BLOCK * block)
                out, clipped = formats.context(sums[..., :count], den[head, ..., None], self.floor)
                self.saturated += clipped
                context[head, ..., BLOCK * block : BLOCK * block + count] = out
                op = isa.pack(
                    ARRAY_OP,
                    {"kind": Kind.VALUES, "block": block, "aux_shift": head & 1, "kv_head": head,
                     "parity": out_bank, "count": count, "shift": rng.randrange(64)},
                )  # fmt: skip

                def value(lane: int, slot: int, index: int, sums: Any = sums) -> Any:
                    place = self._place(lane, slot)
                    return None if place is None else sums[place][index : index + given["drain"]]

                beats = 2 * (self.span // BLOCK)
                tiles = -(-count // given["columns"])
                self._array(soft_done[-1] + 1, tiles, beats, op, value, count)
                values_done.append(self.ended + Attention.VALUES_DONE)
                self.want[values_done[-1]]["values_done"] = 1
            self._context(values_done[-1] + 1, head, context)
        self.end = max(*self.want, *self.rows, *self.drive)

    def _softmax(
        self, wait: int, head: int, block: int, out_bank: int, p: Any, v_shift: Any
    ) -> int:
        given, parts = self.given, BLOCK // self.given["drain"]
        issue = max(wait, self.soft_free) + self.rng.choice((0, 0, 2))
        self.drive[issue] |= {
            "soft_issue": 1,
            "soft_op": isa.pack(
                SOFTMAX_OP,
                {"block": block, "scores": head & 1, "parity": out_bank, "windowed": self.windowed},
            ),
        }
        self.soft_free = issue + Softmax.duration(self.groups, self.words)
        self.busy.append(("soft_ready", issue + 1, self.soft_free))
        block_bits = max(1, (given["tokens_max"] // BLOCK - 1).bit_length())
        slot_bits = max(1, (given["slots"] - 1).bit_length())
        for slot in range(self.groups):
            for number in range(self.words // parts):
                at = issue + Softmax.latency(1, slot * self.words + (number + 1) * parts)
                part = slice(BLOCK * number, BLOCK * number + BLOCK)
                found: dict[str, list[int]] = {name: [] for name in ("p_hi", "p_lo", "p_sx")}
                for lane in range(given["rows"]):
                    place = self._place(lane, slot)
                    weights = np.zeros(BLOCK, dtype=np.int64)
                    if place is not None:
                        weights = p[head][place][part] << v_shift[head, block, part]
                    codes, shift = formats.prob_quantise(weights)
                    high, low = formats.prob_split(codes)
                    found["p_hi"].append(pack(high, 8))
                    found["p_lo"].append(pack(low, 8))
                    found["p_sx"].append(int(shift))
                addr = number | slot << block_bits | out_bank << block_bits + slot_bits
                bits = 1 + slot_bits + block_bits
                self.want[at] |= {
                    "p_we": (1 << given["rows"]) - 1,
                    "p_addr": pack([addr] * given["rows"], bits),
                    "p_hi": pack(found["p_hi"], 256),
                    "p_lo": pack(found["p_lo"], 256),
                    "p_sx": pack(found["p_sx"], 6),
                }
        done = issue + Softmax.latency(self.groups, self.words)
        self.want[done]["soft_done"] = 1
        return done

    def _context(self, wait: int, head: int, context: Any) -> None:
        """Blocks that are whole by now, as the compiler asks for them."""
        rng = self.rng
        ends = (head + 1) * self.group * self.size
        last = head + 1 == self.heads
        ready = -(-ends // BLOCK) if last else ends // BLOCK
        first, count = self.done_context, ready - self.done_context
        if count == 0:
            return
        self.done_context = ready
        tail = min(BLOCK, ends - (ready - 1) * BLOCK)
        issue = max(wait, self.ctx_free)
        floor, base = rng.randrange(21), rng.randrange(1 << 10)
        fields = {"first": first, "blocks": count, "tail": tail, "floor": floor, "x_base": base}
        self.drive[issue] |= {"ctx_issue": 1, "ctx_op": isa.pack(CONTEXT_OP, fields)}
        self.ctx_free = issue + self.used * count
        self.busy.append(("ctx_ready", issue + 1, self.ctx_free))
        for row in range(self.used):
            values = context[: head + 1, :, row, : self.size].reshape(-1)
            values = np.pad(values, (0, -len(values) % BLOCK))
            for i, block in enumerate(range(first, ready)):
                tag = isa.pack(
                    BLOCK_TAG,
                    {"target": Target.OPERAND, "bank": row, "addr": base + block, "floor": floor,
                     "last": int(row == self.used - 1 and block == ready - 1)},
                )  # fmt: skip
                at = issue + Attention.CONTEXT_BLOCK + row * count + i
                self.want[at] |= {
                    "block_valid": 1,
                    "block_values": pack(values[BLOCK * block : BLOCK * block + BLOCK], 32),
                    "block_tag": tag,
                }


STROBES = ("p_we", "block_valid", "keys_done", "values_done", "soft_done")


@cocotb.test()
async def layers(dut: Any) -> None:
    rng = seeded()
    given = parameters()
    passes = given.pop("passes")
    ins = (
        *PASS_PORTS, *ROW_PORTS, "out_valid", "v_we", "v_bank", "v_tile", "v_block", "v_shifts",
        "soft_issue", "soft_op", "ctx_issue", "ctx_op",
    )  # fmt: skip
    outs = (
        "soft_ready", "ctx_ready", "p_we", "p_addr", "p_hi", "p_lo", "p_sx", "block_valid",
        "block_values", "block_tag", "keys_done", "values_done", "soft_done", "saturated",
    )  # fmt: skip
    belt = Belt(
        dut, {name: len(getattr(dut, name)) for name in ins},
        {name: len(getattr(dut, name)) for name in outs}, rng=rng,
        strobes=("out_valid", "out_last", "v_we", "soft_issue", "ctx_issue"), stable=PASS_PORTS,
    )  # fmt: skip
    await belt.reset()
    blocks = saturations = 0
    for number in range(passes):
        belt.stall = STALLS[number % len(STALLS)]
        one = Pass(rng, given, split=number % 5 == 0)
        await belt.next()
        belt.drive(**one.ports())
        start = belt.now + 1
        saturated = 0
        while belt.now < start + one.end + 5:
            found = await belt.next()
            now = belt.now - start
            want = one.want.pop(now, {})
            for name in STROBES:
                assert found[name] == want.get(name, 0), f"pass {number}: {name} in cycle {now}"
            assert {name: found[name] for name in want} == want, (number, now)
            blocks += found["block_valid"]
            saturated |= found["saturated"]
            for name in ("soft_ready", "ctx_ready"):
                low = any(n == name and a <= now < b for n, a, b in one.busy)
                assert found[name] == (not low), f"{name} is {found[name]} in cycle {now}"
            item = dict(one.drive.pop(now, {}))
            rows = one.rows.pop(now, {})
            for name in (*ROW_PORTS, "out_valid"):
                bits = len(getattr(dut, name)) // given["rows"]
                item[name] = 0
                for lane in range(given["rows"]):
                    quiet = 0 if name in ("out_valid", "out_last") else rng.getrandbits(bits)
                    value = rows[lane][name] if lane in rows else quiet
                    item[name] |= value << bits * lane
            belt.drive(**item)
        assert not one.want and not one.drive and not one.rows
        assert saturated == (one.saturated > 0), f"pass {number}"
        saturations += saturated
    assert blocks > passes and 0 < saturations < passes


@pytest.mark.parametrize(
    "bench",
    [
        dict(columns=4, drain=2, rows=4, slots=2, tokens_max=96, dim_blocks=2, width_max=256),
        deep(dict(columns=4, drain=2, rows=2, slots=3, tokens_max=96, dim_blocks=2,
                  width_max=288)),
        deep(dict(columns=8, drain=8, rows=4, slots=4, tokens_max=160, dim_blocks=4,
                  width_max=800)),
        deep(dict(columns=2, drain=2, rows=1, slots=1, tokens_max=64, dim_blocks=1, width_max=96)),
    ],
    ids=lambda b: f"{b['columns']}-{b['drain']}-{b['rows']}",
)  # fmt: skip
def test_attention(bench: dict[str, int]) -> None:
    run_block(Attention(**bench), __name__, parameters=bench | {"passes": 15})
