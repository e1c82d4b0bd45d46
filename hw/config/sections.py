"""The sections of a hardware configuration: plain data with its units."""

import dataclasses

__all__ = [
    "ArrayConfig",
    "BoardConfig",
    "BoardMemory",
    "BoardResources",
    "Maxima",
    "MemoryConfig",
    "SamplerConfig",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayConfig:
    """The array of dot-product elements: ``columns`` x ``rows`` elements of ``lanes`` products."""

    columns: int
    """C: memory channels, each with its own stream of weights."""
    lanes: int
    """K: products of an 8-bit and a 9-bit code per element and cycle."""
    rows: int
    """R: tokens per pass."""
    drain: int
    """W: sums that leave each row per cycle in attention."""
    multiplier: str = "plain"
    """What makes products: "plain", one multiplier each, or "packed", one for two columns'."""
    groups: int = 1
    """Groups of neighbouring columns, as dies have them; the first is next to the core."""
    stages: int = 0
    """Register stages on each border between groups."""

    @property
    def packed(self) -> bool:
        """Whether two neighbouring columns share their multipliers."""
        return self.multiplier == "packed"

    @property
    def macs(self) -> int:
        """Products of weights and activations per cycle."""
        return self.columns * self.lanes * self.rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """The memory behind the array: one channel per column."""

    port_bits: int
    """Width of a channel's data port."""
    buffer_words: int
    """Words of prefetch per channel."""
    page_tokens: int
    """Tokens per KV page, spread over all channels."""
    pages: int
    """KV pages in total."""
    slots: int
    """Sequences whose KV the chip holds at the same time."""
    retries: int
    """Further attempts after a memory's error response, before the request is given up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """The sampler."""

    candidates: int = 0
    """Ids in the list in which top-k, top-p and min-p cut; 0: neither list nor penalty nor bias."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maxima:
    """The largest model that the chip takes."""

    width: int
    """Values of the residual stream."""
    ffn: int
    """Hidden values of the feed-forward network."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads."""
    head_size: int
    """Values per head."""
    vocab: int
    """Tokens in the vocabulary."""
    positions: int
    """Context length."""
    layers: int
    """Transformer layers."""
    qk_norm: int = 0
    """1 for an RMSNorm of every head of q and k (Qwen3)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoardMemory:
    """The board's memory as the chip may use it; the figures' sources are in docs/boards.md."""

    kind: str
    """What it is made of, as HBM2."""
    channels: int
    """Independent channels; the array's columns are dealt out to them in turn."""
    channel_gbs: float
    """Peak of one channel in 10^9 bytes per second."""
    channel_mib: float
    """Capacity of one channel in 2^20 bytes."""
    ceiling: float
    """Share of the peak that linear reads have been seen to reach; 1 where nobody has measured."""
    tag: str = ""
    """What the vendor's platform calls channel `{n}`, as HBM[{n}]; empty where there is none."""

    @property
    def bytes(self) -> int:
        """Capacity of all channels."""
        return self.channels * int(self.channel_mib * 2**20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoardResources:
    """What the FPGA has, before the vendor's shell; all 0 for a simulated board."""

    luts: int = 0
    """Look-up tables."""
    flip_flops: int = 0
    """Flip-flops."""
    dsps: int = 0
    """Multiplier blocks."""
    dsp_kind: str = ""
    """What such a block is, as DSP48E2."""
    block_ram_kbit: int = 0
    """Block memory in 1024 bits."""
    ultra_ram_kbit: int = 0
    """UltraRAM in 1024 bits."""
    shell_luts: int = 0
    """Of the look-up tables, those that the vendor's shell and memory connection take."""
    shell_flip_flops: int = 0
    """Of the flip-flops, the same."""
    shell_dsps: int = 0
    """Of the multiplier blocks, the same."""
    shell_block_ram_kbit: int = 0
    """Of the block memory, the same."""
    slrs: int = 1
    """Dies (super logic regions) that the FPGA consists of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoardConfig:
    """The board that carries the chip."""

    name: str
    """Name for people."""
    part: str
    """The FPGA's part number; empty for a simulated board."""
    clock_mhz: float
    """Clock of the core, for figures derived from cycles: an assumption until placed and routed."""
    memory: BoardMemory
    """Its memory."""
    platform: str = ""
    """The vendor's platform (shell); empty where there is none."""
    missing: str = ""
    """What keeps the generated chip off this board; empty if nothing is known to."""
    resources: BoardResources = BoardResources()
    """What the FPGA has."""

    @property
    def bandwidth_gbs(self) -> float:
        """Peak memory bandwidth in 10^9 bytes per second, over all channels."""
        return self.memory.channels * self.memory.channel_gbs
