"""The ring in the catalog."""

from __future__ import annotations

from typing import Any

from tokenloom.hw.catalog.spec import BlockSpec, Parameter, Timing
from tokenloom.hw.ring.collective import Op, command, duration, hop_cycles
from tokenloom.hw.ring.frame import LANES
from tokenloom.hw.ring.ring import Ring

__all__ = ["SPEC"]

_WIRE = 25  # cycles: 100 ns at 250 MHz
_WORDS = 4096 // LANES


def _timing(**_: int) -> list[Timing]:
    hop = hop_cycles(_WIRE, Ring.OWN)
    rows = [
        Timing("a hop, from a word's turn in a node to its turn in the next", "wire + 5", hop,
               "Aurora: below 100 ns, 25 cycles, for the wire alone"),
    ]  # fmt: skip
    for nodes in (2, 4, 8):
        given = command(Op.ALL_REDUCE, _WORDS // nodes, hop=hop)
        rows.append(
            Timing(
                f"all-reduce of 4,096 accumulators between {nodes} nodes, wire of {_WIRE} cycles",
                "2(N-1) c + last group + 2, for N chunks of c words and groups of a hop or more",
                duration(given, nodes, hop=hop),
                "2(N-1)/N of the data per link",
            )
        )
    return rows


async def _stimulus(ctx: Any, block: Any, parameters: dict[str, Any]) -> None:
    """A shift of three words in a ring of two whose other node is this one itself."""
    ctx.set(block.nodes, 2)
    ctx.set(block.next_ready, 1)
    ctx.set(block.prev_status_ready, 1)
    ctx.set(block.cmd_op, Op.SHIFT)
    ctx.set(block.cmd_words, 3)
    ctx.set(block.cmd_size, 3)
    ctx.set(block.cmd_to, 0x100)
    word = 0
    for cycle in range(_CYCLES - 1):
        ctx.set(block.cmd_valid, int(cycle == 8))
        ctx.set(block.own_data, word)
        if ctx.get(block.own_en):
            word = 0x1111 * (1 + ctx.get(block.own_addr))
        frame = ctx.get(block.next_valid), ctx.get(block.next_frame)
        status = ctx.get(block.prev_status_valid), ctx.get(block.prev_status)
        await ctx.tick()
        ctx.set(block.prev_valid, frame[0])
        ctx.set(block.prev_frame, frame[1])
        ctx.set(block.next_status_valid, status[0])
        ctx.set(block.next_status, status[1])


_CYCLES = 26

SPEC = BlockSpec(
    name="ring",
    title="Ring: collectives between chips",
    summary=(
        "All-reduce, reduce-scatter, all-gather, broadcast, send and shift of exact 64-bit "
        "accumulators between 2 to 8 chips, over links that may err."
    ),
    parameters=(
        Parameter("addr_bits", 13, "8 to 24", "Width of a word address of the local memory."),
        Parameter(
            "window",
            128,
            "a power of two to 256",
            "Words of the replay buffer and of the receive buffer; for full rate at least the "
            "round trip, 2 wire + 7 cycles, and two groups.",
        ),
        Parameter(
            "timeout",
            256,
            "8 or more",
            "Cycles without progress, then all is sent again; more than the round trip.",
        ),
        Parameter("retries", 16, "1 or more", "Timeouts in a row, then the link is dead."),
        Parameter("patience", 4096, "64 or more", "Cycles of silence, then the link is dead."),
    ),
    build=Ring,
    timing=_timing,
    formula=(
        "A word is eight signed 64-bit accumulators, sums are modulo 2^64, and the compiler proves "
        "that none gets there: so a sum is the same for every number of nodes and every order. "
        "ALL_REDUCE: `y_i = sum_j x_j` on all nodes i. REDUCE_SCATTER: node i gets chunk i of it. "
        "ALL_GATHER: node i's chunk i goes to all. BROADCAST, SEND: the root's chunk goes to all, "
        "or to one. SHIFT: every node gets the chunk of the node before.\n\n"
        "Chunks go round in groups of a hop's cycles: in slot s a node adds to (or keeps) what the "
        "node before sent in slot s - 1 and sends it on in the next cycle. The words of a group's "
        "last slot arrive while the next group's first slot is sent, so a word leaves in every "
        "cycle from the first to the last: a link is idle only for the last group's way home. "
        "`collective.command` chooses the groups; the same command goes to all nodes.\n\n"
        "A frame is 66 bytes (kind, tag, sequence number of 10 bits, word) and a CRC-32C, made and "
        "checked for all bits at once. A status frame in the other direction is 3 bytes and a "
        "CRC-32C: how many words have arrived, how many have left the buffer, and whether one is "
        "missed; all absolute, so that losing one does no harm. Go-back-N replay; credits, so that "
        "the receive buffer never overflows. Both sides are streams of frames (valid and ready on "
        "the sending side), so a clock crossing and a serialiser go between.\n\n"
        "Frames may be lost, broken, repeated, or late by fewer cycles than 2^10 - 2 window. "
        "A command that is not possible (`collective.refusal` has the reasons; a vector that ends "
        "behind the memory is one) is an error on every node that gets it; what no node notices is "
        "a command of the same kind with other sizes, or that a node gets none: its neighbours "
        "wait. A node with an error falls silent, and so "
        "its neighbours report a dead link within `patience` cycles if they wait for it. After an "
        "error all nodes are reset, in any order, with another `session` than before: the CRC of "
        "every frame is XORed with it, so what is still on its way is broken for the new session. "
        "No node gets a command until all are reset, or less than `patience` cycles before that."
    ),
    verified=(
        "* every collective on 2 to 8 nodes against `collective.collective`, bit for bit and, on a "
        "clean wire, to the predicted cycle; with frames flipped, dropped, doubled, swapped and "
        "broken in bursts on both directions, late nodes and slow wires; nodes reset in the midst "
        "of a collective while the links deliver what is left; dead links, wrong or "
        "mismatched commands and vectors a word longer than the memory are errors on every node "
        "(`tests/hw/ring/test_ring.py`)\n"
        "* the link alone with random gaps and back-pressure on both sides, each fault alone, full "
        "rate and latency on a clean wire, a full receiver, resets with frames on their way, dead "
        "links "
        "(`tests/hw/ring/test_link.py`)\n"
        "* the CRC against its definition for every single bit, and RFC 3720's examples "
        "(`tests/hw/ring/test_crc32c.py`)\n"
        "* proved by induction (z3), with a window of two words and an ideal CRC, over wires that "
        "deliver nothing, noise or any of their last three frames in every cycle: words come out "
        "once and in order, the receive buffer never overflows; the receive buffer is a FIFO "
        "(`tests/formal/ring`)\n"
        "* 100,000 words and more at one hurt frame in a hundred, none wrong: rows `ring_errors` "
        "and `ring_busy_*` of the benchmarks"
    ),
    stimulus=_stimulus,
    signals=(
        "cmd_valid",
        "busy",
        "own_en",
        "own_addr",
        "next_valid",
        "next_frame",
        "prev_valid",
        "store_en",
        "store_addr",
        "store_data",
        "done",
        "error",
    ),  # fmt: skip
    cycles=_CYCLES,
    small=("addr_bits=8", "window=32"),
)
