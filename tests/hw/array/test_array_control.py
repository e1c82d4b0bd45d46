"""The array's control alone: how long a tile lasts, and which values leave."""

from __future__ import annotations

import pytest
from amaranth.sim import Simulator

from tokenloom.hw.array.array_control import ArrayControl
from tokenloom.hw.sequencer.isa import ARRAY_OP, Dest, Kind, pack


def play(control: ArrayControl, op: dict[str, int], cycles: int, **inputs: int):
    """One operation: cycles until the next may be issued, and row 0's values as (slot, index)."""
    values: list[tuple[int, int]] = []
    ready = 0

    async def bench(ctx):
        nonlocal ready
        for name, value in inputs.items():
            ctx.set(getattr(control, name), value)
        ctx.set(control.op, pack(ARRAY_OP, op))
        ctx.set(control.issue, 1)
        for cycle in range(cycles):
            *_, accepts, valid, slot, index = await ctx.tick().sample(
                control.ready, control.out_valid, control.out_slot, control.out_index
            )
            ctx.set(control.issue, 0)
            if accepts and cycle and not ready:
                ready = cycle
            if valid & 1:
                values.append((slot % (1 << control._slot_bits), index & 0xFFFFF))

    simulator = Simulator(control)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return ready, values


@pytest.mark.parametrize(
    ("columns", "drain", "group"), [(2, 2, 2), (16, 4, 5), (128, 1, 33), (256, 2, 63)]
)
def test_a_tile_of_scores_lasts_until_its_sums_have_left(columns, drain, group):
    control = ArrayControl(columns=columns, drain=drain, rows=1, slots=group, token_blocks=8)
    words = group * columns // drain
    tiles = 2 if words < 100 else 1
    ready, values = play(
        control,
        {"kind": Kind.KEYS, "beats": 1},
        tiles * words + 40,
        rows_used=1,
        group_rows=group,
        slot_groups=group,
        key_tiles=tiles,
        key_blocks=1,
    )
    assert ready == tiles * words
    assert values == [
        (slot, index)
        for tile in range(tiles)
        for slot in range(group)
        for index in range(tile * columns, (tile + 1) * columns, drain)
    ]


@pytest.mark.parametrize("blocks", [1, 3, 4])
def test_no_score_beyond_the_longest_context(blocks):
    """64 columns, contexts of whole blocks of 32: the last tile has columns without a place."""
    control = ArrayControl(columns=64, drain=8, rows=1, slots=2, token_blocks=blocks)
    tiles = -(-blocks // 2)
    _, values = play(
        control,
        {"kind": Kind.KEYS, "beats": 1},
        tiles * 16 + 40,
        rows_used=1,
        group_rows=2,
        slot_groups=2,
        key_tiles=tiles,
        key_blocks=1,
    )
    assert len(values) == len(set(values)) == 2 * blocks * 4
    assert max(index for _, index in values) == 32 * blocks - 8


def test_a_matmul_hands_out_its_outputs_one_by_one():
    control = ArrayControl(columns=4, drain=2, rows=1, slots=1, token_blocks=1)
    ready, values = play(
        control,
        {"kind": Kind.MATMUL, "dest": Dest.RESIDUAL, "tiles": 3, "beats": 5, "count": 10},
        60,
        rows_used=1,
        group_rows=1,
        slot_groups=1,
    )
    assert ready == 3 * 5
    assert values == [(0, index) for index in range(10)]
