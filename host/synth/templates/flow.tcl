# Vivado, without a project: synthesis, placing and routing of the kernel alone (out of context: its
# ports lead to a platform, not to pins). Run in the project's folder:
#     vivado -mode batch -source scripts/flow.tcl
# Ends with an error when a path is too slow; reports and checkpoints are in vivado/.
set here [file dirname [file normalize [info script]]]
source [file join $here project.tcl]
set root [file dirname $here]
set out [file join $root vivado]
file mkdir $out

# Worst slack of setup or hold, in ns.
proc slack {kind} {
    set paths [get_timing_paths -max_paths 1 -$kind]
    if {[llength $paths] == 0} {
        error "no timed path for $kind: the clock's constraint was not read"
    }
    return [get_property SLACK [lindex $paths 0]]
}

proc reports {out stage} {
    report_timing_summary -file [file join $out ${stage}_timing.rpt]
    report_utilization -hierarchical -file [file join $out ${stage}_utilization.rpt]
    write_checkpoint -force [file join $out $stage.dcp]
}

foreach file $sources {
    read_verilog [file join $root $file]
}
foreach file [concat $constraints $alone] {
    read_xdc -mode out_of_context [file join $root $file]
}
synth_design -top $top -part $part -mode out_of_context -flatten_hierarchy rebuilt
reports $out synth
opt_design
place_design
phys_opt_design
reports $out place
route_design
reports $out route
report_drc -file [file join $out route_drc.rpt]
report_cdc -file [file join $out route_cdc.rpt]
report_power -file [file join $out route_power.rpt]

foreach kind {setup hold} {
    set worst [slack $kind]
    puts "worst $kind slack: $worst ns"
    if {$worst < 0} {
        puts stderr "error: $kind slack $worst ns is negative at $clock_mhz MHz; see [file join $out route_timing.rpt]"
        exit 1
    }
}
