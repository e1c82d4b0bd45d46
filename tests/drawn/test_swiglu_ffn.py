"""Drawn configurations of the FFN."""

from hypothesis import strategies as st

from tests.drawn.drawing import drawn, play


@st.composite
def configurations(draw):
    columns = draw(st.sampled_from((2, 4, 8)))
    return {
        "width": draw(st.integers(1, 70)),
        "ffn": draw(st.integers(1, 100)),
        "columns": columns,
        # An element has 32 multipliers: eight of them are built in seconds.
        "rows": draw(st.sampled_from([r for r in (1, 2, 4) if columns * r <= 8])),
        "norm_lanes": draw(st.sampled_from((1, 2, 4, 8, 16, 32))),
        "activation": draw(st.sampled_from(("silu", "gelu", "gelu_tanh"))),
        "stages": draw(st.integers(1, 5)),
        "gated": draw(st.booleans()),
    }


@drawn("swiglu_ffn", configurations())
def test_swiglu_ffn(configuration):
    play("swiglu_ffn", configuration, "tests.hw.ffn.test_ffn_block", values=0)
