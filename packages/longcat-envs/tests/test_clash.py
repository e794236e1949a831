"""No two wishes of one person stand against one another, and none is said in broken words."""

from random import Random

import pytest
from longcat_envs.history import load_setting
from longcat_envs.lang import Type, show
from longcat_envs.tasks import Call, Figure, TaskMaker
from longcat_envs.tasks._chain import Chains
from longcat_envs.tasks._clash import Clash, suspensions
from longcat_envs.tasks._figures import figures_of, is_sensible
from longcat_envs.tasks._language import ENGLISH
from longcat_envs.tasks._phrases import left_out, named_once
from longcat_envs.world import LiveWorld

NUM = 6


def chains_of(name, number=0):
    setting = load_setting(name)
    people = setting.past(0).base.order[setting.spec.person]
    return Chains(setting, 0, people[number], Random(number))


def drawn(chains, name, after=()):
    """A call of a tool that succeeds after others."""
    for _ in range(60):
        chains.run(list(after))
        call = chains.draw(chains.tools[name])
        if call is not None and chains.run([*after, call])[1] is None:
            return call
    return None


def several(domain, *names):
    """Calls of these tools that succeed one after the other for some person, each as wished."""
    for number in range(24):
        chains, found = chains_of(domain, number), []
        for name in names:
            call = drawn(chains, name, found)
            if call is None:
                break
            found.append(call)
        if len(found) == len(names):
            yield chains, found


def test_a_chain_leads_where_it_leads_from_the_start():
    chains = chains_of("bank")
    calls = [c for c in map(chains.draw, chains.askable) if c is not None]
    fresh = LiveWorld(chains.setting.machine, chains.setting.past(0).base)
    rng, chain = Random(1), []
    for _ in range(150):
        chain = rng.choice(
            [chain[:-1], [*chain[:-1], rng.choice(calls)], [*chain, rng.choice(calls)]]
        )
        done, refused = chains.run(chain)
        fresh.reset()
        for call in chain[:done]:
            fresh.call(call.tool, call.arguments)
        assert (done == len(chain)) == (refused is None)
        assert [one.call for one in chains.done] == chain[:done]
        assert chains.world.store.difference() == fresh.store.difference()
        assert (chains.world.events, chains.world.touched) == (fresh.events, fresh.touched)
        chain = chain[:done]


def undone(setting, task):
    """How often a wish ends a record that an earlier wish wrote, made or made another for."""
    world = LiveWorld(setting.machine, setting.past(task.past).base)
    earlier, num = set(), 0
    for part in task.parts:
        here = set()
        for step in (s for s in part if s in task.writes and s.tool in setting.machine.tools):
            world.call(step.tool, step.arguments)
            for change in world.changes:
                one = setting.spec.classes[change.of]
                is_ended = change.after.get("state") in one.ends and change.before is not None
                num += is_ended and (change.of, change.id) in earlier
                here.add((change.of, change.id))
                here |= {(f.type.of, change.after[f.name]) for f in one.fields.values()
                         if f.type.kind == "ref" and f.type.of != setting.spec.person}  # fmt: skip
        earlier |= here
    return num


@pytest.mark.parametrize("name", ["airline", "laboratory"])
def test_no_wish_ends_what_an_earlier_one_was_for(name, monkeypatch):
    setting = load_setting(name)
    tasks = TaskMaker(setting, seed=71, pasts=[0])
    assert sum(undone(setting, next(tasks)) for _ in range(NUM)) == 0
    monkeypatch.setattr(Clash, "found", lambda self, chain: "")
    tasks = TaskMaker(setting, seed=71, pasts=[0])
    assert sum(undone(setting, next(tasks)) for _ in range(NUM)) > 0


def test_wishes_that_stand_against_one_another_are_told_apart():
    for chains, (one, other) in several("bank", "deposit_account", "freeze_account"):
        is_same = one.arguments["account_id"] == other.arguments["account_id"]
        assert chains.clash.found([one, other]) == ("undone" if is_same else "")
        helper = Call(one.tool, one.arguments, is_helper=True)
        chains.run([helper, other])
        assert chains.clash.found([helper, other]) == ""
    wishes = ("request_instalment_contract", "set_contract_instalment")
    hows = set()
    for chains, (one, other) in several("energy", *wishes):
        is_same = one.arguments["contract_id"] == other.arguments["contract_id"]
        how = chains.clash.found([one, other])
        hows.add((is_same, how))
        chains.run([other, one])
        assert chains.clash.found([other, one]) == how
    assert hows <= {(True, "asked for"), (False, "")}
    assert (True, "asked for") in hows


