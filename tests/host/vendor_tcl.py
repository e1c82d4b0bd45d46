"""Runs the project's Tcl in tclsh, with every vendor command recorded instead of done."""

import shutil
import subprocess

import pytest

TCLSH = shutil.which("tclsh")
needs_tclsh = pytest.mark.skipif(
    TCLSH is None, reason="there is no tclsh (Debian: apt install tcl)"
)

# What a vendor command answers, when a script looks at it. An unknown command that is not listed
# here ends the script: a misspelt one must not pass for a recorded one.
_PRELUDE = r"""
proc record {args} {
    set file [open $::env(RECORD) a]
    puts $file [join [lmap word $args {string map [list "\n" " "] $word}] "\t"]
    close $file
}
namespace eval ipx {}
foreach name $::env(COMMANDS) {
    proc ::$name {args} [format {
        record %s {*}$args
        return [answer %s $args]
    } $name $name]
}
proc answer {name words} {
    switch -- $name {
        get_timing_paths {
            if {$::env(PATHS)} { return path_[string trimleft [lindex $words end] -] }
        }
        get_property {
            if {[lindex $words 0] eq "SLACK"} {
                return [expr {[lindex $words 1] eq "path_setup" ? $::env(SETUP) : $::env(HOLD)}]
            }
            return NAME_OF_[lindex $words 1]
        }
        ipx::get_bus_interfaces { return [expr {[lindex $words 0] eq $::env(LOST) ? "" : "bus"}] }
        ipx::get_user_parameters { return {parameter0 parameter1} }
        get_cells { return $::env(CELLS) }
        get_pins - get_ports - get_pblocks - current_fileset - ipx::current_core {
            return ${name}_result
        }
    }
    return ""
}
"""

COMMANDS = """
read_verilog read_xdc synth_design opt_design place_design phys_opt_design route_design
report_timing_summary report_utilization report_drc report_cdc report_power write_checkpoint
get_timing_paths get_property set_property
create_project add_files current_fileset update_compile_order package_xo close_project
ipx::package_project ipx::current_core ipx::get_user_parameters ipx::remove_user_parameter
ipx::get_bus_interfaces ipx::associate_bus_interfaces ipx::create_xgui_files ipx::update_checksums
ipx::check_integrity ipx::save_core
create_clock set_false_path set_max_delay get_pins get_ports get_cells create_pblock get_pblocks
resize_pblock add_cells_to_pblock
""".split()


def run_tcl(script, folder, *, setup="0.1", hold="0.05", lost="", cells="cell", paths=1):
    """Source `script`; returns (exit code, what it printed, [[command, word, ...], ...])."""
    record = folder / "record.txt"
    record.unlink(missing_ok=True)
    prelude = folder / "prelude.tcl"
    prelude.write_text(_PRELUDE)
    main = folder / "main.tcl"
    main.write_text(f"source {{{prelude}}}\nsource {{{script}}}\n")
    done = subprocess.run(
        [TCLSH, str(main)],
        capture_output=True,
        text=True,
        env={
            "RECORD": str(record), "COMMANDS": " ".join(COMMANDS), "SETUP": setup, "HOLD": hold,
            "LOST": lost, "CELLS": cells, "PATHS": str(paths),
        },
    )  # fmt: skip
    lines = record.read_text().splitlines() if record.exists() else []
    return done.returncode, done.stdout + done.stderr, [line.split("\t") for line in lines]
