"""Builds the verilated chip as a shared library, cached by content."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from amaranth.lib.wiring import In

from tokenloom.compiler.errors import TokenloomError
from tokenloom.hw.card.card import Card
from tokenloom.hw.card.identity import Identity
from tokenloom.hw.card.kernel import Kernel
from tokenloom.hw.chip import Chip
from tokenloom.hw.config import HardwareConfig
from tokenloom.hw.memory.axi import ID_BITS, READS, WRITE_ADDRESS_BITS, WRITES
from tokenloom.hw.sequencer.isa import Unit
from tokenloom.hw.taps import tap_words
from tokenloom.hw.verilog.block import Block, emit
from tokenloom.hw.verilog.build_folder import build_root, write_whole
from tokenloom.hw.verilog.rtlil_text import tools
from tokenloom.sim.kernel_adapter import ADAPTER, kernel_adapter
from tokenloom.sim.memory import model_sources
from tokenloom.sim.power_up import without_initial_values
from tokenloom.sim.toolchain import VERILATOR_FLAGS, environment

__all__ = [
    "SIMULATED",
    "build",
    "card_verilog",
    "chip_verilog",
    "kernel_verilog",
    "write_verilog",
]

# In the names of folders.
_TAPS, _POWER_UP, _CARD, _KERNEL, _SOONER = "-taps", "-power-up", "-card", "-kernel", "-soon"
_GUIDED = "-guided"
SIMULATED = Identity(version="0.0.1", git="5eed" * 10, modified=True)
"""What a simulated card says of its origin: always the same, so that a simulator serves long."""

_HARNESS = Path(__file__).with_name("harness.cpp")
_SPEED = ("-O3", "--x-assign", "fast", "--noassert")
# Of the C++ compiler: for a simulator that runs long, or one that is soon there.
_LONG, _SOON = ("-CFLAGS", "-O2 -march=native -fPIC"), ("-CFLAGS", "-O0 -fPIC")
# What a register without an initial value begins with: zero, or noise from the context's seed.
_ZERO, _NOISE = ("--x-initial", "fast"), ("--x-initial", "unique")
_VERILATE = "--cc --build-jobs 2 --top-module bench_top --prefix Vchip --output-split 20000".split()
_MAKE = ("CFG_CXXFLAGS_PCH_I=-include",)
_MAKE_LONG, _MAKE_SOON = ("OPT_FAST=-O2", "OPT_SLOW=-O1"), ("OPT_FAST=-O0", "OPT_SLOW=-O0")
# Profile-guided: what counts how often each branch is taken, and what is told of it.
_COUNTING = ("-fprofile-generate", "-fprofile-update=single")
_TOLD_OF = ("-fprofile-use", "-Wno-missing-profile")

# Of a tool's log: what is an error, and so many lines go into the message.
_ERROR = re.compile(r"\berror\b|no space left", re.IGNORECASE)
_TOLD = 4
_LEAST_FREE = 1 << 20  # bytes; a disk with less is full


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _source_digest() -> str:
    """Digest of the generator's own sources and of its tools."""
    digest = hashlib.sha256(tools().encode())
    for path in sorted((Path(__file__).parent.parent / "hw").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def chip_verilog(hardware: HardwareConfig, taps: bool = False) -> dict[str, str]:
    """Verilog of the chip by module name; made once per configuration and generator."""
    return _emitted(f"{hardware.name}{_TAPS * taps}", Chip(hardware=hardware, taps=taps))


def card_verilog(hardware: HardwareConfig, identity: Identity) -> dict[str, str]:
    """Verilog of the card by module name, the chip's modules among it; made once as well."""
    return _emitted(f"{hardware.name}{_CARD}", Card(hardware=hardware, identity=identity))


def kernel_verilog(hardware: HardwareConfig, identity: Identity) -> dict[str, str]:
    """Verilog of the kernel by module name, the card's modules among it; made once as well."""
    return _emitted(f"{hardware.name}{_KERNEL}", Kernel(hardware=hardware, identity=identity))


def _emitted(name: str, top: Block) -> dict[str, str]:
    folder = build_root() / "verilog" / f"{name}-{_digest(repr(top.params))}-{_source_digest()}"
    if not (folder / ".done").exists():
        texts = emit(top)
        write_verilog(texts, folder)
        (folder / ".done").touch()
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.v"))}


# Inputs that reach the chip through a register: logic that hangs on an input directly is evaluated
# twice per cycle, and almost everything hangs on the reset.
_REGISTERED = {
    "rst", "cfg_we", "cfg_sel", "cfg_addr", "cfg_data", "hold", "ar_ready", "r_valid", "r_data",
    "r_resp", "r_last", "aw_ready", "w_ready", "b_valid", "b_resp",
}  # fmt: skip

# Ports that only the card uses, or only the kernel: inputs are zero, nobody looks at outputs, so
# that a simulation without them does no work for them.
_OF_CARD = {"cancel", "stop", "quiet", "array_busy", "go", "startable", "idle", "waiting"}


def _bench_top(chip: Block, module: str, watched: Mapping[str, int], place: str) -> str:
    """Verilog of the simulator's top: chip or card behind a register per input.

    `module` has the ports of `chip`. `watched` are ports of the chip within a card, and their
    widths, that become outputs as well; `place` is where that chip is, below `module`.
    """
    ports = {"clk": (1, In), "rst": (1, In)}
    ports |= {name: (len(value), flow) for name, (value, flow) in chip.flat_ports().items()}
    declared, registers, clocked, connected = [], [], [], []
    for name, (width, flow) in ports.items():
        span = f"[{width - 1}:0] " if width > 1 else ""
        if name in _OF_CARD:
            registers.append(f"  wire {name}{' = 0' if flow is In else ''};")
            connected.append(f"    .{name}({name})")
            continue
        declared.append(f"  {'input' if flow is In else 'output'} wire {span}{name}")
        inner = name
        if name in _REGISTERED:
            inner = f"{name}_q"
            registers.append(f"  reg {span}{inner} = 0;")
            clocked.append(f"    {inner} <= {name};")
        connected.append(f"    .{name}({inner})")
    for name, width in watched.items():
        span = f"[{width - 1}:0] " if width > 1 else ""
        declared.append(f"  output wire {span}{name}")
        registers.append(f"  assign {name} = top.{place}.{name};")
    return "\n".join(
        ["module bench_top(", ",\n".join(declared), ");", *registers,
         "  always @(posedge clk) begin", *clocked, "  end",
         f"  {module} top (", ",\n".join(connected), "  );", "endmodule", ""]
    )  # fmt: skip


# What the harness records of passes, of the chip within a card.
_WATCHED = (
    "en", "restart", "over", "failed", "rows_used", "pos", "sample", "stall_tape", "stall_row",
    "stall_kv", "started", "finished", "array_take", "saturated", "logit_valid", "logit",
)  # fmt: skip


def _watched(hardware: HardwareConfig) -> dict[str, int]:
    ports = Chip(hardware=hardware).flat_ports()
    return {name: len(ports[name][0]) for name in _WATCHED}


def write_verilog(texts: dict[str, str], folder: Path) -> None:
    """One file per module; files of modules that no longer exist go away.

    Raises
    ------
    TokenloomError
        When the folder cannot be written; each of its files is then old or new, none is half.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_whole(folder / f"{name}.v", text)
        for path in folder.glob("*.v"):
            if path.stem not in texts:
                path.unlink(missing_ok=True)  # another run may have been faster
    except OSError as error:
        raise TokenloomError(f"{folder}: cannot be written: {error.strerror}") from error


def build(
    hardware: HardwareConfig,
    step: Callable[[str], None] = lambda text: None,
    *,
    taps: bool = False,
    power_up: bool = False,
    card: bool = False,
    soon: bool = False,
    kernel: bool = False,
    rehearse: Callable[[ctypes.CDLL], None] | None = None,
) -> ctypes.CDLL:
    """The chip's simulator.

    Parameters
    ----------
    hardware : HardwareConfig
    step : callable
        Told what happens next, for a progress display.
    taps : bool
        Of the chip that shows every operation's output.
    power_up : bool
        Of the chip whose registers and memories begin with noise, from the seed it is made with.
    card : bool
        Of the card, whose origin is `SIMULATED`, in place of the chip.
    soon : bool
        Compiled in a third of the time, several times slower: for a few short requests.
    kernel : bool
        Of the card in its kernel, behind `kernel_adapter`: the card's ports, addresses from 0.
    rehearse : callable, optional
        Compile twice, the second time for the branches that are taken while this plays on the
        first library, which counts them: a fifth to a quarter faster. Called only where such a
        simulator is not there yet; whose rehearsal it was makes no difference but in speed.

    Raises
    ------
    TokenloomError
        When Verilator or the C++ compiler fails, and the message names the log; when a tool is
        missing or the folder cannot be written.
    """
    step("generate Verilog")
    top: Block
    module = ""
    if card or kernel:
        top = Card(hardware=hardware, identity=SIMULATED)
        texts = (kernel_verilog if kernel else card_verilog)(hardware, SIMULATED)
        if kernel:
            module = ADAPTER
            texts = texts | {ADAPTER: kernel_adapter(top, hardware)}
    else:
        top = Chip(hardware=hardware, taps=taps)
        texts = chip_verilog(hardware, taps)
    if power_up:
        texts = without_initial_values(texts)
    array, port = hardware.array, hardware.memory.port_bits
    macros = {
        "TL_COLUMNS": array.columns,
        "TL_ROWS": array.rows,
        "TL_PORT_BYTES": port // 8,
        "TL_ADDR_BITS": 32 + (port // 8).bit_length() - 1,
        "TL_WRITE_ADDR_BITS": WRITE_ADDRESS_BITS,
        "TL_UNITS": len(Unit),
        "TL_ID_BITS": ID_BITS,
        "TL_READS": READS,
        "TL_WRITES": WRITES,
    }
    if taps:
        macros["TL_TAP_WORDS"] = tap_words(hardware)
    if card or kernel:
        macros["TL_CARD"] = 1
    defines = " ".join(f"-D{name}={value}" for name, value in macros.items())
    place = "kernel.card.chip" if kernel else "chip"
    watched = _watched(hardware) if card or kernel else {}
    texts = texts | {"bench_top": _bench_top(top, module or top.module_name, watched, place)}
    begin, compiled = _NOISE if power_up else _ZERO, _SOON if soon else _LONG
    options = (*_VERILATE, *VERILATOR_FLAGS, *_SPEED, *compiled, *begin)
    make = (*_MAKE, *(_MAKE_SOON if soon else _MAKE_LONG))
    guided = _TOLD_OF if rehearse else ()
    model = _digest(*texts.values(), *options, *make, *guided)
    marks = f"{_TAPS * taps}{_POWER_UP * power_up}{_CARD * card}{_KERNEL * kernel}{_SOONER * soon}"
    marks += _GUIDED * bool(rehearse)
    folder = build_root() / "simulator" / f"{hardware.name}{marks}-{model}"
    objects, counts, done = folder / "obj", folder / "counts", folder / ".done"
    sources = [path.read_text() for path in (_HARNESS, *model_sources())]
    library = folder / f"libchip-{_digest(*sources, defines)}.so"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock", step) as lock:
        env = os.environ | environment()

        def link(to: Path, *more: str) -> None:
            _link(to, objects, [*defines.split(), *more], soon, env, lock)

        if not done.exists():
            # Left by a run that was ended: make would take half an object file for a whole one.
            for left in (objects, counts):
                shutil.rmtree(left, ignore_errors=True)
            write_verilog(texts, folder / "rtl")
            step("verilate")
            command = ["verilator", *options, "-Mdir", str(objects)]
            verilog = sorted((folder / "rtl").glob("*.v"))
            _run([*command, *map(str, verilog)], env, folder / "verilate.log", lock)
            if rehearse is None:
                step("compile the simulator (minutes, once)")
                _compile(objects, make, env, lock)
            else:
                _compile_guided(objects, counts, make, link, rehearse, step, env, lock)
            done.touch()
        if not library.exists():
            temporary = folder / f"libchip.{os.getpid()}.so"
            try:
                link(temporary)
                temporary.replace(library)
            finally:
                temporary.unlink(missing_ok=True)
    return ctypes.CDLL(str(library))


def _compile(
    objects: Path,
    make: Sequence[str],
    env: dict[str, str],
    lock: IO[str],
    profile: Sequence[str] = (),
) -> None:
    """Compile what Verilator wrote, the often executed half of it with `profile` (of GCC)."""
    command = ["make", "-C", str(objects), "-f", "Vchip.mk", "-j2"]
    for setting in make:
        fast = profile and setting.startswith("OPT_FAST=")
        command.append(" ".join((setting, *profile)) if fast else setting)
    command += ["CXX=g++"] if profile else []
    _run([*command, "libVchip.a", "libverilated.a"], env, objects.parent / "make.log", lock)


def _compile_guided(
    objects: Path,
    counts: Path,
    make: Sequence[str],
    link: Callable[..., None],
    rehearse: Callable[[ctypes.CDLL], None],
    step: Callable[[str], None],
    env: dict[str, str],
    lock: IO[str],
) -> None:
    """Compile, count in the folder `counts` which branches a rehearsal takes, and compile again."""
    place = f"-fprofile-dir={counts}"
    step("compile the simulator, first of two times (minutes, once)")
    _compile(objects, make, env, lock, (*_COUNTING, place))
    counts.mkdir()
    # A name that this process never loaded: it would get the old library again.
    with tempfile.TemporaryDirectory(dir=counts) as scratch:
        first = Path(scratch) / "first.so"
        link(first, "-DTL_COUNTING", "-lgcov")
        step("rehearse")
        loaded = ctypes.CDLL(str(first))
        try:
            rehearse(loaded)
        finally:
            loaded.tl_counted()  # or it would be written when the process ends
    if not any(counts.glob("*.gcda")):
        raise TokenloomError(f"{counts}: the rehearsal left no counts of branches")
    step("compile the simulator, second of two times")
    for made in [*objects.glob("*Vchip*.[ao]"), *objects.glob("*.gch")]:
        made.unlink()
    _compile(objects, make, env, lock, (*_TOLD_OF, place))


def _link(
    to: Path, objects: Path, options: Sequence[str], soon: bool, env: dict[str, str], lock: IO[str]
) -> None:
    """Link the harness and the compiled chip to a library."""
    root = env.get("VERILATOR_ROOT") or _system_root(env)
    command = f"g++ -std=c++20 {'-O0' if soon else '-O2 -march=native'} -fPIC".split()
    command += ["-shared", "-Wl,-z,defs"]
    command += [f"-I{objects}", f"-I{_HARNESS.parent}"]
    command += [f"-I{root}/include", f"-I{root}/include/vltstd", str(_HARNESS)]
    command += [str(objects / "libVchip.a"), str(objects / "libverilated.a"), "-lpthread"]
    _run([*command, *options, "-o", str(to)], env, objects.parent / "link.log", lock)


def _system_root(env: dict[str, str]) -> str:
    command = ["verilator", "--getenv", "VERILATOR_ROOT"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@contextmanager
def _locked(path: Path, step: Callable[[str], None]) -> Iterator[IO[str]]:
    """Let one run at a time into a folder; the others wait, and say so."""
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            step("wait for the other run that builds this simulator")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _run(command: list[str], env: dict[str, str], log: Path, lock: IO[str]) -> None:
    """Run a tool; whoever interrupts it ends everything that it has started.

    All of that inherits the lock: should we be killed, the lock is free when nobody writes to the
    folder any more, and not before.
    """
    with open(log, "w") as out:
        try:
            tool = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),), process_group=0,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise TokenloomError(
                f"'{command[0]}' is not installed; building the simulator needs it"
            ) from error
        try:
            code = tool.wait()
        except BaseException:
            os.killpg(tool.pid, signal.SIGKILL)
            tool.wait()
            raise
    # Verilator reports success when it could write only half of its files.
    full = shutil.disk_usage(log.parent).free < _LEAST_FREE
    if code or full:
        lines = log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if _ERROR.search(line)]
        told = "\n".join(errors[:_TOLD] or lines[-_TOLD:])
        why = f" since the disk of {log.parent} is full" if full else ""
        raise TokenloomError(f"{command[0]} failed{why}, see {log}:\n{told}")
