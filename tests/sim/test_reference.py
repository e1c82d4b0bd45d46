"""The float64 reference against a loop implementation, and against known tokens."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.shared import shared
from tokenloom.compiler.checkpoint import Checkpoint, LayerWeights, Matrix, ModelShape
from tokenloom.compiler.models import resolve
from tokenloom.sim.perplexity import perplexity, story_windows, windows
from tokenloom.sim.reference import Reference


def model(*, tied: bool) -> Checkpoint:
    rng = np.random.default_rng(6)
    shape = ModelShape(
        name="tiny", width=40, ffn=20, layers=2, heads=6, kv_heads=2, head_size=6, vocab=30,
        positions=16, rope_theta=100.0, norm_eps=1e-4, tied=tied, bos=None, eos=(),
    )  # fmt: skip

    def matrix(rows: int, cols: int) -> Matrix:
        values = rng.normal(size=(rows, cols)).astype(np.float32)
        return Matrix(kind="f32", cols=cols, dense=values).quantised()

    def vector() -> np.ndarray:
        return rng.normal(1.0, 0.2, size=40).astype(np.float32)

    layers = tuple(
        LayerWeights(
            attn_norm=vector(), q=matrix(36, 40), k=matrix(12, 40), v=matrix(12, 40),
            o=matrix(40, 36), ffn_norm=vector(), gate=matrix(20, 40), up=matrix(20, 40),
            down=matrix(40, 20),
        )
        for _ in range(2)
    )  # fmt: skip
    embedding = matrix(30, 40)
    head = embedding if tied else matrix(30, 40)
    return Checkpoint(
        shape=shape, embedding=embedding, layers=layers, final_norm=vector(), head=head, source="t"
    )


def slow_logits(m: Checkpoint, tokens: list[int]) -> list[list[float]]:
    """Compute the same in plain loops."""
    s = m.shape

    def multiply(matrix: Matrix, x: list[float]) -> list[float]:
        rows = matrix.dequantise().tolist()
        return [sum(w * v for w, v in zip(row, x, strict=True)) for row in rows]

    def norm(x: list[float], weight: np.ndarray) -> list[float]:
        root = math.sqrt(sum(v * v for v in x) / len(x) + s.norm_eps)
        return [v / root * float(w) for v, w in zip(x, weight, strict=True)]

    def rotate(x: list[float], position: int) -> list[list[float]]:
        heads = []
        for start in range(0, len(x), s.head_size):
            head = x[start : start + s.head_size]
            for i in range(0, s.head_size, 2):
                angle = position / s.rope_theta ** (i / s.head_size)
                z = complex(head[i], head[i + 1]) * complex(math.cos(angle), math.sin(angle))
                head[i], head[i + 1] = z.real, z.imag
            heads.append(head)
        return heads

    keys: list[list[list[list[float]]]] = [[] for _ in m.layers]
    values: list[list[list[float]]] = [[] for _ in m.layers]
    result = []
    for position, token in enumerate(tokens):
        x = m.embedding.dequantise()[token].tolist()
        for index, layer in enumerate(m.layers):
            h = norm(x, layer.attn_norm)
            q = rotate(multiply(layer.q, h), position)
            keys[index].append(rotate(multiply(layer.k, h), position))
            values[index].append(multiply(layer.v, h))
            mixed: list[float] = []
            for head in range(s.heads):
                kv = head // (s.heads // s.kv_heads)
                scores = [
                    sum(a * b for a, b in zip(q[head], k[kv], strict=True)) / math.sqrt(s.head_size)
                    for k in keys[index]
                ]
                mass = [math.exp(score) for score in scores]
                for i in range(kv * s.head_size, (kv + 1) * s.head_size):
                    weighed = sum(p * v[i] for p, v in zip(mass, values[index], strict=True))
                    mixed.append(weighed / sum(mass))
            x = [a + b for a, b in zip(x, multiply(layer.o, mixed), strict=True)]
            h = norm(x, layer.ffn_norm)
            pairs = zip(multiply(layer.gate, h), multiply(layer.up, h), strict=True)
            inner = [g / (1 + math.exp(-g)) * u for g, u in pairs]
            x = [a + b for a, b in zip(x, multiply(layer.down, inner), strict=True)]
        result.append(multiply(m.head, norm(x, m.final_norm)))
    return result


@pytest.mark.parametrize("tied", [True, False])
def test_logits_match_loops(tied: bool) -> None:
    m = model(tied=tied)
    tokens = [3, 29, 0, 3, 17, 8]
    assert np.allclose(Reference(m).logits(tokens), slow_logits(m, tokens), rtol=1e-9, atol=1e-9)


def test_greedy_equals_full_windows() -> None:
    reference = Reference(model(tied=True))
    tokens = [5, 6, 7]
    for token in reference.greedy(tokens[:3], 6):
        assert token == int(reference.logits(tokens)[-1].argmax())
        tokens.append(token)


def test_probe() -> None:
    m = model(tied=True)
    seen = Reference(m).probe([4])
    assert seen["embedding"] == np.abs(m.embedding.dequantise()[4]).max()
    assert seen["residual"] == max(seen.values()) and "layer.1.ffn" in seen


@pytest.mark.parametrize("tokens", [[], [30], [-1], [0] * 17, [0.5]])
def test_refused_tokens(tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="token"):
        Reference(model(tied=True)).logits(tokens)


def test_windows() -> None:
    assert windows(range(7), 3) == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="at least 2"):
        windows([1], 1)


def test_perplexity_of_a_uniform_model() -> None:
    assert perplexity(lambda ids: np.zeros((len(ids), 50)), [[1, 2, 3], [4, 5]]) == pytest.approx(
        50
    )
    with pytest.raises(ValueError, match="no window"):
        perplexity(lambda ids: np.zeros((len(ids), 50)), [[1]])


def stories260k() -> Path:
    return shared("models/stories260K")


@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_known_greedy_tokens(name: str) -> None:
    expected = json.loads(shared("models/greedy-fp32.json").read_text())[name]
    prompt, ids = expected["prompt_ids"], expected["ids"]
    reference = Reference(resolve(shared(f"models/{name}")).checkpoint())
    assert reference.greedy(prompt, len(ids) - len(prompt)) == ids[len(prompt) :]


def test_story_perplexity() -> None:
    source = resolve(stories260k())
    found = story_windows(source.text(), shared("text/tinystories-eval60.txt").read_text())
    assert len(found) == 61  # one of the 60 stories is longer than a window
    assert perplexity(Reference(source.checkpoint()).logits, found) == pytest.approx(
        3.664, abs=1e-3
    )
