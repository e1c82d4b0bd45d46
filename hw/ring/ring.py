"""A node of the ring: collectives on vectors of accumulators, over links that survive errors."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from tokenloom.hw.ring.frame import LANE_BITS, LANES, SESSION_BITS, TAG_BITS, WORD_BITS
from tokenloom.hw.ring.link_rx import LinkRx
from tokenloom.hw.ring.link_tx import LinkTx
from tokenloom.hw.ring.ring_steps import RingSteps
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["ERRORS", "Ring"]

ERRORS = ("refused", "mismatch", "next_dead", "prev_dead")
"""Bits of `error`, the lowest first."""

_PATIENCE_LEAST = 64  # cycles; an idle frame comes every 16


class Ring(Block):
    """Plays a node's part of the collectives of `collective.Op`.

    A word is eight signed 64-bit accumulators; sums are exact, so the result is the same for every
    number of nodes. Words go to the next node and come from the one before; what is taken is added
    to and sent on within the same pipeline (cut-through), so a hop costs `hop_cycles(wire, OWN)`
    cycles once per group and not per word. The vector lies in a local memory with two read ports
    and a write port; only REDUCE_SCATTER uses both read ports in one cycle.

    Whatever goes wrong ends in `error`: a command that is not possible (`collective.refusal`: a
    vector that does not fit the memory, say), a word of another command than the node's own, a dead
    link. Then the node sends nothing more, not even status frames, so
    its neighbours find their links dead in turn, and an error anywhere reaches every node that
    waits for it. What is not noticed is a command of the same kind with other sizes, or that a node
    gets none: then its neighbours wait, and the host bounds the time.

    After an error all nodes are reset, in any order, with a new `session`: whatever is still on
    its way from before is broken for the new one. No node gets a command until all are reset, or
    less than `patience` cycles before that: it would take the others for dead.

    Parameters
    ----------
    addr_bits : int
        Width of a word address of the local memory.
    window : int
        Words of each link's replay buffer and of each receive buffer. A power of two; at least
        `2 * wire + 7` and twice the largest group for full rate.
    timeout, retries, patience : int
        See `LinkTx`. `timeout` is more than the round trip, `2 * wire + 7`, and `timeout * retries`
        and `patience` more than the longest silence of a good link.

    Members
    -------
    session : In(SESSION_BITS)
        The same on all nodes, another one after each reset: the host counts. Constant between
        resets.
    rank, nodes : In(3), In(4)
        The node's place, 0 to nodes - 1, and the nodes' number, 2 to 8. Constant between resets.
    cmd_valid, cmd_ready : In(1), Out(1)
        A command is taken.
    cmd_op, cmd_words, cmd_size, cmd_larger, cmd_root, cmd_last : In
        See `collective.Command`. `cmd_size` (and one more if `cmd_larger` is not 0) is at most
        `window`, and the same on all nodes.
    cmd_from, cmd_to : In(addr_bits)
        First word of the vector that is read, and of where results are written; may be equal.
        From either on the whole vector lies in the memory, and if they are not equal neither
        reaches into the other; otherwise the command is refused.
    done : Out(1), strobe
        All words of the command are written (the last in the cycle before) and sent.
    busy : Out(1)
        A command is under way.
    error : Out(4)
        `ERRORS`, until reset.
    own_en, own_addr, own_data : Out(1), Out(addr_bits), In(512)
        Read port for words that are sent: data one cycle after `own_en`, kept until the next.
    sum_en, sum_addr, sum_data : Out(1), Out(addr_bits), In(512)
        Read port for words that are added to, likewise.
    store_en, store_addr, store_data : Out(1), Out(addr_bits), Out(512)
        Write port.
    next_valid, next_ready, next_frame : Out(1), In(1), Out(560)
        Data frames to the next node.
    next_status_valid, next_status : In(1), In(56)
        Status frames from the next node.
    prev_valid, prev_frame : In(1), In(560)
        Data frames from the node before.
    prev_status_valid, prev_status_ready, prev_status : Out(1), In(1), Out(56)
        Status frames to the node before.
    again : Out(1), strobe
        A word is sent once more.

    Latency
    -------
    `OWN` = 5 cycles and the wire from a word's turn in a node to its turn in the next.

    Duration
    --------
    `collective.duration`: for ALL_REDUCE of N chunks of c words 2(N-1)c cycles, the words that
    cross each link, and the last group's size (at least a hop) and 2 cycles more.

    Raises
    ------
    ValueError
        When a parameter is out of range.
    """

    belt = False
    OWN = 1 + LinkTx.LATENCY + LinkRx.LATENCY

    def __init__(
        self,
        *,
        addr_bits: int = 13,
        window: int = 128,
        timeout: int = 256,
        retries: int = 16,
        patience: int = 4096,
    ) -> None:
        if timeout <= LinkTx.ROUND_TRIP:
            raise ValueError(
                f"timeout has to be {LinkTx.ROUND_TRIP + 1} or more, longer than the round trip of "
                f"a wire without length, not {timeout!r}"
            )
        if patience < _PATIENCE_LEAST:
            raise ValueError(f"patience has to be {_PATIENCE_LEAST} or more, not {patience!r}")
        self._addr = addr_bits
        self._tx = LinkTx(
            window=window, credits=window, timeout=timeout, retries=retries, patience=patience
        )
        self._rx = LinkRx(credits=window, patience=patience)
        self._steps = RingSteps(addr_bits=addr_bits, most=window)
        frame, status = len(self._tx.out_frame), len(self._rx.status_frame)
        command = self._steps
        super().__init__(
            {
                "session": In(SESSION_BITS),
                "rank": In(3),
                "nodes": In(4),
                "cmd_valid": In(1),
                "cmd_ready": Out(1),
                "cmd_op": In(len(command.op)),
                "cmd_words": In(addr_bits),
                "cmd_size": In(addr_bits),
                "cmd_larger": In(addr_bits),
                "cmd_root": In(3),
                "cmd_last": In(3),
                "cmd_from": In(addr_bits),
                "cmd_to": In(addr_bits),
                "done": Out(1),
                "busy": Out(1),
                "error": Out(len(ERRORS)),
                "own_en": Out(1),
                "own_addr": Out(addr_bits),
                "own_data": In(WORD_BITS),
                "sum_en": Out(1),
                "sum_addr": Out(addr_bits),
                "sum_data": In(WORD_BITS),
                "store_en": Out(1),
                "store_addr": Out(addr_bits),
                "store_data": Out(WORD_BITS),
                "next_valid": Out(1),
                "next_ready": In(1),
                "next_frame": Out(frame),
                "next_status_valid": In(1),
                "next_status": In(status),
                "prev_valid": In(1),
                "prev_frame": In(frame),
                "prev_status_valid": Out(1),
                "prev_status_ready": In(1),
                "prev_status": Out(status),
                "again": Out(1),
            },
            params=(addr_bits, window, timeout, retries, patience),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.steps = instance(steps := self._steps)
        m.submodules.tx = instance(tx := self._tx)
        m.submodules.rx = instance(rx := self._rx)
        failed = Signal()
        m.d.comb += failed.eq(self.error.any())

        # The links.
        m.d.comb += [
            self.next_valid.eq(tx.out_valid),
            tx.out_ready.eq(self.next_ready),
            self.next_frame.eq(tx.out_frame),
            tx.status_valid.eq(self.next_status_valid),
            tx.status_frame.eq(self.next_status),
            tx.session.eq(self.session),
            tx.stop.eq(failed),
            self.again.eq(tx.again),
            rx.in_valid.eq(self.prev_valid),
            rx.in_frame.eq(self.prev_frame),
            self.prev_status_valid.eq(rx.status_valid),
            rx.status_ready.eq(self.prev_status_ready),
            self.prev_status.eq(rx.status_frame),
            rx.session.eq(self.session),
            rx.stop.eq(failed),
            rx.watch.eq(steps.busy),
        ]

        # A command: which it is and whether its number is odd is the tag of its words.
        number = Signal(TAG_BITS)
        from_, to = Signal(self._addr), Signal(self._addr)
        held = Signal()  # a word is in the second stage
        m.d.comb += [
            self.busy.eq(steps.busy | held),
            self.cmd_ready.eq(~self.busy & ~failed & ~steps.refused),
            steps.start.eq(self.cmd_valid & self.cmd_ready),
            steps.rank.eq(self.rank),
            steps.nodes.eq(self.nodes),
            steps.op.eq(self.cmd_op),
            steps.words.eq(self.cmd_words),
            steps.size.eq(self.cmd_size),
            steps.larger.eq(self.cmd_larger),
            steps.root.eq(self.cmd_root),
            steps.last.eq(self.cmd_last),
            steps.source.eq(self.cmd_from),
            steps.target.eq(self.cmd_to),
        ]
        with m.If(steps.start):
            m.d.sync += [
                number.eq(Cat(~number[0], self.cmd_op)),
                from_.eq(self.cmd_from),
                to.eq(self.cmd_to),
            ]

        # First stage: a turn, as soon as its word has come and the second stage is free.
        leaves, wrong = Signal(), Signal()
        m.d.comb += [
            steps.go.eq(
                steps.turn & (rx.out_valid | ~steps.take) & (leaves | ~held) & ~failed & ~wrong
            ),
            rx.out_ready.eq(steps.go & steps.take),
            wrong.eq(steps.turn & steps.take & rx.out_valid & (rx.out_tag != number)),
            self.own_en.eq(steps.go & steps.send & steps.inject),
            self.own_addr.eq(from_ + steps.own_at),
            self.sum_en.eq(steps.go & steps.take & steps.add),
            self.sum_addr.eq(from_ + steps.taken_at),
        ]

        # Second stage: add, send, store.
        sends, injects, adds, stores, finishes = (
            Signal(name=n) for n in ("sends", "injects", "adds", "stores", "finishes")
        )
        word, total = Signal(WORD_BITS), Signal(WORD_BITS)
        where = Signal(self._addr)
        m.d.comb += leaves.eq(held & (~sends | tx.in_ready))
        with m.If(steps.go):
            m.d.sync += [
                held.eq(1),
                sends.eq(steps.send),
                injects.eq(steps.inject),
                adds.eq(steps.add),
                stores.eq(steps.take & steps.store),
                finishes.eq(steps.finishes),
                word.eq(rx.out_word),
                where.eq(to + steps.taken_at),
            ]
        with m.Elif(leaves):
            m.d.sync += held.eq(0)
        for i in range(LANES):
            lane = slice(LANE_BITS * i, LANE_BITS * (i + 1))
            m.d.comb += total[lane].eq(word[lane] + Mux(adds, self.sum_data[lane], 0))
        m.d.comb += [
            tx.in_valid.eq(held & sends),
            tx.in_word.eq(Mux(injects, self.own_data, total)),
            tx.in_tag.eq(number),
            self.store_en.eq(leaves & stores),
            self.store_addr.eq(where),
            self.store_data.eq(total),
        ]
        m.d.sync += self.done.eq((leaves & finishes) | steps.spared)

        events = Cat(steps.refused, wrong, tx.dead, rx.dead)
        m.d.sync += self.error.eq(self.error | events)
        return m
