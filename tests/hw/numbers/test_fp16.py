"""fp16.decode against formats.decode_scale, for all 65536 patterns."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib.wiring import In, Out

from tests.hw.belt_bench import Belt
from tokenloom.hw.numbers import formats
from tokenloom.hw.numbers.fp16 import decode
from tokenloom.hw.verilog.block import Block
from tokenloom.sim.bench import run_block, seeded


class Fp16Probe(Block):
    """`decode` between an input and registers."""

    def __init__(self) -> None:
        super().__init__({"bits": In(16), "mant": Out(signed(12)), "shift": Out(5)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        mant, shift = decode(self.bits)
        assert (mant.shape(), shift.shape().width) == (signed(12), 5)
        m.d.sync += [self.mant.eq(mant), self.shift.eq(shift)]
        return m


@cocotb.test()
async def all_patterns(dut: Any) -> None:
    bench = Belt(dut, {"bits": 16}, {"mant": -12, "shift": 5}, rng=seeded(), strobes=())
    await bench.reset()
    bench.stall = 0.1
    mantissas, shifts = formats.decode_scale(np.arange(65536, dtype=np.uint16))
    await bench.next()
    bench.drive(bits=0)
    for bits in range(65536):
        found = await bench.next()
        want = (int(mantissas[bits]), int(shifts[bits]))
        assert (found["mant"], found["shift"]) == want, f"{bits:#06x}: {found}, expected {want}"
        bench.drive(bits=bits + 1)


def test_fp16() -> None:
    run_block(Fp16Probe(), __name__)


def test_width() -> None:
    with pytest.raises(ValueError, match="not 15"):
        decode(Signal(15))
