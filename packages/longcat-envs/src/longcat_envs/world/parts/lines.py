"""Order with lines: goods, pieces and prices that add up, open until the order is placed."""

from __future__ import annotations

from ._arguments import take


def lines(name: str, positional: list[str], named: dict[str, str]) -> str:
    """Write out `lines(item, price=..., while_state=...)`.

    Args:
        name: The class of the orders.
        positional: The class of what is ordered.
        named: `price`: field of it that is agreed when a line is added. `draft`: the state in
            which lines change. `most`: pieces of one line. `owner`: the way to the owner.
    """
    a = take(positional, named, first=("item",), rest={
        "price": "price", "draft": "", "most": "20", "owner": "-", "offered": "true",
    })  # fmt: skip
    item, line = a["item"], f"{name}_line"
    owner = f"owner(order.{a['owner']})" if a["owner"] != "-" else "pass"
    return f"""
class {name}:
    total = sum(l.price * l.pieces for l in {line} if l.order == self and l.state == listed)
    num_lines = count(l for l in {line} if l.order == self and l.state == listed)

    def add_line(item: {item}, pieces: int):
        assert state == {a["draft"]}, "lines are changed until it is placed"
        assert ({a["offered"]}), "that is not offered now"
        assert pieces > 0 and pieces <= {a["most"]}, "a line has one to {a["most"]} pieces"
        assert not exists(l for l in {line}
            if l.order == self and l.item == item and l.state == listed),\\
            "there is one line for each thing"
        new({line}, order=self, item=item, pieces=pieces, price=item.{a["price"]})

class {line}(made_by_tools):
    states(listed, removed)
    {owner}
    order: {name}
    item: {item}
    pieces: int
    price: money

    def change(pieces_new: int):
        assert state == listed, "a line that was removed is not changed"
        assert order.state == {a["draft"]}, "lines are changed until it is placed"
        assert pieces_new > 0 and pieces_new <= {a["most"]}, "a line has one to {a["most"]} pieces"
        assert pieces_new != pieces, "the line has that many pieces already"
        pieces = pieces_new

    def remove():
        listed > removed
        assert order.state == {a["draft"]}, "lines are changed until it is placed"
"""
