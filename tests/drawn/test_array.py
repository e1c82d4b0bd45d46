"""Drawn configurations of the array."""

from hypothesis import assume
from hypothesis import strategies as st

from tests.drawn.drawing import built, drawn, play


@st.composite
def configurations(draw):
    packed = draw(st.booleans())
    unit = 2 if packed else 1
    columns = draw(st.integers(2 // unit, 8 // unit)) * unit
    lanes = draw(st.sampled_from((32, 64) if packed else (1, 2, 4, 8, 16, 32, 64, 128)))
    rows = draw(st.sampled_from((1, 2, 3, 5, 8, 32)))
    # What is built, and what plays a step of 32 / lanes cycles, in seconds.
    assume(columns * rows * lanes <= 400 and columns * rows * 32 <= 256 * lanes)
    return {
        "columns": columns,
        "lanes": lanes,
        "rows": rows,
        "drain": draw(st.sampled_from([w for w in range(1, columns + 1) if columns % w == 0])),
        "slots": draw(st.integers(1, 5)),
        "operand_blocks": draw(st.integers(1, 70)),
        "token_blocks": draw(st.integers(1, 5)),
        "packed": packed,
        "groups": draw(st.integers(1, columns // unit)),
        "stages": draw(st.integers(0, 3)),
        # A DSP48E2 is a black box, of which there is nothing to simulate.
        "primitive": "inferred",
    }


@drawn("array", configurations())
def test_array(configuration):
    block = built("array", configuration)
    module = "tests.hw.array.test_matrix_unit"
    play("array", configuration, module, block=block, latency=block.latency, products=3)
