"""The tape reader's last stage: words of codes and headers become beats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory

from tokenloom.hw.memory.tape_format import BLOCKS_BITS, TapeFormat, TapeKind
from tokenloom.hw.numbers.codebook import add_codebook
from tokenloom.hw.numbers.words import pick

if TYPE_CHECKING:
    from tokenloom.hw.memory.tape_reader import TapeReader

__all__ = ["add_unpacker"]


def add_unpacker(
    m: Module,
    tape: TapeFormat,
    ports: TapeReader,
    *,
    header_words: int,
    beat_words: int,
    commands: Any,
    code_words: Any,
    headers: Memory,
    base: Signal,
) -> Value:
    """Add the stage to `m`, whose beat and codebook ports are `ports`'.

    Parameters
    ----------
    m : Module
    tape : TapeFormat
    ports : TapeReader
    header_words : int
        Words of scales, minima or exponents kept.
    beat_words : int
        Beats kept.
    commands, code_words : FIFO
        `command_bits` and `port_bits` wide.
    headers : Memory
        The ring of header words.
    base : Signal
        Its oldest word in use; this stage advances it.

    Returns
    -------
    Value
        Whether there is a command or a beat.
    """
    bpb, port, lanes = tape.beat_blocks, tape.port_bits, tape.lanes
    ring = len(base) - 1
    group_beats = port // 16 // bpb
    units = port // 8 // bpb
    unit_bits = (units - 1).bit_length()
    split = bpb.bit_length() - 1

    # The command.
    valid = Signal()
    four, is_k, is_v = Signal(), Signal(), Signal()
    left = Signal(BLOCKS_BITS - split)
    depth = Signal(range(tape.dim_blocks_max // bpb + 1))
    hold_words = Signal(range(header_words + 1))
    # Where it is: beat of the group; for K units of BPB exponent bytes; chunk of the word.
    element = Signal(range(group_beats))
    k_unit, v_unit = Signal(ring + unit_bits), Signal(ring + unit_bits)
    dim = Signal.like(depth)
    chunk = Signal(range(max(2, port // (4 * lanes))))
    last, pop, emit, finish, half_done = (Signal() for _ in range(5))

    # The words' part for this beat.
    halved = 8 * lanes > port  # two words per 8-bit beat
    word = code_words.r_data
    last8, last4 = max(1, port // (8 * lanes)) - 1, port // (4 * lanes) - 1
    raw4 = pick(m, word, chunk, 4 * lanes, last4 + 1)
    if halved:
        held = Signal(port)
        raw8: Value = Cat(held, word)
        with m.If(pop & ~half_done):
            m.d.sync += held.eq(word)
    else:
        raw8 = pick(m, word, chunk, 8 * lanes, last8 + 1)

    # Scale and minimum, or the shifts of K and V.
    read_a, read_b = headers.read_port(domain="comb"), headers.read_port(domain="comb")
    sel_a, sel_b = Signal(range(units // 2)), Signal(range(units // 2))
    m.d.comb += [
        read_a.addr.eq(base + Mux(is_k, k_unit[unit_bits:], 0)),
        read_b.addr.eq(base + Mux(is_k, v_unit[unit_bits:], 1)),
        sel_a.eq(Mux(is_k, k_unit[1:unit_bits], element)),
        sel_b.eq(Mux(is_k, v_unit[1:unit_bits], element)),
    ]
    wide_a = pick(m, read_a.data, sel_a, 16 * bpb, units // 2)
    wide_b = pick(m, read_b.data, sel_b, 16 * bpb, units // 2)
    k_byte = Mux(k_unit[0], wide_a[8 * bpb :], wide_a[: 8 * bpb])
    v_byte = Mux(v_unit[0], wide_b[8 * bpb :], wide_b[: 8 * bpb])
    k_scale = Cat(*(Cat(k_byte.word_select(i, 8)[:5], Const(0, 11)) for i in range(bpb)))
    v_bits = Cat(*(v_byte.word_select(i, 8)[:5] for i in range(bpb)))

    # The stage in front of the codebook, and the beats.
    m.submodules.beats = beats = SyncFIFO(width=8 * lanes + 37 * bpb + 1, depth=beat_words)
    staged, stage_four, stage_pow2 = Signal(), Signal(), Signal()
    stage_raw = Signal(8 * lanes)
    stage_scale, stage_minimum = Signal(16 * bpb), Signal(16 * bpb)
    stage_shift = Signal(5 * bpb)
    looked_up = add_codebook(
        m,
        we=ports.cfg_we,
        addr=ports.cfg_addr,
        data=ports.cfg_data,
        codes=stage_raw[: 4 * lanes],
    )
    m.d.comb += [
        beats.w_en.eq(staged),
        beats.w_data.eq(
            Cat(
                Mux(stage_four, looked_up, stage_raw),
                stage_scale,
                stage_minimum,
                stage_shift,
                stage_pow2,
            )
        ),
        Cat(ports.codes, ports.scale, ports.minimum, ports.v_shift, ports.pow2).eq(beats.r_data),
        ports.beat_valid.eq(beats.r_rdy),
        ports.beat_count.eq(beats.r_level),
        beats.r_en.eq(ports.beat_take),
    ]

    # One beat.
    go = Signal()
    m.d.comb += [
        go.eq(valid & code_words.r_rdy & (beats.w_level + staged < beat_words)),
        half_done.eq(chunk[0] if halved else 1),
        emit.eq(go & (four | half_done)),
        last.eq(left == 1),
        finish.eq(emit & last),
        pop.eq(go & ((emit & last) | (chunk == Mux(four, last4, last8)) | Const(halved))),
        code_words.r_en.eq(pop),
    ]
    m.d.sync += staged.eq(emit)
    with m.If(emit):
        m.d.sync += [
            stage_raw.eq(Mux(four, raw4, raw8)),
            stage_four.eq(four),
            stage_pow2.eq(is_k | is_v),
            stage_scale.eq(Mux(is_k, k_scale, Mux(is_v, 0, wide_a))),
            stage_minimum.eq(Mux(four, wide_b, 0)),
            stage_shift.eq(Mux(is_k, v_bits, 0)),
            left.eq(left - 1),
            element.eq(element + 1),
            dim.eq(dim + 1),
            k_unit.eq(k_unit + 1),
            v_unit.eq(v_unit + 1),
        ]
        with m.If(is_k & (dim + 1 == depth)):
            m.d.sync += [
                dim.eq(0),
                k_unit.eq(k_unit + depth + 1),
                v_unit.eq(v_unit + depth + 1),
            ]
        with m.If(last | (~is_k & ~is_v & (element == group_beats - 1))):
            m.d.sync += base.eq(base + hold_words)
    with m.If(pop):
        m.d.sync += chunk.eq(0)
        if halved:
            with m.If(~four & ~half_done):
                m.d.sync += chunk.eq(1)
    with m.Elif(go):
        m.d.sync += chunk.eq(chunk + 1)

    # The next command follows without a gap.
    kind, blocks, dim_blocks = tape.fields(commands.r_data)
    with m.If(finish):
        m.d.sync += valid.eq(0)
    with m.If((~valid | finish) & commands.r_rdy):
        m.d.comb += commands.r_en.eq(1)
        m.d.sync += [
            valid.eq(1),
            four.eq(kind == TapeKind.Q4),
            is_k.eq(kind == TapeKind.K),
            is_v.eq(kind == TapeKind.V),
            left.eq(blocks >> split),
            depth.eq(dim_blocks >> split),
            element.eq(0),
            dim.eq(0),
            k_unit.eq(0),
            v_unit.eq(dim_blocks >> split),
        ]
        with m.Switch(kind):
            with m.Case(TapeKind.Q8):
                m.d.sync += hold_words.eq(1)
            with m.Case(TapeKind.Q4):
                m.d.sync += hold_words.eq(2)
            with m.Case(TapeKind.K):
                m.d.sync += hold_words.eq(tape.exponent_words(blocks))
            with m.Case(TapeKind.V):
                m.d.sync += hold_words.eq(0)
    return valid | staged | beats.r_rdy
