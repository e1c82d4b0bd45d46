"""The split of an AXI4-Lite window: two slaves in a random mood, a master in another."""

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.card.axi_lite_split import AxiLiteSplit
from tokenloom.sim.bench import run_block

BITS = 12
DOWN = ("awready", "wready", "bvalid", "bresp", "arready", "rvalid", "rdata", "rresp")
UP = ("awvalid", "awaddr", "awprot", "wvalid", "wdata", "wstrb", "bready", "arvalid", "araddr",
      "arprot", "rready")  # fmt: skip


async def slave(dut, side, random, seen):
    """Takes what it is offered, in any order, and answers with what it has got."""
    got = {"aw": None, "w": None, "ar": None}
    b = r = None

    def port(name):
        return getattr(dut, f"{side}_{name}")

    while True:
        ready = {c: got[c] is None and random.random() < 0.5 for c in got}
        for c in got:
            port(f"{c}ready").value = ready[c]
        if b is None and got["aw"] is not None and got["w"] is not None and random.random() < 0.5:
            seen.append((side, "write", *got["aw"], *got["w"]))
            b = sum(got["aw"]) & 3
            port("bresp").value = b
        if r is None and got["ar"] is not None and random.random() < 0.5:
            seen.append((side, "read", *got["ar"]))
            r = got["ar"][0] * 0x10001 & 0xFFFFFFFF, got["ar"][1] & 3
            port("rdata").value, port("rresp").value = r
        port("bvalid").value, port("rvalid").value = b is not None, r is not None
        await RisingEdge(dut.clk)
        for c, names in (
            ("aw", ("addr", "prot")),
            ("w", ("data", "strb")),
            ("ar", ("addr", "prot")),
        ):
            if ready[c] and port(f"{c}valid").value == 1:
                got[c] = tuple(int(port(c + name).value) for name in names)
        if b is not None and port("bready").value == 1:
            b = got["aw"] = got["w"] = None
        if r is not None and port("rready").value == 1:
            r = got["ar"] = None
        await FallingEdge(dut.clk)


@cocotb.test()
async def every_access_reaches_its_slave(dut):
    _, random, _ = configured()
    inputs = [f"s_axi_{name}" for name in UP]
    inputs += [f"{side}_{name}" for side in ("low", "high") for name in DOWN]
    await begin(dut, inputs)
    seen, want = [], []
    for side in ("low", "high"):
        cocotb.start_soon(slave(dut, side, random, seen))
    queues = {"aw": [], "w": [], "ar": []}
    answers = {"b": [], "r": []}
    for _ in range(150):
        address, prot = random.getrandbits(BITS), random.getrandbits(3)
        side, below = ("low", "high")[address >> BITS - 1], address & ((1 << BITS - 1) - 1)
        if random.random() < 0.5:
            data, strobe = random.getrandbits(32), random.getrandbits(4)
            queues["aw"].append((address, prot))
            queues["w"].append((data, strobe))
            want.append((side, "write", below, prot, data, strobe))
            answers["b"].append((below + prot) & 3)
        else:
            queues["ar"].append((address, prot))
            want.append((side, "read", below, prot))
            answers["r"].append((below * 0x10001 & 0xFFFFFFFF, prot & 3))
    shown = dict.fromkeys(queues)
    names = {"aw": ("addr", "prot"), "w": ("data", "strb"), "ar": ("addr", "prot")}
    for _ in range(20_000):
        if not any(answers.values()):
            break
        for c in queues:
            if shown[c] is None and queues[c] and random.random() < 0.5:
                shown[c] = queues[c].pop(0)
                for name, value in zip(names[c], shown[c], strict=True):
                    getattr(dut, f"s_axi_{c}{name}").value = value
            getattr(dut, f"s_axi_{c}valid").value = shown[c] is not None
        for c in answers:
            getattr(dut, f"s_axi_{c}ready").value = random.random() < 0.5
        await RisingEdge(dut.clk)
        for c in queues:
            if shown[c] is not None and getattr(dut, f"s_axi_{c}ready").value == 1:
                shown[c] = None
        if dut.s_axi_bvalid.value == 1 and dut.s_axi_bready.value == 1:
            assert int(dut.s_axi_bresp.value) == answers["b"].pop(0)
        if dut.s_axi_rvalid.value == 1 and dut.s_axi_rready.value == 1:
            assert (int(dut.s_axi_rdata.value), int(dut.s_axi_rresp.value)) == answers["r"].pop(0)
        await FallingEdge(dut.clk)
    assert not any(answers.values())
    for kind in ("read", "write"):
        assert [a for a in seen if a[1] == kind] == [a for a in want if a[1] == kind]


@cocotb.test()
async def nothing_is_taken_during_a_reset(dut):
    await begin(dut, [f"s_axi_{name}" for name in UP])
    dut.rst.value = 1
    for name in ("aw", "w", "ar"):
        getattr(dut, f"s_axi_{name}valid").value = 1
    for _ in range(3):
        await FallingEdge(dut.clk)
        for name in ("aw", "w", "ar"):
            assert getattr(dut, f"s_axi_{name}ready").value == 0
    dut.rst.value = 0


def test_axi_lite_split():
    run_block(AxiLiteSplit(addr_bits=BITS), "tests.hw.card.test_axi_lite_split")


@pytest.mark.parametrize("addr_bits", [2, 33])
def test_refusals(addr_bits):
    with pytest.raises(ValueError, match="allowed: 3 to 32"):
        AxiLiteSplit(addr_bits=addr_bits)
