# Vivado's commands as far as the projects use them: they know their options, how many arguments
# they take, and the pins of the cells in a design. Anything else is an error, as in Vivado.
#
# tclsh vivado_stubs.tcl SCRIPT PORT... : PORT is NAME:in or NAME:out of the packaged Verilog.
# At the end the connections and addresses are printed, a line each.

set ports [dict create]
foreach port [lrange $argv 1 end] {
    lassign [split $port :] name direction
    dict set ports $name $direction
}

# Of each IP: pins with their direction, interfaces with theirs, CONFIG parameters.
set ips [dict create \
    xilinx.com:ip:processing_system7:5.5 {
        pins {FCLK_CLK0 out FCLK_RESET0_N out M_AXI_GP0_ACLK in S_AXI_HP0_ACLK in}
        interfaces {M_AXI_GP0 master S_AXI_HP0 slave DDR master FIXED_IO master}
        config {PCW_FPGA0_PERIPHERAL_FREQMHZ PCW_USE_M_AXI_GP0 PCW_USE_S_AXI_HP0
            PCW_S_AXI_HP0_DATA_WIDTH}
        spaces {Data} segments {S_AXI_HP0/HP0_DDR_LOWOCM}
    } \
    xilinx.com:ip:zynq_ultra_ps_e:3.5 {
        pins {pl_clk0 out pl_resetn0 out maxihpm0_fpd_aclk in saxihp0_fpd_aclk in}
        interfaces {M_AXI_HPM0_FPD master S_AXI_HP0_FPD slave}
        config {PSU__FPGA_PL0_ENABLE PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ PSU__USE__M_AXI_GP0
            PSU__USE__M_AXI_GP1 PSU__USE__M_AXI_GP2 PSU__USE__S_AXI_GP2 PSU__SAXIGP2__DATA_WIDTH}
        spaces {Data} segments {SAXIGP2/HP0_DDR_LOW}
    } \
    xilinx.com:ip:proc_sys_reset:5.0 {
        pins {slowest_sync_clk in ext_reset_in in peripheral_aresetn out}
        interfaces {} config {} spaces {} segments {}
    } \
    xilinx.com:ip:smartconnect:1.0 {
        pins {aclk in aresetn in} interfaces {S00_AXI slave M00_AXI master}
        config {NUM_SI NUM_MI} spaces {} segments {}
    }]

# The machine's IP, from the ports of the Verilog: what begins like an AXI interface is one.
proc machine {} {
    global ports
    set pins {}
    foreach {name direction} $ports {
        if {![regexp {^[ms]_axi_} $name]} { lappend pins $name $direction }
    }
    set interfaces {}
    foreach {prefix kind valid} {m_axi master out s_axi slave in} {
        foreach channel {ar aw w} {
            if {![dict exists $ports ${prefix}_${channel}valid]
                    || [dict get $ports ${prefix}_${channel}valid] ne $valid} {
                error "the Verilog has no interface $prefix: ${prefix}_${channel}valid"
            }
        }
        lappend interfaces $prefix $kind
    }
    return [list pins $pins interfaces $interfaces config {} spaces m_axi segments s_axi/reg0]
}

# name -> options that take a value, options that do not, least and most other arguments
set commands {
    create_project {-part} {-force} 2 2
    close_project {} {} 0 0
    current_project {} {} 0 0
    current_fileset {} {} 0 0
    add_files {} {-norecurse} 1 1
    update_compile_order {-fileset} {} 0 0
    update_ip_catalog {} {} 0 0
    ipx::package_project {-root_dir -vendor -library -taxonomy -set_current} {-import_files} 0 0
    ipx::current_core {} {} 0 0
    ipx::associate_bus_interfaces {-busif -clock} {} 1 1
    ipx::update_checksums {} {} 1 1
    ipx::check_integrity {} {} 1 1
    ipx::save_core {} {} 1 1
    create_bd_design {} {} 1 1
    create_bd_cell {-type -vlnv} {} 1 1
    get_ipdefs {} {-all} 1 1
    set_property {-dict} {} 1 3
    get_property {} {} 2 2
    get_bd_cells {} {} 1 1
    get_bd_pins {} {} 1 1
    get_bd_intf_pins {} {} 1 1
    get_bd_addr_spaces {} {} 1 1
    get_bd_addr_segs {} {} 1 1
    make_bd_intf_pins_external {-name} {} 1 1
    connect_bd_net {} {} 2 2
    connect_bd_intf_net {} {} 2 2
    assign_bd_address {-offset -range -target_address_space} {-force} 1 1
    validate_bd_design {} {} 0 0
    save_bd_design {} {} 0 0
    get_files {} {} 1 1
    make_wrapper {-files} {-top} 0 0
    launch_runs {-to_step -jobs} {} 1 1
    wait_on_run {} {} 1 1
    get_runs {} {} 1 1
}
namespace eval ipx {}
set cells [dict create]
set connected [dict create]
set said {}

