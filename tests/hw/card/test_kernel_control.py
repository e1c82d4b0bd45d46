"""The kernel's control block against a model: handshake, interrupt, addresses of the buffers."""

import itertools

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.card.kernel_control import KernelControl
from tokenloom.hw.card.kernel_map import BASES, CARD_OFFSET, kernel_registers
from tokenloom.hw.card.register_map import REGISTERS, by_name
from tokenloom.sim.bench import run_block

CHANNELS = 3
MAP = by_name(kernel_registers(CHANNELS))
MASTER = ["awvalid", "awaddr", "awprot", "wvalid", "wdata", "wstrb", "bready", "arvalid", "araddr",
          "arprot", "rready"]  # fmt: skip


async def write(dut, offset, value):
    dut.s_axi_awaddr.value, dut.s_axi_wdata.value, dut.s_axi_wstrb.value = offset, value, 15
    dut.s_axi_awvalid.value = dut.s_axi_wvalid.value = dut.s_axi_bready.value = 1
    for _ in range(20):
        await RisingEdge(dut.clk)
        taken = [name for name in ("aw", "w") if getattr(dut, f"s_axi_{name}ready").value == 1]
        answered = dut.s_axi_bvalid.value == 1
        await FallingEdge(dut.clk)
        for name in taken:
            getattr(dut, f"s_axi_{name}valid").value = 0
        if answered:
            dut.s_axi_bready.value = 0
            return
    raise AssertionError("no answer")


async def read(dut, offset):
    dut.s_axi_araddr.value, dut.s_axi_arvalid.value, dut.s_axi_rready.value = offset, 1, 1
    for _ in range(20):
        await RisingEdge(dut.clk)
        taken, answered = dut.s_axi_arready.value == 1, dut.s_axi_rvalid.value == 1
        data = dut.s_axi_rdata.value
        await FallingEdge(dut.clk)
        if taken:
            dut.s_axi_arvalid.value = 0
        if answered:
            dut.s_axi_rready.value = 0
            return int(data)
    raise AssertionError("no answer")


@cocotb.test()
async def control_against_model(dut):
    """Random starts, lasting at random, refusals, tokens: every read is the model's."""
    _, random, _ = configured()
    await begin(dut, [*(f"s_axi_{name}" for name in MASTER), "startable", "waiting"])
    dut.idle.value = 1
    state = {"left": 0}
    model = {"busy": 0, "done": 0, "isr": 0, "gie": 0, "ier": 0}
    goes = []

    async def card():
        """Takes a request when it is startable, is idle again after a while."""
        while True:
            await RisingEdge(dut.clk)
            went = dut.go.value == 1
            goes.append(went)
            await FallingEdge(dut.clk)
            if went and dut.startable.value == 1:
                state["left"] = random.randrange(1, 60)
            elif state["left"]:
                state["left"] -= 1
            dut.idle.value = state["left"] == 0

    cocotb.start_soon(card())
    bases = [random.getrandbits(64) for _ in range(CHANNELS)]
    for channel, base in enumerate(bases):
        for half in range(2):
            await write(dut, BASES + 8 * channel + 4 * half, base >> 32 * half & 0xFFFFFFFF)
    assert int(dut.base.value) == sum(base << 64 * i for i, base in enumerate(bases))
    seen = set()
    for _ in range(60):
        # Refused or taken.
        model["gie"], model["ier"] = random.getrandbits(1), random.getrandbits(3)
        await write(dut, MAP["GIE"].offset, model["gie"])
        await write(dut, MAP["IER"].offset, model["ier"])
        startable = random.random() < 0.7
        dut.startable.value = startable
        before = sum(goes)
        await write(dut, MAP["AP_CTRL"].offset, 1)
        assert sum(goes) == before + 1
        if startable and state["left"] > 20:
            assert await read(dut, MAP["AP_CTRL"].offset) == 0b0001
            before = sum(goes)
            await write(dut, MAP["AP_CTRL"].offset, 1)  # a second start is none
            await write(dut, MAP["AP_CTRL"].offset, 0b1110)
            assert sum(goes) == before
            seen.add("busy")
        token = random.random() < 0.5
        if token:
            dut.waiting.value = 1
        while state["left"]:
            await FallingEdge(dut.clk)
        for _ in range(3):
            await FallingEdge(dut.clk)
        dut.waiting.value = 0
        events = 0b011 | token << 2
        expected = events & model["ier"]
        assert await read(dut, MAP["ISR"].offset) == expected
        assert dut.irq.value == (model["gie"] and expected != 0)
        seen.add((startable, token, int(dut.irq.value)))
        assert await read(dut, MAP["AP_CTRL"].offset) == 0b1110
        assert await read(dut, MAP["AP_CTRL"].offset) == 0b0100
        await write(dut, MAP["ISR"].offset, expected)
        assert await read(dut, MAP["ISR"].offset) == 0
        await FallingEdge(dut.clk)
        assert dut.irq.value == 0
    assert "busy" in seen
    assert {(s, t, 1) for s, t in itertools.product((False, True), repeat=2)} <= seen


def test_kernel_control():
    run_block(KernelControl(channels=CHANNELS), "tests.hw.card.test_kernel_control")


def test_the_halves_of_the_window_do_not_overlap():
    for channels in (1, 32, 254):
        table = by_name(kernel_registers(channels))
        assert max(register.offset for register in table.values()) < CARD_OFFSET
        assert [table[n].offset for n in ("AP_CTRL", "GIE", "IER", "ISR")] == [0, 4, 8, 12]
        assert table["MEM00_LOW"].offset == BASES == 0x10
    assert max(register.offset for register in REGISTERS) < CARD_OFFSET


@pytest.mark.parametrize("channels", [0, 255])
def test_refusals(channels):
    with pytest.raises(ValueError, match="allowed: 1 to 254"):
        kernel_registers(channels)
