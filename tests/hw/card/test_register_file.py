"""Register file and AXI4-Lite slave: random accesses in any timing against a model."""

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from tests.hw.clocked import begin
from tests.hw.memory.test_tape_reader import configured
from tokenloom.hw.card.axi_lite import AxiLite
from tokenloom.hw.card.register_file import RegisterFile
from tokenloom.hw.card.register_map import REGISTERS, Access, Field, Register, by_name
from tokenloom.hw.memory.axi import Response
from tokenloom.sim.bench import run_block

INPUTS = ["s_axi_awvalid", "s_axi_awaddr", "s_axi_awprot", "s_axi_wvalid", "s_axi_wdata",
          "s_axi_wstrb", "s_axi_bready", "s_axi_arvalid", "s_axi_araddr", "s_axi_arprot",
          "s_axi_rready"]  # fmt: skip


def value_field(bits=32):
    return (Field(name="value", bits=bits, text="", low=0),)


def register(name, offset, access, bits=32):
    return Register(name=name, offset=offset, access=access, text="", fields=value_field(bits))


TABLE = (
    register("SHOWN", 0x0, Access.READ),
    register("KEPT", 0x4, Access.STORED),
    register("NARROW", 0x8, Access.STORED, 11),
    register("TAKEN", 0x10, Access.TAKE),
    register("ACT", 0x14, Access.COMMAND),
    register("LAST", 0xFFC, Access.STORED),
)
OFFSETS = [0x0, 0x4, 0x8, 0xC, 0x10, 0x14, 0x18, 0x800, 0xFF8, 0xFFC]


class Bus:
    """A master whose channels each have their own mood."""

    def __init__(self, dut, random):
        self.dut, self.random = dut, random
        self.writes, self.reads = [], []  # to be done
        self.write_answers, self.read_answers = [], []
        self.effects = []  # what the block told its owner, in order
        self.moods = dict.fromkeys(("aw", "w", "b", "ar", "r"), 1.0)

    async def run(self):
        dut = self.dut
        addresses, data, reads = [], [], []
        shown = {}
        while True:
            for queue in (addresses, data):
                queue += self.writes
            self.writes = []
            reads += self.reads
            self.reads = []
            for name, queue in (("aw", addresses), ("w", data), ("ar", reads)):
                # Once shown, an offer stays.
                if not shown.get(name) and queue and self.random.random() < self.moods[name]:
                    shown[name] = True
                    if name == "w":
                        dut.s_axi_wdata.value, dut.s_axi_wstrb.value = queue[0][1], queue[0][2]
                    else:
                        low = self.random.randrange(4)  # the lowest two bits do not matter
                        address = (queue[0][0] if name == "aw" else queue[0]) | low
                        getattr(dut, f"s_axi_{name}addr").value = address
                getattr(dut, f"s_axi_{name}valid").value = bool(shown.get(name))
            for name in ("b", "r"):
                ready = self.random.random() < self.moods[name]
                getattr(dut, f"s_axi_{name}ready").value = ready
            await RisingEdge(dut.clk)
            for name, queue in (("aw", addresses), ("w", data), ("ar", reads)):
                ready = getattr(dut, f"s_axi_{name}ready").value == 1
                if shown.get(name) and ready:
                    shown[name] = False
                    queue.pop(0)
            if dut.s_axi_bvalid.value == 1 and dut.s_axi_bready.value == 1:
                self.write_answers.append(int(dut.s_axi_bresp.value))
            if dut.s_axi_rvalid.value == 1 and dut.s_axi_rready.value == 1:
                self.read_answers.append((int(dut.s_axi_rdata.value), int(dut.s_axi_rresp.value)))
            if dut.act_write.value == 1:
                self.effects.append(("act", int(dut.act.value)))
            if dut.act_denied.value == 1:
                assert dut.refused.value == 1
                self.effects.append(("denied",))
            if dut.taken_read.value == 1:
                self.effects.append(("taken",))
            await FallingEdge(dut.clk)
            if self.effects and self.effects[-1] == ("taken",):
                self.effects.pop()
                dut.taken.value = int(dut.taken.value) + 1


def byte_mask(strobe):
    return sum(0xFF << 8 * i for i in range(4) if strobe >> i & 1)


