"""Drawn configurations of the beam step."""

from hypothesis import strategies as st

from tests.drawn.drawing import drawn, play

CONFIGURATIONS = st.fixed_dictionaries({"vocab_bits": st.integers(1, 32)})


@drawn("beam_step", CONFIGURATIONS)
def test_beam_step(configuration):
    play("beam_step", configuration, "tests.hw.sampler.test_beam_step", steps=15)
