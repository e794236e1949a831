"""The wishes of a deep task have to do with one another, and none is what nobody would ask for."""

from collections import Counter

import pytest
from longcat_envs.history import load_setting
from longcat_envs.tasks import Call, Figure, TaskMaker, linked
from longcat_envs.tasks._call import groups
from longcat_envs.tasks._chain import Chains
from longcat_envs.tasks._figures import is_amount
from longcat_envs.tasks._links import Links
from longcat_envs.tasks._sense import (
    MOST_OWN,
    about,
    is_asked_again,
    led_to,
    moves_twice,
    names_twice,
)
from longcat_envs.tasks._talk import _IS_RULE

NUM = 6


@pytest.fixture(scope="module")
def bank():
    return load_setting("bank")


def share_linked(setting):
    maker = TaskMaker(setting, seed=61, pasts=range(2))
    found = [linked(setting, next(maker)) for _ in range(NUM)]
    return sum(some for some, _ in found) / sum(whole for _, whole in found)


def test_most_wishes_are_about_a_record_of_an_earlier_one(monkeypatch):
    setting = load_setting("insurance")
    share = share_linked(setting)
    assert share >= 0.6
    monkeypatch.setattr(Links, "drawer", lambda self, chain, *, is_loose=False: self.chains.draw)
    assert share_linked(setting) < share - 0.1


def test_a_task_asks_for_each_thing_once(bank):
    maker = TaskMaker(bank, seed=62, pasts=range(2))
    for task in (next(maker) for _ in range(NUM)):
        for part in task.parts:
            counts = Counter(step.tool for step in part if step in task.writes)
            assert all(n <= 2 or tool.startswith("add_") for tool, n in counts.items())
        own = [s.tool for s in task.writes if s.tool in bank.machine.tools
               and bank.machine.tools[s.tool].of == bank.spec.person]  # fmt: skip
        assert len(own) <= MOST_OWN + 1  # one may make another wish possible


def test_a_card_leads_to_its_account_and_not_to_its_holder(bank):
    store = Chains(bank, 0, bank.past(0).base.order["customer"][0], None).world.store
    card = store.ids("card")[0]
    account = store.row("card", card)["account"]
    assert led_to(bank.spec, store, ("card", card)) == {("card", card), ("account", account)}
    tool = bank.machine.tools["create_account"]
    holder = {"holder": store.ids("customer")[0], "kind": "joint"}
    assert about(bank.spec, store, tool, holder) == set()
    phone = {"customer_id": store.ids("customer")[0], "value": "1 2"}
    set_phone = bank.machine.tools["set_customer_phone"]
    assert about(bank.spec, store, set_phone, phone) == {("customer", phone["customer_id"])}


def test_what_nobody_would_ask_for(bank):
    chains = Chains(bank, 0, bank.past(0).base.order["customer"][0], None)
    pay = Call("deposit_account", {"account_id": "A", "amount": "5.00"})
    draw = Call("withdraw_account", {"account_id": "A", "amount": "9.00"})
    assert moves_twice(chains, pay, draw)
    assert not moves_twice(chains, pay, Call("withdraw_account", {"account_id": "B"}))
    assert not moves_twice(chains, pay, Call("close_account", {"account_id": "A"}))
    assert names_twice(chains.tools["transfer_account"], {"account_id": "A", "target": "A"})
    assert not names_twice(chains.tools["transfer_account"], {"account_id": "A", "target": "B"})
    assert not is_amount(chains.tools, Figure("card", "C", "cap"))
    assert is_amount(chains.tools, Figure("account", "A", "balance"))
    assert is_asked_again(chains, [pay], pay)
    line = Call("add_line_cart", {"cart_id": "C"})
    assert not is_asked_again(chains, [line], line)
    own = [Call("set_customer_phone", {}), Call("set_customer_email", {})]
    assert is_asked_again(chains, own, Call("change_branch_customer", {}))
    assert not is_asked_again(chains, own[:1], Call("change_branch_customer", {}))


@pytest.mark.parametrize(
    ("reason", "is_rule"),
    [
        ("an account is emptied before it is closed", True),
        ("only an active card pays", True),
        ("another number, six at most", False),
        ("the order is not due yet", False),
        ("that colleague is away", False),
    ],
)
def test_only_rules_of_which_one_may_have_heard_are_said(reason, is_rule):
    assert bool(_IS_RULE.match(reason)) is is_rule


def test_a_wish_and_what_makes_it_possible_are_one_message():
    helper, wish = Call("a", {}, is_helper=True), Call("b", {})
    assert groups([helper, helper, wish, wish, helper, wish]) == [(0, 3), (3, 4), (4, 6)]
