"""From a checkpoint to integers: codes, rebased scales, fraction bits and shifts.

Everything that docs/numbers.md leaves to the compiler is decided here, independently of any array
shape or board. The result, `QuantModel`, is what the golden model runs and what the tapes hold.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tokenloom.compiler.bias import QBias, quantise_bias
from tokenloom.compiler.block_formats import CODEBOOKS, LINEAR
from tokenloom.compiler.checkpoint import (
    Checkpoint,
    LayerWeights,
    Matrix,
    MatrixKind,
    ModelShape,
)
from tokenloom.compiler.errors import ModelError
from tokenloom.compiler.probe import HEADROOM, Probe
from tokenloom.compiler.proofs import (
    ACC_LIMIT,
    SLACK,
    Proof,
    ceil_log2,
    check_shift,
    exponent_floor,
    fraction_bits,
    row_bounds,
    score_floors,
)
from tokenloom.hw.numbers import formats as fx
from tokenloom.hw.numbers import tables

__all__ = ["Gain", "QLayer", "QTensor", "QuantModel", "iter_tensors", "quantise"]

Float = npt.NDArray[np.float64]

_HEAD_FRACTION_MAX = 26  # of what a head's norm squares: epsilon's register has 64 bits
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, kw_only=True, eq=False)
class QTensor:
    """A weight matrix as the array sees it.

    Attributes
    ----------
    name : str
    bits : int
        On the tape: 4, places in the model's codebook, or 8. Here codes are what that says.
    cols : int
        Columns without the last block's padding.
    codes : int8 array [N, nb, 32]
    scale : uint16 array [N, nb]
        Rebased fp16 (docs/numbers.md, weight block).
    minimum : uint16 array [N, nb] or None
    e0 : int
        Base exponent: the least significant bit is 2^(e0 - 25).
    bias : QBias or None
        Added to the accumulators: on the tape one more block of every row.
    """

    name: str
    bits: int
    cols: int
    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.uint16]
    minimum: npt.NDArray[np.uint16] | None
    e0: int
    bias: QBias | None = None

    @property
    def rows(self) -> int:
        """Rows of the matrix (N)."""
        return int(self.codes.shape[0])

    @property
    def blocks(self) -> int:
        """Blocks of 32 along the reduction."""
        return int(self.codes.shape[1])

    @property
    def tape_blocks(self) -> int:
        """Blocks of a row on the tape: with the bias's."""
        return self.blocks + (self.bias is not None)

    def tape(
        self,
    ) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16], npt.NDArray[np.uint16] | None]:
        """Codes [N, tape_blocks, 32], scales and minima [N, tape_blocks] of the tape."""
        if self.bias is None:
            return self.codes, self.scale, self.minimum
        codes = np.concatenate([self.codes, self.bias.codes[:, None]], axis=1)
        scale = np.concatenate([self.scale, self.bias.scale[:, None]], axis=1)
        if self.minimum is None:
            return codes, scale, None
        nothing = np.zeros((self.rows, 1), dtype=np.uint16)
        return codes, scale, np.concatenate([self.minimum, nothing], axis=1)

    def integers(self, rows: slice = slice(None)) -> fx.Int:
        """W_int = code (m << sw) + (m_min << sw_min), exact.

        Returns
        -------
        int64 array [n, nb, 32], in units of 2^(e0 - 25); below 2^50.
        """
        mantissa, shift = fx.decode_scale(self.scale[rows])
        result: fx.Int = self.codes[rows] * (mantissa << shift)[..., None]
        if self.minimum is not None:
            mantissa, shift = fx.decode_scale(self.minimum[rows])
            result += (mantissa << shift)[..., None]
        return result

    def values(self) -> Float:
        """The weights as real numbers, float64 [N, cols]."""
        whole = self.integers().reshape(self.rows, -1)[:, : self.cols]
        return np.ldexp(whole.astype(np.float64), self.e0 - 25)


