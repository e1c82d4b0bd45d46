"""The vendor project: what is in it, that its parts agree, and what its Tcl does."""

import dataclasses
import fnmatch
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

from tests.host.vendor_tcl import needs_tclsh, run_tcl
from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.commands.synth import synth, told
from tokenloom.host.synth.constraints import board_lpf, clock_xdc, crossings_xdc, synchronisers
from tokenloom.host.synth.fit import Fit, available, check_fit, derived_memories, fit
from tokenloom.host.synth.netlist import instance_paths, instances, ports
from tokenloom.host.synth.placement import _die_of_channel, _die_of_column
from tokenloom.host.synth.project import TOP, project_files
from tokenloom.host.synth.resources import Estimate, Resources
from tokenloom.hw.array.array import group_of
from tokenloom.hw.card.identity import Identity
from tokenloom.hw.card.kernel import CROSSINGS, Crossing, axi_ports
from tokenloom.hw.card.kernel_map import BASES, bus, kernel_registers
from tokenloom.hw.card.register_map import by_name
from tokenloom.hw.config import load
from tokenloom.sim.simulator import SIMULATED, kernel_verilog
from tokenloom.sim.toolchain import environment

# `mini` on the cards' boards: all that a project has; its Verilog runs in tests/test_kernel.py.
MINI = load("mini")
SMALL = [
    f"{section}.{key}={value}"
    for section in ("array", "memory", "maxima")
    for key, value in dataclasses.asdict(getattr(MINI, section)).items()
] + [f"norm_lanes={MINI.norm_lanes}"]
COLUMNS = MINI.array.columns
BOARDS = ("u280", "u55c", "vck5000")


