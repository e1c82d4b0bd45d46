"""The card as an RTL kernel for the vendor's platforms: the top that `tokenloom synth` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, ClockDomain, Const, Module, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.card.address_base import AddressBase
from tokenloom.hw.card.axi_lite import axi_lite_ports, connect_axi_lite
from tokenloom.hw.card.axi_lite_split import AxiLiteSplit
from tokenloom.hw.card.card import Card
from tokenloom.hw.card.identity import Identity
from tokenloom.hw.card.kernel_control import KernelControl
from tokenloom.hw.card.kernel_map import bus
from tokenloom.hw.card.register_map import ADDRESS_BITS
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.memory.axi import READS, WRITES, Burst, burst_words
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["CONTROL_BUS", "CROSSINGS", "RESET_STAGES", "Crossing", "Kernel", "axi_ports"]

CONTROL_BUS = "s_axi_control"
"""The kernel's AXI4-Lite slave."""
RESET_STAGES = 2
"""Flip-flops of the reset's synchroniser."""


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """A signal that may change at any time, and where it is caught.

    Attributes
    ----------
    register : str
        The first flip-flop of the synchroniser, by its path below the kernel.
    source : str
    why : str
    """

    register: str
    source: str
    why: str


CROSSINGS = (
    Crossing(
        register="reset_n_stage0",
        source="ap_rst_n",
        why="the platform's reset is taken for asynchronous; two flip-flops follow",
    ),
)
"""Every asynchronous crossing of the kernel; its constraints are made from this."""

# AXI4's signals beside those that the card's ports have; a memory port of the chip sends one kind
# of access only: bufferable and modifiable, so that the platform may make other widths of it.
_CACHE = 0b0011
_ZERO = ("id", "lock", "prot", "qos", "region")


