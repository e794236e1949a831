"""Stock: pieces on hand that agree with what came and went, and pieces set aside for people."""

from __future__ import annotations

from ._arguments import take


def stock(name: str, positional: list[str], named: dict[str, str]) -> str:
    """Write out `stock(who, hold=..., price=..., pay=...)`.

    Args:
        name: The class of goods that has the pieces.
        positional: The class of those for whom pieces are set aside.
        named: `hold`: name of the class of what is set aside. `most`: pieces of one hold. `lot`:
            pieces of one delivery. `days`: how long it is kept. `offered`: condition on a hold
            under which it is made. `price`: field of the goods that is agreed then. `pay`: an
            action, done when it is collected.
    """
    a = take(positional, named, first=("who",), rest={
        "hold": f"{name}_hold", "most": "5", "lot": "50", "days": "14", "offered": "-",
        "price": "-", "pay": "pass",
    })  # fmt: skip
    who, hold, most, days = a["who"], a["hold"], a["most"], a["days"]
    offered = f'assert ({a["offered"]}), "that is not given out now"' * (a["offered"] != "-")
    price = f"price: money = agreed({name}.{a['price']})" if a["price"] != "-" else "pass"
    cost = "cost = price * pieces" if a["price"] != "-" else "pass"
    return f"""
class {name}:
    on_hand: int = 0
    fixed(on_hand)
    set_aside = sum(h.pieces for h in {hold} if h.{name} == self and h.state == held)
    free = on_hand - set_aside
    never(on_hand != sum(m.pieces for m in {name}_movement if m.{name} == self),
          "the stock is the sum of what came and went")
    never(free < 0, "no more is promised than is there")
    inside(receive, write_off)

    def receive(pieces: int):
        assert pieces > 0 and pieces <= {a["lot"]}, "a delivery has one to {a["lot"]} pieces"
        on_hand = on_hand + pieces
        new({name}_movement, {name}=self, kind=came, pieces=pieces, day=today)

    def write_off(pieces: int):
        assert pieces > 0, "one piece at least is written off"
        assert pieces <= free, "what is set aside is not written off"
        on_hand = on_hand - pieces
        new({name}_movement, {name}=self, kind=lost, pieces=0 - pieces, day=today)

    def _hand_out(pieces: int):
        on_hand = on_hand - pieces
        new({name}_movement, {name}=self, kind=went, pieces=0 - pieces, day=today)

    def find_scarce_{name}(below: int):
        return [x for x in {name} if x.free < below]

class {name}_movement(made_by_tools):
    {name}: {name}
    kind: enum(came, went, lost)
    pieces: int
    day: date

class {hold}:
    owner({who})
    {who}: {who}
    {name}: {name}
    pieces: int
    last_day: date
    {price}
    {cost}
    fixed(pieces, last_day)
    states(held, collected, released)
    release = held > released

    def create():
        {offered or "pass"}
        assert pieces > 0 and pieces <= {most}, "one to {most} pieces are set aside at a time"
        assert last_day >= today, "a day that is past is no day to keep something until"
        assert last_day - today <= {days}, "nothing is kept longer than {days} days"
        assert {name}.free >= 0, "no more is set aside than is free"
        assert not exists(h for h in {hold} if h.{who} == {who} and h.{name} == {name}
            and h.state == held and h != self), "a thing is set aside once for each"

    def change_pieces(pieces_new: int):
        assert state == held, "only what is still set aside is changed"
        assert pieces_new > 0 and pieces_new <= {most},\\
            "one to {most} pieces are set aside at a time"
        assert pieces_new != pieces, "that many pieces are set aside already"
        assert pieces_new - pieces <= {name}.free, "no more is set aside than is free"
        pieces = pieces_new

    def keep_until(last_day_new: date):
        assert state == held, "only what is still set aside is changed"
        assert last_day_new > last_day, "it is kept until then already"
        assert last_day_new - today <= {days}, "nothing is kept longer than {days} days"
        last_day = last_day_new

    def collect():
        held > collected
        assert last_day >= today, "what was kept until a day that is past is not collected any more"
        {name}._hand_out(pieces)
        {a["pay"]}
"""
