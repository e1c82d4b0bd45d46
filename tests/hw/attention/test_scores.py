# amaranth: UnusedElaboratable=no
"""Scores against formats.drain and a maximum in numpy."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest

from tests.hw.attention.attention_bench import STALLS, Belt
from tests.hw.many import many_values
from tests.hw.words import pack, unpack
from tokenloom.hw.attention.scores import Scores
from tokenloom.hw.numbers import formats
from tokenloom.sim.bench import parameters, run_block, seeded

LOW, HIGH = -(2**31), 2**31 - 1


@cocotb.test()
@many_values(1500, only=lambda: parameters()["drain"] == 8)
async def lane(dut: Any) -> None:
    rng = seeded()
    p = parameters()
    width, slots, tokens_max, bits = (
        p[k] for k in ("drain", "slot_groups", "tokens_max", "acc_bits")
    )
    belt = Belt(
        dut,
        {
            "in_valid": 1,
            "in_used": 1,
            "in_accs": bits * width,
            "in_shift": 6,
            "in_bank": 1,
            "in_slot": len(dut.in_slot),
            "in_token": len(dut.in_token),
            "in_length": len(dut.in_length),
            "in_begin": len(dut.in_begin),
            "in_start": 1,
            "read": 1,
            "read_bank": 1,
            "read_slot": len(dut.read_slot),
            "read_word": len(dut.read_word),
        },
        {"saturated": 1, "read_scores": 32 * width, "read_max": 32},
        strobes=("in_valid", "read"),
        rng=rng,
    )
    await belt.reset()
    stored: dict[tuple[int, int, int], list[int]] = {}  # (bank, slot, word)
    highest: dict[tuple[int, int], int] = {}
    saturated: set[int] = set()
    checked = 0

    def read_items(bank: int) -> list[dict[str, int]]:
        items = [
            {"read": 1, "read_bank": b, "read_slot": s, "read_word": w}
            for b, s, w in stored
            if b == bank
        ]
        rng.shuffle(items)
        return items

    async def play(writes: list[dict[str, int] | None], reads: list[dict[str, int]]) -> None:
        """One cycle per entry of the longer list; reads see what `stored` holds now."""
        nonlocal checked
        pending: dict[str, int] | None = None
        kept: tuple[int, int] | None = None
        for step in range(max(len(writes), len(reads)) + Scores.SATURATED_LATENCY + 1):
            out = await belt.next()
            assert out["saturated"] == (belt.cycle in saturated), belt.cycle
            if pending is not None:
                key = pending["read_bank"], pending["read_slot"], pending["read_word"]
                assert unpack(out["read_scores"], 32, width) == stored[key], key
                assert unpack(out["read_max"], 32, 1)[0] == highest[key[:2]], key
                checked += 1
                kept = out["read_scores"], out["read_max"]
            elif kept is not None:
                assert kept == (out["read_scores"], out["read_max"])
            write = writes[step] if step < len(writes) else None
            pending = reads[step] if step < len(reads) and rng.random() < 0.8 else None
            belt.drive(**(write or {}), **(pending or {}))
            if write is not None and write.get("in_valid") and write["in_used"]:
                accs = unpack(write["in_accs"], bits, width)
                first = write["in_token"]
                counting = [
                    a
                    for i, a in enumerate(accs)
                    if write["in_begin"] <= first + i < write["in_length"]
                ]
                if formats.drain(np.array(counting, dtype=np.int64), write["in_shift"])[1]:
                    saturated.add(belt.cycle + Scores.SATURATED_LATENCY)

    bank = risen = kept_up = 0
    for round_number in range(12):
        belt.stall = STALLS[round_number % 3]
        shift = (0, 63, 1, 20)[round_number] if round_number < 4 else rng.randrange(bits - 1)
        kind = round_number % 4
        lengths = [rng.choice((1, width + 1, 33, tokens_max - 1, tokens_max)) for _ in range(slots)]
        if round_number == 0:
            lengths = [1] * slots
        # Later chunks of a context: the maximum goes on, and a row may have no token there.
        goes_on = [round_number >= 4 and (bank, s) in highest and s != 1 for s in range(slots)]
        begins = [rng.choice((0, n - 1, rng.randrange(n))) for n in lengths]
        begins = [n if goes_on[s] and rng.random() < 0.3 else b
                  for s, (b, n) in enumerate(zip(begins, lengths, strict=True))]  # fmt: skip
        # Round 2 left the lowest there: this one is higher, and nothing is not.
        begins[0] = {4: 0, 10: lengths[0]}.get(round_number, begins[0])
        used = [int(round_number % 3 != 2 or s == 0) for s in range(slots)]
        tokens = min(tokens_max, max(lengths) + width)
        tokens -= tokens % width
        writes: list[dict[str, int] | None] = []
        fresh: dict[tuple[int, int], list[int]] = {}
        for token in range(0, tokens, width):
            for slot in range(slots):
                accs = []
                for t in range(token, token + width):
                    top = min(bits - 1, 32 + shift if kind else shift + 20)
                    value = rng.randrange(-(1 << top), 1 << top)
                    if kind == 1:
                        value = (5 << shift) % (1 << bits - 2)
                    if kind == 2:
                        value = -(1 << bits - 1) + rng.randrange(1000)  # all at the bottom
                    if not begins[slot] <= t < lengths[slot]:
                        value = (1 << bits - 1) - 1 - rng.randrange(100)
                    accs.append(value)
                writes.append(
                    {
                        "in_valid": 1,
                        "in_used": used[slot],
                        "in_accs": pack(accs, bits),
                        "in_shift": shift,
                        "in_bank": bank,
                        "in_slot": slot,
                        "in_token": token,
                        "in_length": lengths[slot],
                        "in_begin": begins[slot],
                        "in_start": int(token == 0 and not goes_on[slot]),
                    }
                )
                fresh.setdefault((bank, slot), []).extend(
                    int(v) for v in formats.drain(np.array(accs, dtype=np.int64), shift)[0]
                )
                while rng.random() < 0.2:
                    writes.append(None)
        # The other bank is read while this one is written.
        await play(writes, read_items(1 - bank))
        for slot in range(slots):
            if used[slot]:
                values = fresh[bank, slot]
                for word in range(tokens // width):
                    stored[bank, slot, word] = values[word * width : (word + 1) * width]
                counting = values[begins[slot] : lengths[slot]]
                if goes_on[slot]:
                    risen += max(counting, default=LOW) > highest[bank, slot]
                    kept_up += max(counting, default=LOW) < highest[bank, slot]
                    counting.append(highest[bank, slot])
                highest[bank, slot] = max(counting)
        await play([], read_items(bank))
        # The stated latency, exactly: a new first word, and a read of it that much later.
        accs = [HIGH - 7 * i for i in range(width)]
        one = {
            "in_valid": 1,
            "in_used": 1,
            "in_accs": pack(accs, bits),
            "in_shift": 0,
            "in_bank": bank,
            "in_slot": slots - 1,
            "in_token": 0,
            "in_length": 1,
            "in_begin": 0,
            "in_start": 1,
        }
        await belt.next()
        belt.drive(**one)
        for _ in range(Scores.WRITE_LATENCY - 1):
            await belt.next()
            belt.drive()
        await belt.next()
        belt.drive(read=1, read_bank=bank, read_slot=slots - 1, read_word=0)
        out = await belt.next()
        belt.drive()
        assert unpack(out["read_scores"], 32, width) == accs
        assert out["read_max"] == HIGH
        stored[bank, slots - 1, 0] = accs
        highest[bank, slots - 1] = HIGH
        bank = 1 - bank
    assert checked > 200 and risen and kept_up


@pytest.mark.parametrize(
    ("drain", "slot_groups", "tokens_max", "acc_bits"), [(2, 2, 128, 64), (8, 3, 96, 48)]
)
def test_scores(drain: int, slot_groups: int, tokens_max: int, acc_bits: int) -> None:
    values = {
        "drain": drain,
        "slot_groups": slot_groups,
        "tokens_max": tokens_max,
        "acc_bits": acc_bits,
    }
    run_block(Scores(**values), __name__, parameters=values)


@pytest.mark.parametrize(
    "wrong", [{"drain": 3}, {"slot_groups": 0}, {"tokens_max": 100}, {"acc_bits": 65}]
)
def test_parameters(wrong: dict[str, int]) -> None:
    values = {"drain": 2, "slot_groups": 2, "tokens_max": 128, "acc_bits": 64} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Scores(**values)
