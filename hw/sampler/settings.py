"""What a row's sampler is told: one table of fields, from people's numbers to integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction

from tokenloom.hw.numbers.formats import SCORE_FRAC
from tokenloom.hw.numbers.tables import log2_e
from tokenloom.hw.sampler.sampling import (
    NOISE_MANTISSA_BITS,
    NOISE_SHIFT_BITS,
    SEED_BITS,
    NoiseScale,
    noise_scale,
    normalised,
)

__all__ = [
    "BIASES_MAX",
    "CANDIDATES_MAX",
    "FACTOR_FRAC",
    "FIELDS",
    "SHARE_FRAC",
    "VOCAB_BITS_MAX",
    "WINDOW_MAX",
    "Settings",
    "bias_table",
    "make_settings",
    "power_scale",
]

CANDIDATES_MAX = 64  # ids that the cut-offs look at
WINDOW_MAX = 64  # tokens in which repetitions are looked for
BIASES_MAX = 32  # ids with a bias
VOCAB_BITS_MAX = 20  # of an id where candidates are kept: that many powers fit the sum
SHARE_FRAC = 16  # fraction bits of top-p and min-p
FACTOR_FRAC = 14  # fraction bits of the repetition's two factors
FACTOR_BITS = 16
FACTOR_ONE = 1 << FACTOR_FRAC
PENALTY_LEAST, PENALTY_MOST = Fraction(1, 4), 4  # both ends not included

FIELDS: Mapping[str, int] = {
    "seed": SEED_BITS,
    "mantissa": NOISE_MANTISSA_BITS,
    "shift": NOISE_SHIFT_BITS,
    "count": CANDIDATES_MAX.bit_length(),
    "limited": 1,
    "top_p": SHARE_FRAC,
    "min_p": SHARE_FRAC,
    "power_mantissa": NOISE_MANTISSA_BITS,
    "power_shift": NOISE_SHIFT_BITS,
    "window": WINDOW_MAX.bit_length(),
    "up": FACTOR_BITS,
    "down": FACTOR_BITS,
    "biases": BIASES_MAX.bit_length(),
    "masked": 1,
}
"""Field -> bits, lowest first: `noise.SAMPLING` and a card's registers follow it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The fields of `FIELDS` (docs/numbers.md, points 16 to 19).

    Attributes
    ----------
    seed : int
    mantissa, shift : int
        The temperature (`sampling.NoiseScale`).
    count : int
        Candidates: top-k's k, otherwise as many as the hardware keeps; 0 without a list.
    limited : int
        1: top-k cuts, and top-p's share is one of the k candidates' sum.
    top_p, min_p : int
        Shares with `SHARE_FRAC` fraction bits; 0: off.
    power_mantissa, power_shift : int
        log2(e) / T in units of a power (`power_scale`).
    window : int
        Tokens in which repetitions are looked for; 0: none.
    up, down : int
        The penalty and its reciprocal, `FACTOR_FRAC` fraction bits: for logits below zero, and
        for the others.
    biases : int
        Entries of the bias table that are used.
    masked : int
        1: the ids' mask counts.
    """

    seed: int = 0
    mantissa: int = 0
    shift: int = 0
    count: int = 0
    limited: int = 0
    top_p: int = 0
    min_p: int = 0
    power_mantissa: int = 0
    power_shift: int = 0
    window: int = 0
    up: int = FACTOR_ONE
    down: int = FACTOR_ONE
    biases: int = 0
    masked: int = 0

    def __post_init__(self) -> None:
        for name, bits in FIELDS.items():
            if not 0 <= getattr(self, name) < 1 << bits:
                raise ValueError(f"{name} = {getattr(self, name)} does not fit its {bits} bits")
        if self.cuts and not self.count:
            raise ValueError("count is 0; allowed with a cut-off: 1 or more, for it cuts in a list")

    @property
    def scale(self) -> NoiseScale:
        """The temperature."""
        return NoiseScale(self.mantissa, self.shift)

    @property
    def cuts(self) -> bool:
        """Whether the token is one of the candidates."""
        return bool(self.limited or self.top_p or self.min_p)

    @property
    def adjusts(self) -> bool:
        """Whether logits take the way through `LogitRules`; the list lies behind it."""
        return bool(self.window or self.biases or self.masked or self.count)

    def word(self) -> int:
        """All fields side by side, the first one lowest."""
        word = at = 0
        for name, bits in FIELDS.items():
            word |= getattr(self, name) << at
            at += bits
        return word


assert set(FIELDS) == {field.name for field in fields(Settings)}


def power_scale(temperature: float, fraction_bits: int) -> NoiseScale:
    """log2(e) / T in units of a power, for logits with `fraction_bits` fraction bits.

    A power is `rs(logit * mantissa, shift)` with `SCORE_FRAC` fraction bits.

    Raises
    ------
    ValueError
        When the temperature is beyond what such logits allow.
    """
    exact = log2_e() / Fraction(temperature) * Fraction(2) ** (SCORE_FRAC - fraction_bits)
    scale = normalised(exact)
    if scale is None:
        raise ValueError(
            f"temperature {temperature:g} is beyond what the cut-offs allow for logits with "
            f"{fraction_bits} fraction bits"
        )
    return scale


def _share(value: float) -> int:
    """A share in 0..1 exclusive as `SHARE_FRAC` bits, at least one unit."""
    return min(max(1, int(Fraction(value) * (1 << SHARE_FRAC) + Fraction(1, 2))),
               (1 << SHARE_FRAC) - 1)  # fmt: skip


def _factor(value: Fraction) -> int:
    """A factor below 4 with `FACTOR_FRAC` fraction bits, at most the largest that there is."""
    return min(int(value * FACTOR_ONE + Fraction(1, 2)), (1 << FIELDS["up"]) - 1)


def make_settings(
    *,
    fraction_bits: int,
    temperature: float = 0.0,
    seed: int = 0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    penalty: float = 1.0,
    window: int = WINDOW_MAX,
    biases: int = 0,
    masked: bool = False,
    candidates: int = CANDIDATES_MAX,
    listed: bool = False,
) -> Settings:
    """A request's numbers as the hardware takes them.

    Parameters
    ----------
    fraction_bits : int
        Of the logits.
    temperature, seed
        0: the largest logit wins.
    top_k : int
        0: off.
    top_p : float
        1: off. Alone it is limited to the `candidates` largest logits.
    min_p : float
        0: off.
    penalty : float
        On repetition; 1: off.
    window : int
        Tokens looked at, 1 to `WINDOW_MAX`.
    biases : int
        Entries of the bias table.
    masked : bool
        Whether the mask counts.
    candidates : int
        As many as the hardware keeps.
    listed : bool
        The list is wanted, whether anything cuts or not.

    Raises
    ------
    ValueError
        When a number is not allowed; the message says what is.
    """
    for name, value, good, allowed in (
        ("top_k", top_k, 0 <= top_k <= candidates, f"0 (off) to {candidates}"),
        ("top_p", top_p, 0 < top_p <= 1, "above 0, up to 1 (off)"),
        ("min_p", min_p, 0 <= min_p < 1, "0 (off) or more, below 1"),
        ("repetition_penalty", penalty, PENALTY_LEAST < penalty < PENALTY_MOST,
         "above 0.25, below 4; 1 is off"),
        ("repetition_window", window, 1 <= window <= WINDOW_MAX, f"1 to {WINDOW_MAX}"),
        ("biases", biases, 0 <= biases <= BIASES_MAX, f"0 to {BIASES_MAX}"),
    ):  # fmt: skip
        if not good:
            raise ValueError(f"{name} {value:g} is impossible; allowed: {allowed}")
    scale = noise_scale(temperature, fraction_bits)
    cuts = bool(top_k or top_p < 1 or min_p)
    # Without a temperature the list's probabilities are those of temperature 1.
    power = power_scale(temperature or 1.0, fraction_bits) if cuts or listed else NoiseScale(0, 0)
    repeats = penalty != 1
    exact = Fraction(penalty)
    return Settings(
        seed=seed,
        mantissa=scale.mantissa,
        shift=scale.shift,
        count=(top_k or candidates) if cuts or listed else 0,
        limited=int(bool(top_k)),
        top_p=_share(top_p) if top_p < 1 else 0,
        min_p=_share(min_p) if min_p else 0,
        power_mantissa=power.mantissa,
        power_shift=power.shift,
        window=window if repeats else 0,
        up=_factor(exact) if repeats else FACTOR_ONE,
        down=_factor(1 / exact) if repeats else FACTOR_ONE,
        biases=biases,
        masked=int(masked),
    )


def bias_table(biases: Mapping[int, float], fraction_bits: int) -> Sequence[tuple[int, int]]:
    """(id, bias) in the order of the ids, the bias as fixed32 of the logits' format, clamped."""
    low, high = -(1 << 31), (1 << 31) - 1
    unit = Fraction(2) ** fraction_bits
    return [
        (token, min(max(round(Fraction(value) * unit), low), high))
        for token, value in sorted(biases.items())
    ]
