"""Drawn configurations of systolic attention."""

from hypothesis import strategies as st

from tests.drawn.drawing import drawn, play


@st.composite
def configurations(draw):
    columns = draw(st.sampled_from((2, 4, 8)))
    drain = draw(st.sampled_from([w for w in (1, 2, 4, 8) if w <= columns]))
    tokens = 32 * draw(st.integers(1, 6))
    return {
        "columns": columns,
        # An element has 32 multipliers: eight of them are built in seconds.
        "rows": draw(st.sampled_from([r for r in (1, 2, 4) if columns * r <= 8])),
        "drain": drain,
        "slots": draw(st.integers(1, 3)),
        "tokens_max": tokens,
        "head_max": drain * draw(st.integers(1, 80 // drain)),
        # All scores at once, or chunks: several, or one that is larger than the context.
        "score_tokens": draw(st.sampled_from((0, 32, 64, 256))),
    }


@drawn("attention", configurations())
def test_attention(configuration):
    play("attention", configuration, "tests.hw.attention.test_systolic_attention", cases=4)
