"""The protocol checker: for every rule a sequence that keeps it and one that breaks it."""

import pytest

from tokenloom.compiler.errors import TokenloomError
from tokenloom.sim.memory import AxiChecker, AxiMaster, AxiSlave, axi_rules

BEAT = 32
SIZE = 5
READS, WRITES, PATIENCE = 2, 2, 5


def cycle(**values):
    """One cycle's signals: AR and AW fields as ar_addr=..., the others by their own names."""
    master, slave = AxiMaster(), AxiSlave()
    master.r_ready = master.b_ready = 1
    slave.ar_ready = slave.aw_ready = slave.w_ready = 1
    reset = values.pop("reset", False)
    for channel in ("ar", "aw"):
        address = getattr(master, channel)
        address.size, address.burst = SIZE, 1
        for field in ("valid", "id", "len", "size", "burst", "addr"):
            if f"{channel}_{field}" in values:
                setattr(address, field, values.pop(f"{channel}_{field}"))
    for name, value in values.items():
        target = master if hasattr(master, name) else slave
        if name in ("w_data", "r_data"):
            getattr(target, name)[0] = value
        else:
            assert hasattr(target, name), name
            setattr(target, name, value)
    return master, slave, reset


def ar(**more):
    return dict(ar_valid=1, ar_addr=0x1000) | more


def aw(**more):
    return dict(aw_valid=1, aw_addr=0x1000) | more


def w(**more):
    return dict(w_valid=1, w_last=1, w_strobe=1) | more


def r(**more):
    return dict(r_valid=1, r_last=1) | more


def b(**more):
    return dict(b_valid=1) | more


READ = [ar(), r()]
WRITE = [aw() | w(), b()]
SLOW = dict(ar_ready=0)

