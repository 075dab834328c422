"""Tcl for Vivado: the machine as an IP, and a block design with the processor around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vta_ext.boards.pynq_driver import CELL

#: The module that is packaged.
TOP: Final = "vta_axi"
#: Whose IP it is: vendor, library, name, version.
VLNV: Final = f"tvm-shiftadd:accelerator:{TOP}:1.0"


@dataclass(frozen=True)
class Processor:
    """A Zynq's processor in a block design, by the names of its IP.

    settings: clock and data width are filled in. clock, reset: what it gives to the fabric.
    clocked: its own clock inputs. control, memory: its master for registers and its slave to DRAM.
    space, segment: the control master's address space, and DRAM behind the memory slave.
    external: interfaces that are pins of the chip.
    """

    ip: str
    settings: tuple[tuple[str, str], ...]
    clock: str
    reset: str
    clocked: tuple[str, ...]
    control: str
    memory: str
    space: str
    segment: str
    external: tuple[str, ...] = ()


ZYNQ_7000: Final = Processor(
    "xilinx.com:ip:processing_system7",
    (
        ("PCW_FPGA0_PERIPHERAL_FREQMHZ", "{clock_mhz}"),
        ("PCW_USE_M_AXI_GP0", "1"),
        ("PCW_USE_S_AXI_HP0", "1"),
        ("PCW_S_AXI_HP0_DATA_WIDTH", "{memory_bits}"),
    ),
    clock="FCLK_CLK0",
    reset="FCLK_RESET0_N",
    clocked=("M_AXI_GP0_ACLK", "S_AXI_HP0_ACLK"),
    control="M_AXI_GP0",
    memory="S_AXI_HP0",
    space="Data",
    segment="S_AXI_HP0/HP0_DDR_LOWOCM",
    external=("DDR", "FIXED_IO"),
)
ULTRASCALE: Final = Processor(
    "xilinx.com:ip:zynq_ultra_ps_e",
    (
        ("PSU__FPGA_PL0_ENABLE", "1"),
        ("PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ", "{clock_mhz}"),
        ("PSU__USE__M_AXI_GP0", "1"),
        ("PSU__USE__M_AXI_GP1", "0"),
        ("PSU__USE__M_AXI_GP2", "0"),
        ("PSU__USE__S_AXI_GP2", "1"),
        ("PSU__SAXIGP2__DATA_WIDTH", "{memory_bits}"),
    ),
    clock="pl_clk0",
    reset="pl_resetn0",
    clocked=("maxihpm0_fpd_aclk", "saxihp0_fpd_aclk"),
    control="M_AXI_HPM0_FPD",
    memory="S_AXI_HP0_FPD",
    space="Data",
    segment="SAXIGP2/HP0_DDR_LOW",
)


def package(part: str) -> str:
    """package.tcl: makes an IP of ``vta_axi.v`` in the folder ``ip``."""
    vendor, library, name, version = VLNV.split(":")
    return f"""# Packages the machine as an IP. Run first: vivado -mode batch -source package.tcl
create_project -force package build/package -part {part}
add_files {TOP}.v
set_property top {TOP} [current_fileset]
update_compile_order -fileset sources_1
ipx::package_project -root_dir ip -vendor {vendor} -library {library} -taxonomy /UserIP \\
    -import_files -set_current true
set core [ipx::current_core]
set_property name {name} $core
set_property version {version} $core
set_property display_name {{Shift-add accelerator}} $core
ipx::associate_bus_interfaces -busif m_axi -clock aclk $core
ipx::associate_bus_interfaces -busif s_axi -clock aclk $core
ipx::update_checksums $core
ipx::check_integrity $core
ipx::save_core $core
close_project
"""


def design(
    processor: Processor, part: str, clock_mhz: int, memory_bits: int, base: int, dram_bytes: int
) -> str:
    """design.tcl: the block design, its addresses, and the bitstream with its description.

    ``base``: byte address of the registers. ``dram_bytes``: of DRAM that the machine can reach.
    """
    settings = " ".join(
        f"CONFIG.{name} {{{value.format(clock_mhz=clock_mhz, memory_bits=memory_bits)}}}"
        for name, value in processor.settings
    )
    clocked = (
        *(f"ps/{pin}" for pin in processor.clocked),
        *("control/aclk", "memory/aclk", "reset/slowest_sync_clk", f"{CELL}/aclk"),
    )
    external = "\n".join(
        f"make_bd_intf_pins_external -name {name} [get_bd_intf_pins ps/{name}]"
        for name in processor.external
    )
    return f"""# The processor, the machine, and what lies between. Run second, in the same folder:
