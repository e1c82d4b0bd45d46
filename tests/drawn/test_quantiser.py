"""Drawn configurations of the quantiser."""

from hypothesis import strategies as st

from tests.drawn.drawing import drawn, play

CONFIGURATIONS = st.fixed_dictionaries(
    {"tag_bits": st.integers(1, 70), "kv_bits": st.sampled_from((4, 8))}
)


@drawn("quantiser", CONFIGURATIONS)
def test_quantiser(configuration):
    play("quantiser", configuration, "tests.hw.array.test_quantiser", stalls=[0.3])
