"""Membership, many to many: who belongs to which groups, as far as these have places."""

from __future__ import annotations

from ._arguments import take


def membership(name: str, positional: list[str], named: dict[str, str]) -> str:
    """Write out `membership(group, link=..., places=..., joins=..., leaves=...)`.

    Args:
        name: The class of those who join.
        positional: The class of the groups.
        named: `link`: name of the class of memberships. `places`: number field of a group. `owner`:
            the way from who joins to the person, if that is another. `joins` and `open`: conditions
            on the one who joins and on the group, said as `who` and `group`. `stays`: condition on
            a membership under which it cannot end yet; `because`: its reason.
    """
    a = take(positional, named, first=("group",), rest={
        "link": "", "places": "places", "owner": "-", "joins": "-", "open": "-", "stays": "-",
        "because": "'a membership cannot end yet'", "leave": "leave",
    })  # fmt: skip
    group, link = a["group"], a["link"]
    owner = name if a["owner"] == "-" else f"{name}.{a['owner']}"
    words = group.replace("_", " ")
    joins = f'assert ({a["joins"].replace("who", name)}), "who joins must be in good standing"'
    is_open = a["open"].replace("group", group)
    closed = f'"the {words} takes nobody now"'
    stays = f"assert not ({a['stays']}), {a['because']}"
    other = a["open"].replace("group", "other")
    return f"""
class {name}:
    num_{link} = count(m for m in {link} if m.{name} == self and m.state == active)

class {group}:
    num_{link} = count(m for m in {link} if m.{group} == self and m.state == active)
    places_left = {a["places"]} - num_{link}
    never(num_{link} > {a["places"]}, "no {words} has more than its places")

    def list_{link}_of(group: {group}):
        return [m for m in {link} if m.{group} == group and m.state == active]

class {link}:
    owner({owner})
    {name}: {name}
    {group}: {group}
    since: date = today
    fixed(since)
    states(active, resting, ended)

    def create():
        {joins if a["joins"] != "-" else "pass"}
        {f"assert ({is_open}), {closed}" if a["open"] != "-" else "pass"}
        assert {group}.places_left >= 0, "the {words} has no place left"
        assert not exists(m for m in {link} if m.{name} == {name} and m.{group} == {group}
            and m.state != ended and m != self), "nobody is twice in one {words}"

    def pause():
        active > resting

    def come_back():
        resting > active
        {f"assert ({is_open}), {closed}" if a["open"] != "-" else "pass"}
        assert {group}.places_left >= 0, "the {words} has no place left"

    def {a["leave"]}():
        active | resting > ended
        {stays if a["stays"] != "-" else "pass"}

    def change_over(other: {group}):
        assert state == active, "only who is active changes over"
        assert other != {group}, "that is the {words} already"
        {f"assert ({other}), {closed}" if a["open"] != "-" else "pass"}
        assert other.places_left > 0, "the {words} has no place left"
        assert not exists(m for m in {link} if m.{name} == {name} and m.{group} == other
            and m.state != ended), "nobody is twice in one {words}"
        {group} = other
"""
