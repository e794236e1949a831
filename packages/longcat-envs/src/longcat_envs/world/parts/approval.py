"""Approval: beyond a limit a value is set only after somebody who may has approved it."""

from __future__ import annotations

from ._arguments import take


def approval(name: str, positional: list[str], named: dict[str, str]) -> str:
    """Write out `approval(field, over=..., by=(class.field, option))`.

    Args:
        name: The class that has the field.
        positional: The field, of type money.
        named: `over`: up to this no approval is needed. `by`: the class of who approves.
            `who`: condition on `approver` that they must meet. `owner`: the way to the owner.
    """
    a = take(positional, named, first=("field",), rest={
        "over": "", "by": "", "who": "true", "owner": "-", "allowed": "true",
    })  # fmt: skip
    field, request = a["field"], f"{name}_{a['field']}_request"
    owner = f"owner(record.{a['owner']})" if a["owner"] != "-" else "pass"
    words = field.replace("_", " ")
    return f"""
class {name}:
    fixed({field})

    def set_{field}(amount: money):
        assert {a["allowed"]}, "the {words} is not changed now"
        assert amount >= 0, "an amount is not below zero"
        assert amount != {field}, "the {words} is already that"
        assert amount <= {a["over"]} or exists(r for r in {request}
            if r.record == self and r.state == approved and r.amount == amount),\\
            "a {words} beyond the limit is approved first"
        {field} = amount

    def request_{field}(amount: money):
        assert amount > {a["over"]}, "no approval is needed up to the limit"
        assert not exists(r for r in {request} if r.record == self and r.state == asked),\\
            "one request is decided before the next is made"
        new({request}, record=self, amount=amount, asked_on=today)

class {request}(made_by_tools):
    states(asked, approved, denied, withdrawn)
    {owner}
    record: {name}
    amount: money
    asked_on: date
    approver: optional({a["by"]}) = none
    withdraw = asked > withdrawn
    deny = asked > denied
    inside(deny, approve)

    def approve(by: {a["by"]}):
        asked > approved
        assert ({a["who"].replace("approver", "by")}), "only who may approve does so"
        approver = by
"""
