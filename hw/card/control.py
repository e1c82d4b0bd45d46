"""Registers, queues and sequences between a host and the chip."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, ResetSignal, Signal, Value
from amaranth.lib import data
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from tokenloom.hw.card.axi_lite import axi_lite_ports, connect_axi_lite
from tokenloom.hw.card.counters import COUNTERS, Counters
from tokenloom.hw.card.identity import Identity
from tokenloom.hw.card.register_file import RegisterFile
from tokenloom.hw.card.register_map import ADDRESS_BITS, CFG_WORDS, MAGIC, SETTINGS, by_name
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.core import CFG_BITS
from tokenloom.hw.sampler.noise import SAMPLING
from tokenloom.hw.sampler.settings import BIASES_MAX, WINDOW_MAX
from tokenloom.hw.sequencer.pass_control import EOS_IDS
from tokenloom.hw.sequencer.registers import BIAS, Select
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["OUTPUT_DEPTH", "PROMPT_DEPTH", "Control"]

PROMPT_DEPTH = 256
"""Prompt tokens that wait for the chip."""
OUTPUT_DEPTH = 64
"""Generated tokens that wait for the host."""

_RESET_CYCLES = 4

# Ports of the chip that only the counters look at.
_WATCHED = (
    "restart", "over", "stall_tape", "stall_row", "stall_kv", "array_take", "array_busy",
    "saturated",
)  # fmt: skip


class Control(Block):
    """What a host sees: `register_map.REGISTERS` over AXI4-Lite.

    A reset waits for the memory: reads and writes under way are answered and dropped before the
    chip's registers are cleared, so that no answer meets a request that did not ask for it.

    Parameters
    ----------
    hardware : HardwareConfig
    identity : Identity

    Members
    -------
    s_axi_* : AXI4-Lite
    cfg_*, req_*, prompt_*, out_*, failed, fault*, cancel, stop, quiet, hold, en, restart, ... :
        the chip's ports of these names, in the other direction
    chip_reset : Out(1)
        Holds the chip in reset.
    test_* : the memory test's ports of these names without `test_`, in the other direction
    test_mine : Out(1)
        The memory's ports belong to the test.
    go : In(1), startable : Out(1)
        As a write to START; whether that is not refused.
    idle : Out(1)
        As STATUS.idle.
    waiting : Out(1)
        ANSWER holds a token.
    """

    belt = False

    def __init__(self, *, hardware: HardwareConfig, identity: Identity) -> None:
        self._hw, self._identity = hardware, identity
        memory, top = hardware.memory, hardware.maxima
        columns = hardware.array.columns
        channel_bits = max(1, (columns - 1).bit_length())
        self._word_bits = (memory.port_bits // 8).bit_length() - 1
        members: dict[str, Any] = {
            **axi_lite_ports(ADDRESS_BITS),
            "cfg_we": Out(1),
            "cfg_sel": Out(4),
            "cfg_addr": Out(20),
            "cfg_data": Out(CFG_BITS),
            "req_valid": Out(1),
            "req_ready": In(1),
            "req_tokens": Out(20),
            "req_new": Out(20),
            "req_slot": Out(max(1, (memory.slots - 1).bit_length())),
            "req_eos": Out(32 * EOS_IDS),
            "req_eos_used": Out(EOS_IDS),
            "req_sampling": Out(SAMPLING.size),
            "prompt_valid": Out(1),
            "prompt_ready": In(1),
            "prompt_token": Out(32),
            "out_valid": In(1),
            "out_token": In(max(1, (top.vocab - 1).bit_length())),
            "out_last": In(1),
            "failed": In(1),
            "refused_id": In(1),
            "fault": In(1),
            "fault_write": In(1),
            "fault_channel": In(channel_bits),
            "fault_addr": In(32 + self._word_bits),
            "cancel": Out(1),
            "stop": Out(1),
            "quiet": In(1),
            "hold": Out(1),
            "en": In(1),
            **{name: In(1) for name in _WATCHED},
            "chip_reset": Out(1),
            "test_mine": Out(1),
            "test_start": Out(1),
            "test_first": Out(32),
            "test_words": Out(32),
            "test_seed": Out(32),
            "test_busy": In(1),
            "test_done": In(1),
            "test_bad": In(1),
            "test_kind": In(2),
            "test_lane": In(4),
            "test_channel": In(channel_bits),
            "test_address": In(32),
            "test_expected": In(32),
            "test_found": In(32),
            "go": In(1),
            "startable": Out(1),
            "idle": Out(1),
            "waiting": Out(1),
        }
        super().__init__(members, params=(hardware.digest(), identity))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        hw, registers = self._hw, by_name()
        regs = RegisterFile()
        m.submodules.register_file = instance(regs)
        connect_axi_lite(m, self, regs)

        def bit(register: str, field: str) -> Any:
            """A field of a command."""
            (place,) = (f for f in registers[register].fields if f.name == field)
            return getattr(regs, register.lower())[place.low : place.low + place.bits]

        def show(register: str, **values: Any) -> None:
            """Drive a register that is read, field by field, zero between them."""
            parts: list[Value] = []
            at = 0
            for field in registers[register].fields:
                value = Signal(field.bits, name=f"{register.lower()}_{field.name}")
                m.d.comb += value.eq(values.pop(field.name))
                if field.low > at:
                    parts.append(Const(0, field.low - at))
                parts.append(value)
                at = field.low + field.bits
            assert not values, values
            m.d.comb += getattr(regs, register.lower()).eq(Cat(*parts))

        def command(register: str, refused: Any) -> Any:
            """A command's strobe."""
            m.d.comb += getattr(regs, f"{register.lower()}_refused").eq(refused)
            return getattr(regs, f"{register.lower()}_write")

        # Sequences: normal work; or abort, silence, reset, and perhaps the memory's test.
        working, resetting, testing = Signal(), Signal(), Signal()
        aborting, test_next, configured, refused = Signal(), Signal(), Signal(), Signal()
        resting, idle = Signal(), Signal()
        m.d.comb += [
            resting.eq(self.req_ready & ~self.req_valid),
            idle.eq(resting & working & ~aborting),
        ]
        words = registers["TEST_WORDS"].bits + 1
        test_end = Signal(words)
        space = 1 << 32 - self._word_bits  # words that writes reach
        wants_reset = bit("COMMAND", "reset") | bit("COMMAND", "test")
        m.d.comb += test_end.eq(regs.test_first + regs.test_words)
        commanded = command(
            "COMMAND",
            (~working & (wants_reset | bit("COMMAND", "abort")))
            | (bit("COMMAND", "test") & ((test_end > space) | (regs.test_words == 0))),
        )
        with m.If(resting):
            m.d.sync += aborting.eq(0)
        with m.If(commanded & (wants_reset | bit("COMMAND", "abort"))):
            m.d.sync += aborting.eq(1)
        with m.If(regs.refused | (self.go & ~self.startable)):
            m.d.sync += refused.eq(1)
        with m.Elif(commanded & bit("COMMAND", "clear")):
            m.d.sync += refused.eq(0)
        ticks = Signal(range(_RESET_CYCLES))
        with m.FSM():
            with m.State("work"):
                m.d.comb += working.eq(1)
                with m.If(commanded & wants_reset):
                    m.d.sync += test_next.eq(bit("COMMAND", "test"))
                    m.next = "silence"
            with m.State("silence"):
                m.d.comb += [resetting.eq(1), self.stop.eq(1)]
                with m.If(resting & ~aborting & self.quiet):
                    m.next = "reset"
            with m.State("reset"):
                m.d.comb += [resetting.eq(1), self.stop.eq(1), self.chip_reset.eq(1)]
                m.d.sync += ticks.eq(ticks + 1)
                with m.If(ticks == _RESET_CYCLES - 1):
                    m.next = "work"
                    with m.If(test_next):
                        m.next = "begin test"
            with m.State("begin test"):
                m.d.comb += [testing.eq(1), self.test_start.eq(1)]
                m.next = "test"
            with m.State("test"):
                m.d.comb += testing.eq(1)
                with m.If(~self.test_busy & self.test_done):
                    m.next = "work"
        m.d.comb += [
            self.test_mine.eq(testing),
            self.cancel.eq(aborting),
            self.test_first.eq(regs.test_first),
            self.test_words.eq(regs.test_words),
            self.test_seed.eq(regs.test_seed),
        ]

        # Configuration.
        bias = data.View(BIAS, self.cfg_data[: BIAS.size])
        unknown_bias = (self.cfg_sel == Select.BIASES) & (bias.id >= regs.vocab)
        configure = command("CFG_WRITE", ~idle | unknown_bias)
        m.d.comb += [
            self.cfg_we.eq(configure),
            self.cfg_sel.eq(bit("CFG_WRITE", "select")),
            self.cfg_addr.eq(bit("CFG_WRITE", "address")),
            self.cfg_data.eq(Cat(getattr(regs, f"cfg_data{i}") for i in range(CFG_WORDS))),
        ]
        with m.If(configure & (self.cfg_sel != Select.BIASES)):
            m.d.sync += configured.eq(self.cfg_sel == Select.REGISTERS)
        with m.Elif(self.chip_reset):
            m.d.sync += configured.eq(0)

        # The prompt. While a request is aborted, its rest is made up: it leads nowhere.
        prompt_fifo = SyncFIFOBuffered(width=32, depth=PROMPT_DEPTH)
        m.submodules.prompt = ResetInserter(aborting | self.chip_reset)(prompt_fifo)
        unknown = regs.prompt >= regs.vocab
        put = command("PROMPT", ~working | aborting | ~prompt_fifo.w_rdy | unknown)
        m.d.comb += [
            prompt_fifo.w_en.eq(put),
            prompt_fifo.w_data.eq(regs.prompt),
            prompt_fifo.r_en.eq(self.prompt_ready),
            self.prompt_valid.eq(prompt_fifo.r_rdy | aborting),
            self.prompt_token.eq(Mux(aborting, 0, prompt_fifo.r_data)),
        ]

        # The answer: one place stays free for the end of a request that fails.
        out_fifo = SyncFIFOBuffered(width=len(self.out_token) + 2, depth=OUTPUT_DEPTH)
        m.submodules.answer = ResetInserter(self.chip_reset)(out_fifo)
        m.d.comb += [
            out_fifo.w_en.eq(self.out_valid | self.failed),
            out_fifo.w_data.eq(
                Cat(self.failed, self.failed | self.out_last, Mux(self.failed, 0, self.out_token))
            ),
            out_fifo.r_en.eq(regs.answer_read),
        ]
        shown = Mux(out_fifo.r_rdy, out_fifo.r_data, 0)
        show("ANSWER", token=shown[2:], last=shown[1], failed=shown[0], valid=out_fifo.r_rdy)

        # Requests.
        settings = Signal(SAMPLING)
        unable = Signal()
        for name in SETTINGS:
            for field in registers[name].fields:
                value = getattr(regs, name.lower())[field.low : field.low + field.bits]
                m.d.comb += settings[field.name].eq(value)
        # Cut-offs cut in a list, and rules come with one.
        listless = Cat(settings.limited, settings.top_p, settings.min_p).any()
        listless &= settings.count == 0
        ruled: Value = Const(0)
        if not hw.sampler.candidates:
            ruled = Cat(settings.window, settings.biases).any()
        ruled |= (settings.window > WINDOW_MAX) | (settings.biases > BIASES_MAX)
        m.d.comb += [
            settings.seed.eq(Cat(regs.req_seed_low, regs.req_seed_high)),
            unable.eq((settings.count > hw.sampler.candidates) | listless | ruled),
        ]
        m.d.comb += [
            self.startable.eq(
                idle
                & configured
                & ~out_fifo.r_rdy
                & regs.req_tokens.any()
                & regs.req_new.any()
                & (regs.req_slot < hw.memory.slots)
                & ~unable
            ),
            self.idle.eq(idle),
            self.waiting.eq(out_fifo.r_rdy),
        ]
        start = command("START", ~self.startable)
        with m.If(self.req_ready):
            m.d.sync += self.req_valid.eq(0)
        with m.If((start & bit("START", "go")) | (self.go & self.startable)):
            m.d.sync += self.req_valid.eq(1)
        m.d.comb += [
            self.req_tokens.eq(regs.req_tokens),
            self.req_new.eq(regs.req_new),
            self.req_slot.eq(regs.req_slot),
            self.req_eos.eq(Cat(getattr(regs, f"req_eos{i}") for i in range(EOS_IDS))),
            self.req_eos_used.eq(regs.req_eos_used),
            self.req_sampling.eq(settings),
        ]

        # Counters.
        counters = Counters()
        m.submodules.counters = instance(counters, reset=ResetSignal() | self.chip_reset)
        for name in ("en", "failed", "out_valid", *_WATCHED):
            m.d.comb += getattr(counters, name).eq(getattr(self, name))
        m.d.comb += counters.snapshot.eq(commanded & bit("COMMAND", "snapshot"))
        m.d.comb += counters.refused.eq((regs.prompt_denied & unknown) | self.refused_id)
        for name in COUNTERS:
            count = getattr(counters, f"total_{name}")
            show(f"{name.upper()}_LOW", value=count[:32])
            show(f"{name.upper()}_HIGH", value=count[32:])

        # Single steps: the belt's enable follows a cycle after `hold` went away.
        left, odd, grant = Signal(32), Signal(), Signal()
        step = command("STEP", 0)
        passed = regs.control & self.en & counters.in_pass & left.any()
        m.d.comb += [
            grant.eq(odd & left.any()),
            self.hold.eq((regs.control & ~grant) | (out_fifo.level >= OUTPUT_DEPTH - 2)),
        ]
        m.d.sync += odd.eq(~odd)
        with m.If(self.chip_reset | ~regs.control):
            m.d.sync += left.eq(0)
        with m.Else():
            m.d.sync += left.eq(left + Mux(step, regs.step, 0) - passed)

        # What is read.
        self._show_identity(show)
        show(
            "STATUS",
            idle=idle,
            configured=configured,
            aborting=aborting,
            resetting=resetting,
            testing=testing,
            fault=self.fault,
            refused=refused,
        )
        show("STEPS_LEFT", value=left)
        show("FAULT", channel=self.fault_channel, write=self.fault_write)
        show("FAULT_LOW", value=self.fault_addr[:32])
        show("FAULT_HIGH", value=self.fault_addr[32:])
        show("PROMPT_ROOM", count=Mux(aborting, 0, PROMPT_DEPTH - prompt_fifo.level))
        show(
            "TEST_RESULT",
            done=self.test_done,
            bad=self.test_bad,
            kind=self.test_kind,
            lane=self.test_lane,
            channel=self.test_channel,
        )
        show("TEST_ADDRESS", value=self.test_address)
        show("TEST_EXPECTED", value=self.test_expected)
        show("TEST_FOUND", value=self.test_found)
        return m

    def _show_identity(self, show: Any) -> None:
        hw, identity = self._hw, self._identity
        major, minor, patch = identity.numbers
        git = identity.git or "0" * 40
        digest = hw.digest()
        show("MAGIC", value=MAGIC)
        show("VERSION", major=major, minor=minor, patch=patch)
        show("BUILD", git_known=identity.git is not None, git_modified=identity.modified)
        for name, text in (("GIT", git), ("DIGEST", digest)):
            for i in range(len(text) // 8):
                show(f"{name}{i}", value=Const(int(text[8 * i : 8 * i + 8], 16), 32))
        show(
            "SHAPE",
            columns=hw.array.columns,
            rows=hw.array.rows,
            port_bytes=hw.memory.port_bits // 8,
            candidates=hw.sampler.candidates,
        )
