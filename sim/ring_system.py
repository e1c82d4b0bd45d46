"""Several ring nodes, the links between them and a memory for each, as one block to simulate."""

from __future__ import annotations

from amaranth.hdl import Array, Const, Module, Mux, ResetSignal, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.ring.frame import KIND_BITS, SESSION_BITS, WORD_BITS, Kind
from tokenloom.hw.ring.ring import ERRORS, Ring
from tokenloom.hw.verilog.block import Block, instance
from tokenloom.sim.link_model import FAULTS, LinkModel

__all__ = ["RingSystem"]

_LINK = ("latency", "pace_num", "pace_den", *(f"rate_{name}" for name in FAULTS))


class RingSystem(Block):
    """A ring of up to `most` nodes, for simulation; not part of a chip.

    Parameters
    ----------
    most : int
        Nodes that are there; `nodes` says how many of them form the ring.
    options : dict
        For every `Ring`.

    Members
    -------
    nodes : In(4)
    session, restart : In(8), In(most)
        Node i is reset and begins with this session (with 0 after a reset of all); the links are
        not, and deliver what is on its way.
    latency, pace_num, pace_den, rate_flip, ... : In
        Of every `LinkModel`, both directions.
    seed : In(64)
    cut_data, cut_status : In(most)
        Link i, from node i to the next, is cut: its data, its status frames.
    start : In(most)
        Strobes: node i gets the command that the `cmd_` ports hold (until it has taken it).
    cmd_... : In
        As `Ring`'s.
    pending : Out(most)
        Nodes that have a command and are not done.
    elapsed : Out(32)
        Cycles since the last start from a ring at rest: from the cycle after it (in which the
        nodes take the command) to the last `done`.
    error : Out(4 * most)
    frames, again : Out(32)
        Data frames with words that went out on all links since reset; those sent once more.
    count_flip, ... : Out(32)
        Frames that suffered, on all links, status frames among them.
    host_node, host_addr, host_we, host_data, host_read : In(3), In, In(1), In(512), Out(512)
        A way into the memories while the ring rests; what is read comes two cycles later.
    """

    belt = False

    def __init__(self, *, most: int, **options: int) -> None:
        if not 2 <= most <= 8:
            raise ValueError(f"most has to be from 2 to 8, not {most!r}")
        self._most, self._options = most, options
        self._rings = [Ring(**options) for _ in range(most)]
        ring = self._rings[0]
        self._commands = [
            name for name, _ in ring.flat_ports().items()
            if name.startswith("cmd_") and name not in ("cmd_valid", "cmd_ready")
        ]  # fmt: skip
        addr = len(ring.cmd_from)
        widths = {"latency": 8, "pace_num": 8, "pace_den": 8}
        super().__init__(
            {
                "nodes": In(4),
                "session": In(SESSION_BITS),
                "restart": In(most),
                **{name: In(widths.get(name, 16)) for name in _LINK},
                "seed": In(64),
                "cut_data": In(most),
                "cut_status": In(most),
                "start": In(most),
                **{name: In(len(getattr(ring, name))) for name in self._commands},
                "pending": Out(most),
                "elapsed": Out(32),
                "error": Out(len(ERRORS) * most),
                "frames": Out(32),
                "again": Out(32),
                **{f"count_{name}": Out(32) for name in FAULTS},
                "host_node": In(3),
                "host_addr": In(addr),
                "host_we": In(1),
                "host_data": In(WORD_BITS),
                "host_read": Out(WORD_BITS),
            },
            params=(most, tuple(sorted(options.items()))),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        most, rings = self._most, self._rings
        links = [LinkModel(bits=len(ring.next_frame)) for ring in rings]
        returns = [LinkModel(bits=len(ring.prev_status)) for ring in rings]
        for i, ring in enumerate(rings):
            m.submodules[f"ring_{i}"] = instance(ring, reset=ResetSignal() | self.restart[i])
            m.submodules[f"link_{i}"] = instance(links[i])
            m.submodules[f"return_{i}"] = instance(returns[i])
        for number, link in enumerate((*links, *returns)):
            m.d.comb += [getattr(link, name).eq(getattr(self, name)) for name in _LINK]
            m.d.comb += link.seed.eq(self.seed ^ (number * 0x9E3779B97F4A7C15 & (1 << 64) - 1))
        last = Signal(range(most))
        m.d.comb += last.eq(self.nodes - 1)

        begun = Signal(most)
        reads = []
        for i, ring in enumerate(rings):
            # Link i goes from node i to the next; the one of the last node goes to node 0.
            before = (
                (links[i - 1].out_valid, links[i - 1].out_frame)
                if i
                else (
                    Array([link.out_valid for link in links])[last],
                    Array([link.out_frame for link in links])[last],
                )
            )
            after = rings[0] if i == most - 1 else rings[i + 1]
            is_last = Const(1) if i == most - 1 else last == i
            status = {
                name: Mux(is_last, getattr(rings[0], name), getattr(after, name))
                for name in ("prev_status_valid", "prev_status")
            }
            m.d.comb += [
                ring.rank.eq(i),
                ring.nodes.eq(self.nodes),
                *(getattr(ring, name).eq(getattr(self, name)) for name in self._commands),
                ring.cmd_valid.eq(begun[i]),
                links[i].cut.eq(self.cut_data[i]),
                links[i].in_valid.eq(ring.next_valid),
                links[i].in_frame.eq(ring.next_frame),
                ring.next_ready.eq(links[i].in_ready),
                ring.prev_valid.eq(before[0]),
                ring.prev_frame.eq(before[1]),
                returns[i].cut.eq(self.cut_status[i]),
                returns[i].in_valid.eq(status["prev_status_valid"]),
                returns[i].in_frame.eq(status["prev_status"]),
                ring.next_status_valid.eq(returns[i].out_valid),
                ring.next_status.eq(returns[i].out_frame),
                # The status frames of link i - 1 come from node i.
                ring.prev_status_ready.eq(
                    returns[i - 1].in_ready
                    if i
                    else Array([link.in_ready for link in returns])[last]
                ),
                self.error[len(ERRORS) * i : len(ERRORS) * (i + 1)].eq(ring.error),
            ]
            session = Signal.like(self.session, name=f"session_{i}")
            m.d.comb += ring.session.eq(session)
            with m.If(self.restart[i]):
                m.d.sync += [session.eq(self.session), begun[i].eq(0), self.pending[i].eq(0)]
            with m.Elif(self.start[i]):
                m.d.sync += [begun[i].eq(1), self.pending[i].eq(1)]
            with m.Else():
                with m.If(ring.cmd_ready):
                    m.d.sync += begun[i].eq(0)
                with m.If(ring.done):
                    m.d.sync += self.pending[i].eq(0)
            reads.append(self._memory(m, i, ring))
        which = Signal.like(self.host_node)
        m.d.sync += [which.eq(self.host_node), self.host_read.eq(Array(reads)[which])]

        with m.If(self.start.any() & ~self.pending.any()):
            m.d.sync += self.elapsed.eq(0)
        with m.Elif((self.pending & ~begun).any()):
            m.d.sync += self.elapsed.eq(self.elapsed + 1)
        words = [
            ring.next_valid & link.in_ready & (ring.next_frame[:KIND_BITS] == Kind.DATA)
            for ring, link in zip(rings, links, strict=True)
        ]
        m.d.sync += [
            self.frames.eq(self.frames + sum(words)),
            self.again.eq(self.again + sum(ring.again for ring in rings)),
        ]
        for name in FAULTS:
            counts = [getattr(link, f"count_{name}") for link in (*links, *returns)]
            m.d.comb += getattr(self, f"count_{name}").eq(sum(counts))
        return m

    def _memory(self, m: Module, i: int, ring: Ring) -> Signal:
        """A node's memory; returns what the host reads."""
        m.submodules[f"memory_{i}"] = memory = Memory(
            shape=WORD_BITS, depth=1 << len(ring.own_addr), init=[]
        )
        write = memory.write_port()
        mine = self.host_node == i
        m.d.comb += [
            write.en.eq(ring.store_en | (self.host_we & mine)),
            write.addr.eq(Mux(ring.store_en, ring.store_addr, self.host_addr)),
            write.data.eq(Mux(ring.store_en, ring.store_data, self.host_data)),
        ]
        for name in ("own", "sum"):
            port = memory.read_port()
            m.d.comb += [
                port.en.eq(getattr(ring, f"{name}_en")),
                port.addr.eq(getattr(ring, f"{name}_addr")),
                getattr(ring, f"{name}_data").eq(port.data),
            ]
        host = memory.read_port()
        m.d.comb += [host.en.eq(1), host.addr.eq(self.host_addr)]
        data: Signal = host.data
        return data
