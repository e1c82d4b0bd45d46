"""From a chip's Verilog to the vendors' tools: estimates, projects, constraints, scripts."""
