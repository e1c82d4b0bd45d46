"""A memory made of registers, so that a proof can speak of its contents."""

from amaranth.hdl import Array, Elaboratable, Module, Signal

__all__ = ["Registers"]


class _Port:
    def __init__(self, shape, depth):
        self.en, self.addr, self.data = Signal(), Signal(range(depth)), Signal(shape)


class Registers(Elaboratable):
    """Stands for `amaranth.lib.memory.Memory` with one write and one read port.

    Members
    -------
    rows : the registers
    write, read : the ports
    """

    def __init__(self, *, shape, depth, init):
        self.rows = Array([Signal(shape, name=f"row_{i}") for i in range(depth)])
        self.write, self.read = _Port(shape, depth), _Port(shape, depth)

    def write_port(self):
        return self.write

    def read_port(self, domain="sync"):
        self._domain = domain
        return self.read

    def elaborate(self, platform):
        m = Module()
        with m.If(self.write.en):
            m.d.sync += self.rows[self.write.addr].eq(self.write.data)
        with m.If(self.read.en if self._domain == "sync" else 1):
            m.d[self._domain] += self.read.data.eq(self.rows[self.read.addr])
        return m
