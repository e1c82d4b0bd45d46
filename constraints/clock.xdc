# Only for the kernel alone (out of context): in a platform v++ makes the clock.
create_clock -name ap_clk -period @period_ns@ [get_ports ap_clk]
