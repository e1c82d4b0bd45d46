"""Reference counts against a dictionary: one operation per cycle, often on one page."""

import cocotb
import pytest
from cocotb.triggers import FallingEdge

from tests.deep import deep
from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.kv.ref_counts import RefCounts, RefOp
from tokenloom.sim.bench import run_block


@cocotb.test()
async def random_operations(dut):
    given, random, _ = configured()
    pages, most = given["pages"], given["most"]
    await begin(dut, ["valid", "op", "page"])
    counts, seen = {}, set()
    page = 0
    for _ in range(4000):
        if random.random() < 0.6:
            page = random.randrange(pages)
        op = random.choice(list(RefOp)) if page in counts else RefOp.SET
        if random.random() < 0.2:
            # No operation; what stands at the inputs means nothing.
            dut.valid.value = 0
            dut.op.value, dut.page.value = random.randrange(4), random.randrange(pages)
            await FallingEdge(dut.clk)
            continue
        dut.valid.value = 1
        dut.op.value, dut.page.value = op, page
        await FallingEdge(dut.clk)
        was = counts.get(page)
        if was is not None:
            assert int(dut.was.value) == was
            seen.add((op, was))
        counts[page] = {
            RefOp.READ: was,
            RefOp.SET: 1,
            RefOp.ADD: min((was or 0) + 1, most),
            RefOp.DROP: max((was or 0) - 1, 0),
        }[op]
    assert seen == {(op, was) for op in RefOp for was in range(most + 1)}


@pytest.mark.parametrize("given", [{"pages": 6, "most": 3}, deep({"pages": 1, "most": 1})])
def test_ref_counts(given):
    run_block(RefCounts(**given), "tests.hw.kv.test_ref_counts", parameters=given)


@pytest.mark.parametrize(("name", "value"), [("pages", 0), ("most", 0)])
def test_refusals(name, value):
    with pytest.raises(ValueError, match=f"{name} .*{value}"):
        RefCounts(**{"pages": 4, "most": 2, name: value})