@dataclass(frozen=True, kw_only=True, eq=False)
class Gain:
    """An RMSNorm's gain.

    Attributes
    ----------
    codes : int16 array [D]
        round(sqrt(D) gain 2^fraction).
    fraction : int
        f_g; the norm's output has f_g + 16 fraction bits.
    """

    codes: npt.NDArray[np.int16]
    fraction: int

    @property
    def output_fraction(self) -> int:
        """Fraction bits of the norm's fixed32 result."""
        return self.fraction + fx.NORM_FRAC


@dataclass(frozen=True, kw_only=True, eq=False)
class QLayer:
    """One layer.

    Attributes
    ----------
    q, k, v, o, gate_up, down : QTensor
        gate_up holds the rows g0, u0, g1, u1, ...
    attn_gain, ffn_gain : Gain
    fraction : dict
        Fraction bits of the sites k, v, q (q *before* the score factor's exponent; k and q behind
        their norms, where there are any), context, gate, up, hidden.
    floor : dict
        Exponent floor of each operation's activations: k, v and q share the quantised norm, so
        theirs are equal; o, gate_up, down.
    shift : dict
        Drain shift of the operations k, v, q, score, o, gate_up, down, and of `swiglu`.
    """

    q: QTensor
    k: QTensor
    v: QTensor
    o: QTensor
    gate_up: QTensor
    down: QTensor
    attn_gain: Gain
    ffn_gain: Gain
    fraction: dict[str, int]
    floor: dict[str, int]
    shift: dict[str, int]
    q_gain: Gain | None = None
    k_gain: Gain | None = None

    def head_gain(self, name: str) -> Gain | None:
        """Gain of the norm over every head of q or k (`name`), if it has one."""
        return {"q": self.q_gain, "k": self.k_gain}.get(name)


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantModel:
    """A model in integers; see docs/numbers.md for every name.

    Attributes
    ----------
    shape : ModelShape
    positions : int
        Longest context that the proof covers.
    embedding, head : QTensor
        The same object when tied.
    layers : tuple of QLayer
    final_gain : Gain
    f_res, f_logit : int
        Fraction bits of the residual stream and of the logits.
    embedding_shift, head_shift : int
        Drain shifts.
    head_floor : int
    q_floor, k_floor, v_floor : int
        Floors of the quantisers of the rotated q and k, and of v.
    eps_int : int
        Added to every sum of squares.
    freq : uint32 array [head size / 2]
    kappa, ek : int
        The score factor, kappa 2^(ek - 16).
    proofs : tuple of Proof
    head_eps : int
        Added to every sum of squares of a head of q or k; 0 in a model without such norms.
    codebook : tuple of int
        What the 16 codes of 4-bit tapes mean, int8.
    """

    shape: ModelShape
    positions: int
    embedding: QTensor
    head: QTensor
    layers: tuple[QLayer, ...]
    final_gain: Gain
    f_res: int
    f_logit: int
    embedding_shift: int
    head_shift: int
    head_floor: int
    q_floor: int
    k_floor: int
    v_floor: int
    eps_int: int
    freq: npt.NDArray[np.uint32]
    kappa: int
    ek: int
    proofs: tuple[Proof, ...]
    head_eps: int = 0
    codebook: tuple[int, ...] = LINEAR


