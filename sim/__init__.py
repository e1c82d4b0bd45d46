"""Simulation: the golden model, the Verilated chip and the bench of the blocks."""
