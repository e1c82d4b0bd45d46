"""What the harness for mutants notices, with a block that has one term too many."""

from tests.mutation.mutation import mutate
from tests.mutation.toy import Toy

COUNT = 8


def test_what_is_noticed():
    looks, away = (
        mutate(Toy(), "tests.mutation.toy", count=COUNT, parameters={"look": look})
        for look in (True, False)
    )
    for found in (looks, away):
        assert not found.unnoticed
        assert (
            found.killed + sum(map(len, (found.equivalent, found.alike, found.survived))) == COUNT
        )
    assert looks.equivalent, "the term that never matters"
    assert looks.share == 1, looks
    assert away.killed == 0, away
    # What one bench kills is not proved to be equivalent with the other.
    assert away.equivalent == looks.equivalent
