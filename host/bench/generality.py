"""Any valid model on any valid hardware: bits and cycles; anything else is refused with the reason.

Hardware and models are drawn with a seed, so that a case that fails is one line to repeat.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenloom.host import progress
from tokenloom.host.bench.registry import Figure, group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tokenloom.hw.config import HardwareConfig

__all__ = ["Case", "Refusal", "cases", "check_case", "draw_hardware", "draw_model", "refusals"]

_row = group("Generality")

_SEED = 20
_CONFIGURATIONS = 10
_SHAPES = 6  # of each configuration
_KINDS = ("q8_0", "q4_0", "q4_1", "f32")
_MATRICES = ("q", "k", "v", "o", "down", "embedding", "head")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model on hardware, and a request.

    Attributes
    ----------
    overrides : tuple of str
        The hardware: what differs from `mini`.
    model : dict
        Arguments of `random_model`.
    prompt, new : int
        Tokens of the prompt, and asked for.
    """

    overrides: tuple[str, ...]
    model: dict[str, Any]
    prompt: int
    new: int

    def __str__(self) -> str:
        return f"check_case({self!r})"


def draw_hardware(rng: random.Random) -> tuple[str, ...]:
    """A valid configuration, small enough to be simulated soon."""
    columns = rng.choice((2, 2, 4, 4, 8))
    port_bits = rng.choice((256, 512))
    least = max(32, columns, port_bits // 8)
    page = rng.choice([tokens for tokens in (32, 64, 128) if tokens >= least])
    kv_heads = rng.randrange(1, 5)
    head_size = rng.choice((8, 10, 16, 24, 32, 34, 48, 64))
    positions = rng.randrange(page + 20, 4 * page)
    given = {
        "array.columns": columns,
        "array.rows": rng.choice([rows for rows in (1, 2, 4, 8) if rows <= min(32, head_size)]),
        "array.drain": rng.choice([drain for drain in (1, 2, 4, 8) if columns % drain == 0]),
        "memory.port_bits": port_bits,
        "memory.buffer_words": rng.choice((32, 64, 128)),
        "memory.page_tokens": page,
        "memory.pages": -(-positions // page) + rng.randrange(4),
        "memory.slots": rng.randrange(1, 5),
        "memory.retries": rng.randrange(1, 5),
        "norm_lanes": rng.choice((8, 16, 32)),
        # Contexts beyond so many tokens come in chunks.
        "score_tokens": rng.choice((0, 0, max(64, page))),
        "maxima.width": rng.randrange(8, 140),
        "maxima.ffn": rng.randrange(8, 260),
        "maxima.heads": kv_heads * rng.randrange(1, 5),
        "maxima.kv_heads": kv_heads,
        "maxima.head_size": head_size,
        "maxima.vocab": rng.randrange(2, 400),
        "maxima.positions": positions,
        "maxima.layers": rng.randrange(1, 4),
    }
    return tuple(f"{key}={value}" for key, value in given.items())


def draw_model(rng: random.Random, hardware: HardwareConfig) -> dict[str, Any]:
    """A model that this hardware takes, as `random_model` has it; often as large as it may be."""
    from tokenloom.compiler.errors import ConfigError
    from tokenloom.sim.random_models import random_model

    top = hardware.maxima

    def size(most: int, least: int = 1) -> int:
        return most if rng.random() < 0.3 else rng.randrange(min(least, most), most + 1)

    while True:
        kv_heads = size(top.kv_heads)
        model: dict[str, Any] = {
            "width": size(top.width),
            "ffn": size(top.ffn),
            "kv_heads": kv_heads,
            "heads": kv_heads * size(min(hardware.max_group, top.heads // kv_heads)),
            "head_size": 2 * size(top.head_size // 2),
            "vocab": size(top.vocab, 2),
            "layers": size(top.layers),
            "positions": 2 * top.positions,
            "tied": rng.random() < 0.5,
            "kind": rng.choice(_KINDS),
            "kinds": {name: rng.choice(_KINDS) for name in _MATRICES if rng.random() < 0.3},
            "seed": rng.getrandbits(20),
        }
        if model["kind"] in ("q4_0", "q4_1"):  # gate and up are one operation, with one width
            model["kinds"]["gate"] = rng.choice(("q4_0", "q4_1"))
        try:
            hardware.check_model(random_model(**model).shape)
        except ConfigError:
            continue
        return model


def cases(seed: int, configurations: int, shapes: int) -> Iterator[Case]:
    """Configurations, with so many models each."""
    from tokenloom.hw.config import load

    rng = random.Random(seed)
    for _ in range(configurations):
        overrides = draw_hardware(rng)
        hardware = load("mini", overrides)
        rows = hardware.array.rows
        edge = hardware.score_tokens if hardware.chunked else hardware.memory.page_tokens
        for number in range(shapes):
            new = rng.randrange(1, 5)
            most = hardware.maxima.positions - new + 1
            # Now and then over the end of a page, or of a chunk.
            count = rng.randrange(1, 2 * rows + 3) if number else rng.randrange(edge - 2, edge + 3)
            yield Case(
                overrides=overrides,
                model=draw_model(rng, hardware),
                prompt=min(count, most),
                new=new,
            )


def check_case(case: Case) -> tuple[str, int]:
    """Play a case on the simulated chip.

    Returns
    -------
    str
        What differs from golden model or prediction first; empty if nothing.
    int
        Operations compared.
    """
    from tokenloom.compiler.quantise import quantise
    from tokenloom.host.session import compare_with_golden, predictor
    from tokenloom.hw.config import load
    from tokenloom.sim.chip_device import ChipDevice
    from tokenloom.sim.measured import measured_passes, schedule_differences
    from tokenloom.sim.random_models import prompt_for, random_model

    hardware = load("mini", case.overrides)
    checkpoint = random_model(**case.model)
    model = quantise(checkpoint, positions=hardware.maxima.positions)
    prompt = prompt_for(model, case.prompt)
    chip = ChipDevice(model, hardware, soon=True)
    operations = 0
    try:
        records = list(chip.generate(prompt, case.new))
        difference = compare_with_golden(model, prompt, records)
        if difference is not None:
            return str(difference), operations
        predicted = predictor(chip)
        for record, measured in zip(records, measured_passes(chip.events(), records), strict=True):
            schedule = predicted(record.rows, record.pos, record.sample)
            operations += len(schedule.operations)
            wrong = schedule_differences(schedule, measured)
            if wrong:
                return f"pass at position {record.pos}: {wrong[0]}", operations
    finally:
        chip.close()
    return "", operations


@_row("generality", "cases equal", f"{_CONFIGURATIONS * _SHAPES} of {_CONFIGURATIONS * _SHAPES}",
      how="simulated")  # fmt: skip
def generality() -> Figure:
    """Random models on random hardware: golden model = RTL, predicted = measured."""
    drawn = list(cases(_SEED, _CONFIGURATIONS, _SHAPES))
    equal = operations = 0
    first = ""
    for case in progress.track(drawn, "models on hardware", len(drawn)):
        try:
            found, compared = check_case(case)
        except Exception as error:  # whatever it is, the case has failed
            found, compared = f"{type(error).__name__}: {error}", 0
        operations += compared
        equal += not found
        if found:
            progress.console().print(f"{case}: {found}", markup=False, soft_wrap=True)
            first = first or f"; first: {found}: {case}"
    detail = (
        f"{_SHAPES} random models on each of {_CONFIGURATIONS} random configurations (seed "
        f"{_SEED}): columns, rows, drain, ports, buffers, pages, norm lanes and maxima; odd widths "
        f"and head sizes, groups, Q8_0, Q4_0, Q4_1 and fp32 mixed, head tied or not; every logit "
        f"and token, first and last belt cycle of {operations:,} operations{first}"
    )
    return Figure(value=equal, detail=detail, ok=equal == len(drawn))


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Something impossible.

    Attributes
    ----------
    what : str
    tried : callable
        Raises a TokenloomError.
    told : tuple of str
        What its message has to name: the value, and what is allowed.
    """

    what: str
    tried: Callable[[], object]
    told: tuple[str, ...]

    def wrong(self) -> str:
        """What is wrong with the refusal; empty if nothing is."""
        from tokenloom.compiler.errors import TokenloomError

        try:
            self.tried()
        except TokenloomError as error:
            missing = [text for text in self.told if text not in str(error)]
            return f"{self.what}: {error}, without {missing}" if missing else ""
        except Exception as error:
            return f"{self.what}: {type(error).__name__}: {error}"
        return f"{self.what}: was taken"


def refusals(seed: int) -> Iterator[Refusal]:
    """Impossible hardware, models and requests, each with a value that is drawn."""
    rng = random.Random(seed)
    yield from _bad_hardware(rng)
    yield from _bad_models(rng)
    yield from _bad_requests(rng)


def _bad_hardware(rng: random.Random) -> Iterator[Refusal]:
    from tokenloom.hw.config import load
    from tokenloom.hw.numbers.formats import TOKENS_MAX

    odd = 2 * rng.randrange(1, 60) + 1
    wide = rng.randrange(513, 5000)
    for key, value, allowed in (
        ("array.columns", 2 * odd, "a power of two from 2 to 256"),
        ("array.columns", 1, "a power of two from 2 to 256"),
        ("array.columns", 1 << rng.randrange(9, 12), "a power of two from 2 to 256"),
        ("array.lanes", rng.choice((8, 16, 31, 64, 128)), "allowed is 32"),
        ("array.rows", 1 << rng.randrange(5, 9), "1 to 16"),
        ("array.rows", odd, "a power of two"),
        ("array.drain", 1 << rng.randrange(2, 7), "divides array.columns = 2"),
        ("array.drain", odd, "a power of two"),
        ("memory.port_bits", rng.choice((32, 64, 128, 1024)), "256 or 512"),
        ("memory.buffer_words", 1 << rng.randrange(5), "a power of two from 32"),
        ("memory.buffer_words", 32 + odd, "a power of two from 32"),
        ("memory.page_tokens", 1 << rng.randrange(6), "a power of two from 64"),
        ("memory.page_tokens", 1 << rng.randrange(9, 14), "to 256"),
        ("memory.pages", rng.randrange(1, 8), "8 to 65536"),
        ("memory.pages", 65536 + odd, "8 to 65536"),
        ("memory.slots", -rng.randrange(9), "1 or more"),
        ("memory.retries", 0, "1 or more"),
        ("norm_lanes", rng.choice((1, 4, 12, 64)), "8, 16 or 32"),
        ("maxima.head_size", odd, "an even number up to 256"),
        ("maxima.head_size", 256 + 2 * odd, "an even number up to 256"),
        ("maxima.kv_heads", rng.choice((3, 5, 6, 7)), "a divisor of maxima.heads = 8"),
        ("maxima.positions", TOKENS_MAX + odd, f"up to {TOKENS_MAX}"),
        ("maxima.layers", rng.randrange(256, 1000), "up to"),
        ("maxima.vocab", 1 << rng.randrange(24, 30), "up to"),
        ("maxima.width", 0, "1 or more"),
        ("board.clock_mhz", -float(odd), "a number above 0"),
        ("board.memory.ceiling", 1 + odd / 100, "above 0, up to 1"),
    ):
        override = f"{key}={value}"
        fits = ("memory.pages=65536",) if key == "maxima.positions" else ()
        yield Refusal(
            what=override,
            tried=lambda override=override, fits=fits: load("mini", (*fits, override)),  # type: ignore[misc]
            told=(f"{key}", f"= {value}", allowed),
        )
    for override, told in (
        (f"array.colums={wide}", ("array.colums", "did you mean columns?", "allowed")),
        ("array.rows=two", ("array.rows", "a whole number", "'two'")),
        (f"array.rows={wide}.5", ("array.rows", "a whole number", f"{wide}.5")),
    ):
        yield Refusal(
            what=override,
            tried=lambda override=override: load("mini", (override,)),  # type: ignore[misc]
            told=told,
        )


def _bad_models(rng: random.Random) -> Iterator[Refusal]:
    from tokenloom.hw.config import load
    from tokenloom.sim.random_models import random_model

    def model(what: str, told: tuple[str, ...], *overrides: str, **shape: Any) -> Refusal:
        def tried() -> None:
            load("mini", overrides).check_model(random_model(**shape).shape)

        return Refusal(what=f"{what} {shape}", tried=tried, told=told)

    over = rng.randrange(1, 40)
    for field, limit in (("width", 128), ("ffn", 384), ("vocab", 4096), ("layers", 8)):
        value = limit + over
        told = (f"its {field} is {value}", f"maxima.{field} is {limit}")
        yield model("a model beyond the maxima:", told, **{field: value})
    size = 16 + 2 * over
    told = (f"its head_size is {size}", "maxima.head_size is 16")
    yield model("a head beyond the maxima:", told, head_size=size)
    yield model("heads beyond the maxima:", ("its heads is 12", "maxima.heads is 8"), heads=12)
    yield model(
        "too large groups:", ("4 query heads per KV head", "the hardware", "2"),
        heads=4, kv_heads=1,
    )  # fmt: skip
    size = 4 * rng.randrange(1, 4) + 2
    yield model(
        "a head that is no multiple of the drain's words:",
        (f"its head_size is {size}", "a multiple of array.drain = 4"),
        "array.columns=4", "array.drain=4", head_size=size,
    )  # fmt: skip
    size = 32 + 2 * rng.randrange(1, 16)
    yield model(
        "a head whose last block the columns do not divide:",
        (f"its head_size is {size}", "array.columns = 64"),
        "array.columns=64", "maxima.head_size=64", head_size=size,
    )  # fmt: skip
    ffn = 32 * rng.randrange(1, 9) + 1
    yield model(
        "a short last block for many rows:",
        (f"an ffn of {ffn}", "array.rows is 8", "at most 2"), "array.rows=8", ffn=ffn,
    )  # fmt: skip
    for field, value, told in (
        ("head_size", 2 * over + 1, ("head_size is", "must be even")),
        ("heads", 3, ("heads (3)", "a multiple of kv_heads (2)")),
        ("vocab", 1, ("vocab is 1", "allowed are 2 to")),
        ("layers", 0, ("layers is 0", "allowed are 1 to")),
    ):
        yield model("no model:", told, **{field: value})

    def mixed() -> None:
        from tokenloom.compiler.image import lay_out
        from tokenloom.compiler.quantise import quantise

        kinds = {"gate": "q4_1", "up": "q8_0"}
        lay_out(quantise(random_model(kinds=kinds)), load("mini"))

    told = ("minima with 8-bit codes", "4-bit codes only")
    yield Refusal(what="gate and up of different widths", tried=mixed, told=told)


def _bad_requests(rng: random.Random) -> Iterator[Refusal]:
    from tokenloom.compiler.quantise import quantise
    from tokenloom.sim.memory import memory_profile
    from tokenloom.sim.random_models import random_model
    from tokenloom.sim.request import Sampling, check_request

    model = quantise(random_model(vocab=50, positions=40))
    bad, long = rng.randrange(50, 1 << 20), rng.randrange(38, 60)
    cold = -rng.randrange(1, 9)
    for what, tried, told in (
        ("no prompt", lambda: check_request(model, [], 1), ("is empty", "at least one token")),
        ("an unknown token", lambda: check_request(model, [1, bad], 1), (f"{bad}", "0 to 49")),
        ("a negative token", lambda: check_request(model, [cold], 1), (f"{cold}", "0 to 49")),
        ("no new token", lambda: check_request(model, [1], 0), ("0 new tokens", "1 and more")),
        (
            "a prompt beyond the context",
            lambda: check_request(model, [1] * long, 4),
            (f"{long} prompt tokens and 4", "the context of 40"),
        ),
        ("a temperature", lambda: Sampling(temperature=cold, seed=1), (f"{cold}", "allowed: 0")),
        ("a seed", lambda: Sampling(temperature=1.0, seed=cold), (f"{cold}", "allowed: 0 to")),
        ("a memory", lambda: memory_profile(f"hbm{bad}"), (f"hbm{bad}", "allowed are ideal")),
    ):
        yield Refusal(what=what, tried=tried, told=told)


@_row("refusals", "refused with the reason", ">= 30, all", how="checked")
def refused() -> Figure:
    """Impossible hardware, models and requests."""
    tried = list(refusals(_SEED))
    wrong = [found for refusal in tried if (found := refusal.wrong())]
    for found in wrong:
        progress.console().print(found, markup=False, soft_wrap=True)
    detail = (
        f"{len(tried)} impossible values of hardware, models and requests, drawn with seed "
        f"{_SEED}: each is refused by a message with the value and what is allowed"
        + (f"; first that is not: {wrong[0]}" if wrong else "")
    )
    good = len(tried) - len(wrong)
    return Figure(value=good, detail=detail, ok=good >= 30 and not wrong)
