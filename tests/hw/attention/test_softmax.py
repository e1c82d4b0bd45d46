# amaranth: UnusedElaboratable=no
"""Softmax against formats.exp2, formats.prob_quantise and formats.prob_split."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import numpy as np
import pytest

from tests.hw.attention.attention_bench import STALLS, Belt
from tests.hw.many import many_values
from tests.hw.words import pack
from tokenloom.hw.attention.softmax import Softmax
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import parameters, run_block, seeded

LOW, HIGH = -(2**31), 2**31 - 1
KINDS = ("equal", "near", "spread", "extreme", "peak")


def some_scores(rng: random.Random, kind: str, count: int) -> list[int]:
    if kind == "equal":
        return [rng.choice((LOW, HIGH, 5))] * count
    if kind == "extreme":
        return [rng.choice((LOW, HIGH, LOW + 1, 0)) for _ in range(count)]
    if kind == "peak":
        top = [-(40 << 11)] * count
        if count:
            top[rng.randrange(count)] = 0
        return [v + rng.randrange(3) for v in top]
    reach = 2048 if kind == "near" else 20 << 11
    return [rng.randrange(-reach, reach) for _ in range(count)]


@cocotb.test()
@many_values(3000, only=lambda: parameters()["drain"] == 8)
async def lane(dut: Any) -> None:
    rng = seeded()
    p = parameters()
    width, slots = p["drain"], p["slot_groups"]
    tokens_max, dim_blocks = p["tokens_max"], p["dim_blocks"]
    parts = 32 // width
    chunks = bool(p.get("chunks"))
    ins = (
        "start start_bank start_out_bank start_groups start_words start_block "
        "first_token length used scores "
        "scores_max v_shift"
    ) + (" start_opens start_closes" if chunks else "")
    outs = (
        "slot scores_read scores_bank scores_slot scores_word v_read v_bank v_token v_block "
        "den_valid den_bank den_slot den out_valid out_bank out_slot out_block out_hi out_lo "
        "out_sx out_last"
    )
    belt = Belt(
        dut,
        {name: len(getattr(dut, name)) for name in ins.split()},
        {name: len(getattr(dut, name)) for name in outs.split()},
        strobes=("start",),
        rng=rng,
    )
    await belt.reset()

    shifts = {
        (bank, block): [rng.randrange(25) for _ in range(tokens_max)]
        for bank in (0, 1)
        for block in range(dim_blocks)
    }
    shifts[0, 0] = [24] * tokens_max
    blocks: dict[int, dict[str, int]] = {}  # expected, by belt cycle
    dens: dict[int, tuple[int, int, int]] = {}
    scores: dict[tuple[int, int], list[int]] = {}
    highest: dict[tuple[int, int], int] = {}
    lengths: dict[tuple[int, int], int] = {}
    begins: dict[tuple[int, int], int] = {}
    used: dict[tuple[int, int], int] = {}

    def prepare(bank: int, number: int, before: int = 0) -> tuple[int, int]:
        """New scores for a bank: (groups, words); with a context's later chunk its groups."""
        groups = before or rng.randrange(1, slots + 1)
        for slot in range(groups):
            length = rng.choice((1, 2, 31, 32, min(33, tokens_max), tokens_max - 1, tokens_max))
            if number == operations - 2:
                length = tokens_max
            elif chunks and slot and rng.random() < 0.3:
                length = 0  # this row's context ends, or its window begins, in another chunk
            if number == 0:
                length = 1
            kind = KINDS[(number + slot) % len(KINDS)] if number < operations - 2 else "equal"
            values = some_scores(rng, kind, length)
            scores[bank, slot] = values + [
                rng.choice((HIGH, LOW, rng.randrange(LOW, HIGH)))
                for _ in range(tokens_max - length)
            ]
            begin = rng.choice((0, 0, max(0, length - 1), rng.randrange(length + 1)))
            begin = min(begin, length if chunks else length - 1)
            if number == operations - 2:
                begin = 0
            begins[bank, slot] = begin
            scores[bank, slot][:begin] = [rng.choice((HIGH, LOW, 0)) for _ in range(begin)]
            highest[bank, slot] = max(values[begin:], default=LOW)
            lengths[bank, slot] = length
            used[bank, slot] = used[1 - bank, slot] if before else slot == 0 or rng.random() < 0.7
        most = max(lengths[bank, slot] for slot in range(groups))
        return groups, -(-most // 32) * parts

    added: dict[int, int] = {}  # denominators of the chunks so far, by slot
    sums: list[bool] = []  # of scans: whether a denominator of several chunks leaves

    def forecast(
        start: int, bank: int, out_bank: int, groups: int, words: int, block: int,
        opens: bool = True, closes: bool = True,
    ) -> None:  # fmt: skip
        count = words * width
        for slot in range(groups):
            mask = np.arange(count) < lengths[bank, slot]
            mask &= np.arange(count) >= begins[bank, slot]
            w = np.zeros(count, dtype=np.int64)
            if used[bank, slot]:
                power, den = formats.exp2(scores[bank, slot][:count], mask)
                w = power << np.array(shifts[bank, block][:count], dtype=np.int64)
                if block == 0:
                    added[slot] = int(den) + (0 if opens else added[slot])
                    sums.append(closes and not opens)
                    if closes:
                        at = start + Softmax.den_latency(slot + 1, words)
                        dens[at] = bank, slot, added[slot]
            for number in range(words // parts):
                codes, shift = formats.prob_quantise(w[32 * number : 32 * number + 32])
                hi, lo = formats.prob_split(codes)
                done = slot * words + (number + 1) * parts
                blocks[start + Softmax.latency(1, done)] = {
                    "out_bank": out_bank,
                    "out_slot": slot,
                    "out_block": number,
                    "out_hi": pack(hi, 8),
                    "out_lo": pack(lo, 8),
                    "out_sx": int(shift),
                    "out_last": int(slot == groups - 1 and number == words // parts - 1),
                }

    ready = 0
    operations = p.get("operations", 40)
    number = 0
    bank = out_bank = block = 0
    shape = (0, 0)
    asked: tuple[int, int] | None = None
    v_asked: int | None = None
    last_end = largest_den = left = 0
    opens = closes = True
    while number < operations or belt.cycle < last_end + 3:
        belt.stall = STALLS[number % 3]
        out = await belt.next()
        cycle = belt.cycle
        assert out["out_valid"] == (cycle in blocks), cycle
        if out["out_valid"]:
            want = blocks.pop(cycle)
            assert {name: out[name] for name in want} == want, (cycle, number)
        else:
            assert not out["out_last"]
        assert out["den_valid"] == (cycle in dens), cycle
        if out["den_valid"]:
            assert (out["den_bank"], out["den_slot"], out["den"]) == dens.pop(cycle)
            largest_den = max(largest_den, out["den"])

        item: dict[str, int] = {}
        # Answers to what was asked in the cycle before.
        if asked is not None:
            item |= {"scores": asked[0], "scores_max": asked[1]}
        if v_asked is not None:
            item["v_shift"] = v_asked
        asked = v_asked = None
        if out["scores_read"]:
            place = out["scores_bank"], out["scores_slot"]
            first = out["scores_word"] * width
            asked = pack(scores[place][first : first + width], 32), highest[place]
            now = out["scores_bank"], out["slot"]
            item |= {"first_token": begins[now], "length": lengths[now], "used": used[now]}
        if out["v_read"]:
            first = out["v_token"]
            v_asked = pack(shifts[out["v_bank"], out["v_block"]][first : first + width], 5)

        # The next operation: all dim blocks of one bank, then the other bank.
        if number < operations and cycle >= ready and rng.random() < 0.8:
            if block == 0:
                bank = 1 - bank
                opens = left == 0
                shape = prepare(bank, number, 0 if opens else shape[0])
                left = left - 1 if left else rng.randrange(4) if chunks else 0
                closes = left == 0
            if chunks:
                item |= {"start_opens": opens, "start_closes": closes}
            item |= {
                "start": 1,
                "start_bank": bank,
                "start_out_bank": out_bank,
                "start_groups": shape[0],
                "start_words": shape[1],
                "start_block": block,
            }
            forecast(cycle, bank, out_bank, *shape, block, opens, closes)
            ready = cycle + Softmax.duration(*shape)
            last_end = cycle + Softmax.latency(*shape)
            block = (block + 1) % dim_blocks
            out_bank = 1 - out_bank
            number += 1
        belt.drive(**item)
    assert not blocks and not dens
    assert sum(sums) > 3 if chunks else largest_den == tokens_max << formats.PROB_FRAC


@pytest.mark.parametrize(
    ("drain", "slot_groups", "tokens_max", "dim_blocks", "chunks"),
    [
        (2, 2, 128, 2, False),
        (32, 3, 96, 1, False),
        (8, 2, 128, 1, False),
        (2, 2, 64, 2, True),
        (32, 3, 32, 1, True),  # a word per slot
    ],
)
def test_softmax(
    drain: int, slot_groups: int, tokens_max: int, dim_blocks: int, chunks: bool
) -> None:
    values = {
        "drain": drain,
        "slot_groups": slot_groups,
        "tokens_max": tokens_max,
        "dim_blocks": dim_blocks,
        "chunks": chunks,
    }
    run_block(Softmax(**values), __name__, parameters=values)


def test_longest() -> None:
    """131,072 equal scores: a denominator of 35 bits."""
    values = {"drain": 32, "slot_groups": 1, "tokens_max": 131072, "dim_blocks": 1}
    given = {**values, "operations": 6}
    run_block(Softmax(**values), __name__, parameters=given)


@pytest.mark.parametrize(
    "wrong", [{"drain": 64}, {"slot_groups": 0}, {"tokens_max": 131104}, {"dim_blocks": 0}]
)
def test_parameters(wrong: dict[str, int]) -> None:
    values = {"drain": 2, "slot_groups": 2, "tokens_max": 128, "dim_blocks": 2} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Softmax(**values)
