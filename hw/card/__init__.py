"""What a host sees: registers, counters, sequences, the memory's test."""
