"""One element of the array: K products of 8 by 9 bits per cycle, scaled and summed exactly."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.multiplier import Multiplier
from tokenloom.hw.numbers.arith import sum_tree
from tokenloom.hw.numbers.formats import ACC_BITS, ACTIVATION_BITS, BLOCK, SUM_BITS, WEIGHT_BITS
from tokenloom.hw.verilog.block import Block

__all__ = [
    "DOT_BITS",
    "MANT_BITS",
    "SHIFT_BITS",
    "SLOTS_MAX",
    "X_SHIFT_BITS",
    "DotElement",
    "add_accumulators",
    "check_element",
    "scaled_terms",
    "shifted",
]

MANT_BITS = 12  # signed mantissa of an fp16 scale
SHIFT_BITS = 5
SLOTS_MAX = 64  # accumulators of an element, per bank
X_SHIFT_BITS = 6
DOT_BITS = WEIGHT_BITS + ACTIVATION_BITS + 5  # 32 products; 2^7 · 2^8 · 2^5 has 22 bits signed


def check_element(lanes: int, slots: int) -> None:
    """Raises ValueError unless an element can have so many lanes and accumulators per bank."""
    if lanes % BLOCK or lanes <= 0:
        raise ValueError(f"lanes is {lanes}; allowed: multiples of {BLOCK}")
    if not 1 <= slots <= SLOTS_MAX:
        raise ValueError(f"slots is {slots}; allowed: 1..{SLOTS_MAX}")


def shifted(m: Module, name: str, value: Value, by: Value) -> Value:
    """`value << by` in an accumulator's width.

    The compiler's proof bounds the sum; what a shift pushes out of the top is always zero.
    """
    wide = Signal(signed(ACC_BITS), name=f"{name}_wide")
    result = Signal(signed(ACC_BITS), name=f"{name}_shifted")
    m.d.comb += [wide.eq(value), result.eq((wide << by[:6])[:ACC_BITS].as_signed())]
    return result


def add_accumulators(
    m: Module, ports: Any, name: str, total: Value, enable: Value, acc: Value
) -> None:
    """Two banks of accumulators, which `total` is added to or replaces; `acc` shows one.

    `ports` has `first`, `bank`, `slot`, `read_bank` and `read_slot` as `DotElement`.
    """
    m.submodules[name] = memory = Memory(
        shape=signed(ACC_BITS), depth=2 * (1 << len(ports.slot)), init=[]
    )
    here = memory.read_port(domain="comb")
    there = memory.read_port(domain="comb")
    write = memory.write_port()
    m.d.comb += [
        here.addr.eq((ports.bank << len(ports.slot)) | ports.slot),
        there.addr.eq((ports.read_bank << len(ports.slot)) | ports.read_slot),
        write.addr.eq(here.addr),
        write.data.eq(Mux(ports.first, 0, here.data) + total),
        write.en.eq(enable),
        acc.eq(there.data),
    ]


def _delayed(
    m: Module, stages: Value, name: str, value: Value, stage: int, shape: Any = None
) -> Signal:
    """`value` behind the register of a stage."""
    register = Signal(shape or value.shape(), name=f"{name}_s{stage}")
    with m.If(stages[stage]):
        m.d.sync += register.eq(value)
    return register


def scaled_terms(m: Module, ports: Any, b: int, dot: Value, stages: Value) -> list[Value]:
    """Block b's exact sum, there behind stage 1, times its mantissa, and its minimum: shifted.

    `ports` has the scales and minima, `x_shift` and `x_sum` as `DotElement`; `stages` says which
    registers move.
    """

    def field(port: Value, bits: int) -> Value:
        return port.word_select(b, bits)

    def delayed(name: str, value: Value, stage: int) -> Signal:
        return _delayed(m, stages, f"{name}_{b}", value, stage)

    x_shift = field(ports.x_shift, X_SHIFT_BITS)
    mant = field(ports.w_mant, MANT_BITS).as_signed()
    shift = field(ports.w_shift, SHIFT_BITS) + x_shift
    minimum = (
        field(ports.x_sum, SUM_BITS).as_signed() * field(ports.w_min_mant, MANT_BITS).as_signed()
    )
    min_shift = field(ports.w_min_shift, SHIFT_BITS) + x_shift

    for stage in (0, 1):
        mant = delayed("mant", mant, stage)
        shift = delayed("shift", shift, stage)
        minimum = delayed("minimum", minimum, stage)
        min_shift = delayed("min_shift", min_shift, stage)
    scaled = delayed("product", dot * mant, 2)
    shift = delayed("shift", shift, 2)
    minimum = delayed("minimum", minimum, 2)
    min_shift = delayed("min_shift", min_shift, 2)
    return [
        shifted(m, f"dot_{b}", scaled, shift),
        shifted(m, f"minimum_{b}", minimum, min_shift),
    ]


class DotElement(Block):
    """`acc[bank, slot] (+)= (Σ w·x · mant << (w_shift + x_shift)) + (Σx · min << …)`.

    Parameters
    ----------
    lanes : int
        K, products per cycle, a multiple of 32.
    slots : int
        Accumulators per bank.
    multiplier : Multiplier
        What multiplies the codes.

    Members
    -------
    w_codes : In(8·K); x_codes : In(9·K)
    w_mant, w_min_mant : In(12·K/32), signed mantissas; w_shift, w_min_shift : In(5·K/32)
    x_shift : In(6·K/32); x_sum : In(14·K/32), signed, Σx of each block
    stage : In(5), valid flags of the five stages (shared by all elements of a row)
    first : In(1), at stage 4: the accumulator is written, not added to
    bank, slot : In, at stage 4
    read_bank, read_slot : In; acc : Out(64), the accumulator there, in the same cycle

    Latency
    -------
    An operand at the ports in cycle t is in `acc` from cycle t + LATENCY on.
    """

    LATENCY = 5
    COLUMNS = 1

    def __init__(self, *, lanes: int, slots: int, multiplier: Multiplier | None = None) -> None:
        check_element(lanes, slots)
        self._multiplier = multiplier or Multiplier()
        blocks = lanes // BLOCK
        self._blocks, self._slots = blocks, slots
        slot_bits = max(1, (slots - 1).bit_length())
        super().__init__(
            {
                "w_codes": In(WEIGHT_BITS * lanes),
                "w_mant": In(MANT_BITS * blocks),
                "w_shift": In(SHIFT_BITS * blocks),
                "w_min_mant": In(MANT_BITS * blocks),
                "w_min_shift": In(SHIFT_BITS * blocks),
                "x_codes": In(ACTIVATION_BITS * lanes),
                "x_shift": In(X_SHIFT_BITS * blocks),
                "x_sum": In(SUM_BITS * blocks),
                "stage": In(5),
                "first": In(1),
                "bank": In(1),
                "slot": In(slot_bits),
                "read_bank": In(1),
                "read_slot": In(slot_bits),
                "acc": Out(signed(ACC_BITS)),
            },
            params=(lanes, slots, self._multiplier.name),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        terms: list[Value] = []
        for b in range(self._blocks):
            terms += self._block_terms(m, b)

        total = Signal(signed(ACC_BITS))
        with m.If(self.stage[3]):
            m.d.sync += total.eq(sum_tree(terms))

        add_accumulators(m, self, "bank_memory", total, self.stage[4], self.acc)
        return m

    def _block_terms(self, m: Module, b: int) -> list[Value]:
        """Stages 0 to 2 of one block: dot product, sum, mantissa; returns the shifted terms."""

        def product(i: int) -> Value:
            lane = BLOCK * b + i
            w = self.w_codes.word_select(lane, WEIGHT_BITS).as_signed()
            x = self.x_codes.word_select(lane, ACTIVATION_BITS).as_signed()
            return self._multiplier.product(m, f"product{lane}", w, x)

        def delayed(name: str, value: Value, stage: int, shape: object = None) -> Signal:
            return _delayed(m, self.stage, f"{name}_{b}", value, stage, shape)

        # Stage 0: four products at a time. Stage 1: the block's exact sum.
        quads = [
            delayed(f"quad{q}", sum_tree([product(i) for i in range(q, q + 4)]), 0)
            for q in range(0, BLOCK, 4)
        ]
        dot = delayed("dot", sum_tree(quads), 1, signed(DOT_BITS))

        return scaled_terms(m, self, b, dot, self.stage)