def axi_ports(data_bits: int) -> dict[str, tuple[bool, int]]:
    """Name -> (driven by the master, bits) of an AXI4 port with 64-bit addresses."""
    address = {
        "valid": (True, 1),
        "ready": (False, 1),
        "addr": (True, 64),
        "id": (True, 1),
        "len": (True, 8),
        "size": (True, 3),
        "burst": (True, 2),
        "lock": (True, 1),
        "cache": (True, 4),
        "prot": (True, 3),
        "qos": (True, 4),
        "region": (True, 4),
    }
    found = {f"{channel}{name}": port for channel in ("aw", "ar") for name, port in address.items()}
    return found | {
        "wvalid": (True, 1), "wready": (False, 1), "wdata": (True, data_bits),
        "wstrb": (True, data_bits // 8), "wlast": (True, 1),
        "bvalid": (False, 1), "bready": (True, 1), "bid": (False, 1), "bresp": (False, 2),
        "rvalid": (False, 1), "rready": (True, 1), "rid": (False, 1), "rdata": (False, data_bits),
        "rresp": (False, 2), "rlast": (False, 1),
    }  # fmt: skip


class Kernel(Block):
    """A card with the ports of a Vitis RTL kernel, all in the clock `ap_clk`.

    Each memory channel is an AXI4 port of its own, whose addresses are the buffer's address (an
    argument of the kernel) plus the channel's. Bursts are those of the chip: at most 512 bytes,
    none across 4 KiB. The platform makes the memory's width and clock of it.

    Parameters
    ----------
    hardware : HardwareConfig
    identity : Identity

    Members
    -------
    ap_clk, ap_rst_n : In(1)
        Clock; reset, active low, synchronised here.
    interrupt : Out(1)
        High while an enabled event waits, see `kernel_map`.
    s_axi_control_* : AXI4-Lite
        Below `kernel_map.CARD_OFFSET` the kernel's registers, from there on the card's.
    m_axi_memNN_* : AXI4, one per channel
    """

    belt = False
    module_name = "tokenloom"  # `kernel` is a word of OpenCL

    def __init__(self, *, hardware: HardwareConfig, identity: Identity) -> None:
        self._hw = hardware
        self._card = Card(hardware=hardware, identity=identity)
        columns, port = hardware.array.columns, hardware.memory.port_bits
        members: dict[str, Any] = {"ap_clk": In(1), "ap_rst_n": In(1), "interrupt": Out(1)}
        for name, member in axi_lite_ports(ADDRESS_BITS).items():
            members[name.replace("s_axi", CONTROL_BUS)] = member
        for c in range(columns):
            for name, (driven, bits) in axi_ports(port).items():
                members[f"{bus(c)}_{name}"] = (Out if driven else In)(bits)
        super().__init__(members, params=(hardware.digest(), identity))
        self._mark()

    def _mark(self) -> None:
        """Attributes from which the vendor's packager takes the interfaces."""
        hw = self._hw
        buses = [bus(c) for c in range(hw.array.columns)]

        def mark(name: str, kind: str, role: str, **parameters: object) -> None:
            attrs = getattr(self, name).attrs
            attrs["X_INTERFACE_INFO"] = f"xilinx.com:{kind} {role}"
            if parameters:
                told = ", ".join(f"{key} {value}" for key, value in parameters.items())
                attrs["X_INTERFACE_PARAMETER"] = told

        mark(
            "ap_clk",
            "signal:clock:1.0",
            "ap_clk CLK",
            XIL_INTERFACENAME="ap_clk",
            ASSOCIATED_BUSIF=":".join([CONTROL_BUS, *buses]),
            ASSOCIATED_RESET="ap_rst_n",
        )
        mark("ap_rst_n", "signal:reset:1.0", "ap_rst_n RST",
             XIL_INTERFACENAME="ap_rst_n", POLARITY="ACTIVE_LOW")  # fmt: skip
        mark("interrupt", "signal:interrupt:1.0", "interrupt INTERRUPT",
             XIL_INTERFACENAME="interrupt", SENSITIVITY="LEVEL_HIGH")  # fmt: skip
        for name in axi_lite_ports(ADDRESS_BITS):
            role = name.removeprefix("s_axi_")
            more = {"PROTOCOL": "AXI4LITE", "DATA_WIDTH": 32, "ADDR_WIDTH": ADDRESS_BITS}
            mark(
                f"{CONTROL_BUS}_{role}",
                "interface:aximm:1.0",
                f"{CONTROL_BUS} {role.upper()}",
                **{"XIL_INTERFACENAME": CONTROL_BUS, **more} if role == "awaddr" else {},
            )
        port = hw.memory.port_bits
        more = {"PROTOCOL": "AXI4", "DATA_WIDTH": port, "ADDR_WIDTH": 64, "ID_WIDTH": 1,
                "HAS_BURST": 1, "SUPPORTS_NARROW_BURST": 0, "MAX_BURST_LENGTH": burst_words(port),
                "NUM_READ_OUTSTANDING": READS, "NUM_WRITE_OUTSTANDING": WRITES}  # fmt: skip
        for name in buses:
            for role in axi_ports(port):
                mark(f"{name}_{role}", "interface:aximm:1.0", f"{name} {role.upper()}",
                     **{"XIL_INTERFACENAME": name, **more} if role == "awaddr" else {})  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        hw, card = self._hw, self._card
        columns, port = hw.array.columns, hw.memory.port_bits

        # One clock. The reset may come from anywhere: two flip-flops that nothing else reads.
        sync, raw = ClockDomain("sync"), ClockDomain("raw", reset_less=True)
        sync.clk = raw.clk = self.ap_clk
        m.domains += [sync, raw]
        chain = self.ap_rst_n
        for stage in range(RESET_STAGES):
            flop = Signal(name=f"reset_n_stage{stage}", attrs={"ASYNC_REG": "TRUE"})
            m.d.raw += flop.eq(chain)
            chain = flop
        reset = Signal(init=1)
        m.d.raw += reset.eq(~chain)
        m.d.comb += sync.rst.eq(reset)

        # The host's side.
        control = KernelControl(channels=columns)
        split = AxiLiteSplit(addr_bits=ADDRESS_BITS)
        m.submodules.split = instance(split)
        m.submodules.kernel_control = instance(control)
        m.submodules.card = instance(card)
        for name, member in axi_lite_ports(ADDRESS_BITS).items():
            mine = getattr(self, name.replace("s_axi", CONTROL_BUS))
            inner = getattr(split, name)
            m.d.comb += inner.eq(mine) if member.flow is In else mine.eq(inner)
        connect_axi_lite(m, split, control, "low")
        connect_axi_lite(m, split, card, "high")
        m.d.comb += [
            card.go.eq(control.go),
            *(getattr(control, n).eq(getattr(card, n)) for n in ("startable", "idle", "waiting")),
            self.interrupt.eq(control.irq),
        ]

        # The memory's side: what the chip knows of a port, part by part.
        address_bits = len(card.ar_addr) // columns
        size = (port // 8).bit_length() - 1
        answers: dict[str, list[Any]] = {}
        for c in range(columns):

            def mine(name: str, c: int = c) -> Any:
                return getattr(self, f"{bus(c)}_{name}")

            def part(name: str, c: int = c) -> Any:
                value = getattr(card, name)
                bits = len(value) // columns
                return value[bits * c : bits * (c + 1)]

            def answer(name: str, value: Any) -> None:
                answers.setdefault(name, []).append(value)

            for kind in ("ar", "aw"):
                adder = AddressBase(addr_bits=address_bits)
                m.submodules[f"{kind}_base{c}"] = instance(adder)
                m.d.comb += [
                    adder.base.eq(control.base[64 * c : 64 * (c + 1)]),
                    adder.in_valid.eq(part(f"{kind}_valid")),
                    adder.in_addr.eq(part(f"{kind}_addr")),
                    adder.in_len.eq(part(f"{kind}_len")),
                    adder.out_ready.eq(mine(f"{kind}ready")),
                    mine(f"{kind}valid").eq(adder.out_valid),
                    mine(f"{kind}addr").eq(adder.out_addr),
                    mine(f"{kind}len").eq(adder.out_len),
                    mine(f"{kind}size").eq(Const(size, 3)),
                    mine(f"{kind}burst").eq(Burst.INCR),
                    mine(f"{kind}cache").eq(_CACHE),
                    *(mine(kind + name).eq(0) for name in _ZERO),
                ]
                answer(f"{kind}_ready", adder.in_ready)
            m.d.comb += [
                mine("wvalid").eq(part("w_valid")),
                mine("wdata").eq(part("w_data")),
                mine("wstrb").eq(part("w_strobe")),
                mine("wlast").eq(part("w_last")),
                mine("bready").eq(part("b_ready")),
                mine("rready").eq(part("r_ready")),
            ]
            for name, theirs in (("w_ready", "wready"), ("b_valid", "bvalid"), ("b_resp", "bresp"),
                                 ("r_valid", "rvalid"), ("r_data", "rdata"), ("r_resp", "rresp"),
                                 ("r_last", "rlast")):  # fmt: skip
                answer(name, mine(theirs))
        m.d.comb += [getattr(card, name).eq(Cat(values)) for name, values in answers.items()]
        return m
