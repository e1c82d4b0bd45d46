"""The embedding table on chip: several ids at once, whatever they are, without a conflict."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from tokenloom.hw.embedding.embedding_lane import EmbeddingLane
from tokenloom.hw.numbers.arith import sum_tree
from tokenloom.hw.numbers.formats import BLOCK
from tokenloom.hw.verilog.addressed_memory import addressed_memory
from tokenloom.hw.verilog.block import Block, instance

__all__ = ["EmbeddingTable"]

ID_BITS = 32


class EmbeddingTable(Block):
    """`lookups` ids in one cycle; each port hands out its row slice by slice, dequantised.

    A row is cut into as many slices as ports share a copy of the table (decision 0021), each in a
    bank of its own. Port i of a copy asks bank (i + q) mod slices in the q-th cycle after its id,
    so the banks are never asked twice, whichever ids come: no queue, no arbiter, no stall.

    Parameters
    ----------
    vocab, width : int
        Largest number of rows and of values per row.
    lookups : int
        Ids at once, 1, 2, 4, 8 or 16.
    copies : int
        Copies of the table, a power of two up to `lookups`. `slices` = lookups / copies.
    stages : int
        Pipeline depth, 3..5: the memory's and `EmbeddingLane`'s.

    Members
    -------
    used_vocab : In(range(vocab + 1))
        Rows that there are; ids from there on are refused.
    shift : In(6)
        The drain's shift. Both rest while ids are under way.
    in_valid : In(1)
        Ids come; not within `slices` cycles of the ids before.
    in_mask : In(lookups)
        Which ports have one.
    in_ids : In(32 * lookups)
        Port i's in bits 32i..32i+31.
    out_valid : Out(lookups)
        Which ports hold a slice.
    out_slice : Out(bits * lookups)
        Which one, ⌈log2(slices)⌉ bits (1 at least) per port: (i + q) mod slices.
    out_values : Out(32 * slice_values * lookups)
        fixed32; value v of port i at bits 32 (i · slice_values + v). 0 for an id that was refused.
    out_refused : Out(lookups)
        The id was refused: nothing was read. With `out_valid`.
    refused : Out(32)
        Ids refused since reset.
    saturated : Out(1)
        Strobe: a value was clamped.
    cfg_we, cfg_row, cfg_slice, cfg_data : In
        Writes a slice of a row: its codes (int8), then per block scale and minimum (rebased fp16).
        Not while ids are under way.

    Latency
    -------
    `stages` belt cycles from an id to its first slice; the others follow in the next cycles.

    Duration
    --------
    `lookups` ids per `slices` cycles: 8 copies take 8 ids in every cycle, one copy in every eighth.
    A single copy is read to the last bit in every cycle, so no single-ported table can do more.

    Raises
    ------
    ValueError
        When a parameter is out of its range.
    """

    def __init__(
        self, *, vocab: int, width: int, lookups: int = 8, copies: int = 1, stages: int = 3
    ) -> None:
        if not 1 <= vocab <= 1 << 20:
            raise ValueError(f"vocab = {vocab} is impossible: allowed is 1..{1 << 20}")
        if width < 1:
            raise ValueError(f"width = {width} is impossible: allowed is 1 or more")
        if lookups not in (1, 2, 4, 8, 16):
            raise ValueError(f"lookups = {lookups}: allowed are 1, 2, 4, 8 and 16")
        if not 1 <= copies <= lookups or copies & (copies - 1):
            raise ValueError(f"copies = {copies}: allowed are powers of two up to {lookups}")
        if not 3 <= stages <= 5:
            raise ValueError(f"stages = {stages} is impossible: allowed is 3..5")
        self._vocab, self._lookups, self._copies, self._stages = vocab, lookups, copies, stages
        self.slices = slices = lookups // copies
        # A slice is whole blocks or a whole part of one.
        blocks = -(-width // BLOCK)
        if blocks < slices:
            blocks = 1 << (blocks - 1).bit_length()
        else:
            blocks = -(-blocks // slices) * slices
        self.slice_values = BLOCK * blocks // slices
        self._scales = max(1, self.slice_values // BLOCK)
        self.word_bits = 8 * self.slice_values + 32 * self._scales
        self._slice_bits = max(1, (slices - 1).bit_length())
        super().__init__(
            {
                "used_vocab": In(range(vocab + 1)),
                "shift": In(6),
                "in_valid": In(1),
                "in_mask": In(lookups),
                "in_ids": In(ID_BITS * lookups),
                "out_valid": Out(lookups),
                "out_slice": Out(self._slice_bits * lookups),
                "out_values": Out(32 * self.slice_values * lookups),
                "out_refused": Out(lookups),
                "refused": Out(32),
                "saturated": Out(1),
                "cfg_we": In(1),
                "cfg_row": In(range(max(2, vocab))),
                "cfg_slice": In(self._slice_bits),
                "cfg_data": In(self.word_bits),
            },
            params=(vocab, width, lookups, copies, stages),
        )

    @property
    def latency(self) -> int:
        """Belt cycles from an id to its first slice."""
        return self._stages

    @property
    def lookups_per_cycle(self) -> int:
        """Rows per belt cycle when ids come as often as they may: one per copy."""
        return self._lookups // self.slices

    @property
    def memory_bits(self) -> int:
        """Bits of all copies."""
        return self._copies * self._vocab * self.slices * self.word_bits

    @property
    def products(self) -> int:
        """Multipliers of 8 by 12 bits."""
        return self._lookups * self.slice_values

    def elaborate(self, platform: object) -> Module:
        """Ids wait for their turns; banks; then each port picks its bank's word, and the lanes."""
        m = Module()
        slices, ports = self.slices, range(self._lookups)

        # The turn: 0 in the cycle in which ids come.
        count, turn = Signal(range(max(2, slices))), Signal(range(max(2, slices)))
        kept_ids, kept_mask = Signal.like(self.in_ids, reset_less=True), Signal(self._lookups)
        ids, mask = Signal.like(self.in_ids), Signal(self._lookups)
        m.d.comb += [
            turn.eq(Mux(self.in_valid, 0, count)),
            ids.eq(Mux(self.in_valid, self.in_ids, kept_ids)),
            mask.eq(Mux(self.in_valid, self.in_mask, Mux(count.any(), kept_mask, 0))),
        ]
        with m.If(self.in_valid):
            m.d.sync += [kept_ids.eq(self.in_ids), kept_mask.eq(self.in_mask)]
        if slices > 1:
            m.d.sync += count.eq(Mux(turn.any() | self.in_valid, turn + 1, 0))
        known = Signal(self._lookups)
        m.d.comb += known.eq(
            Cat(mask[i] & (ids.word_select(i, ID_BITS) < self.used_vocab) for i in ports)
        )
        fresh_refused = Signal(range(self._lookups + 1))
        m.d.comb += fresh_refused.eq(sum_tree(self.in_valid & mask[i] & ~known[i] for i in ports))
        m.d.sync += self.refused.eq(self.refused + fresh_refused)

        # Banks: in turn q, bank b of a copy belongs to its port (b - q) mod slices.
        words: list[list[Value]] = []
        for copy in range(self._copies):
            words.append([])
            for bank in range(slices):
                memory = addressed_memory(shape=self.word_bits, depth=self._vocab)
                m.submodules[f"bank{copy}_{bank}"] = memory
                write, read = memory.write_port(), memory.read_port()
                asking = [copy * slices + (bank - q) % slices for q in range(slices)]
                m.d.comb += [
                    write.en.eq(self.cfg_we & (self.cfg_slice == bank)),
                    write.addr.eq(self.cfg_row),
                    write.data.eq(self.cfg_data),
                    read.en.eq(Array(known[i] for i in asking)[turn]),
                    read.addr.eq(Array(ids.word_select(i, ID_BITS) for i in asking)[turn]),
                ]
                words[-1].append(read.data)

        # What travels along; stage 1 has the words.
        chain: list[tuple[Signal, Signal, Signal]] = [(mask, known, turn)]
        for stage in range(1, self._stages + 1):
            here = (
                Signal(self._lookups, name=f"valid{stage}"),
                Signal(self._lookups, name=f"known{stage}"),
                Signal.like(turn, name=f"turn{stage}", reset_less=True),
            )
            m.d.sync += [new.eq(old) for old, new in zip(chain[-1], here, strict=True)]
            chain.append(here)
        clamped = []
        for i in ports:
            copy, own = divmod(i, slices)
            asked = [(own + q) % slices for q in range(slices)]
            word = Signal(self.word_bits, name=f"word{i}")
            scales = word[8 * self.slice_values :]
            m.d.comb += word.eq(Array(words[copy][bank] for bank in asked)[chain[1][2]])
            shown = Array(asked)[chain[-1][2]]
            m.d.comb += self.out_slice.word_select(i, self._slice_bits).eq(shown)
            for value in range(self.slice_values):
                lane = EmbeddingLane(stages=self._stages - 1)
                m.submodules[f"lane{i}_{value}"] = instance(lane, en=self.en)
                block = value // BLOCK
                at = self.out_values.word_select(i * self.slice_values + value, 32)
                m.d.comb += [
                    lane.stage.eq(Cat(chain[stage][1][i] for stage in range(1, self._stages))),
                    lane.code.eq(word.word_select(value, 8)),
                    lane.scale.eq(scales.word_select(2 * block, 16)),
                    lane.minimum.eq(scales.word_select(2 * block + 1, 16)),
                    lane.shift.eq(self.shift),
                    at.eq(Mux(chain[-1][1][i], lane.value, 0)),
                ]
                clamped.append(lane.saturated & chain[-1][1][i])
        m.d.comb += [
            self.out_valid.eq(chain[-1][0]),
            self.out_refused.eq(chain[-1][0] & ~chain[-1][1]),
            self.saturated.eq(Cat(clamped).any()),
        ]
        return m