def quantise(
    checkpoint: Checkpoint, *, positions: int | None = None, weights: MatrixKind = "q8_0"
) -> QuantModel:
    """Quantise a checkpoint and prove that no accumulator can overflow.

    Parameters
    ----------
    checkpoint : Checkpoint
        Quantised matrices are taken as they are. The chip has one codebook: matrices of 4 bits
        with another one than most have 8 bits on the tape.
    positions : int, optional
        Longest context to prove; the model's own by default.
    weights : str
        What dense matrices become.

    Returns
    -------
    QuantModel

    Raises
    ------
    ModelError
        Naming the tensor, when a scale is not finite, no exponent floor up to 20 keeps an
        accumulator within 64 bits, or a drain shift leaves 0..63.
    """
    shape = checkpoint.shape
    source = checkpoint.source
    positions = shape.positions if positions is None else positions
    if not 1 <= positions <= shape.positions:
        raise ModelError(f"{source}: positions is {positions}; allowed are 1..{shape.positions}")
    proofs: list[Proof] = []

    q_floor, k_floor = score_floors(source, shape.head_size, proofs)
    bits = fx.PROB_FRAC + fx.KV_SHIFT_MAX + fx.KV_BITS - 1 + positions.bit_length()
    v_floor = max(0, bits - ACC_LIMIT)
    if positions > fx.TOKENS_MAX:
        raise ModelError(
            f"{source}: {positions} positions; a softmax's denominator holds {fx.TOKENS_MAX}; "
            "compile for fewer positions"
        )
    proofs.append(Proof(name="context", bits=bits - v_floor, floor=v_floor))
    kappa, ek = tables.score_factor(shape.head_size)

    kinds = _Kinds.of(checkpoint, weights)
    embedding = _tensor("embedding", source, [checkpoint.embedding], kinds)
    head = embedding if shape.tied else _tensor("head", source, [checkpoint.head], kinds)
    probe = Probe(checkpoint)
    drafts = []
    # The residual may not have more fraction bits than any accumulator that drains into it.
    most = 25 - embedding.e0
    for index, layer in enumerate(checkpoint.layers):
        draft = _layer(f"layer {index} ", source, layer, shape, proofs, kinds)
        probe.layer(layer, draft)
        most = min(
            most,
            25 - draft.o.e0 - draft.floor["o"] + draft.fraction["context"],
            25 - draft.down.e0 - draft.floor["down"] + draft.fraction["hidden"],
        )
        drafts.append(draft)
    f_res = min(31 - ceil_log2(probe.peak) - HEADROOM, most)
    # All sums of squares of heads get one epsilon, so what is squared has one format.
    f_heads = min(
        (d.fraction[name] for d in drafts for name in ("k", "q")), default=_HEAD_FRACTION_MAX
    )
    f_heads = min(f_heads, _HEAD_FRACTION_MAX)
    for draft in drafts:
        for name in ("k", "q"):
            gain = draft.head_gain(name)
            if gain is not None:
                draft.shift[name] += draft.fraction[name] - f_heads
                draft.fraction[name] = gain.output_fraction

    for index, draft in enumerate(drafts):
        name = f"layer {index} "
        fraction, floor, shift = draft.fraction, draft.floor, draft.shift
        shift["o"] = 25 - draft.o.e0 - floor["o"] + fraction["context"] - f_res
        shift["down"] = 25 - draft.down.e0 - floor["down"] + fraction["hidden"] - f_res
        shift["score"] = fraction["q"] - ek + fraction["k"] - q_floor - k_floor - fx.SCORE_FRAC
        for operation, value in shift.items():
            check_shift(source, name + operation, value)

    final_gain = _gain(checkpoint.final_norm)
    head_floor = exponent_floor(source, [("head", head)], proofs)
    limit = 25 - head.e0 - head_floor + final_gain.output_fraction
    f_logit = min(fraction_bits(float(row_bounds(head, checkpoint.final_norm).max())), limit)
    check_shift(source, "head", limit - f_logit)
    embedding_shift = 25 - embedding.e0 - f_res
    check_shift(source, "embedding", embedding_shift)

    return QuantModel(
        shape=shape,
        positions=positions,
        embedding=embedding,
        head=head,
        layers=tuple(drafts),
        final_gain=final_gain,
        f_res=f_res,
        f_logit=f_logit,
        embedding_shift=embedding_shift,
        head_shift=limit - f_logit,
        head_floor=head_floor,
        q_floor=q_floor,
        k_floor=k_floor,
        v_floor=v_floor,
        eps_int=tables.scaled_epsilon(shape.width, shape.norm_eps, f_res),
        freq=np.asarray(
            tables.rope_frequencies(shape.rope_theta, shape.head_size), dtype=np.uint32
        ),
        kappa=kappa,
        ek=ek,
        proofs=tuple(proofs),
        head_eps=tables.scaled_epsilon(shape.head_size, shape.norm_eps, f_heads)
        if shape.qk_norm
        else 0,
        codebook=kinds.codebook,
    )


