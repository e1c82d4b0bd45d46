"""Drawn configurations of the KV-cache manager."""

from hypothesis import strategies as st

from tests.drawn.drawing import drawn, play


@st.composite
def configurations(draw):
    tokens = draw(st.sampled_from((2, 4, 8, 16, 256)))
    # Up to nine pages per sequence, the last of which need not be full.
    positions = draw(st.integers(1, 9 * tokens))
    return {
        "slots": draw(st.integers(2, 7)),
        "pages": draw(st.integers(1, 40)),
        "positions": positions,
        "page_tokens": tokens,
        "slot_pages": draw(st.integers(0, -(-positions // tokens))),
    }


@drawn("kv_cache_manager", configurations())
def test_kv_cache_manager(configuration):
    # Which situations the bench's points name there can be depends on the parameters (one page per
    # sequence is never left behind in a window), so none is demanded here.
    more = {"turns": 80, "covered": False}
    play("kv_cache_manager", configuration, "tests.hw.kv.test_kv_manager", **more)
