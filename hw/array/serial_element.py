"""An element with fewer lanes than a block: the block's products in several cycles, then scaled."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib.wiring import In, Out

from tokenloom.hw.array.dot_element import (
    DOT_BITS,
    MANT_BITS,
    SHIFT_BITS,
    X_SHIFT_BITS,
    DotElement,
    add_accumulators,
    check_element,
    scaled_terms,
)
from tokenloom.hw.array.multiplier import Multiplier
from tokenloom.hw.numbers.arith import sum_tree
from tokenloom.hw.numbers.formats import ACC_BITS, ACTIVATION_BITS, BLOCK, SUM_BITS, WEIGHT_BITS
from tokenloom.hw.numbers.words import pick
from tokenloom.hw.verilog.block import Block

__all__ = ["SerialElement"]


class SerialElement(Block):
    """A `DotElement` of 32 lanes that takes 32/K cycles for each of its steps.

    Parameters
    ----------
    lanes : int
        K, products per cycle: 1, 2, 4, 8 or 16.
    slots : int
        Accumulators per bank.
    multiplier : Multiplier
        What multiplies the codes.

    Members
    -------
    phase : In, counts 0..32/K-1 all the time; the other inputs keep their values meanwhile
    tick : In(1), the last phase: in its cycle a step ends, and every register but the running sum
        moves
    w_codes, w_mant, w_shift, w_min_mant, w_min_shift, x_codes, x_shift, x_sum, stage, first, bank,
    slot, read_bank, read_slot : In, acc : Out, as `DotElement`'s

    Latency
    -------
    LATENCY steps, of 32/K cycles each.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    LATENCY = DotElement.LATENCY
    COLUMNS = 1

    def __init__(self, *, lanes: int, slots: int, multiplier: Multiplier | None = None) -> None:
        if lanes not in (1, 2, 4, 8, 16):
            raise ValueError(f"lanes is {lanes}; allowed: 1, 2, 4, 8 or 16")
        check_element(BLOCK, slots)
        self._multiplier = multiplier or Multiplier()
        self._lanes, self._slots = lanes, slots
        slot_bits = max(1, (slots - 1).bit_length())
        super().__init__(
            {
                "phase": In(range(BLOCK // lanes)),
                "tick": In(1),
                "w_codes": In(WEIGHT_BITS * BLOCK),
                "w_mant": In(MANT_BITS),
                "w_shift": In(SHIFT_BITS),
                "w_min_mant": In(MANT_BITS),
                "w_min_shift": In(SHIFT_BITS),
                "x_codes": In(ACTIVATION_BITS * BLOCK),
                "x_shift": In(X_SHIFT_BITS),
                "x_sum": In(SUM_BITS),
                "stage": In(self.LATENCY),
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
        steps = Signal(self.LATENCY)
        m.d.comb += steps.eq(Mux(self.tick, self.stage, 0))

        # K products per cycle onto the running sum, which begins anew with each block.
        products = []
        parts = BLOCK // self._lanes
        w = pick(m, self.w_codes, self.phase, WEIGHT_BITS * self._lanes, parts)
        x = pick(m, self.x_codes, self.phase, ACTIVATION_BITS * self._lanes, parts)
        for lane in range(self._lanes):
            products.append(
                self._multiplier.product(
                    m,
                    f"product{lane}",
                    w.word_select(lane, WEIGHT_BITS).as_signed(),
                    x.word_select(lane, ACTIVATION_BITS).as_signed(),
                )
            )
        running, total = Signal(signed(DOT_BITS)), Signal(signed(DOT_BITS))
        m.d.comb += total.eq(Mux(self.phase == 0, 0, running) + sum_tree(products))
        m.d.sync += running.eq(total)
        whole, dot = Signal(signed(DOT_BITS)), Signal(signed(DOT_BITS))
        with m.If(steps[0]):
            m.d.sync += whole.eq(total)
        with m.If(steps[1]):
            m.d.sync += dot.eq(whole)

        # From here on as in an element with all lanes.
        terms = scaled_terms(m, self, 0, dot, steps)
        sums = Signal(signed(ACC_BITS))
        with m.If(steps[3]):
            m.d.sync += sums.eq(sum_tree(terms))
        add_accumulators(m, self, "bank_memory", sums, steps[4], self.acc)
        return m