@dataclass(frozen=True)
class _Kinds:
    """What dense matrices become, and the one codebook of all 4-bit tapes."""

    weights: MatrixKind = "q8_0"
    codebook: tuple[int, ...] = LINEAR

    @classmethod
    def of(cls, checkpoint: Checkpoint, weights: MatrixKind) -> _Kinds:
        """With the codebook of most blocks."""
        matrices = [checkpoint.embedding]
        if not checkpoint.shape.tied:
            matrices.append(checkpoint.head)
        for layer in checkpoint.layers:
            names = ("q", "k", "v", "o", "gate", "up", "down")
            matrices += [getattr(layer, name) for name in names]
        sizes: Counter[tuple[int, ...]] = Counter()
        for matrix in matrices:
            book = cls.book(matrix.kind if matrix.is_quantised else weights)
            if book is not None:
                sizes[book] += matrix.rows * matrix.blocks
        return cls(weights, max(sizes, key=lambda book: sizes[book]) if sizes else LINEAR)

    @staticmethod
    def book(kind: MatrixKind) -> tuple[int, ...] | None:
        """The codebook that a kind needs; None for 8 bits."""
        return LINEAR if kind in ("q4_0", "q4_1") else CODEBOOKS.get(kind)


def _layer(
    prefix: str,
    source: str,
    weights: LayerWeights,
    shape: ModelShape,
    proofs: list[Proof],
    kinds: _Kinds,
) -> QLayer:
    """A layer with every decision that does not depend on the residual's fraction bits."""
    tensors = {
        name: _tensor(prefix + name, source, [getattr(weights, name)], kinds)
        for name in ("q", "k", "v", "o", "down")
    }
    tensors["gate_up"] = _tensor(prefix + "gate_up", source, [weights.gate, weights.up], kinds)
    attn_gain, ffn_gain = _gain(weights.attn_norm), _gain(weights.ffn_norm)
    # Biases in units of the accumulator as it would be without a floor.
    added = {
        name: np.ldexp(bias.astype(np.float64), 25 - tensors[name].e0 + attn_gain.output_fraction)
        for name in ("k", "v", "q")
        if (bias := weights.bias(name)) is not None
    }
    floor = {}
    for group in (("k", "v", "q"), ("o",), ("gate_up",), ("down",)):
        named = [(prefix + name, tensors[name]) for name in group]
        peaks = {prefix + n: float(np.abs(added[n]).max()) for n in group if n in added}
        shared = exponent_floor(source, named, proofs, peaks)
        floor.update(dict.fromkeys(group, shared))

    fraction, shift = {}, {}
    for name, turn in (("k", math.sqrt(2)), ("v", 1.0), ("q", math.sqrt(2))):
        bounds = row_bounds(tensors[name], weights.attn_norm)
        bias = weights.bias(name)
        if bias is not None:
            bounds = bounds + np.abs(bias)
            if tensors[name].bits == 4 and kinds.codebook != LINEAR:
                raise ModelError(
                    f"{source}: {prefix}{name} has a bias and codes of a table; allowed with a "
                    "bias are q8_0, q4_0 and q4_1, whose codes can say every number"
                )
            tensors[name] = dataclasses.replace(
                tensors[name],
                bias=quantise_bias(
                    f"{source}: {prefix}{name}",
                    tensors[name].bits,
                    np.ldexp(added[name], -floor[name]),
                ),
            )
        bound = float(bounds.max()) * turn
        limit = 25 - tensors[name].e0 - floor[name] + attn_gain.output_fraction
        fraction[name] = min(fraction_bits(bound), limit)
        shift[name] = limit - fraction[name]
    fraction["context"] = fraction["v"]

    # Gate and up drain interleaved with one shift, so both have the gate's fraction bits.
    fraction["gate"] = fraction["up"] = fx.GATE_FRAC
    gate_up = tensors["gate_up"]
    shift["gate_up"] = 25 - gate_up.e0 - floor["gate_up"] + ffn_gain.output_fraction - fx.GATE_FRAC
    bounds = row_bounds(gate_up, weights.ffn_norm)
    product = float((bounds[0::2] * bounds[1::2]).max()) * SLACK
    fraction["hidden"] = min(fraction_bits(product), 2 * fx.GATE_FRAC)
    shift["swiglu"] = 2 * fx.GATE_FRAC - fraction["hidden"]
    return QLayer(
        q=tensors["q"],
        k=tensors["k"],
        v=tensors["v"],
        o=tensors["o"],
        gate_up=gate_up,
        down=tensors["down"],
        attn_gain=attn_gain,
        ffn_gain=ffn_gain,
        fraction=fraction,
        floor=floor,
        shift=shift,
        q_gain=None if weights.q_norm is None else _gain(weights.q_norm),
        k_gain=None if weights.k_norm is None else _gain(weights.k_norm),
    )