# vivado -mode batch -source design.tcl
file delete {CELL}.bit {CELL}.hwh
create_project -force {CELL} build/design -part {part}
set_property ip_repo_paths ip [current_project]
update_ip_catalog
create_bd_design {CELL}

# The latest version of an IP that this Vivado has.
proc latest {{name}} {{ return [lindex [lsort -dictionary [get_ipdefs -all $name:*]] end] }}
create_bd_cell -type ip -vlnv [latest {processor.ip}] ps
set_property -dict [list {settings}] [get_bd_cells ps]
create_bd_cell -type ip -vlnv [latest xilinx.com:ip:proc_sys_reset] reset
foreach name {{control memory}} {{
    create_bd_cell -type ip -vlnv [latest xilinx.com:ip:smartconnect] $name
    set_property -dict [list CONFIG.NUM_SI {{1}} CONFIG.NUM_MI {{1}}] [get_bd_cells $name]
}}
create_bd_cell -type ip -vlnv {VLNV} {CELL}
{external}

# Registers: processor to machine. Memory: machine to processor.
foreach {{from to}} {{
    ps/{processor.control} control/S00_AXI
    control/M00_AXI {CELL}/s_axi
    {CELL}/m_axi memory/S00_AXI
    memory/M00_AXI ps/{processor.memory}
}} {{
    connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $to]
}}
foreach pin {{{" ".join(clocked)}}} {{
    connect_bd_net [get_bd_pins ps/{processor.clock}] [get_bd_pins $pin]
}}
connect_bd_net [get_bd_pins ps/{processor.reset}] [get_bd_pins reset/ext_reset_in]
foreach pin {{control/aresetn memory/aresetn {CELL}/aresetn}} {{
    connect_bd_net [get_bd_pins reset/peripheral_aresetn] [get_bd_pins $pin]
}}

assign_bd_address -offset {base:#010x} -range 4K \\
    -target_address_space [get_bd_addr_spaces ps/{processor.space}] \\
    [get_bd_addr_segs {CELL}/s_axi/reg0] -force
assign_bd_address -offset 0x00000000 -range {dram_bytes >> 20}M \\
    -target_address_space [get_bd_addr_spaces {CELL}/m_axi] \\
    [get_bd_addr_segs ps/{processor.segment}] -force
validate_bd_design
save_bd_design

add_files -norecurse [make_wrapper -files [get_files {CELL}.bd] -top]
set_property top {CELL}_wrapper [current_fileset]
launch_runs impl_1 -to_step write_bitstream -jobs 4
wait_on_run impl_1
if {{[get_property PROGRESS [get_runs impl_1]] ne "100%"}} {{ error "the implementation failed" }}
if {{[get_property STATS.WNS [get_runs impl_1]] < 0}} {{
    error "the design is too slow for {clock_mhz} MHz; make it for fewer, with --clock"
}}
# Where the description lies depends on the version.
foreach folder {{gen srcs}} {{
    set found build/design/{CELL}.$folder/sources_1/bd/{CELL}/hw_handoff/{CELL}.hwh
    if {{[file exists $found]}} {{ file copy -force $found {CELL}.hwh }}
}}
if {{![file exists {CELL}.hwh]}} {{
    error "this Vivado has put {CELL}.hwh, without which no bitstream can be used, elsewhere"
}}
file copy -force build/design/{CELL}.runs/impl_1/{CELL}_wrapper.bit {CELL}.bit
"""