@pytest.fixture(scope="module", autouse=True)
def one_chip():
    """The board is in the Verilog only as a digest: one chip serves them all."""
    texts = kernel_verilog(MINI, SIMULATED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenloom.sim.simulator.kernel_verilog", lambda *_: texts)
        yield texts


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Board -> its project's folder."""
    made = {}

    def make(board="u280"):
        if board not in made:
            out = tmp_path_factory.mktemp("synth") / board
            made[board] = out, synth(board=board, overrides=SMALL, out=out, run=False)
        return made[board]

    return make


def verilog(out):
    return {path.stem: path.read_text() for path in (out / "rtl").glob("*.v")}


def tcl_lists(out):
    text = (out / "scripts" / "project.tcl").read_text()
    return {
        name: words.split() for name, words in re.findall(r"set (\w+) \{\n(.*?)\}\n", text, re.S)
    }


# The kernel.


def test_ports_are_those_of_an_rtl_kernel(project):
    out, _ = project()
    found = ports(verilog(out)[TOP])
    want = {"ap_clk": ("input", 1), "ap_rst_n": ("input", 1), "interrupt": ("output", 1)}
    for c in range(COLUMNS):
        for name, (driven, bits) in axi_ports(512).items():
            want[f"{bus(c)}_{name}"] = ("output" if driven else "input", bits)
    control = {name: port for name, port in found.items() if name.startswith("s_axi_control_")}
    assert control["s_axi_control_awaddr"] == ("input", 12)
    assert control["s_axi_control_rdata"] == ("output", 32) and len(control) == 19
    assert found == want | control


def test_interfaces_are_marked(project):
    out, _ = project()
    text = verilog(out)[TOP]
    for name, (direction, _) in ports(text).items():
        declared = re.search(rf"((?:  \(\*.*\*\)\n)+)  {direction} (?:\[.*\] )?{name};", text)
        assert declared is not None and "X_INTERFACE_INFO" in declared[1], name
    clock = re.search(r'"XIL_INTERFACENAME ap_clk, ASSOCIATED_BUSIF ([^,]*), ', text)
    assert clock[1].split(":") == ["s_axi_control", *map(bus, range(COLUMNS))]


@pytest.mark.parametrize("board", BOARDS)
def test_kernel_xml_agrees_with_verilog_and_registers(board, project):
    out, result = project(board)
    kernel = ElementTree.parse(out / "kernel.xml").getroot().find("kernel")
    assert kernel.get("name") == TOP and kernel.get("hwControlProtocol") == "ap_ctrl_hs"
    there = ports(verilog(out)[TOP])
    named = {port.get("name"): port for port in kernel.find("ports")}
    table = by_name(kernel_registers(COLUMNS))
    for name, port in named.items():
        width = there[f"{name}_{'wdata' if name != 's_axi_control' else 'rdata'}"][1]
        assert int(port.get("dataWidth")) == width
    assert int(named["s_axi_control"].get("range"), 0) == 1 << there["s_axi_control_awaddr"][1]
    args = list(kernel.find("args"))
    assert {arg.get("port") for arg in args} == set(named) - {"s_axi_control"}
    for i, arg in enumerate(args):
        assert int(arg.get("id")) == i
        assert int(arg.get("offset"), 0) == table[f"{arg.get('name').upper()}_LOW"].offset
        assert int(arg.get("offset"), 0) >= BASES == 0x10
        link = (out / "link.cfg").read_text()
        tag = "MC_NOC0" if board == "vck5000" else f"HBM[{i}]"
        assert f"sp={TOP}_1.{arg.get('name')}:{tag}\n" in link
    assert f"platform={result['platform']}\n" in link and f"nk={TOP}:1:{TOP}_1\n" in link
    assert "freqHz=250000000:" in link


def test_headers_compile(project, tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    out, _ = project()
    main = tmp_path / "main.c"
    main.write_text(
        '#include "tokenloom_registers.h"\n#include "tokenloom_kernel.h"\n'
        "int main(void) { return TLK_AP_CTRL != 0 || TLK_MEM01_HIGH != 0x1c || TLK_CARD != 0x800\n"
        "  || TLK_AP_CTRL_IDLE_MASK != 4 || TL_MAGIC != 0; }\n"
    )
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{out}"]
    subprocess.run([*command, str(main), "-o", str(tmp_path / "main")], check=True)
    subprocess.run([tmp_path / "main"], check=True)


# Constraints.


def test_every_crossing_has_a_constraint_and_every_constraint_a_crossing(project):
    """Synchronisers and clocks as the Verilog has them, against the table and the XDC."""
    out, _ = project()
    texts = verilog(out)
    in_verilog = synchronisers(texts, TOP)
    assert in_verilog == {crossing.register for crossing in CROSSINGS}
    xdc = (out / "constraints" / "crossings.xdc").read_text()
    excused = re.findall(r"^set_\w+ -to \[get_pins \{(\S+)_reg/D\}\]$", xdc, re.M)
    assert set(excused) == in_verilog and len(excused) == len(in_verilog)
    commands = [line for line in xdc.splitlines() if line and not line.startswith("#")]
    assert len(commands) == len(excused)
    # No other clock, no asynchronous reset, no latch's level: nothing else can cross.
    for name, text in texts.items():
        clocks = set(re.findall(r"@\s*\(?(.*?)\)?$", "\n".join(
            re.findall(r"always(?:_ff)? @\((.*?)\)", text))))  # fmt: skip
        edges = set(re.findall(r"always @\((.*?)\)", text)) - {"*"}
        assert edges <= {"posedge ap_clk" if name == TOP else "posedge clk"}, (name, edges, clocks)
    # All blocks are clocked by the kernel's one clock.
    for name, text in texts.items():
        pins = set(re.findall(r"\.clk\((\S+?)\)", text))
        assert pins <= {"ap_clk" if name == TOP else "clk"}, name


def test_constraints_of_any_chip_are_files_that_are_installed():
    root = Path(__file__).resolve().parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["tokenloom.constraints"]
    names = {path.name for path in (root / "constraints").iterdir() if path.is_file()}
    for name in names - {"__init__.py", "README.md"}:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name
        assert f"`{name}`" in (root / "constraints" / "README.md").read_text()
    assert clock_xdc(4).endswith("create_clock -name ap_clk -period 4.000 [get_ports ap_clk]\n")
    two = [Crossing(register=f"part/stage{n}", source=f"pin{n}", why="why") for n in range(2)]
    xdc = crossings_xdc(two)
    assert "@" not in xdc and xdc.count("Every asynchronous crossing") == 1
    assert xdc.endswith(
        "# pin1: why.\nset_false_path -to [get_pins {part/stage1_reg/D}]\n"
    )  # fmt: skip


def test_pins_of_the_ulx3s():
    """Every pin has a site of its own and an electrical standard."""
    text = board_lpf("ulx3s")
    sites = re.findall(r'^LOCATE COMP "(\S+)" SITE "([A-Z]+\d+)";$', text, re.M)
    kinds = re.findall(
        r'^IOBUF PORT "(\S+)" PULLMODE=\w+ IO_TYPE=LVCMOS33( DRIVE=\d+)?;$', text, re.M
    )
    assert [name for name, _ in sites] == [name for name, _ in kinds]
    assert len({site for _, site in sites}) == len(sites) == 12
    assert re.findall(r"^FREQUENCY .*", text, re.M) == ['FREQUENCY PORT "clk_25mhz" 25 MHZ;']
    with pytest.raises(TokenloomError, match="'u280' has no pins.*there are ulx3s"):
        board_lpf("u280")


@pytest.mark.parametrize("board", BOARDS)
def test_pblocks_name_instances(board, project):
    """Every cell of the placement is there, once, and none lies in another one's pblock."""
    out, _ = project(board)
    xdc = (out / "constraints" / "placement.xdc").read_text()
    placed = re.findall(r"add_cells_to_pblock \[get_pblocks (\w+)\] \[get_cells \{(\S+)\}\]", xdc)
    cells = [cell for _, cell in placed]
    if board == "vck5000":
        assert not placed and "SLR0" not in xdc
        return
    paths = instance_paths(verilog(out), TOP)
    assert set(cells) <= set(paths) and len(set(cells)) == len(cells)
    for cell in cells:
        assert not any(other.startswith(f"{cell}/") for other in cells)
    assert set(re.findall(r"resize_pblock \[get_pblocks die(\d)\] -add \{SLR\1\}", xdc)) == set(
        "012"
    )
    where = {cell: pblock for pblock, cell in placed}
    for path, kind in paths.items():
        if kind == "channel":
            assert where[path] == "die0"
        if kind == "column":
            assert where[path] == "die2"
        above = [path.rsplit("/", i)[0] for i in range(path.count("/") + 1)]
        holds = any(other.startswith(f"{path}/") for other in cells)
        assert holds or sum(part in where for part in above) == 1, path


# The scripts.


def order(record, *names):
    """The commands of these names, as they came."""
    return [line[0] for line in record if line[0] in names]


@needs_tclsh
@pytest.mark.parametrize("board", BOARDS)
def test_flow(board, project, tmp_path):
    out, result = project(board)
    code, text, record = run_tcl(out / "scripts" / "flow.tcl", tmp_path)
    assert code == 0, text
    steps = ["synth_design", "opt_design", "place_design", "phys_opt_design", "route_design"]
    assert order(record, *steps) == steps
    names = [line[0] for line in record]
    read = [Path(line[-1]) for line in record if line[0] in ("read_verilog", "read_xdc")]
    assert all(path.is_file() for path in read)
    assert {path.name for path in read if path.suffix == ".v"} == {
        f"{name}.v" for name in verilog(out)
    }
    assert {path.name for path in read if path.suffix == ".xdc"} == {
        "clock.xdc", "crossings.xdc", "placement.xdc"}  # fmt: skip
    assert max(names.index("read_verilog"), names.index("read_xdc")) < names.index("synth_design")
    made = next(line for line in record if line[0] == "synth_design")
    assert made[1:5] == ["-top", TOP, "-part", load(board).board.part]
    after = names[names.index("route_design") :]
    for report in ("report_timing_summary", "report_utilization", "report_drc", "report_power",
                   "write_checkpoint", "get_timing_paths"):  # fmt: skip
        assert report in after, report
    written = [line[-1] for line in record if line[0] == "write_checkpoint"]
    assert [Path(path).name for path in written] == ["synth.dcp", "place.dcp", "route.dcp"]


@needs_tclsh
@pytest.mark.parametrize("slacks", [{"setup": "-0.1"}, {"hold": "-0.001"}])
def test_negative_slack_is_an_error(slacks, project, tmp_path):
    out, _ = project()
    code, text, record = run_tcl(out / "scripts" / "flow.tcl", tmp_path, **slacks)
    assert code == 1
    ((kind, slack),) = slacks.items()
    assert f"error: {kind} slack {slack} ns is negative at 250 MHz" in text
    assert "write_checkpoint" in order(record, "write_checkpoint")  # to look at


@needs_tclsh
def test_a_flow_without_a_clock_is_an_error(project, tmp_path):
    out, _ = project()
    code, text, _ = run_tcl(out / "scripts" / "flow.tcl", tmp_path, paths=0)
    assert code != 0 and "no timed path for setup" in text


@needs_tclsh
@pytest.mark.parametrize("board", BOARDS)
def test_packaging(board, project, tmp_path):
    out, _ = project(board)
    code, text, record = run_tcl(out / "scripts" / "package.tcl", tmp_path)
    assert code == 0, text
    steps = ["create_project", "update_compile_order", "ipx::package_project", "ipx::save_core",
             "package_xo", "close_project"]  # fmt: skip
    assert order(record, *steps) == steps
    added = [Path(line[-1]) for line in record if line[0] == "add_files"]
    assert all(path.is_file() for path in added)
    assert [path.name for path in added if path.suffix == ".xdc"] == ["crossings.xdc"]
    assert ["create_project"] == [line[0] for line in record if load(board).board.part in line]
    joined = {line[2] for line in record if line[0] == "ipx::associate_bus_interfaces"}
    assert joined == {"s_axi_control", *map(bus, range(COLUMNS))}
    packed = next(line for line in record if line[0] == "package_xo")
    words = dict(zip(packed[2::2], packed[3::2], strict=False))
    assert words["-kernel_name"] == TOP and Path(words["-kernel_xml"]) == out / "kernel.xml"
    assert Path(words["-xo_path"]) == out / f"{TOP}.xo"
    assert ["set_property", "sdx_kernel", "true", "ipx::current_core_result"] in record


@needs_tclsh
def test_packaging_without_an_interface_is_an_error(project, tmp_path):
    out, _ = project()
    code, text, record = run_tcl(out / "scripts" / "package.tcl", tmp_path, lost=bus(1))
    assert code == 1 and f"found no interface {bus(1)}" in text
    assert not order(record, "package_xo")


@needs_tclsh
def test_constraints_are_tcl(project, tmp_path):
    out, _ = project()
    for name, command in (("clock", "create_clock"), ("crossings", "set_false_path"),
                          ("placement", "create_pblock")):  # fmt: skip
        code, text, record = run_tcl(out / "constraints" / f"{name}.xdc", tmp_path)
        assert code == 0, text
        assert order(record, command)
    period = next(line for line in record if line[0] == "create_pblock")
    assert period == ["create_pblock", "die0"]


@needs_tclsh
def test_hook_asks_for_dies_and_misses_no_cell(project, tmp_path):
    out, _ = project()
    hook = out / "scripts" / "place_link.tcl"
    assert f"PLACE_DESIGN.TCL.PRE=scripts/{hook.name}" in (out / "link.cfg").read_text()
    code, text, record = run_tcl(hook, tmp_path)
    assert code == 0, text
    xdc = (out / "constraints" / "placement.xdc").read_text()
    assert len(order(record, "set_property")) == xdc.count("add_cells_to_pblock")
    code, text, _ = run_tcl(hook, tmp_path, cells="")
    assert code != 0 and "no cell" in text


# FuseSoC.


def fusesoc(*words, cwd, env=None):
    command = [sys.executable, "-m", "fusesoc.main", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env)


def test_fusesoc_accepts_the_core(project, tmp_path):
    pytest.importorskip("fusesoc", reason="fusesoc is not installed: pip install '.[dev]'")
    out, _ = project()
    name = f"tokenloom:kernel:u280:{_version(out)}"
    done = fusesoc("--cores-root", str(out), "core", "list", cwd=tmp_path)
    assert done.returncode == 0 and name in done.stdout, done.stdout + done.stderr
    for target in ("lint", "vivado"):
        done = fusesoc("--cores-root", str(out), "run", "--setup", f"--target={target}", name,
                       cwd=tmp_path)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    listed = "\n".join(path.read_text(errors="replace") for path in tmp_path.rglob("*")
                       if path.suffix in (".vc", ".yml", ".tcl"))  # fmt: skip
    for source in verilog(out):
        assert f"rtl/{source}.v" in listed
    assert load("u280").board.part in listed


def test_fusesoc_lint_is_clean(project, tmp_path):
    """Without any warning: Verilator's are errors there."""
    pytest.importorskip("fusesoc", reason="fusesoc is not installed: pip install '.[dev]'")
    out, _ = project()
    name = f"tokenloom:kernel:u280:{_version(out)}"
    done = fusesoc("--cores-root", str(out), "run", "--target=lint", name, cwd=tmp_path,
                   env=os.environ | environment())  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "%Warning" not in done.stdout + done.stderr


def _version(out):
    return re.search(r"set version (\S+)", (out / "scripts" / "project.tcl").read_text())[1]


# The command.


def test_what_is_told_without_the_tools(project):
    _, result = project()
    text = "\n".join(told(result))
    if shutil.which("vivado") is None:
        assert "not on PATH: v++, vivado" in text
    for command in ("vivado -mode batch -nojournal -log flow.log -source scripts/flow.tcl",
                    "v++ --link --target hw --config link.cfg"):  # fmt: skip
        assert command in text
    assert "Yosys estimates" in text


@pytest.mark.parametrize("fails", [False, True])
def test_tools_on_path_are_run(fails, tmp_path, monkeypatch, project):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("vivado", "v++"):
        script = tools / tool
        last = "echo ERROR: no licence >&2; exit 3" if fails and tool == "v++" else "exit 0"
        script.write_text(f'#!/bin/sh\necho "{tool} $*" >>"{tmp_path}/ran"\n{last}\n')
        script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    out = tmp_path / "out"
    if fails:
        with pytest.raises(TokenloomError, match="'link' failed with exit code 3.*no licence"):
            synth(board="u280", overrides=SMALL, out=out)
    else:
        result = synth(board="u280", overrides=SMALL, out=out)
        assert result["ran"] == ["alone", "xo", "link"] and not result["missing"]
        assert "not on PATH" not in "\n".join(told(result))
    ran = (tmp_path / "ran").read_text().splitlines()
    assert [line.split()[0] for line in ran] == ["vivado", "vivado", "v++"]
    assert ran[0].endswith("-source scripts/flow.tcl")
    assert ran[1].endswith("-source scripts/package.tcl")


def test_files_of_an_earlier_run_go_away_and_strangers_stay(tmp_path):
    out = tmp_path / "out"
    synth(board="u280", overrides=SMALL, out=out, run=False)
    listed = json.loads((out / "tokenloom.json").read_text())["files"]
    assert all((out / name).is_file() for name in listed)
    (out / "vivado").mkdir()
    (out / "vivado" / "route.dcp").write_text("an hour's work")
    synth(board="vck5000", overrides=SMALL, out=out, run=False)
    assert not (out / "scripts" / "place_link.tcl").exists()
    assert (out / "vivado" / "route.dcp").exists()
    (out / "rtl" / "mine.v").write_text("module mine; endmodule\n")
    with pytest.raises(TokenloomError, match="did not write .*mine.v"):
        synth(board="u280", overrides=SMALL, out=out, run=False)


@pytest.mark.parametrize("board", ["mini", "ulx3s"])
def test_boards_without_a_platform_are_refused(board, tmp_path):
    with pytest.raises(TokenloomError, match="no vendor platform.*u280, u55c, vck5000"):
        synth(board=board, overrides=[], out=tmp_path / "out", run=False)
    assert not (tmp_path / "out").exists()


# Resources.


def test_a_chip_that_is_too_large_is_refused_with_the_block_that_breaks_it(tmp_path):
    overrides = [*SMALL, "board.resources.dsps=800"]  # 80 behind the shell
    with pytest.raises(TokenloomError, match=r"DSPs.*80 are there.*block dot_element.*4 times 34"):
        synth(board="u280", overrides=overrides, out=tmp_path / "out", run=False)
    assert not (tmp_path / "out").exists()


def test_no_block_is_missed(one_chip):
    """The hierarchy is read from text: every emitted block is in it, `\\noise$112  (` too."""
    counts = instances(one_chip, TOP)
    assert [name for name in one_chip if not counts[name]] == []


def test_two_products_per_dsp_halve_the_elements(project):
    out, _ = project()
    hardware, texts = load("u280", SMALL), verilog(out)
    one, half = (fit(texts, TOP, hardware, dsps_per_product=p) for p in (1, 0.5))
    elements = instances(texts, TOP)["dot_element"]
    assert elements == MINI.array.columns * MINI.array.rows
    assert one.used.dsps - half.used.dsps == elements * hardware.array.lanes / 2


def test_each_resource_can_break_a_chip():
    hardware = load("u280")
    left = available(hardware)
    for name in ("luts", "flip_flops", "dsps", "block_rams", "ultra_rams"):
        most = getattr(left, name)
        for share, good in ((1.0, True), (1.01, False)):
            need = Resources(**{name: most * share})
            found = Fit(
                used=need,
                left=left,
                dies={},
                die_blocks={},
                older=(),
                unknown=(),
                blocks={
                    "large": (1, Estimate(resources=need, depth=1)),
                    "small": (9, Estimate(resources=Resources(), depth=1)),
                },
            )
            if good:
                check_fit(found, hardware)
            else:
                with pytest.raises(TokenloomError, match="block large takes most"):
                    check_fit(found, hardware)


def test_a_die_can_break_a_chip_that_fits_its_card(project):
    """Each die's blocks add up to the chip's; a die's own share counts."""
    out, _ = project()
    hardware, texts = load("u280", SMALL), verilog(out)
    found = fit(texts, TOP, hardware)
    assert sum(found.die_blocks.values(), Counter()) == instances(texts, TOP)
    for used, left in found.dies.values():
        assert used.luts <= left.luts
    check_fit(found, hardware)
    used, left = found.dies[0]
    small = dataclasses.replace(left, luts=used.luts / 2)
    found = dataclasses.replace(found, dies=found.dies | {0: (used, small)})
    with pytest.raises(TokenloomError, match="SLR0 of .*LUTs.*block tape_reader takes most"):
        check_fit(found, hardware)


def test_the_commit_that_a_card_names_changes_no_estimate(one_chip, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(
        "tokenloom.host.synth.fit.fit", lambda texts, *some, **more: given.append(texts) or 1 / 0
    )
    for git in ("a" * 40, "b" * 40):
        named = one_chip | {"control": one_chip["control"] + f"// {git}"}
        monkeypatch.setattr("tokenloom.sim.simulator.kernel_verilog", lambda *_, t=named: t)
        with pytest.raises(ZeroDivisionError):
            synth(board="u280", overrides=SMALL, out=tmp_path / git, run=False)
    assert given[0] == given[1]


def test_derived_memories():
    def text(words, bits):
        return f"module m(clk);\n  reg [{bits - 1}:0] mem [{words - 1}:0];\nendmodule\n"

    assert derived_memories(text(4096, 512)) == Resources(ultra_rams=8)
    assert derived_memories(text(4095, 512)) == Resources(ultra_rams=8)
    assert derived_memories(text(8160, 256)) == Resources(ultra_rams=8)
    assert derived_memories(text(4096, 72)) == Resources(ultra_rams=1)
    assert derived_memories(text(1024, 518)) == Resources(block_rams=15)
    assert derived_memories(text(512, 72)) == Resources(block_rams=1)
    assert derived_memories(text(512, 36)) == Resources(block_rams=0.5)
    assert derived_memories(text(1024, 36)) == Resources(block_rams=1)
    assert derived_memories(text(64, 512)) == Resources()


def test_cells():
    cells = {
        "LUT6": 3,
        "LUT1": 1,
        "RAM32M16": 2,
        "FDRE": 5,
        "DSP48E2": 1,
        "RAMB18E2": 3,
        "CARRY8": 4,
    }
    assert Resources.of_cells(cells) == Resources(
        luts=20, flip_flops=5, dsps=1, block_rams=1.5
    )  # fmt: skip
    with pytest.raises(ValueError, match="RAM999X"):
        Resources.of_cells({"RAM999X": 1})


def test_columns_and_channels_fill_the_dies():
    """Fewer columns beside the core, but the array's first group; with two dies all of them."""
    dies = [_die_of_column(n, 32, 3) for n in range(32)]
    assert dies == [1] * 15 + [2] * 17
    for columns in (16, 32):
        for n in range(columns):
            assert group_of(n, columns, 3) > 0 or _die_of_column(n, columns, 3) == 1
    assert {_die_of_column(n, 32, 2) for n in range(32)} == {1}
    assert [_die_of_channel(n, 32) for n in range(32)] == [0] * 24 + [1] * 8
    assert [_die_of_channel(n, 2) for n in range(2)] == [0, 0]


def test_project_is_the_same_each_time(project, one_chip):
    """Nothing of the machine or the day is in it."""
    out, result = project()
    hardware, texts = load("u280", SMALL), one_chip
    found = fit(texts, TOP, hardware)
    identity = Identity(version="1.2.3")
    assert project_files(hardware, texts, identity, found) == project_files(
        hardware, texts, identity, found
    )
    for path in out.rglob("*"):
        if path.is_file():
            assert str(out.parent) not in path.read_text()
