"""The array in the catalog."""

from __future__ import annotations

from typing import Any

from tokenloom.hw.array.matrix_unit import MatrixUnit
from tokenloom.hw.array.multiplier import Dsp48e2, Multiplier
from tokenloom.hw.catalog.spec import BlockSpec, Parameter, Timing, bit_table
from tokenloom.hw.numbers.formats import BLOCK
from tokenloom.hw.sequencer.isa import ARRAY_OP, Kind, pack

__all__ = ["SPEC"]

_PRIMITIVES = {"inferred": Multiplier, "dsp48e2": Dsp48e2}
# The wave's product: two tiles of so many beats.
_TILES, _BEATS = 2, 3


def _build(*, primitive: str, **parameters: Any) -> MatrixUnit:
    if primitive not in _PRIMITIVES:
        raise ValueError(f"primitive is {primitive!r}; allowed: {', '.join(_PRIMITIVES)}")
    return MatrixUnit(**parameters, multiplier=_PRIMITIVES[primitive]())


def _timing(**parameters: Any) -> list[Timing]:
    unit = _build(**parameters)
    columns, lanes, rows = (parameters[name] for name in ("columns", "lanes", "rows"))
    step = max(1, BLOCK // lanes)
    macs = columns * lanes * rows
    return [
        Timing("a step: one beat per column", "max(1, 32 / lanes)", step),
        Timing("products of 8 and 9 bits per cycle", "columns * lanes * rows", macs,
               "1024 of a 32 x 32 array" if macs == 1024 else ""),
        Timing("from a tile's last beat's issue to its first sum in row 0",
               "(9 + packed + 2·(groups - 1)·stages)·max(1, 32 / lanes)", unit.latency * step),
        Timing(f"a matmul of t = {_TILES} tiles and b = {_BEATS} beats",
               "t·max(b, columns)·max(1, 32 / lanes)",
               _TILES * max(_BEATS, columns) * step),
    ]  # fmt: skip


async def _stimulus(ctx: Any, block: Any, parameters: dict[str, Any]) -> None:
    """Writes an operand for each row, then a product of two tiles with beats of ones."""
    blocks = max(1, parameters["lanes"] // BLOCK)
    ctx.set(block.rows_used, parameters["rows"])
    ctx.set(block.group_rows, parameters["rows"])
    ctx.set(block.slot_groups, 1)

    async def step() -> None:
        while not (await ctx.tick().sample(block.step))[-1]:
            pass

    for row in range(parameters["rows"]):
        for addr in range(_BEATS * blocks):
            ctx.set(block.we, 1)
            ctx.set(block.row, row)
            ctx.set(block.addr, addr)
            ctx.set(block.x_codes, sum((row + 1) << 9 * i for i in range(BLOCK)))
            ctx.set(block.x_sum, BLOCK * (row + 1))
            await step()
    ctx.set(block.we, 0)
    count = _TILES * parameters["columns"]
    fields = {"kind": Kind.MATMUL, "tiles": _TILES, "beats": _BEATS, "count": count}
    ctx.set(block.op, pack(ARRAY_OP, fields))
    ctx.set(block.issue, 1)
    # Codes of one, with scales of one: fp16 of the smallest exponent, 1024 of its last places.
    ctx.set(block.codes, int.from_bytes(bytes([1]) * (len(block.codes) // 8), "little"))
    scale = (0x0400).to_bytes(2, "little") * (len(block.scale) // 16)
    ctx.set(block.scale, int.from_bytes(scale, "little"))
    await step()
    ctx.set(block.issue, 0)


# Of `isa.ARRAY_OP`; what a unit alone does not look at travels with the operation.
_OP = {
    "header": "of a chip's queues, not looked at here",
    "kind": "0 a matmul, 1 keys, 2 values",
    "dest": "where a chip puts the sums, not looked at here",
    "tiles": "of a matmul and of values; keys take `key_tiles`",
    "beats": "per tile, of a matmul and of keys; values take `value_blocks`",
    "count": "sums of a matmul per row, dims of values: `out_index` and `out_last` are of these",
    "x_base": "first operand block; what a beat of n blocks reads begins at a multiple of n",
    "parity": "values: which half of the probability buffer",
} | dict.fromkeys(
    ("y_base", "shift", "aux_shift", "floor", "kappa", "layer", "kv_head", "block", "windowed"),
    "for a chip's units behind the array, not looked at here",
)


SPEC = BlockSpec(
    name="array",
    title="Array",
    summary=(
        "Columns of dot-product elements: int8 weights in blocks of 32 with fp16 scales stream "
        "past operands of 9 bits, and exact 64-bit sums leave row by row."
    ),
    parameters=(
        Parameter("columns", 4, "2 or more, even if packed", "C: streams of weights."),
        Parameter(
            "lanes",
            32,
            "a power of two; 32 or more if packed",
            "K: products per element and cycle; below 32 a block takes 32/K cycles.",
        ),
        Parameter("rows", 2, "1 to 32", "R: vectors that each weight is multiplied with."),
        Parameter("drain", 2, "a divisor of columns", "W: sums per cycle at `wide`."),
        Parameter("slots", 1, "1 to 64", "Accumulators per element, twice: a tile and the next."),
        Parameter("operand_blocks", 64, "1 to 2048", "Blocks of 32 operands per row."),
        Parameter("token_blocks", 2, "1 or more", "Blocks of 32 probabilities per slot."),
        Parameter(
            "packed", False, "true or false; lanes from 32 on", "Two products per multiplier."
        ),
        Parameter(
            "groups",
            1,
            "1 to the columns, or pairs of them",
            "Groups of columns, as dies have them.",
        ),
        Parameter("stages", 0, "0 or more", "Registers on each border between groups."),
        Parameter("primitive", "inferred", ", ".join(_PRIMITIVES), "What makes the products."),
    ),
    build=_build,
    timing=_timing,
    formula=(
        "`acc = sum over blocks of ((sum_i code_i x_i) m) << (sw + sx) + (sum_i x_i m_min) << "
        "(sw_min + sx)`, exact in 64 bits: point 1 of [numbers.md](../numbers.md). Codes are int8, "
        "operands 9 bits signed with a shift per 32, scales and minima fp16 as mantissa and "
        "shift. Weight kinds mix from operation to operation: Q8_0, and after the codebook Q4_0, "
        "Q4_1, NF4, MXFP4 and IQ4_NL. Preset `classic` has 1024 products per cycle in 32 x 32 "
        "elements with one multiplier each. "
        "With `packed` two neighbouring columns share their multipliers, 27 by 18 bits, exactly."
        "\n\nThe bits of `op`, an instruction:\n\n"
        + bit_table(((name, field.width) for name, field in ARRAY_OP), _OP)
    ),
    verified=(
        "Elements, control and drains bit for bit against exact sums in numpy, random and corner "
        "operands, stalls at random, every output in every cycle (`tests/hw/array/`); all 2^25 "
        "packed products in numpy and in the RTL (`test_dot_pair.py`); whole chips with 64 and 128 "
        "lanes, packed, with column groups, against the golden model and the predicted schedule "
        "(`tests/test_array_shapes.py`)."
    ),
    stimulus=_stimulus,
    signals=("step", "we", "issue", "ready", "take", "out_valid", "out_index", "out_last", "acc"),
    cycles=48,
    small=("columns=2", "lanes=8", "rows=1", "operand_blocks=8"),
    presets={"classic": ("columns=32", "rows=32", "lanes=1", "drain=8")},
)