foreach {name valued flags least most} $commands {
    proc ::$name {args} [string map [list @name $name @valued $valued @flags $flags \
        @least $least @most $most] {
        set options [dict create]
        set rest {}
        while {[llength $args]} {
            set args [lassign $args one]
            if {$one in {@valued}} {
                if {![llength $args]} { error "@name: $one needs a value" }
                set args [lassign $args value]
                dict set options $one $value
            } elseif {$one in {@flags}} {
                dict set options $one 1
            } elseif {[string match {-[a-z]*} $one]} {
                error "@name: unknown option $one"
            } else {
                lappend rest $one
            }
        }
        if {[llength $rest] < @least || [llength $rest] > @most} {
            error "@name: [llength $rest] arguments, expected @least to @most"
        }
        return [perform @name $options $rest]
    }]
}

proc perform {name options rest} {
    global cells ips connected said ports
    lassign $rest one other
    switch $name {
        get_ipdefs {
            set found [lsearch -all -inline -glob [dict keys $ips] $one]
            if {![llength $found]} { error "no IP $one" }
            return $found
        }
        create_bd_cell {
            set vlnv [dict get $options -vlnv]
            if {[string match tvm-shiftadd:* $vlnv]} {
                dict set cells $one [machine]
            } else {
                dict set cells $one [dict get $ips $vlnv]
            }
            return $one
        }
        get_bd_cells { dict get $cells $one; return $one }
        get_bd_pins { direction $one pins; return $one }
        get_bd_intf_pins { direction $one interfaces; return $one }
        get_bd_addr_spaces { member $one spaces; return $one }
        get_bd_addr_segs { member $one segments; return $one }
        set_property {
            if {[dict exists $options -dict]} {
                if {[llength $rest] != 1} { error "set_property -dict takes one object" }
                foreach {key value} [dict get $options -dict] {
                    set key [regsub {^CONFIG\.} $key {}]
                    if {$key ni [dict get $cells $one config]} { error "$one has no $key" }
                    lappend said "set $one $key $value"
                }
            } elseif {[llength $rest] != 3} { error "set_property takes a name, a value, an object" }
        }
        connect_bd_net { join_pins pins out in $one $other }
        connect_bd_intf_net { join_pins interfaces master slave $one $other }
        make_bd_intf_pins_external { join_pins interfaces master "" $one "" }
        assign_bd_address {
            lappend said "address [dict get $options -target_address_space] $one\
                [dict get $options -offset] [dict get $options -range]"
        }
        ipx::associate_bus_interfaces {
            if {![dict exists [machine] interfaces [dict get $options -busif]]
                    || ![dict exists $ports [dict get $options -clock]]} {
                error "nothing to associate: $options"
            }
        }
        get_property { return [expr {$one eq "PROGRESS" ? "100%" : 0.1}] }
        make_wrapper { return wrapper.v }
        default { return "$name" }
    }
    return ""
}

proc direction {path kind} {
    global cells
    lassign [split $path /] cell pin
    if {![dict exists $cells $cell]} { error "no cell $cell" }
    if {![dict exists $cells $cell $kind $pin]} { error "$cell has no $pin among its $kind" }
    return [dict get $cells $cell $kind $pin]
}

proc member {path kind} {
    global cells
    set cell [lindex [split $path /] 0]
    if {[string range $path [string length $cell/] end] ni [dict get $cells $cell $kind]} {
        error "$cell has no $path among its $kind"
    }
}

# A net goes from one driver to sinks that had none.
proc join_pins {kind from to one other} {
    global connected said
    if {[direction $one $kind] ne $from} { error "$one drives nothing" }
    if {$other ne ""} {
        if {[direction $other $kind] ne $to} { error "$other is driven by nothing" }
        if {[dict exists $connected $other]} { error "$other has two drivers" }
        dict set connected $other $one
    }
    if {$kind eq "interfaces" && [dict exists $connected $one]} { error "$one is used twice" }
    dict set connected $one $other
    lappend said "join $one $other"
}

# Files that the scripts look for or make; none is real. The first is left from an earlier run.
set files [dict create vta.hwh 1 build/design/vta.runs/impl_1/vta_wrapper.bit 1 \
    build/design/vta.gen/sources_1/bd/vta/hw_handoff/vta.hwh 1]
rename file real_file
proc file {operation args} {
    global files
    switch $operation {
        exists { return [dict exists $files {*}$args] }
        delete { foreach name $args { dict unset files $name } }
        copy {
            lassign $args force from to
            if {$force ne "-force"} { error "file copy without -force" }
            dict set files $to [dict get $files $from]
        }
        default { return [real_file $operation {*}$args] }
    }
}

source [lindex $argv 0]

# Nothing that must be driven may be left open.
dict for {cell about} $cells {
    foreach {pin direction} [dict get $about pins] {
        if {$direction eq "in" && ![dict exists $connected $cell/$pin]} {
            error "$cell/$pin is open"
        }
    }
    foreach {interface direction} [dict get $about interfaces] {
        if {![dict exists $connected $cell/$interface]} { error "$cell/$interface is open" }
    }
}
puts [join $said \n]
