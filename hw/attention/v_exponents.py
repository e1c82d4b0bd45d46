"""VExponents: the shifts of the V blocks, written by columns' tiles, read W tokens at a time."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.numbers.words import pick
from tokenloom.hw.verilog.block import Block

__all__ = ["VExponents"]

_BITS = 5


class VExponents(Block):
    """The V shifts of all tokens, for every bank and block of dims.

    While the K beats of a tile pass, column c brings the V shift of token tile * C + c.

    Parameters
    ----------
    columns : int
        C, a multiple of W.
    drain : int
        W, tokens per read: a power of two up to 32.
    tokens_max : int
        Tokens per bank: a multiple of 32.
    dim_blocks : int
        Blocks of 32 dims per head (1 or more).
    beat_blocks : int
        Blocks of dims that a K beat brings, a power of two: `write_block` counts beats.

    Members
    -------
    we : In(1), write_bank : In(1), write_tile : In, write_block : In
        Write the shifts of tokens `write_tile` * C and following.
    write_shifts : In(5 * beat_blocks * C)
        Column c's at bits 5 * beat_blocks * c, a beat's blocks side by side.
    read : In(1), read_bank : In(1), read_token : In, read_block : In
        Ask for W consecutive tokens' shifts; `read_token` is a multiple of W.
    read_shifts : Out(5 * W)
        One cycle after `read`; kept until the next. Token i of the word at bits 5i.

    Latency
    -------
    `WRITE_LATENCY` = 1: a `read` in the cycle after a write sees it. `READ_LATENCY` = 1.

    Duration
    --------
    A write and a read per cycle, in different banks.

    Raises
    ------
    ValueError
        When a parameter is outside its range.
    """

    WRITE_LATENCY = 1
    READ_LATENCY = 1

    def __init__(
        self, *, columns: int, drain: int, tokens_max: int, dim_blocks: int, beat_blocks: int = 1
    ) -> None:
        if drain not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"drain = {drain} is impossible: allowed is a power of two up to 32")
        if columns < drain or columns % drain:
            raise ValueError(
                f"columns = {columns} is impossible: allowed is a multiple of drain = {drain}"
            )
        if tokens_max < 32 or tokens_max % 32:
            raise ValueError(
                f"tokens_max = {tokens_max} is impossible: allowed is a multiple of 32"
            )
        if dim_blocks < 1:
            raise ValueError(f"dim_blocks = {dim_blocks} is impossible: allowed is 1 or more")
        self._columns, self._drain = columns, drain
        self._tiles = -(-tokens_max // columns)
        self._beat_blocks = beat_blocks
        self._dim_blocks = -(-dim_blocks // beat_blocks)  # beats
        block_bits = max(1, (dim_blocks - 1).bit_length())
        super().__init__(
            {
                "we": In(1),
                "write_bank": In(1),
                "write_tile": In(max(1, (self._tiles - 1).bit_length())),
                "write_block": In(max(1, (self._dim_blocks - 1).bit_length())),
                "write_shifts": In(_BITS * beat_blocks * columns),
                "read": In(1),
                "read_bank": In(1),
                "read_token": In((tokens_max - 1).bit_length()),
                "read_block": In(block_bits),
                "read_shifts": Out(_BITS * drain),
            },
            params=(columns, drain, tokens_max, dim_blocks, beat_blocks),
        )

    def elaborate(self, platform: object) -> Module:
        """Words of W tokens, dealt to as many memories as a tile has words, or the next power."""
        m = Module()
        share = self._beat_blocks.bit_length() - 1
        size = _BITS * self._beat_blocks * self._drain
        parts = self._columns // self._drain
        split = (parts - 1).bit_length()
        count = 1 << split
        rows = -(-self._tiles * parts // count)
        row_bits = max(1, (rows - 1).bit_length())
        drop = self._drain.bit_length() - 1
        words = [self.write_shifts[size * g : size * (g + 1)] for g in range(parts)]
        words += [words[-1]] * (count - parts)

        def address(bank: Signal, block: Signal, row: Signal) -> Signal:
            if self._dim_blocks == 1:
                return Cat(row, bank)
            return Cat(row, bank, block)

        base = Signal(row_bits + split)
        m.d.comb += base.eq(self.write_tile * parts)
        word = Signal(row_bits + split)
        m.d.comb += word.eq(self.read_token[drop:])
        found = []
        for q in range(count):
            memory = Memory(shape=size, depth=(2 * self._dim_blocks) << row_bits, init=[])
            m.submodules[f"memory{q}"] = memory
            write, read = memory.write_port(), memory.read_port()
            # The word of the tile that falls to this memory.
            g = Signal(max(1, split), name=f"part{q}")
            row = Signal(row_bits, name=f"row{q}")
            if parts == count:
                m.d.comb += [g.eq(q), row.eq(base[split:]), write.en.eq(self.we)]
                m.d.comb += write.data.eq(words[q])
            else:
                m.d.comb += [
                    g.eq((q - base[:split])[:split]),
                    row.eq((base + g) >> split),
                    write.en.eq(self.we & (g < parts)),
                    write.data.eq(Array(words)[g]),
                ]
            m.d.comb += [
                write.addr.eq(address(self.write_bank, self.write_block, row)),
                read.addr.eq(address(self.read_bank, self.read_block[share:], word[split:])),
            ]
            if split == 0:
                m.d.comb += read.en.eq(self.read)
            else:
                m.d.comb += read.en.eq(
                    self.read & (word[:split] == q if q else ~word[:split].any())
                )
            found.append(read.data)
        shown = Signal(size)
        if split == 0:
            m.d.comb += shown.eq(found[0])
        else:
            which = Signal(split)
            with m.If(self.read):
                m.d.sync += which.eq(word[:split])
            m.d.comb += shown.eq(Array(found)[which])
        if not share:
            m.d.comb += self.read_shifts.eq(shown)
        else:
            # Of each token's blocks the one that was asked for.
            block = Signal(share)
            with m.If(self.read):
                m.d.sync += block.eq(self.read_block[:share])
            tokens = [shown.word_select(w, size // self._drain) for w in range(self._drain)]
            m.d.comb += self.read_shifts.eq(
                Cat(pick(m, token, block, _BITS, 1 << share) for token in tokens)
            )
        return m
