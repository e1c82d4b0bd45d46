"""Head gains: one table for the head norms of all rows, which read it one cycle apart."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tokenloom.hw.attention.head_norm import GAIN_BITS
from tokenloom.hw.verilog.block import Block

__all__ = ["HeadGains"]


class HeadGains(Block):
    """The gains of q's and k's norms in every layer; row r gets row 0's r cycles later.

    Parameters
    ----------
    rows, layers, head_max : int
        R, most layers, longest head.

    Members
    -------
    read : In(1), layer, is_query, dim : In, row 0 wants this gain
    gains : Out(16·R), row r's: 1 + r cycles later, until the next
    cfg_we, cfg_addr, cfg_data : In, the table; address (layer, is_query, dim), dim in `dim_bits`

    Latency
    -------
    1 cycle, and a row's number more.
    """

    def __init__(self, *, rows: int, layers: int, head_max: int) -> None:
        for name, value in (("rows", rows), ("layers", layers)):
            if value < 1:
                raise ValueError(f"{name} = {value} is impossible: allowed is 1 or more")
        self._rows, self._depth = rows, layers << (1 + self.dim_bits(head_max))
        super().__init__(
            {
                "read": In(1),
                "layer": In(range(max(2, layers))),
                "is_query": In(1),
                "dim": In(self.dim_bits(head_max)),
                "gains": Out(GAIN_BITS * rows),
                "cfg_we": In(1),
                "cfg_addr": In(range(self._depth)),
                "cfg_data": In(GAIN_BITS),
            },
            params=(rows, layers, head_max),
        )

    @staticmethod
    def dim_bits(head_max: int) -> int:
        """Bits of a dim in an address."""
        return (head_max - 1).bit_length()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.table = table = Memory(shape=signed(GAIN_BITS), depth=self._depth, init=[])
        write, read = table.write_port(), table.read_port()
        m.d.comb += [
            write.en.eq(self.cfg_we),
            write.addr.eq(self.cfg_addr),
            write.data.eq(self.cfg_data),
            read.en.eq(self.read),
            read.addr.eq(Cat(self.dim, self.is_query, self.layer)),
        ]
        gains = [read.data.as_unsigned()]
        for r in range(1, self._rows):
            follower = Signal(GAIN_BITS, name=f"gain{r}", reset_less=True)
            m.d.sync += follower.eq(gains[-1])
            gains.append(follower)
        m.d.comb += self.gains.eq(Cat(gains))
        return m
