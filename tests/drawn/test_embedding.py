"""Drawn configurations of the embedding table."""

from hypothesis import assume
from hypothesis import strategies as st

from tests.drawn.drawing import drawn, play
from tokenloom.hw.embedding.embedding_table import EmbeddingTable


@st.composite
def configurations(draw):
    lookups = draw(st.sampled_from((1, 2, 4, 8, 16)))
    found = {
        "vocab": draw(st.integers(1, 40)),
        # Rows of less than a block, of blocks, and with a last block that is not full.
        "width": draw(st.integers(1, 130)),
        "lookups": lookups,
        "copies": draw(st.sampled_from([2**i for i in range(lookups.bit_length())])),
        "stages": draw(st.integers(3, 5)),
    }
    # Every value of a cycle has a multiplier, which takes time to build.
    assume(lookups * EmbeddingTable(**found).slice_values <= 128)
    return found


@drawn("embedding", configurations())
def test_embedding(configuration):
    play("embedding", configuration, "tests.hw.embedding.test_embedding_table", values=0)
