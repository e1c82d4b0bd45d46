"""The sequencer, proved: programs are played in order, each instruction once, none too soon."""

import pytest

from tests.formal.sby import prove
from tests.formal.sequencer.in_flight_proof import InFlightProof
from tests.formal.sequencer.queue_proof import QueueProof


@pytest.mark.parametrize("chunks", [False, True])
def test_a_queue_plays_its_program(chunks):
    prove(f"queue_{int(chunks)}", QueueProof(chunks=chunks), mode="prove", depth=2)


def test_a_program_without_an_end_breaks_it():
    with pytest.raises(AssertionError, match="Assert failed in top"):
        prove("queue_endless", QueueProof(chunks=True, ends=False), mode="bmc", depth=8)


@pytest.mark.parametrize("chunks", [False, True])
def test_a_queue_reaches_its_end(chunks):
    prove(f"queue_{int(chunks)}", QueueProof(chunks=chunks), mode="cover", depth=12)


def test_what_is_passed_over_counts_once_all_before_it_is_done():
    prove("in_flight", InFlightProof(), mode="prove", depth=2)


def test_more_in_flight_than_there_is_room_for_breaks_it():
    with pytest.raises(AssertionError, match="Assert failed in top"):
        prove("in_flight_full", InFlightProof(bounded=False), mode="bmc", depth=12)


def test_the_room_can_be_full():
    prove("in_flight", InFlightProof(), mode="cover", depth=16)
