"""Flow control and replay of a link, proved over wires that lose, break, repeat and reorder."""

from tests.formal.ring.link_proof import LinkProof
from tests.formal.ring.word_buffer_proof import WordBufferProof
from tests.formal.sby import prove


def test_words_arrive_once_and_in_order():
    prove("ring_link", LinkProof(), mode="prove", depth=3)


def test_the_proof_speaks_of_something():
    prove("ring_link", LinkProof(), mode="cover", depth=30)


def test_the_receive_buffer_is_a_fifo():
    prove("word_buffer", WordBufferProof(), mode="prove", depth=3)


def test_the_receive_buffer_can_be_full():
    prove("word_buffer", WordBufferProof(), mode="cover", depth=24)
