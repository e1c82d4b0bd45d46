"""Turns a collective's command into what a node does with each word."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.ring.collective import MOST_NODES, Op
from tokenloom.hw.verilog.block import Block

__all__ = ["RingSteps"]


class RingSteps(Block):
    """Plays a node's part of a collective, word by word, in *turns*.

    A chunk goes round in groups. A group has *slots*: in slot 0 a node sends its own words, in
    slot s it takes the words that the node before sent in slot s - 1 and hands them on; those of
    the last slot are only taken, and that happens while the next group's slot 0 sends. So from the
    first turn to the last send a word leaves in every turn. In slot s a node works on the chunk
    that lies s chunks before the one it began with.

    Parameters
    ----------
    addr_bits : int
        Width of an address of the local memory, in words.
    most : int
        Largest group: what the receive buffer can hold.

    Members
    -------
    rank, nodes : In(3), In(4)
        The node's place on the ring and the nodes' number, 2 to 8.
    start : In(1)
        Take the command; only when not `busy`.
    op, words, size, larger, root, last : In
        See `collective.Command`.
    source, target : In(addr_bits)
        Where the vector that is read begins, and the one that is written.
    turn : Out(1)
        There is a turn to be taken.
    take, send : Out(1)
        It needs a word from the node before; it sends a word.
    inject : Out(1)
        The word it sends is the node's own, at `own_at`; otherwise it is the one that was taken.
    add : Out(1)
        The local word at `taken_at` is added to the word taken.
    store : Out(1)
        The word taken (and added to) is kept at `taken_at`.
    own_at, taken_at : Out(addr_bits)
        Offsets from the beginning of the vector.
    finishes : Out(1)
        The last turn.
    go : In(1)
        The turn is taken.
    busy : Out(1)
        A command is under way.
    spared : Out(1), strobe
        The command has nothing for this node to do.
    refused : Out(1), strobe
        The command was not possible: see `collective.refusal`.

    Latency
    -------
    The first turn is one cycle after `start`; a turn per cycle.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False

    def __init__(self, *, addr_bits: int, most: int) -> None:
        if not 4 <= addr_bits <= 24:
            raise ValueError(f"addr_bits has to be from 4 to 24, not {addr_bits!r}")
        if not 1 <= most < 1 << addr_bits:
            raise ValueError(f"most has to be positive and an address, not {most!r}")
        self._addr, self._most = addr_bits, most
        super().__init__(
            {
                "rank": In(3),
                "nodes": In(4),
                "start": In(1),
                "op": In(3),
                "words": In(addr_bits),
                "size": In(addr_bits),
                "larger": In(addr_bits),
                "root": In(3),
                "last": In(3),
                "source": In(addr_bits),
                "target": In(addr_bits),
                "turn": Out(1),
                "take": Out(1),
                "send": Out(1),
                "inject": Out(1),
                "add": Out(1),
                "store": Out(1),
                "own_at": Out(addr_bits),
                "taken_at": Out(addr_bits),
                "finishes": Out(1),
                "go": In(1),
                "busy": Out(1),
                "spared": Out(1),
                "refused": Out(1),
            },
            params=(addr_bits, most),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits, slots = self._addr, range(2 * MOST_NODES)

        # The command: which slots there are (the last one only takes), what happens in them.
        # `closing`: the node has such a last slot.
        end, adds, stores = Signal(slots), Signal(slots), Signal(slots)
        first, closing, chunked = Signal(slots), Signal(), Signal()
        begin = Signal(range(MOST_NODES))
        away, goal = Signal(range(MOST_NODES)), Signal(range(MOST_NODES))
        before, wrap = Signal(range(MOST_NODES)), Signal(range(MOST_NODES))
        possible, simple, nothing = Signal(), Signal(), Signal()
        m.d.comb += [
            wrap.eq(self.nodes - 1),
            before.eq(Mux(self.rank.any(), self.rank - 1, wrap)),
            # Hops from the root to this node and to the goal.
            away.eq(self.rank - self.root + Mux(self.rank < self.root, self.nodes, 0)),
            goal.eq(self.last - self.root + Mux(self.last < self.root, self.nodes, 0)),
            closing.eq(1),
            end.eq(1),
            stores.eq(1),
            begin.eq(before),
        ]
        with m.Switch(self.op):
            with m.Case(Op.ALL_REDUCE):
                m.d.comb += [
                    chunked.eq(1), end.eq(wrap << 1), adds.eq(wrap), stores.eq(wrap),
                ]  # fmt: skip
            with m.Case(Op.REDUCE_SCATTER):
                m.d.comb += [chunked.eq(1), end.eq(wrap), adds.eq(wrap), stores.eq(wrap)]
            with m.Case(Op.ALL_GATHER):
                m.d.comb += [chunked.eq(1), end.eq(wrap), begin.eq(self.rank)]
            with m.Case(Op.BROADCAST, Op.SEND):
                m.d.comb += simple.eq(1)
                reach = Mux(self.op == Op.SEND, goal, wrap)
                with m.If(~away.any()):
                    m.d.comb += closing.eq(0)  # the root only sends
                with m.Elif(away < reach):
                    # Slot 1 of 2 takes and sends; there is no last one.
                    m.d.comb += [first.eq(1), end.eq(2), closing.eq(0)]
                    m.d.comb += stores.eq(Mux(self.op == Op.SEND, 2, 1))
                with m.Elif(away == reach):
                    m.d.comb += first.eq(1)
                with m.Else():
                    m.d.comb += nothing.eq(1)
        # All chunks together, and how far they reach: up to the memory's last word, at most.
        span, vector = Signal(bits + 3), Signal(bits + 4)
        reach, apart = Signal(bits + 5), Signal(bits)
        behind = self.source > self.target
        m.d.comb += [
            apart.eq(Mux(behind, self.source - self.target, self.target - self.source)),
            span.eq(_times(self.words, wrap)),
            vector.eq(self.words + Mux(chunked, span, 0)),
            reach.eq(Mux(behind, self.source, self.target) + vector - 1),
        ]
        ranks = (self.rank < self.nodes) & (self.root < self.nodes) & (self.last < self.nodes)
        m.d.comb += possible.eq(
            (self.op <= Op.SHIFT)
            & (self.nodes >= 2)
            & (self.nodes <= MOST_NODES)
            & ranks
            & self.words.any()
            & ~reach[bits:].any()
            & (~apart.any() | (apart >= vector))
            & (simple | (self.size.any() & (self.size + self.larger.any() <= self._most)))
            & ~((self.op == Op.SEND) & (self.root == self.last))
        )

        # Where the node is: group, slot, word.
        op_end, op_adds, op_stores = Signal(slots), Signal(slots), Signal(slots)
        op_closing, op_simple = Signal(), Signal()
        op_wrap = Signal.like(wrap)
        step, op_span, size_small, larger = (
            Signal(bits, name=n) for n in ("step", "op_span", "size_small", "op_larger")
        )
        slot, at = Signal(slots), Signal(bits)
        size, rest = Signal(bits), Signal(bits)  # of this group; words of the chunk from it on
        coming, length = Signal(bits), Signal(bits)  # words to take, turns, in this slot
        home, home_base = Signal(range(MOST_NODES)), Signal(bits)
        chunk, base = Signal(range(MOST_NODES)), Signal(bits)
        own, taken = Signal(bits), Signal(bits)

        def next_size(left: Signal) -> Signal:
            wanted, result = Signal(bits), Signal(bits)
            m.d.comb += [
                wanted.eq(size_small + (left <= larger)),
                result.eq(Mux(op_simple | (wanted > left), left, wanted)),
            ]
            return result

        # The chunk before the one at hand.
        of, of_base = Signal.like(chunk), Signal(bits)
        back, back_base = Signal.like(chunk), Signal(bits)
        m.d.comb += [
            of.eq(Mux(slot.any(), chunk, home)),
            of_base.eq(Mux(slot.any(), base, home_base)),
            back.eq(Mux(of.any(), of - 1, op_wrap)),
            back_base.eq(Mux(of.any(), of_base - step, of_base + op_span)),
        ]
        number, closes = Signal(slots), Signal()
        ends, over, last_group = Signal(), Signal(), Signal()
        left = Signal(bits)
        m.d.comb += [
            left.eq(rest - size),
            last_group.eq(~left.any()),
            # In slot 0 what is taken belongs to the last slot of the group before.
            number.eq(Mux(slot.any(), slot, op_end)),
            closes.eq(slot == op_end),
            self.turn.eq(self.busy),
            self.take.eq(at < coming),
            self.send.eq(~closes & (at < size)),
            self.inject.eq(~slot.any()),
            self.add.eq(number <= op_adds),
            self.store.eq(number >= op_stores),
            self.own_at.eq(own),
            self.taken_at.eq(taken),
            ends.eq(at + 1 == length),
            over.eq(closes | (last_group & ~op_closing & (slot + 1 == op_end))),
            self.finishes.eq(ends & over),
        ]
        following = next_size(left)
        with m.If(self.go):
            m.d.sync += [at.eq(at + 1), own.eq(own + 1), taken.eq(taken + 1)]
            with m.If(ends):
                m.d.sync += [at.eq(0), chunk.eq(back), base.eq(back_base), taken.eq(back_base)]
                m.d.sync += coming.eq(size)
                with m.If(over):
                    m.d.sync += self.busy.eq(0)
                with m.Elif((slot + 1 == op_end) & ~last_group):
                    # The next group begins while this one's last words arrive.
                    m.d.sync += [
                        slot.eq(0),
                        size.eq(following),
                        rest.eq(left),
                        length.eq(Mux(following > size, following, size)),
                        home_base.eq(home_base + size),
                        own.eq(home_base + size),
                    ]
                with m.Else():
                    m.d.sync += [slot.eq(slot + 1), length.eq(size)]

        m.d.sync += [self.refused.eq(0), self.spared.eq(0)]
        with m.If(self.start):
            begin_base, first_size = Signal(bits), Signal(bits)
            wanted = Signal(bits)
            m.d.comb += [
                begin_base.eq(Mux(chunked, _times(self.words, begin), 0)),
                wanted.eq(self.size + (self.words <= self.larger)),
                first_size.eq(Mux(simple | (wanted > self.words), self.words, wanted)),
            ]
            m.d.sync += [
                self.busy.eq(possible & ~nothing),
                self.spared.eq(possible & nothing),
                self.refused.eq(~possible),
                op_end.eq(end),
                op_adds.eq(adds),
                op_stores.eq(stores),
                op_closing.eq(closing),
                op_simple.eq(simple),
                op_wrap.eq(wrap),
                step.eq(Mux(chunked, self.words, 0)),
                op_span.eq(Mux(chunked, span, 0)),
                size_small.eq(self.size),
                larger.eq(self.larger),
                slot.eq(first),
                at.eq(0),
                size.eq(first_size),
                length.eq(first_size),
                coming.eq(Mux(first.any(), first_size, 0)),
                rest.eq(self.words),
                home.eq(begin),
                home_base.eq(begin_base),
                own.eq(begin_base),
                chunk.eq(0),
                base.eq(0),
                taken.eq(0),
            ]
        return m


def _times(value: Signal, factor: Signal) -> Signal:
    """A product with a factor of three bits, as a sum of three."""
    parts = [Mux(factor[i], value << i, 0) for i in range(3)]
    return parts[0] + parts[1] + parts[2]