# rule: (sequences that keep it, sequences that break it in their last cycle)
CASES = {
    "AR_RESET": ([[dict(reset=True)] + READ], [[dict(reset=True, **ar())]]),
    "AR_STABLE": (
        [[ar(ar_ready=0), ar(ar_ready=0), ar(), r()]],
        [
            [ar(ar_ready=0), {}],
            [ar(ar_ready=0), ar(ar_addr=0x2000)],
            [ar(ar_ready=0), ar(ar_len=1)],
            [ar(ar_ready=0), ar(ar_ready=0), ar(ar_id=1)],
        ],
    ),
    "AR_LEN": ([[ar(ar_len=15)]], [[ar(ar_len=16)]]),
    "AR_BOUNDARY": (
        [[ar(ar_addr=0x1E00, ar_len=15)]],
        [[ar(ar_addr=0x1E20, ar_len=15)], [ar(ar_addr=0x1FE0, ar_len=1)]],
    ),
    "AR_ALIGN": ([[ar(ar_addr=0x1020)]], [[ar(ar_addr=0x1010)], [ar(ar_addr=0x1001)]]),
    "AR_SIZE": ([READ], [[ar(ar_size=4)], [ar(ar_size=6)]]),
    "AR_BURST": ([READ], [[ar(ar_burst=0)], [ar(ar_burst=2)]]),
    "AR_OUTSTANDING": (
        [[ar(), ar(), r(), ar(), r(), r()], [ar(), ar(), ar() | r()]],
        [[ar(), ar(), ar()], [ar(), ar(), ar() | r(), ar()]],
    ),
    "AW_RESET": ([[dict(reset=True)] + WRITE], [[dict(reset=True, **aw())]]),
    "AW_STABLE": (
        [[aw(aw_ready=0), aw(aw_ready=0) | w(), aw(), b()]],
        [
            [aw(aw_ready=0), {}],
            [aw(aw_ready=0), aw(aw_addr=0x2000)],
            [aw(aw_ready=0), aw(aw_len=1)],
        ],
    ),
    "AW_LEN": ([[aw(aw_len=15)]], [[aw(aw_len=16)]]),
    "AW_BOUNDARY": ([[aw(aw_addr=0x1FE0)]], [[aw(aw_addr=0x1FE0, aw_len=1)]]),
    "AW_ALIGN": ([[aw(aw_addr=0x1020)]], [[aw(aw_addr=0x1008)]]),
    "AW_SIZE": ([WRITE], [[aw(aw_size=2)]]),
    "AW_BURST": ([WRITE], [[aw(aw_burst=0)]]),
    "AW_OUTSTANDING": (
        [[aw() | w(), aw() | w(), b(), aw() | w(), b(), b()]],
        [[aw(), aw(), aw()], [aw() | w(), aw() | w(), aw() | w() | b(), aw()]],
    ),
    "W_RESET": ([[dict(reset=True)] + WRITE], [[dict(reset=True, **w())]]),
    "W_STABLE": (
        [[w(w_ready=0), w(w_ready=0) | aw(), w(), b()]],
        [
            [w(w_ready=0), {}],
            [w(w_ready=0), w(w_data=7)],
            [w(w_ready=0), w(w_strobe=2)],
            [w(w_ready=0), w(w_last=0)],
        ],
    ),
    "W_LAST": (
        [
            [aw(aw_len=1), w(w_last=0), w(), b()],
            [w(w_last=0), w(), aw(aw_len=1), b()],
            WRITE + WRITE,
        ],
        [
            [aw(aw_len=1), w()],
            [aw(), w(w_last=0)],
            [w(), aw(aw_len=1)],
            [aw() | w(), aw(aw_len=2), w(w_last=0), w()],
        ],
    ),
    "W_STROBE": (
        [[aw() | w(w_strobe=0xFFFFFFFF)]],
        [[w(w_strobe=0)], [w(w_strobe=1 << 32)]],
    ),
    "W_ID": ([[aw(aw_id=3), w(w_id=3), b(b_id=3)]], [[aw(aw_id=3), w(w_id=2)]]),
    "R_RESET": ([[dict(reset=True)] + READ], [[dict(reset=True, **r())]]),
    "R_STABLE": (
        [[ar(), r(r_ready=0), r(r_ready=0), r()]],
        [
            [ar(), r(r_ready=0), {}],
            [ar(), r(r_ready=0), r(r_data=1)],
            [ar(), r(r_ready=0), r(r_resp=2)],
        ],
    ),
    "R_UNASKED": ([READ + READ], [[r()], [ar() | r()], READ + [r()]]),
    "R_LAST": (
        [[ar(ar_len=2), r(r_last=0), r(r_last=0), r()]],
        [[ar(ar_len=2), r(r_last=0), r()], [ar(), r(r_last=0)]],
    ),
    "R_ID": ([[ar(ar_id=5), r(r_id=5)]], [[ar(ar_id=5), r(r_id=4)]]),
    "R_RESP": ([[ar(), r(r_resp=2)], [ar(), r(r_resp=3)]], [[ar(), r(r_resp=1)]]),
    "R_READY": (
        [[ar()] + [r(r_ready=0)] * PATIENCE + [r()]],
        [[ar()] + [r(r_ready=0)] * (PATIENCE + 1)],
    ),
    "B_RESET": ([[dict(reset=True)] + WRITE], [[dict(reset=True, **b())]]),
    "B_STABLE": (
        [[aw() | w(), b(b_ready=0), b(b_ready=0), b()]],
        [[aw() | w(), b(b_ready=0), {}], [aw() | w(), b(b_ready=0), b(b_resp=2)]],
    ),
    "B_UNASKED": (
        [WRITE, [w(), aw(), b()]],
        [[b()], [aw(), b()], [w(), b()], [aw() | w() | b()], WRITE + [b()]],
    ),
    "B_ID": ([[aw(aw_id=2) | w(w_id=2), b(b_id=2)]], [[aw() | w(), b(b_id=1)]]),
    "B_RESP": ([[aw() | w(), b(b_resp=2)]], [[aw() | w(), b(b_resp=1)]]),
    "B_READY": (
        [[aw() | w()] + [b(b_ready=0)] * PATIENCE + [b()]],
        [[aw() | w()] + [b(b_ready=0)] * (PATIENCE + 1)],
    ),
}


def checker():
    return AxiChecker(
        beat_bytes=BEAT, reads=READS, writes=WRITES, patience=PATIENCE, name="channel 3"
    )


def play(sequence):
    """Cycles played before a rule broke, and the message; None if none did."""
    port = checker()
    for number, values in enumerate(sequence, 1):
        master, slave, reset = cycle(**values)
        try:
            port.check(master, slave, reset=reset)
        except TokenloomError as error:
            return number, str(error)
    return None


def test_every_rule_has_its_cases():
    assert list(CASES) == axi_rules()


@pytest.mark.parametrize("rule", CASES)
def test_kept(rule):
    for sequence in CASES[rule][0]:
        assert play(sequence) is None


@pytest.mark.parametrize("rule", CASES)
def test_broken(rule):
    for sequence in CASES[rule][1]:
        broken = play(sequence)
        assert broken is not None, f"{sequence} went unnoticed"
        number, message = broken
        assert number == len(sequence)
        assert message.startswith(f"AXI rule {rule} broken on channel 3 in cycle {number}, ")


def test_message_has_the_address():
    _, message = play([{}, ar(ar_addr=0x1234)])
    assert "cycle 2, address 0x1234: a read address is a multiple of the beat" in message


def test_first_rule_stays():
    port = checker()
    for values in (ar(ar_addr=0x1234), ar(ar_size=1)):
        with pytest.raises(TokenloomError, match="AR_ALIGN"):
            port.check(*cycle(**values)[:2])
