"""A memory made of registers, so that a proof can speak of its contents."""

from amaranth.hdl import Array, Elaboratable, Module, Signal

__all__ = ["Registers"]


class _Port:
    def __init__(self, shape, depth):
        self.en, self.addr, self.data = Signal(), Signal(range(depth)), Signal(shape)


class Registers(Elaboratable):
    """Stands for `amaranth.lib.memory.Memory` with one write and one read port."""

    def __init__(self, *, shape, depth, init):
        self.rows = Array([Signal(shape, name=f"row_{i}") for i in range(depth)])
        self._write, self._read = _Port(shape, depth), _Port(shape, depth)

    def write_port(self):
        return self._write

    def read_port(self, domain="sync"):
        self._domain = domain
        return self._read

    def elaborate(self, platform):
        m = Module()
        with m.If(self._write.en):
            m.d.sync += self.rows[self._write.addr].eq(self._write.data)
        with m.If(self._read.en if self._domain == "sync" else 1):
            m.d[self._domain] += self._read.data.eq(self.rows[self._read.addr])
        return m
