# amaranth: UnusedElaboratable=no
"""The whole block against the golden functions: every context block, every beat, every cycle."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import numpy as np
import pytest

from tests.deep import deep
from tests.hw.belt_bench import STALLS, Belt
from tests.hw.words import pack
from tokenloom.hw.attention.systolic_attention import SystolicAttention
from tokenloom.hw.attention.window import first_token
from tokenloom.hw.numbers import formats as fx
from tokenloom.sim.bench import parameters, run_block, seeded

BLOCK = fx.BLOCK
PASS = (
    "rows_used", "group", "head_size", "pos", "first", "window", "score_shift", "v_floor",
)  # fmt: skip
STREAM = ("codes", "k_shift", "v_shift")
QUERY = ("q_we", "q_row", "q_addr", "q_codes", "q_shift")
OUTPUTS = (
    "ready", "will_take", "take", "block_valid", "block_row", "block_index", "block_values",
    "block_last", "saturated",
)  # fmt: skip


class Case:
    """Queries, K and V of one KV head, and what comes of them."""

    def __init__(self, rng: random.Random, given: dict[str, int], number: int) -> None:
        npr = np.random.default_rng(rng.getrandbits(32))
        c, r, w = given["columns"], given["rows"], given["drain"]
        self.c, self.r = c, r
        self.rows = rng.randrange(1, r + 1)
        self.group = rng.randrange(1, given["slots"] * r // self.rows + 1)
        size = w * rng.randrange(1, given["head_max"] // w + 1)
        if number == 0:
            self.rows, self.group, size = r, given["slots"], given["head_max"]
        if size > BLOCK and (size - 1) % BLOCK % c != c - 1:
            size = size // BLOCK * BLOCK
        self.size, self.blocks = size, -(-size // BLOCK)
        most = given["tokens_max"]
        self.chunk = given.get("score_tokens") or most
        lengths = [self.rows, min(33, most), most, rng.randrange(self.rows, most + 1)]
        if self.chunk < most:  # around the boundaries of chunks
            lengths += [self.chunk - 1, self.chunk, self.chunk + 1, most // self.chunk * self.chunk]
        length = rng.choice(lengths)
        length = max(self.rows, length)
        page = max(BLOCK, c)
        self.window = rng.choice((0, 1, 20, rng.randrange(1, most)))
        offset = page * rng.randrange(20) if self.window else 0
        self.pos = length - self.rows + offset
        if self.window:  # no further back than the window's first page
            self.first = first_token(pos=self.pos, window=self.window, page_tokens=page)
        else:
            self.first = 0
        self.tokens = self.pos + self.rows - self.first
        if self.tokens > most:
            self.window = most // 2
            self.first = first_token(pos=self.pos, window=self.window, page_tokens=page)
            self.tokens = self.pos + self.rows - self.first
        if self.tokens > most:  # so few that half a window and its first page are too many
            self.window, self.pos, self.first = 0, length - self.rows, 0
            self.tokens = length
        self.floor = rng.choice((0, 0, 2))
        wide = self.blocks * BLOCK
        self.q = npr.integers(-256, 256, (self.group, self.rows, self.blocks, BLOCK))
        self.q.reshape(self.group, self.rows, wide)[..., size:] = 0
        self.q_shift = npr.integers(0, 6, self.q.shape[:-1])
        self.k = npr.integers(-128, 128, (self.tokens, self.blocks, BLOCK))
        self.k.reshape(self.tokens, wide)[:, size:] = 0
        self.k_shift = npr.integers(0, 6, self.k.shape[:-1])
        if number % 4 == 1:  # every score is the largest, in whatever chunk
            self.k[:], self.k_shift[:] = self.k[0], self.k_shift[0]
        self.v = npr.integers(-128, 128, (self.tokens, self.blocks, BLOCK))
        self.v_shift = npr.integers(0, 25, self.v.shape[:-1]) >> rng.randrange(4)
        self.shift = rng.choice((8, 12, 16, 16))
        self._golden()

    def _golden(self) -> None:
        left = (self.q << self.q_shift[..., None]).reshape(self.group, self.rows, -1)
        right = (self.k << self.k_shift[..., None]).reshape(self.tokens, -1)
        scores, _ = fx.drain(left @ right.T, self.shift)
        place = self.first + np.arange(self.tokens)
        row = self.pos + np.arange(self.rows)[:, None]
        mask = place <= row
        if self.window:
            mask &= place > row - self.window
        p, den = fx.exp2(scores, np.broadcast_to(mask, scores.shape))
        span = -(-self.tokens // BLOCK) * BLOCK
        p = np.pad(p, [(0, 0), (0, 0), (0, span - self.tokens)])
        out = np.empty((self.group, self.rows, self.blocks * BLOCK), dtype=np.int64)
        for b in range(self.blocks):
            shift = np.pad(self.v_shift[:, b], (0, span - self.tokens))
            codes, s = fx.prob_quantise((p << shift).reshape(self.group, self.rows, -1, BLOCK))
            weights = (codes << s[..., None]).reshape(self.group, self.rows, span)
            v = np.pad(self.v[:, b], [(0, span - self.tokens), (0, 0)])
            part = slice(BLOCK * b, BLOCK * b + BLOCK)
            out[..., part], _ = fx.context(weights @ v, den[..., None], self.floor)
        heads = out[..., : self.size].transpose(1, 0, 2).reshape(self.rows, -1)
        self.context = np.pad(heads, [(0, 0), (0, -heads.shape[1] % BLOCK)])

    def ports(self) -> dict[str, int]:
        return {
            "rows_used": self.rows, "group": self.group, "head_size": self.size, "pos": self.pos,
            "first": self.first, "window": self.window, "score_shift": self.shift,
            "v_floor": self.floor,
        }  # fmt: skip

    def queries(self) -> list[dict[str, int]]:
        found = []
        for j in range(self.group):
            for i in range(self.rows):
                slot = j * self.rows + i
                for b in range(self.blocks):
                    found.append(
                        {
                            "q_we": 1, "q_row": slot % self.r,
                            "q_addr": slot // self.r * self.blocks + b,
                            "q_codes": pack(self.q[j, i, b], 9),
                            "q_shift": int(self.q_shift[j, i, b]),
                        }
                    )  # fmt: skip
        return found

    def beats(self, rng: random.Random) -> list[dict[str, int]]:
        """In the order in which they are taken; noise where nothing counts."""
        c, found = self.c, []

        def noise(bits: int) -> int:
            return rng.getrandbits(bits)

        def keys(chunk: range) -> None:
            for first in chunk[::c]:
                for b in range(self.blocks):
                    some = range(first, min(first + c, chunk.stop))
                    rest = c - len(some)
                    codes = [int(v) for t in some for v in self.k[t, b]]
                    codes += [noise(8) for _ in range(BLOCK * rest)]
                    shifts = {
                        name: pack([*(int(of[t, b]) for t in some), *(noise(3),) * rest], 5)
                        for name, of in (("k_shift", self.k_shift), ("v_shift", self.v_shift))
                    }
                    found.append({"codes": pack(codes, 8), **shifts})

        def values(chunk: range) -> None:
            for b in range(self.blocks):
                dims = min(BLOCK, self.size - BLOCK * b)
                for first in range(0, dims, c):
                    for start in chunk[::BLOCK]:
                        codes = []
                        for dim in range(first, first + c):
                            for t in range(start, start + BLOCK):
                                inside = t < self.tokens and dim < BLOCK
                                codes.append(int(self.v[t, b, dim]) if inside else noise(8))
                        found.append({"codes": pack(codes, 8)})

        starts = range(0, self.tokens, self.chunk)
        chunks = [range(at, min(at + self.chunk, self.tokens)) for at in starts]
        for chunk in chunks:
            keys(chunk)
        for chunk in reversed(chunks):
            if chunk is not chunks[-1]:
                keys(chunk)
            values(chunk)
        return found


@cocotb.test()
async def heads(dut: Any) -> None:
    rng = seeded()
    given = parameters()
    cases = given.pop("cases")
    block = SystolicAttention(**given)
    belt = Belt(
        dut, {name: len(getattr(dut, name)) for name in (*PASS, *STREAM, *QUERY, "start")},
        {name: len(getattr(dut, name)) for name in OUTPUTS}, rng=rng,
        strobes=("q_we", "start"), stable=PASS,
    )  # fmt: skip
    await belt.reset()
    for number in range(cases):
        belt.stall = STALLS[number % len(STALLS)]
        case = Case(rng, given, number)
        await belt.next()
        belt.drive(**case.ports())
        for item in case.queries():
            await belt.next()
            belt.drive(**item)
        timing = block.timing(
            rows_used=case.rows, group=case.group, head_size=case.size, tokens=case.tokens
        )
        found = await belt.next()
        assert found["ready"]
        belt.drive(start=1)
        start, announced = belt.now, 0
        beats = case.beats(rng)
        assert len(beats) == timing.beats
        per_row = case.context.shape[1] // BLOCK
        got = 0
        while belt.now < start + timing.last:
            found = await belt.next()
            now = belt.now - start
            assert found["take"] == announced, now
            announced = found["will_take"]
            assert not found["ready"], now
            belt.drive(**(beats.pop(0) if found["take"] else {}))
            assert found["block_valid"] == (now >= timing.first_block), now
            if found["block_valid"]:
                row, index = divmod(got, per_row)
                assert (found["block_row"], found["block_index"]) == (row, index)
                want = case.context[row, BLOCK * index : BLOCK * index + BLOCK]
                assert found["block_values"] == pack(want, 32), (number, row, index)
                got += 1
                assert found["block_last"] == (got == per_row * case.rows)
        assert not beats and got == per_row * case.rows, number
        assert (await belt.next())["ready"]
        belt.drive()


@pytest.mark.parametrize(
    "bench",
    [
        dict(columns=4, rows=2, drain=2, slots=2, tokens_max=96, head_max=64, cases=10),
        dict(columns=4, rows=2, drain=2, slots=2, tokens_max=160, head_max=64, score_tokens=32,
             cases=24),
        deep(dict(columns=8, rows=4, drain=8, slots=1, tokens_max=256, head_max=64, cases=10)),
        deep(dict(columns=8, rows=2, drain=8, slots=3, tokens_max=300, head_max=32,
                  score_tokens=64, cases=30)),
        deep(dict(columns=2, rows=1, drain=2, slots=1, tokens_max=96, head_max=8,
                  score_tokens=32, cases=30)),
        deep(dict(columns=2, rows=1, drain=1, slots=3, tokens_max=64, head_max=32, cases=10)),
    ],
    ids=lambda b: f"{b['columns']}-{b['drain']}-{b['rows']}-{b.get('score_tokens', 0)}",
)  # fmt: skip
def test_systolic_attention(bench: dict[str, int]) -> None:
    values = {name: value for name, value in bench.items() if name != "cases"}
    run_block(SystolicAttention(**values), __name__, parameters=bench)


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ({"columns": 6}, "powers of two"),
        ({"rows": 3}, "powers of two"),
        ({"drain": 8}, "multiples of drain = 8"),
        ({"slots": 0}, "1 to 64"),
        ({"head_max": 288}, "up to 256"),
        ({"score_tokens": 16}, "from 32 on"),
        ({"score_tokens": 48}, "powers of two"),
        ({"tokens_max": 4096, "score_tokens": 32}, "from 64 on"),
    ],
)
def test_parameters(wrong: dict[str, int], allowed: str) -> None:
    values = dict(columns=4, rows=2, drain=2, slots=2, tokens_max=96, head_max=64) | wrong
    with pytest.raises(
        ValueError, match=f"({'|'.join(wrong)}) = .*{allowed}|columns = .*{allowed}"
    ):
        SystolicAttention(**values)
