# Vivado: packs the kernel for v++ (tokenloom.xo). Run in the project's folder:
#     vivado -mode batch -source scripts/package.tcl
set here [file dirname [file normalize [info script]]]
source [file join $here project.tcl]
set root [file dirname $here]
set work [file join $root package]
file delete -force $work
file mkdir $work

create_project -force package [file join $work project] -part $part
foreach file $sources {
    add_files -norecurse [file join $root $file]
}
foreach file $constraints {
    add_files -fileset constrs_1 -norecurse [file join $root $file]
}
set_property top $top [current_fileset]
update_compile_order -fileset sources_1

set ip [file join $work ip]
ipx::package_project -root_dir $ip -vendor tokenloom -library kernel -taxonomy /KernelIP \
    -import_files -set_current true
set core [ipx::current_core]
set_property version $version $core
set_property sdx_kernel true $core
set_property sdx_kernel_type rtl $core
foreach parameter [ipx::get_user_parameters -of_objects $core] {
    ipx::remove_user_parameter [get_property NAME $parameter] $core
}
# The interfaces come from the attributes at the ports: all have to be there.
foreach bus $buses {
    if {[llength [ipx::get_bus_interfaces $bus -of_objects $core]] == 0} {
        puts stderr "error: the packager found no interface $bus"
        exit 1
    }
    ipx::associate_bus_interfaces -busif $bus -clock ap_clk $core
}
ipx::create_xgui_files $core
ipx::update_checksums $core
ipx::check_integrity -kernel $core
ipx::save_core $core
package_xo -force -xo_path [file join $root $top.xo] -kernel_name $top -ip_directory $ip \
    -kernel_xml [file join $root kernel.xml]
close_project
