"""Counts what the belt did, in 64 bits, and shows all counts of one moment."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.verilog.block import Block

__all__ = ["COUNTERS", "COUNTER_BITS", "Counters"]

COUNTER_BITS = 64

COUNTERS = {
    "passes": "Passes begun.",
    "elapsed": "Clock cycles in passes: SCHEDULED and all STALL_*.",
    "scheduled": "Belt cycles in passes.",
    "stall_tape": "Clock cycles in passes that waited for weights, K or V.",
    "stall_row": "... for an embedding row.",
    "stall_kv": "... for room in the queue of K and V writes.",
    "stall_other": "... for anything else: a start, CONTROL.hold, or room for ANSWER.",
    "beats": "Belt cycles in which the array took a beat of each channel.",
    "array_busy": "Belt cycles in which the array multiplied.",
    "saturations": "Belt cycles in which a value was clipped to its format.",
    "tokens": "Tokens generated.",
    "refused_ids": "Prompt tokens refused because they are no id of the model.",
}
"""Name -> what it counts."""


class Counters(Block):
    """The counters of `COUNTERS`, since reset, and their copies of the last snapshot.

    Members
    -------
    en, restart, over, failed, stall_tape, stall_row, stall_kv, array_take, array_busy, saturated,
    out_valid : In(1)
        The chip's ports.
    refused : In(1), strobe
        An id was refused.
    snapshot : In(1)
        Copy all counters.
    in_pass : Out(1)
        A pass is under way, its last belt cycle has not passed.
    total_passes, total_elapsed, ... : Out(64)
        The copies.

    Latency
    -------
    A cycle from the snapshot to the copies, which count what happened before it.
    """

    belt = False

    def __init__(self) -> None:
        inputs = (
            "en", "restart", "over", "failed", "stall_tape", "stall_row", "stall_kv", "array_take",
            "array_busy", "saturated", "out_valid", "refused", "snapshot",
        )  # fmt: skip
        super().__init__(
            {
                **{name: In(1) for name in inputs},
                "in_pass": Out(1),
                **{f"total_{name}": Out(COUNTER_BITS) for name in COUNTERS},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        within, started, begin = Signal(), Signal(), Signal()
        # `over` is still that of the pass before until the first belt cycle.
        m.d.comb += [
            begin.eq(self.restart & ~within),
            self.in_pass.eq((within | self.restart) & ~self.failed & ~(started & self.over)),
        ]
        m.d.sync += within.eq(self.in_pass)
        with m.If(~self.in_pass):
            m.d.sync += started.eq(0)
        with m.Elif(self.en & self.restart):
            m.d.sync += started.eq(1)
        belt, still = Signal(), Signal()
        other = ~(self.stall_tape | self.stall_row | self.stall_kv)
        m.d.comb += [belt.eq(self.in_pass & self.en), still.eq(self.in_pass & ~self.en)]
        counted = {
            "passes": begin,
            "elapsed": self.in_pass,
            "scheduled": belt,
            "stall_tape": still & self.stall_tape,
            "stall_row": still & self.stall_row,
            "stall_kv": still & self.stall_kv,
            "stall_other": still & other,
            "beats": belt & self.array_take,
            "array_busy": belt & self.array_busy,
            "saturations": belt & self.saturated,
            "tokens": self.out_valid,
            "refused_ids": self.refused,
        }
        for name in COUNTERS:
            count = Signal(COUNTER_BITS, name=f"count_{name}")
            with m.If(counted[name]):
                m.d.sync += count.eq(count + 1)
            with m.If(self.snapshot):
                m.d.sync += getattr(self, f"total_{name}").eq(count)
        return m
