"""A bench again and again, until a million values have been compared."""

import functools
import math
import os

import cocotb
from cocotb.clock import Clock

from tests.deep import DEEP

__all__ = ["MANY", "ONCE", "many_values", "start_clock"]

MANY = 10**6

ONCE = "TOKENLOOM_ONCE"
"""Variable: every bench plays once, however deep the suite."""

_clocks = set()


def start_clock(dut):
    """Start the clock of a bench, once however often the bench plays."""
    if dut._path not in _clocks:
        _clocks.add(dut._path)
        cocotb.start_soon(Clock(dut.clk, 10, "ns").start())


def many_values(each, only=lambda: True):
    """With TOKENLOOM_DEEP=1 play a bench with one seed after the other until `MANY` values.

    Parameters
    ----------
    each : int or callable
        Values that the bench compares when it plays once, at least.
    only : callable
        Whether to do so with the parameters at hand; one set of a block's is enough.
    """

    def wrapped(bench):
        @functools.wraps(bench)
        async def again(dut):
            first = int(os.environ.get("TOKENLOOM_SEED", "1"))
            rounds = 1
            if DEEP and ONCE not in os.environ and only():
                rounds = math.ceil(MANY / (each() if callable(each) else each))
                print(f"{rounds} rounds")
            for seed in range(first, first + rounds):
                os.environ["TOKENLOOM_SEED"] = str(seed)
                await bench(dut)

        return again

    return wrapped