@cocotb.test()
async def random_accesses(dut):
    _, random, _ = configured()
    await begin(dut, [*INPUTS, "shown", "taken", "act_refused"])
    bus = Bus(dut, random)
    cocotb.start_soon(bus.run())
    dut.shown.value = 0x1234ABCD
    kept = {0x4: 0, 0x8: 0, 0xFFC: 0}
    widths = {0x4: 32, 0x8: 11, 0xFFC: 32}
    seen = set()
    first_of_queue = 0
    for _ in range(150):
        bus.moods = {name: random.choice([0.1, 0.5, 1.0]) for name in bus.moods}
        refuse = random.random() < 0.3
        dut.act_refused.value = refuse
        writes, expected, effects = [], [], []
        for _ in range(random.randrange(1, 6)):
            offset, data = random.choice(OFFSETS), random.getrandbits(32)
            strobe = random.choice([15, 0, random.getrandbits(4)])
            mask = byte_mask(strobe)
            writes.append((offset, data, strobe))
            answer = Response.OKAY
            if offset in kept:
                old = kept[offset]
                kept[offset] = ((old & ~mask) | (data & mask)) & ((1 << widths[offset]) - 1)
            elif offset == 0x14:
                if strobe and refuse:
                    effects.append(("denied",))
                    answer = Response.SLVERR
                elif strobe:
                    effects.append(("act", data & mask))
            else:
                answer = Response.SLVERR if offset in (0x0, 0x10) else Response.DECERR
            expected.append(answer)
            seen.add((offset, answer))
        bus.effects.clear()
        bus.writes = writes
        while len(bus.write_answers) < len(writes):
            await FallingEdge(dut.clk)
        assert bus.write_answers == expected and bus.effects == effects
        bus.write_answers.clear()
        reads, wanted = [], []
        for _ in range(random.randrange(1, 6)):
            offset = random.choice(OFFSETS)
            reads.append(offset)
            if offset in kept:
                wanted.append((kept[offset], Response.OKAY))
            elif offset == 0x0:
                wanted.append((0x1234ABCD, Response.OKAY))
            elif offset == 0x10:
                wanted.append((first_of_queue, Response.OKAY))
                first_of_queue += 1
            else:
                wanted.append((0, Response.SLVERR if offset == 0x14 else Response.DECERR))
            seen.add((offset, "read"))
        bus.reads = reads
        while len(bus.read_answers) < len(reads):
            await FallingEdge(dut.clk)
        assert bus.read_answers == wanted
        bus.read_answers.clear()
    assert len(seen) == 2 * len(OFFSETS) + 1  # every address in both directions, ACT in two ways


@cocotb.test()
async def reads_and_writes_do_not_wait_for_each_other(dut):
    _, random, _ = configured()
    await begin(dut, [*INPUTS, "shown", "taken", "act_refused"])
    bus = Bus(dut, random)
    cocotb.start_soon(bus.run())
    bus.moods["b"] = 0.0  # the write is never acknowledged
    bus.writes = [(0x4, 77, 15)]
    for _ in range(10):
        await FallingEdge(dut.clk)
    bus.reads = [0x4] * 20
    for _ in range(45):
        await FallingEdge(dut.clk)
    assert bus.read_answers == [(77, Response.OKAY)] * 20  # one per two cycles
    assert bus.write_answers == []


def test_register_file():
    run_block(RegisterFile(TABLE), "tests.hw.card.test_register_file")


# The table.


def test_table_is_sound():
    assert list(by_name()) == [register.name for register in REGISTERS]
    offsets = [register.offset for register in REGISTERS]
    assert offsets == sorted(offsets)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (register("KEPT", 0x40, Access.READ), "KEPT at 0x40 is already named"),
        (register("NEW", 0x4, Access.READ), "NEW at 0x4 is already KEPT"),
        (register("NEW", 0x42, Access.READ), "multiples of 4"),
        (register("NEW", 0x1000, Access.READ), "multiples of 4 below 0x1000"),
        (register("NEW", 0x40, Access.READ, 33), "NEW.value overlaps another field or leaves"),
    ],
)
def test_unsound_tables(other, message):
    with pytest.raises(ValueError, match=message):
        RegisterFile((*TABLE, other))


def test_pack_and_unpack():
    shape = by_name()["SHAPE"]
    fields = {"columns": 32, "rows": 8, "port_bytes": 64, "candidates": 3}
    assert shape.unpack(shape.pack(**fields)) == fields
    with pytest.raises(ValueError, match="SHAPE.rows is 64; allowed: 0 to 63"):
        shape.pack(rows=64)
    with pytest.raises(ValueError, match="SHAPE has no field cols; it has columns"):
        shape.pack(cols=1)


@pytest.mark.parametrize("bits", [2, 33])
def test_refusals(bits):
    with pytest.raises(ValueError, match="addr_bits"):
        AxiLite(addr_bits=bits)
