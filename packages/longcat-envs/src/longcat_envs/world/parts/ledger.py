"""Ledger: a balance that agrees with its entries; money moves between records, in two entries."""

from __future__ import annotations

from ._arguments import take


def ledger(name: str, positional: list[str], named: dict[str, str]) -> str:
    """Write out `ledger(working=..., available=..., closed=...)`.

    Args:
        name: The class that has the balance.
        positional: None.
        named: `working`: condition under which money moves. `available`: what may be taken out.
            `into` and `out`: names of the two tools. `transfer`: name of the third, or `none`.
    """
    a = take(positional, named, first=(), rest={
        "working": "true", "available": "balance", "into": "deposit", "out": "withdraw",
        "transfer": "transfer",
    })  # fmt: skip
    hidden = "_" if a["transfer"] == "none" else ""
    transfer = "pass_on" if hidden else a["transfer"]
    return f"""
class {name}:
    balance: money = 0
    fixed(balance)
    available = {a["available"]}
    never(balance != sum(e.amount for e in {name}_entry if e.{name} == self),
          "the balance is the sum of the entries")

    def {a["into"]}(amount: money):
        assert {a["working"]}, "no money moves on this {name.replace("_", " ")} now"
        assert amount > 0, "an amount is above zero"
        balance = balance + amount
        new({name}_entry, {name}=self, kind=paid_in, amount=amount, day=today)

    def {a["out"]}(amount: money):
        assert {a["working"]}, "no money moves on this {name.replace("_", " ")} now"
        assert amount > 0, "an amount is above zero"
        assert amount <= available, "no more is taken than is available"
        balance = balance - amount
        new({name}_entry, {name}=self, kind=paid_out, amount=0 - amount, day=today)

    def {hidden}{transfer}(target: {name}, amount: money):
        assert target != self, "money moves between two different ones"
        assert {a["working"]}, "no money moves on this {name.replace("_", " ")} now"
        assert amount > 0, "an amount is above zero"
        assert amount <= available, "no more is taken than is available"
        target._receive(amount)
        balance = balance - amount
        new({name}_entry, {name}=self, kind=moved_out, amount=0 - amount, day=today)

    def _receive(amount: money):
        assert {a["working"]}, "no money moves on this {name.replace("_", " ")} now"
        balance = balance + amount
        new({name}_entry, {name}=self, kind=moved_in, amount=amount, day=today)

class {name}_entry(made_by_tools):
    {name}: {name}
    kind: enum(paid_in, paid_out, moved_in, moved_out)
    amount: money
    day: date
"""
