"""Drawn configurations of the sampler."""

from hypothesis import strategies as st

from tests.drawn.drawing import drawn, play


@st.composite
def configurations(draw):
    # Without a list, which is another circuit with a bench of its own; a short list; a longer one
    # (that of 64, which takes long to build, is a case of the bench).
    candidates = draw(st.one_of(st.just(0), st.integers(2, 9), st.integers(10, 24)))
    return {
        "vocab_bits": draw(st.integers(1, 20 if candidates else 32)),
        "candidates": candidates,
    }


@drawn("sampler", configurations())
def test_sampler(configuration):
    if configuration["candidates"]:
        play("sampler", configuration, "tests.hw.sampler.test_candidates_rtl", rows=20)
    else:
        play("sampler", configuration, "tests.hw.sampler.test_sampler", stalls=[0.3])