def test_what_is_to_be_ended_is_not_filled_before():
    hows = []
    for number in range(24):
        chains = chains_of("bank", number)
        for of, account in (("account", i) for i in chains.world.store.ids("account")):
            chains.run([])
            balance = show(Type("money"), chains.world.store.row(of, account)["balance"])
            take = Call("withdraw_account", {"account_id": account, "amount": balance})
            pay = Call("deposit_account", {"account_id": account, "amount": "5.00"})
            full = {"account_id": account, "amount": f"{float(balance) + 5:.2f}"}
            close = Call("close_account", {"account_id": account})
            for chain in ([take, close], [pay, Call(take.tool, full), close]):
                if chains.run(chain)[1] is None:
                    hows.append((len(chain), chains.clash.found_inside(chain)))
        if len(set(hows)) > 1:
            break
    assert set(hows) == {(2, ""), (3, "undone")}


def test_what_a_refused_wish_would_undo_counts_too():
    found = set()
    for chains, (one,) in several("bank", "deposit_account"):
        account = one.arguments["account_id"]
        chains.run([one])
        found.add(chains.clash.found_in([one], Call("close_account", {"account_id": account})))
    assert found == {"undone"}


def test_a_suspension_leads_back_and_a_beginning_does_not():
    setting = load_setting("bank")
    away = suspensions(setting.spec)
    assert away["account"] == {"frozen"}
    assert away["standing_order"] == {"paused"}
    assert not any(one.states[:1] and one.states[0] in away[of]
                   for of, one in setting.spec.classes.items())  # fmt: skip


def test_an_amount_is_moved_away_from_where_it_stands():
    tried = set()
    for chains, (one,) in several("bank", "transfer_account"):
        figure = Figure("account", one.arguments["account_id"], "balance")
        chains.run([])
        values = {f: value for f, value in figures_of(chains, []) if f.of == "account"}
        if values.get(figure, 0) <= 0:
            continue
        amount = show(Type("money"), values[figure])
        for name in ("transfer_account", "deposit_account"):
            arguments = {k: v for k, v in one.arguments.items() if name[0] == "t" or k != "target"}
            call = Call(name, {**arguments, "amount": amount}, {"amount": figure})
            if chains.run([call])[1] is None:
                tried.add((name, is_sensible(chains, call)))
    assert tried == {("transfer_account", True), ("deposit_account", False)}


def test_an_amount_that_nothing_moves_is_not_looked_up():
    limits = [
        is_sensible(chains, Call(one.tool, one.arguments, {"value": Figure("account", "A", "x")}))
        for chains, (one,) in several("bank", "set_card_cap")
    ]
    assert limits
    assert not any(limits)


def test_nothing_is_given_up_to_get_what_has_its_name():
    hows = set()
    for chains, (end, wish) in several("farm", "end_box", "create_box"):
        helper = Call(end.tool, end.arguments, is_helper=True)
        chains.run([])
        size = chains.world.store.row("box", end.arguments["box_id"])["size"]
        chains.run([helper, wish])
        hows.add((size == wish.arguments["size"], chains.clash.found_inside([helper, wish])))
    assert hows == {(True, "had"), (False, "")}


@pytest.mark.parametrize(
    ("way", "argument", "left"),
    [
        ("ask for an overdraft of {amount} on {self}", "amount", "ask for an overdraft on {self}"),
        ("book a visit to {doctor} on {day}, reason: {why}", "day",
         "book a visit to {doctor}, reason: {why}"),
        ("pay {amount} at {shop} with {self}", "amount", "pay at {shop} with {self}"),
        ("I need a {kind} permit from {start}", "start", "I need a {kind} permit"),
        ("move {amount} from {self} to {target}", "amount", "move some money from {self} to {target}"),
        ("add {pieces} of {item} to {self}", "pieces", "add {item} to {self}"),
        ("set the cap of {self} to {value}", "value", "set the cap of {self}"),
        ("write to me at {value} from now on", "value", ""),
        ("let {self} start on {day}", "day", ""),
        ("no payment over {value} with {self}, please", "value", ""),
    ],
)  # fmt: skip
def test_a_value_is_left_out_as_people_do(way, argument, left):
    assert left_out(way, argument, ENGLISH.left_out) == left


def test_a_record_is_not_named_beside_an_amount_of_it():
    pattern = ENGLISH.leads_to_record
    way = "transfer {amount} of {self} to my bank"
    assert named_once(way, "self", "amount", pattern) == "transfer {amount} to my bank"
    assert named_once("raise {self} by {amount}", "self", "amount", pattern) == ""
    found = []
    for name in ("bank", "airline", "gym"):
        maker = TaskMaker(load_setting(name), seed=72, pasts=[0])
        found += [t for t in (next(maker) for _ in range(NUM)) if "computed" in t.tags]
    said = " ".join(text for task in found for text in task.wishes)
    assert "from it" not in said
    assert "of it " not in said
    assert "the balance of" not in said.replace("whole balance", "").split("Before I go")[0]
