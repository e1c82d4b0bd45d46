"""How blocks become Verilog text."""