def _tensor(name: str, source: str, matrices: list[Matrix], kinds: _Kinds = _Kinds()) -> QTensor:
    """Matrices of one operation, rows interleaved, with a common base exponent."""
    parts = [matrix.quantised(kinds.weights) for matrix in matrices]
    narrow = all(kinds.book(part.kind) == kinds.codebook for part in parts)
    # A tape of 4-bit codes has minima, if only zeros.
    with_minimum = narrow or any(part.kind == "q4_1" for part in parts)
    codes, scales, minima = [], [], []
    for part in parts:
        assert part.codes is not None and part.scale is not None
        minimum = np.zeros_like(part.scale) if part.minimum is None else part.minimum
        code = part.codes
        if narrow and part.kind == "q4_0":
            # Codes 0..15 with the minimum -8d, exact in fp16 unless it overflows.
            code = (code + np.int8(8)).astype(np.int8)
            with np.errstate(over="ignore"):
                minimum = part.scale * np.float16(-8)
        codes.append(code)
        scales.append(part.scale)
        minima.append(minimum)
    for value in (*scales, *minima):
        if not np.isfinite(value).all():
            raise ModelError(f"{source}: {name}: a scale or a minimum is infinite or NaN")
    raw = [_interleave(value).view(np.uint16) for value in (scales, minima)]
    if not with_minimum:
        raw = raw[:1]
    exponents = [np.maximum((b >> 10) & 31, 1)[(b & 0x7FFF) != 0] for b in raw]
    e0 = min((int(e.min()) for e in exponents if e.size), default=1)
    rebased = [np.where((b & 0x7FFF) != 0, b - ((e0 - 1) << 10), 0) for b in raw]
    scale, *rest = (b.astype(np.uint16) for b in rebased)
    return QTensor(
        name=name,
        bits=4 if narrow else 8,
        cols=parts[0].cols,
        codes=_interleave(codes),
        scale=scale,
        minimum=rest[0] if rest else None,
        e0=e0,
    )


def _interleave(parts: Sequence[npt.NDArray[_Scalar]]) -> npt.NDArray[_Scalar]:
    """Row 0 of every part, row 1 of every part, ..."""
    if len(parts) == 1:
        return np.ascontiguousarray(parts[0])
    stacked = np.stack(parts, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def _gain(weight: npt.NDArray[np.float32]) -> Gain:
    """g = round(sqrt(D) gain 2^f_g) with the largest f_g that keeps |g| <= 32767."""
    scaled = math.sqrt(len(weight)) * weight.astype(np.float64)
    peak = float(np.abs(scaled).max())
    if peak == 0.0:
        return Gain(codes=np.zeros(len(weight), dtype=np.int16), fraction=0)
    fraction = 16 - math.frexp(peak)[1]
    while np.abs(np.rint(np.ldexp(scaled, fraction))).max() > 32767:
        fraction -= 1
    codes = np.rint(np.ldexp(scaled, fraction)).astype(np.int16)
    return Gain(codes=codes, fraction=fraction)


def iter_tensors(model: QuantModel) -> Iterator[QTensor]:
    """Every distinct tensor of a model: embedding, layers in order, head unless tied."""
    yield model.embedding
    for layer in model.layers:
        yield from (layer.k, layer.v, layer.q, layer.o, layer.gate_up, layer.down)
    if model.head is not model.embedding:
        yield model.head
