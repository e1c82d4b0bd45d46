"""Drawn configurations of the norm."""

from hypothesis import strategies as st

from tests.drawn.drawing import drawn, play

CONFIGURATIONS = st.fixed_dictionaries(
    {
        "width": st.integers(1, 200),
        "norm_lanes": st.sampled_from((2, 4, 8, 16, 32)),
        "layer_norm": st.booleans(),
        "quantise": st.booleans(),
    }
)


@drawn("rmsnorm", CONFIGURATIONS)
def test_rmsnorm(configuration):
    play("rmsnorm", configuration, "tests.hw.norm.test_rmsnorm_unit", values=0)
