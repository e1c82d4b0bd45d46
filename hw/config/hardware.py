"""One frozen tree of a chip's configuration, with all that is derived from it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokenloom.hw.config.keys import build
from tokenloom.hw.config.rules import check, check_model
from tokenloom.hw.config.sections import (
    ArrayConfig,
    BoardConfig,
    Maxima,
    MemoryConfig,
    SamplerConfig,
)
from tokenloom.hw.numbers.formats import BLOCK

if TYPE_CHECKING:
    from tokenloom.compiler.checkpoint import ModelShape

__all__ = ["HardwareConfig"]

_HEADER_WORDS = 8  # kept at least, so that scales are there before their codes


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """Everything that the generator needs to know about a chip.

    Raises
    ------
    ConfigError
        If a value is impossible: the message has the key, the value, what is allowed, and why.
    """

    name: str
    """The preset's name."""
    array: ArrayConfig
    """The array."""
    memory: MemoryConfig
    """Memory channels and KV pages."""
    maxima: Maxima
    """The largest model."""
    board: BoardConfig
    """The board."""
    norm_lanes: int
    """Residual values that RMSNorm takes per cycle."""
    sampler: SamplerConfig = SamplerConfig()
    """The sampler."""
    score_tokens: int = 0
    """Tokens whose scores attention holds at a time; 0: all positions. Longer contexts come in
    chunks of that many tokens, and their keys are streamed up to twice."""

    def __post_init__(self) -> None:
        check(self)

    # Derived: the array and its tapes.

    @property
    def blocks_per_beat(self) -> int:
        """Quantisation blocks that a column takes per cycle."""
        return self.array.lanes // BLOCK

    @property
    def width_blocks(self) -> int:
        """Blocks of the longest residual vector; the last may be padded."""
        return -(-self.maxima.width // BLOCK)

    @property
    def ffn_blocks(self) -> int:
        """Blocks of the longest feed-forward vector; the last may be padded."""
        return -(-self.maxima.ffn // BLOCK)

    # Derived: columns on the board's channels.

    @property
    def channel_columns(self) -> int:
        """Columns that the fullest channel of the board's memory serves."""
        return -(-self.array.columns // self.board.memory.channels)

    @property
    def column_gbs(self) -> float:
        """Peak that a column can count on: all run in step, so the fullest channel sets it."""
        return self.board.memory.channel_gbs / self.channel_columns

    @property
    def column_bytes(self) -> int:
        """Memory that a column can count on."""
        return int(self.board.memory.channel_mib * 2**20) // self.channel_columns

    # Derived: attention and its cache.

    @property
    def max_group(self) -> int:
        """Query heads per KV head."""
        return self.maxima.heads // self.maxima.kv_heads

    @property
    def head_blocks(self) -> int:
        """Quantisation blocks per head."""
        return -(-self.maxima.head_size // BLOCK)

    @property
    def memory_dim_blocks(self) -> int:
        """Blocks of a token and head in memory: whole beats."""
        return self._whole_beats(self.head_blocks)

    @property
    def attention_tokens(self) -> int:
        """Tokens that attention's buffers hold: whole blocks, two beats' at least."""
        return self.score_tokens if self.chunked else self._all_tokens

    @property
    def _all_tokens(self) -> int:
        return max(self.least_tokens, -(-self.maxima.positions // BLOCK) * BLOCK)

    @property
    def least_tokens(self) -> int:
        """Tokens that attention's buffers hold at least."""
        return 2 * self.array.lanes if self.blocks_per_beat > 1 else BLOCK

    @property
    def chunked(self) -> bool:
        """Whether a context can be longer than attention's buffers."""
        return 0 < self.score_tokens < self._all_tokens

    def chunks(self, tokens: int) -> int:
        """Chunks in which attention takes a context of `tokens`."""
        return -(-tokens // self.score_tokens) if self.chunked else 1

    @property
    def pages_per_slot(self) -> int:
        """Pages of the longest sequence."""
        return -(-self.maxima.positions // self.memory.page_tokens)

    @property
    def header_words(self) -> int:
        """Words of scales, minima or exponents that a channel keeps: all exponents of a K page."""
        blocks = self.memory.page_tokens // self.array.columns * self.memory_dim_blocks
        page = -(-blocks // (self.memory.port_bits // 16))
        return max(_HEADER_WORDS, 1 << (page - 1).bit_length())

    @property
    def operand_blocks(self) -> int:
        """Blocks in an operand buffer at the maxima: norm output, the constant block for biases,
        context, hidden, queries.
        """
        top = self.maxima
        queries = top.kv_heads * self.max_group * self.memory_dim_blocks
        parts = (self.width_blocks + 1, -(-top.heads * top.head_size // BLOCK), self.ffn_blocks)
        return sum(map(self._whole_beats, parts)) + queries

    def _whole_beats(self, blocks: int) -> int:
        return -(-blocks // self.blocks_per_beat) * self.blocks_per_beat

    @property
    def array_operations(self) -> int:
        """Most operations of the array in a pass: six matmuls, scores and values of each layer.

        Of n chunks, n - 1 are scored twice.
        """
        top = self.maxima
        chunks = self.chunks(top.positions)
        per_head = 2 * chunks - 1 + chunks * self.head_blocks
        return top.layers * (6 + top.kv_heads * per_head) + 1

    @property
    def softmax_operations(self) -> int:
        """Most instructions of the softmax in a pass.

        Of a chunk that need not be the last, the first two are there twice: if it is, they wait
        for less.
        """
        top = self.maxima
        chunks = self.chunks(top.positions)
        return (
            top.layers
            * top.kv_heads
            * (chunks * self.head_blocks + (chunks - 1) * min(2, self.head_blocks))
        )

    # Checks.

    def losses(self) -> list[str]:
        """What the configuration wastes: legal, but worth a warning."""
        found = []
        beats = self.maxima.width // self.array.lanes
        if self.array.columns > beats:
            found.append(
                f"array.columns = {self.array.columns} is more than maxima.width / array.lanes = "
                f"{beats}: sums drain one column per cycle, so the array waits "
                f"{self.array.columns - beats} cycles after each tile of a width-long product"
            )
        return found

    def check_model(self, shape: "ModelShape", name: str = "the model") -> None:
        """Raise ConfigError if a model does not fit, see `rules.check_model`."""
        check_model(self, shape, name)

    # As data.

    def to_dict(self) -> dict[str, Any]:
        """The tree as plain dictionaries; :func:`from_dict`'s inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "HardwareConfig":
        """Build and validate a tree from plain dictionaries."""
        return build(cls, data)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON form, as hexadecimal text."""
        data = self.to_dict()
        if not self.score_tokens:
            del data["score_tokens"]  # a chip without chunks is what it was before there were any
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
