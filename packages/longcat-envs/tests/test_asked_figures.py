"""The number that a person wants to hear at the end."""

from collections import Counter
from random import Random

import pytest
from longcat_envs.history import load_setting
from longcat_envs.tasks import Call
from longcat_envs.tasks._chain import Chains
from longcat_envs.tasks._figures import figures_of
from longcat_envs.tasks._say import Speaker
from longcat_envs.tasks._talk import Talk

NUM = 12


@pytest.mark.parametrize("name", ["bank", "gym"])
def test_nobody_asks_after_the_record_of_what_is_refused(name):
    """As if it were done; with no record left to ask after, nothing is asked."""
    setting = load_setting(name)
    people = setting.past(0).base.order[setting.spec.person]
    num_asked = 0
    for person in people[:NUM]:
        rng = Random(person)
        chains = Chains(setting, 0, person, rng)
        talk = Talk(setting, chains, Speaker(setting, chains, rng), rng)
        chain = [c for c in [chains.plain([], Counter(), chains.draw)] if c is not None]
        chains.run(chain)
        records = sorted({figure.id for figure, _ in figures_of(chains, chain)})

        def asked(refused, chains=chains, talk=talk, chain=chain):
            found = talk.figure(chain, 1, is_with_wish=False, is_alone=False, refused=refused)
            return None if found is None else found[0].steps[-1].arguments

        if asked(None) is None:
            continue
        num_asked += 1
        every = Call("refused", {f"id{n}": record for n, record in enumerate(records)})
        assert asked(every) is None
        for record in records:
            arguments = [asked(Call("refused", {"id": record})) for _ in range(4)]
            assert all(record not in a.values() for a in arguments if a is not None)
    assert num_asked > NUM // 3
