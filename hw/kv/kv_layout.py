"""Where every byte of the KV cache lies: the one place for the address arithmetic.

Per channel, a physical page holds its layers one after another, a layer its KV heads, and a head
three areas, each padded to whole words: exponent bytes (per token of this channel the K shifts of
its blocks, then the V shifts), K codes (per token its blocks of 32 bytes) and V codes (per dim of
this channel one byte per token of the page). Token t and dim d lie in channel t mod C and d mod C.

With int4 codes the dims 2j and 2j + 1 share a byte (`kv_pack`): a token's K block has 16 bytes, and
V has one byte per token for each pair j, which lies in channel j mod C.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from tokenloom.hw.numbers.formats import KV4_BITS, KV_BITS

__all__ = ["KvLayout"]


@dataclass(frozen=True)
class KvLayout:
    """Strides, offsets and addresses of one model's KV pages: bytes, the same in each channel.

    Parameters
    ----------
    columns : int
        Channels C; divides `page_tokens`.
    port_bits : int
        Bits of a memory word.
    page_tokens : int
        Tokens per page, a multiple of 32.
    head_size : int
        Dims per head.
    kv_heads : int
        KV heads per layer.
    layers : int
        Layers of the model.
    blocks_per_beat : int
        Blocks that the array takes at once; the blocks of a token are padded to a multiple of it.
    code_bits : int
        Bits of a code, 8 or 4; with 4 `head_size` has to be even.

    Members
    -------
    dim_blocks : int
        Blocks of 32 dims of one token in memory (nb).
    channel_tokens : int
        Tokens of a page in one channel.
    channel_dims : int
        Dims of a head in one channel, at most; with int4 pairs of them.
    exponent_bytes, k_bytes, v_bytes : int
        Sizes of the three areas, whole words.
    k_offset, v_offset : int
        Where the K and V codes begin inside a head (exponents at 0).
    head_stride, layer_stride, page_stride : int
        From one head, layer, page to the next.

    Raises
    ------
    ValueError
        When a parameter is out of range or the page does not divide evenly.
    """

    _: KW_ONLY
    columns: int
    port_bits: int
    page_tokens: int
    head_size: int
    kv_heads: int
    layers: int
    blocks_per_beat: int = 1
    code_bits: int = KV_BITS

    def __post_init__(self) -> None:
        for name in ("columns", "head_size", "kv_heads", "layers", "blocks_per_beat"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} has to be positive, not {getattr(self, name)!r}")
        if self.port_bits not in (256, 512):
            raise ValueError(f"port_bits has to be 256 or 512, not {self.port_bits!r}")
        if self.code_bits not in (KV_BITS, KV4_BITS):
            raise ValueError(f"code_bits has to be 8 or 4, not {self.code_bits!r}")
        if self.head_size % self.byte_dims:
            raise ValueError(f"head_size has to be even for int4 codes, not {self.head_size!r}")
        multiple = 32 * self.blocks_per_beat
        if self.page_tokens < 1 or self.page_tokens % multiple or self.page_tokens % self.columns:
            raise ValueError(
                f"page_tokens has to be a multiple of {multiple} and of columns = {self.columns}, "
                f"not {self.page_tokens!r}"
            )

    def _padded(self, size: int) -> int:
        word = self.port_bits // 8
        return -(-size // word) * word

    @property
    def byte_dims(self) -> int:
        """Dims that share a byte."""
        return KV_BITS // self.code_bits

    @property
    def dim_blocks(self) -> int:
        """Blocks of one token in memory."""
        beats = -(-self.head_size // (32 * self.blocks_per_beat))
        return beats * self.blocks_per_beat

    @property
    def channel_tokens(self) -> int:
        """Tokens of a page in one channel."""
        return self.page_tokens // self.columns

    @property
    def channel_dims(self) -> int:
        """Dims of a head in one channel, at most; with int4 pairs of them."""
        return -(-self.head_size // (self.byte_dims * self.columns))

    @property
    def exponent_bytes(self) -> int:
        """Size of the exponent area."""
        return self._padded(self.channel_tokens * 2 * self.dim_blocks)

    @property
    def k_bytes(self) -> int:
        """Size of the K codes."""
        return self._padded(self.channel_tokens * self.dim_blocks * 32 // self.byte_dims)

    @property
    def v_bytes(self) -> int:
        """Size of the V codes."""
        return self._padded(self.channel_dims * self.page_tokens)

    @property
    def k_offset(self) -> int:
        """Where the K codes begin inside a head."""
        return self.exponent_bytes

    @property
    def v_offset(self) -> int:
        """Where the V codes begin inside a head."""
        return self.k_offset + self.k_bytes

    @property
    def head_stride(self) -> int:
        """From one head to the next."""
        return self.v_offset + self.v_bytes

    @property
    def layer_stride(self) -> int:
        """From one layer to the next."""
        return self.head_stride * self.kv_heads

    @property
    def page_stride(self) -> int:
        """From one physical page to the next."""
        return self.layer_stride * self.layers

    def head_address(self, *, page: int, layer: int, head: int) -> int:
        """Byte address of a head's area, relative to kv_base, the same in each channel."""
        return page * self.page_stride + layer * self.layer_stride + head * self.head_stride

    def k_shift(
        self, *, page: int, layer: int, head: int, token: int, block: int
    ) -> tuple[int, int]:
        """Channel and address of the shift byte of a K block (`token` counted inside the page)."""
        line = token // self.columns * 2 * self.dim_blocks
        base = self.head_address(page=page, layer=layer, head=head)
        return token % self.columns, base + line + block

    def v_shift(
        self, *, page: int, layer: int, head: int, token: int, block: int
    ) -> tuple[int, int]:
        """Channel and address of the shift byte of a V block."""
        channel, address = self.k_shift(page=page, layer=layer, head=head, token=token, block=block)
        return channel, address + self.dim_blocks

    def k_code(self, *, page: int, layer: int, head: int, token: int, dim: int) -> tuple[int, int]:
        """Channel and address of one K code's byte; of int4 the odd dim's is its high half."""
        base = self.head_address(page=page, layer=layer, head=head) + self.k_offset
        place = token // self.columns * 32 * self.dim_blocks + dim
        return token % self.columns, base + place // self.byte_dims

    def v_code(self, *, page: int, layer: int, head: int, token: int, dim: int) -> tuple[int, int]:
        """Channel and address of one V code's byte; of int4 the odd dim's is its high half."""
        base = self.head_address(page=page, layer=layer, head=head) + self.v_offset
        row = dim // self.byte_dims
        return row % self.columns, base + row // self.columns * self.page_tokens + token
