"""The golden model: every operation of docs/numbers.md in exact integers.

Sums are exact however they are computed, so this file computes them with float64 matrix products
and checks beforehand that every partial sum is an integer below 2^53, where float64 does not
round. Where that cannot be shown, the activations are split by bits and the parts are added in
int64. Rounding happens in `tokenloom.hw.numbers.formats` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenloom.compiler.quantise import QLayer, QTensor, QuantModel
from tokenloom.hw.numbers import formats as fx
from tokenloom.sim.request import GREEDY, Sampling

__all__ = ["ExactMatrix", "Golden", "Session", "exact_product"]

Int = fx.Int
Trace = Callable[[str, int, npt.NDArray[Any]], None]

_EXACT = float(1 << 53)
_CHUNK = 1 << 20  # weights converted to float64 at a time
_SMALL_CHUNK = 1 << 18  # the same for a few rows: stays in the processor's cache
_FEW_ROWS = 16
_ROWS = 128  # rows of a pass that attend together, to bound memory


def exact_product(x: Int, y: Int) -> Int:
    """x @ y of integers, exact as long as the results fit 64 bits.

    Parameters
    ----------
    x : int64 array [..., M, K]
    y : int64 array [..., K, N]
    """
    if x.size == 0 or y.size == 0:
        return np.zeros((*x.shape[:-1], y.shape[-1]), dtype=np.int64)
    peak = int(np.abs(x).max())
    # A factor of two covers the rounding of these float sums.
    row = float(np.abs(x).astype(np.float64).sum(axis=-1).max())
    if row * float(np.abs(y).max()) * 2 < _EXACT:
        return np.matmul(x.astype(np.float64), y.astype(np.float64)).astype(np.int64)
    if peak <= 1:
        return np.matmul(x, y)
    half = np.int64(peak.bit_length() // 2)
    high = x >> half
    return (exact_product(high, y) << half) + exact_product(x - (high << half), y)


class ExactMatrix:
    """A weight tensor ready for exact products.

    Parameters
    ----------
    tensor : QTensor
    """

    def __init__(self, tensor: QTensor) -> None:
        self.rows, self.blocks = tensor.rows, tensor.blocks
        width = self.blocks * fx.BLOCK
        exact32 = np.empty((self.rows, width), dtype=np.float32)
        self._weights: npt.NDArray[Any] = exact32
        l1 = np.zeros(self.blocks)
        for rows in self._chunks(max(1, 4 * _CHUNK // width)):
            whole = tensor.integers(rows)
            l1 = np.maximum(l1, np.abs(whole).sum(axis=2).max(axis=0))
            whole = whole.reshape(len(whole), -1)
            self._weights[rows] = whole
            if self._weights.dtype == np.float32 and not np.array_equal(exact32[rows], whole):
                self._weights = exact32.astype(np.float64)
                self._weights[rows] = whole
        # The largest |W_int| sum of any row, per block; twice, for rounding in the bound itself.
        self._l1 = 2 * l1
        self._bias = None if tensor.bias is None else tensor.bias.integers()

    def _chunks(self, step: int) -> Iterator[slice]:
        for start in range(0, self.rows, step):
            yield slice(start, min(start + step, self.rows))

    def drained(
        self, codes: Int, shift: Int, drain: int, out: npt.NDArray[Any] | None = None
    ) -> tuple[npt.NDArray[Any], int]:
        """`accumulate`, then point 2.

        Returns
        -------
        value : int64 array of fixed32 [R, N] (or `out`)
        count : int
            Saturated elements.
        """
        if out is None:
            out = np.empty((len(codes), self.rows), dtype=np.int64)
        count = 0
        for rows, acc in self._products(codes, shift):
            out[:, rows], clipped = fx.drain(acc, drain)
            count += clipped
        return out, count

    def accumulate(self, codes: Int, shift: Int) -> Int:
        """Point 1: the accumulators of R rows.

        Parameters
        ----------
        codes : int64 array [R, nb, 32]
        shift : int64 array [R, nb]

        Returns
        -------
        int64 array [R, N]
        """
        out = np.empty((len(codes), self.rows), dtype=np.int64)
        for rows, acc in self._products(codes, shift):
            out[:, rows] = acc
        return out

    def _products(self, codes: Int, shift: Int) -> Iterator[tuple[slice, Int]]:
        used = (codes != 0).any(axis=2)
        # Relative to each row's smallest shift: that is what keeps the numbers below 2^53.
        base = np.where(used, shift, fx.ACTIVATION_SHIFT_MAX).min(axis=1)
        x = codes << np.where(used, shift - base[:, None], 0)[..., None]
        parts = list(self._split(x, 0, np.arange(len(x))))
        whole = len(parts) == 1 and len(parts[0][2]) == len(x)
        step = (_SMALL_CHUNK if len(x) <= _FEW_ROWS else _CHUNK) // (self.blocks * fx.BLOCK)
        step = min(max(1, step), self.rows)
        buffer = np.empty((step, self.blocks * fx.BLOCK))
        for rows in self._chunks(step):
            weights = buffer[: rows.stop - rows.start]
            np.copyto(weights, self._weights[rows])
            bias = 0 if self._bias is None else self._bias[rows]
            if whole:
                product = (parts[0][0] @ weights.T).astype(np.int64)
                yield rows, (product << base[:, None]) + bias
                continue
            acc = np.zeros((len(x), len(weights)), dtype=np.int64)
            for part, left, members in parts:
                if part.dtype == np.int64:
                    product = part @ weights.astype(np.int64).T
                else:
                    product = (part @ weights.T).astype(np.int64)
                acc[members] += product << np.int64(left)
            yield rows, (acc << base[:, None]) + bias

    def _split(
        self, x: Int, left: int, members: npt.NDArray[np.intp]
    ) -> Iterator[tuple[npt.NDArray[Any], int, npt.NDArray[np.intp]]]:
        """Parts of x [R, nb, 32], as [r, nb * 32], whose products cannot round.

        Yields
        ------
        part : float64 array (int64 where only int64 is exact)
        left : int
            The part's products count 2^left.
        members : int array [r]
            Rows that the part belongs to.
        """
        bound = np.abs(x).max(axis=2).astype(np.float64) @ self._l1
        good = bound < _EXACT
        if good.any():
            yield x[good].reshape(int(good.sum()), -1).astype(np.float64), left, members[good]
        if good.all():
            return
        x, members = x[~good], members[~good]
        peak = int(np.abs(x).max())
        if peak <= 1:
            yield x.reshape(len(x), -1), left, members
            return
        half = peak.bit_length() // 2
        high = x >> np.int64(half)
        yield from self._split(high, left + half, members)
        yield from self._split(x - (high << np.int64(half)), left, members)


class _Cache:
    """K and V of one sequence: codes and shifts of every layer, position and head.

    `codes` [layers, 2, capacity, KV, nbk, 32] int8 and `shift` [layers, 2, capacity, KV, nbk]
    int8; index 0 is K, 1 is V.
    """

    def __init__(self, layers: int, heads: int, blocks: int) -> None:
        self.length = 0
        self.codes = np.zeros((layers, 2, 0, heads, blocks, fx.BLOCK), dtype=np.int8)
        self.shift = np.zeros((layers, 2, 0, heads, blocks), dtype=np.int8)

    def reserve(self, length: int) -> None:
        """Make room for `length` positions."""
        room = self.codes.shape[2]
        if length <= room:
            return
        more = max(length, 2 * room) - room
        for name in ("codes", "shift"):
            old = getattr(self, name)
            fresh = np.zeros((*old.shape[:2], more, *old.shape[3:]), dtype=np.int8)
            setattr(self, name, np.concatenate([old, fresh], axis=2))


class Golden:
    """Integer-exact forward pass.

    Parameters
    ----------
    model : QuantModel
    trace : callable, optional
        Called as trace(name, layer, array) with every operation's result; layer is -1 outside
        the layers. Names: ``embedding``, then per layer ``attn_norm.codes``,
        ``attn_norm.shift``, ``k``, ``v``, ``q`` (drained), ``k.codes``, ``k.shift`` (rotated and
        quantised; likewise v and q), ``score`` [KV, H/KV, R, T], with `sparse` ``seen`` [R, T] and
        ``kept`` [KV, H/KV, R, T] (tokens, of those before), ``den`` [KV, H/KV, R], and per
        block b of 32 dims ``prob.codes.b`` [KV, H/KV, R, T/32, 32] and ``prob.shift.b`` (all in
        groups of at most 128 rows), ``context``, ``context.codes``, ``context.shift``, ``o``,
        ``residual.attn``, ``ffn_norm.codes``, ``ffn_norm.shift``, ``gate_up``, ``hidden``,
        ``hidden.codes``, ``hidden.shift``, ``down``, ``residual.ffn``, then ``final_norm.codes``,
        ``final_norm.shift``, ``logits``.
    sparse : int, optional
        Only so many tokens with the largest scores take part in a softmax (and those that share
        the smallest of these scores). The chip has no such mode.

    Attributes
    ----------
    saturations : int
        Values clamped by `sat32` so far, in all passes.
    """

    def __init__(
        self, model: QuantModel, trace: Trace | None = None, sparse: int | None = None
    ) -> None:
        if sparse is not None and sparse < 1:
            raise ValueError(f"sparse is {sparse}; allowed is 1 or more")
        self.model = model
        self.sparse = sparse
        self.trace = trace
        self.saturations = 0
        names = ("k", "v", "q", "o", "gate_up", "down")
        self._layers = [
            {name: ExactMatrix(getattr(layer, name)) for name in names} for layer in model.layers
        ]
        self._head = ExactMatrix(model.head)

    @property
    def logit_scale(self) -> float:
        """What one unit of a logit is worth."""
        return float(2.0**-self.model.f_logit)

    def session(self) -> Session:
        """A new, empty sequence."""
        return Session(self)

    def logits(self, tokens: Sequence[int]) -> Int:
        """Logits after every token of one sequence.

        Returns
        -------
        int64 array [T, vocab] of fixed32, f_logit fraction bits
        """
        return self.session().prefill(tokens, every_logit=True).astype(np.int64)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """`answer` without a temperature."""
        return self.answer(prompt, count, GREEDY)

    def answer(self, prompt: Sequence[int], count: int, sampling: Sampling) -> list[int]:
        """The `count` tokens that decoding appends, stopping after an end token."""
        session = self.session()
        logits = session.prefill(prompt)[-1]
        result: list[int] = []
        while len(result) < count:
            result.append(
                sampling.choose(self.model, logits, session.length - 1, [*prompt, *result])
            )
            if result[-1] in self.model.shape.eos or len(result) == count:
                break
            logits = session.decode(result[-1])
        return result

    def forward(
        self, cache: _Cache, tokens: Sequence[int], every_logit: bool = True
    ) -> npt.NDArray[np.int32]:
        """One pass: the next rows of one sequence through all layers.

        Parameters
        ----------
        cache : cache of the sequence
            Extended by the rows.
        tokens : sequence of int
            One row each, at the positions cache.length and on.
        every_logit : bool
            Logits of every row, or of the last one only.

        Returns
        -------
        int32 array [len(tokens) or 1, vocab]
        """
        model, shape = self.model, self.model.shape
        ids = np.asarray(tokens, dtype=np.int64)
        if ids.ndim != 1 or ids.size == 0:
            raise ValueError("a pass needs at least one token")
        if ids.min() < 0 or ids.max() >= shape.vocab:
            raise ValueError(f"token ids must lie in 0..{shape.vocab - 1}, not {ids.tolist()}")
        start, stop = cache.length, cache.length + len(ids)
        if stop > model.positions:
            raise ValueError(f"{stop} positions, but the model has {model.positions}")
        cache.reserve(stop)
        cache.length = stop
        position = np.arange(start, stop)

        table = model.embedding
        stream = self._counted(
            fx.embed(
                table.codes[ids],
                table.scale[ids],
                None if table.minimum is None else table.minimum[ids],
                model.embedding_shift,
            )
        ).reshape(len(ids), -1)[:, : shape.width]
        self._tell("embedding", -1, stream)
        for index, layer in enumerate(model.layers):
            stream = self._attention(index, layer, cache, stream, position)
            stream = self._feed_forward(index, layer, stream)
        if not every_logit:
            stream = stream[-1:]
        gain = model.final_gain.codes
        codes, shift = self._norm("final_norm", -1, stream, gain, model.head_floor)
        logits = np.empty((len(stream), shape.vocab), dtype=np.int32)
        self._counted(self._head.drained(codes, shift, model.head_shift, logits))
        self._tell("logits", -1, logits)
        return logits

    def _tell(self, name: str, layer: int, array: npt.NDArray[Any]) -> None:
        if self.trace is not None:
            self.trace(name, layer, array)

    def _counted(self, result: tuple[npt.NDArray[Any], int]) -> npt.NDArray[Any]:
        """A rounding point's value; its saturations are counted."""
        self.saturations += result[1]
        return result[0]

    def _norm(
        self, name: str, layer: int, stream: Int, gain: npt.NDArray[np.int16], floor: int
    ) -> tuple[Int, Int]:
        """Points 4 to 7: residual rows [R, D] become codes [R, nb, 32] and shifts [R, nb]."""
        y, k = fx.rsqrt_rows(fx.norm_sums(fx.sum_squares(stream), self.model.eps_int))
        value = self._counted(fx.norm(stream, gain, y, k))
        return self._quantised(name, layer, value, floor)

    def _quantised(
        self, name: str, layer: int, value: Int, floor: int, bits: int = fx.ACTIVATION_BITS
    ) -> tuple[Int, Int]:
        """Point 7 on vectors [..., n], zero-padded to whole blocks: [..., nb, 32] and [..., nb].

        Heads are vectors of their own ([R, heads, hd]), so their blocks do not cross heads.
        """
        padded = _padded(value)
        blocks = padded.reshape(*value.shape[:-1], -1, fx.BLOCK)
        codes, shift, _ = fx.mx_quantise(blocks, floor, bits)
        self._tell(f"{name}.codes", layer, codes)
        self._tell(f"{name}.shift", layer, shift)
        return codes, shift

    def _attention(
        self, index: int, layer: QLayer, cache: _Cache, stream: Int, position: Int
    ) -> Int:
        model, shape, matrices = self.model, self.model.shape, self._layers[index]
        count = len(stream)
        x = self._norm("attn_norm", index, stream, layer.attn_gain.codes, layer.floor["q"])
        drained = {}
        for name in ("k", "v", "q"):
            value = self._counted(matrices[name].drained(*x, layer.shift[name]))
            self._tell(name, index, value)
            drained[name] = value.reshape(count, -1, shape.head_size)
        for name, kappa in (("k", None), ("q", model.kappa)):
            gain = layer.head_gain(name)
            if gain is not None:
                drained[name] = self._normed_heads(drained[name], gain.codes)
            cosine, sine = fx.rope_coefficients(position, model.freq, kappa)
            drained[name] = self._counted(fx.rope(drained[name], cosine[:, None], sine[:, None]))
        rows = slice(int(position[0]), int(position[-1]) + 1)
        for slot, (name, floor) in enumerate((("k", model.k_floor), ("v", model.v_floor))):
            codes, shift = self._quantised(name, index, drained[name], floor, fx.KV_BITS)
            cache.codes[index, slot, rows] = codes
            cache.shift[index, slot, rows] = shift
        q, q_shift = self._quantised("q", index, drained["q"], model.q_floor)

        parts = [
            self._attend(index, layer, cache, *(a[i : i + _ROWS] for a in (q, q_shift, position)))
            for i in range(0, count, _ROWS)
        ]
        context = np.concatenate(parts)
        self._tell("context", index, context)
        codes, shift = self._quantised("context", index, context, layer.floor["o"])
        update = self._counted(matrices["o"].drained(codes, shift, layer.shift["o"]))
        self._tell("o", index, update)
        stream = self._counted(fx.residual(stream, update))
        self._tell("residual.attn", index, stream)
        return stream

    def _normed_heads(self, heads: Int, gain: npt.ArrayLike) -> Int:
        """Points 5 and 6 over every head [R, heads, hd]."""
        flat = heads.reshape(-1, heads.shape[-1])
        y, k = fx.rsqrt_rows(fx.norm_sums(fx.sum_squares(flat), self.model.head_eps))
        return self._counted(fx.norm(flat, gain, y, k)).reshape(heads.shape)

    def _attend(
        self, index: int, layer: QLayer, cache: _Cache, q: Int, q_shift: Int, position: Int
    ) -> Int:
        """Points 9 to 12 for some rows.

        Parameters
        ----------
        q, q_shift : int64 arrays [R, H, nbk, 32] and [R, H, nbk]
        position : int64 array [R]

        Returns
        -------
        int64 array [R, H * hd] of fixed32
        """
        model, shape = self.model, self.model.shape
        count, heads, blocks = q_shift.shape
        length, groups = int(position[-1]) + 1, shape.kv_heads
        span = -(-length // fx.BLOCK) * fx.BLOCK
        # [KV, group * R, nbk * 32] @ [KV, nbk * 32, T]
        k_codes, v_codes = cache.codes[index, :, :length].astype(np.int64)
        k_shift, v_shift = cache.shift[index, :, :length].astype(np.int64)
        q_base, k_base = int(q_shift.min()), int(k_shift.min())
        query = (q << (q_shift - q_base)[..., None]).reshape(count, groups, -1, blocks * fx.BLOCK)
        left = query.transpose(1, 2, 0, 3).reshape(groups, -1, blocks * fx.BLOCK)
        right = (k_codes << (k_shift - k_base)[..., None]).reshape(length, groups, -1)
        acc = exact_product(left, right.transpose(1, 2, 0)) << np.int64(q_base + k_base)
        scores = self._counted(fx.drain(acc, layer.shift["score"]))
        scores = scores.reshape(groups, heads // groups, count, length)
        mask = np.arange(length) <= position[:, None]
        window = shape.layer_window(index)
        if window:
            mask &= np.arange(length) > position[:, None] - window
        if self.trace is not None:
            self._tell("score", index, np.where(mask, scores, 0))
        if self.sparse is not None:
            self._tell("seen", index, mask)
            mask = fx.largest_scores(scores, mask, self.sparse)
            self._tell("kept", index, mask)
        p, den = fx.exp2(scores, mask)
        self._tell("den", index, den)

        p = np.pad(p, [(0, 0)] * 3 + [(0, span - length)])
        v_shift = np.pad(v_shift, [(0, span - length), (0, 0), (0, 0)])
        v_codes = np.pad(v_codes, [(0, span - length), (0, 0), (0, 0), (0, 0)])
        result = np.empty((*den.shape, blocks * fx.BLOCK), dtype=np.int64)
        for block in range(blocks):
            weighted = p << v_shift[:, :, block].T[:, None, None, :]
            c, s = fx.prob_quantise(weighted.reshape(*den.shape, -1, fx.BLOCK))
            self._tell(f"prob.codes.{block}", index, c)
            self._tell(f"prob.shift.{block}", index, s)
            left = (c << s[..., None]).reshape(groups, -1, span)
            acc = exact_product(left, v_codes[:, :, block].transpose(1, 0, 2))
            result[..., block * fx.BLOCK : (block + 1) * fx.BLOCK] = self._counted(
                fx.context(acc.reshape(*den.shape, -1), den[..., None], model.v_floor)
            )
        context = result[..., : shape.head_size].transpose(2, 0, 1, 3)
        return context.reshape(count, heads * shape.head_size)

    def _feed_forward(self, index: int, layer: QLayer, stream: Int) -> Int:
        matrices = self._layers[index]
        x = self._norm("ffn_norm", index, stream, layer.ffn_gain.codes, layer.floor["gate_up"])
        pairs = self._counted(matrices["gate_up"].drained(*x, layer.shift["gate_up"]))
        self._tell("gate_up", index, pairs)
        hidden = self._counted(fx.swiglu(pairs[:, 0::2], pairs[:, 1::2], layer.shift["swiglu"]))
        self._tell("hidden", index, hidden)
        codes, shift = self._quantised("hidden", index, hidden, layer.floor["down"])
        update = self._counted(matrices["down"].drained(codes, shift, layer.shift["down"]))
        self._tell("down", index, update)
        stream = self._counted(fx.residual(stream, update))
        self._tell("residual.ffn", index, stream)
        return stream


class Session:
    """One sequence and its KV cache.

    Parameters
    ----------
    golden : Golden
    """

    def __init__(self, golden: Golden) -> None:
        shape = golden.model.shape
        self.golden = golden
        self._cache = _Cache(shape.layers, shape.kv_heads, -(-shape.head_size // fx.BLOCK))

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return self._cache.length

    def prefill(self, tokens: Sequence[int], every_logit: bool = False) -> npt.NDArray[np.int32]:
        """Append tokens in one pass.

        Returns
        -------
        int32 array [len(tokens), vocab], or [1, vocab] with the last token's logits only
        """
        return self.golden.forward(self._cache, tokens, every_logit)

    def decode(self, token: int) -> npt.NDArray[np.int32]:
        """Append one token; its logits, int32 [vocab]."""
        return self.golden.forward(self._cache, [token])[0]


def _padded(value: Int) -> Int:
    """The last axis zero-padded to a multiple of 32."""
    missing = -value.shape[-1] % fx.BLOCK
    if missing == 0:
        return value
    return np.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, missing)])
