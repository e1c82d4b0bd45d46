"""Flow control and replay of a link, proved over wires that lose, break, repeat and reorder."""

import pytest

from tests.formal.ring.link_proof import Blind, LinkProof
from tests.formal.ring.word_buffer_proof import WordBufferProof
from tests.formal.sby import prove


def test_words_arrive_once_and_in_order():
    prove("ring_link", LinkProof(), mode="prove", depth=2)


def test_noise_that_is_not_found_breaks_it():
    with pytest.raises(AssertionError, match="Assert failed in top"):
        prove("ring_blind", LinkProof(check=Blind), mode="bmc", depth=8)


def test_the_proof_speaks_of_something():
    prove("ring_link", LinkProof(), mode="cover", depth=16)


def test_the_receive_buffer_is_a_fifo():
    prove("word_buffer", WordBufferProof(), mode="prove", depth=3)


def test_the_receive_buffer_can_be_full():
    prove("word_buffer", WordBufferProof(), mode="cover", depth=24)
