"""Stock, quota, membership, thread, schedule and document: what each does and refuses."""

import pytest
from longcat_envs.lang import LangError, read_spec
from longcat_envs.world import (
    CallRefused,
    LiveWorld,
    Machine,
    Store,
    empty_base,
    export,
    violations_by_sql,
)  # fmt: skip
from longcat_envs.world.parts import PARTS

TEXT = """
class helper:
    name: unique(text)
    rank: enum(junior, senior)

class member(person):
    name: unique(text)
    states(welcome, barred)
    bar = welcome > barred
    quota(seed_hold, live=(held,), base=1, most=3, called=hold, allowed=state == welcome)
    membership(club, link=seat, places=places, joins=who.state == welcome, open=group.state == open)

class club:
    name: unique(text)
    places: int
    states(open, shut)
    shut_down = open > shut

class seed:
    name: unique(text)
    price: money
    stock(member, price=price, most=4, lot=20, days=10, offered=member.state == welcome)

class contract:
    owner(member)
    member: member
    states(running, over)
    finish = running > over
    thread(helper, owner=member, working=state == running, who=answerer.rank == senior)
    schedule(every=10, least=5, longest=20, early=4, put_off=3, times=1, working=state == running)
    document(helper, owner=member, who=publisher.rank == senior, working=state == running)
"""
DAY = 739_700


class Town:
    """A world of the text, with calls that keep the id of what they make."""

    def __init__(self):
        self.machine = Machine(read_spec(TEXT, name="parts", parts=PARTS))
        self.world = LiveWorld(self.machine, empty_base(self.machine.spec, DAY))
        self.do("create_helper", name="Ada", rank="senior")
        self.do("create_helper", name="Bo", rank="junior")
        self.senior, self.junior = self.ids("helper")
        for name in ("Cy", "Di"):
            self.do("create_member", name=name)
        self.one, self.other = self.ids("member")

    def do(self, tool, **arguments):
        result = self.world.call(tool, arguments)
        store = self.world.store
        assert self.machine.violations(store) == []
        return result

    def ids(self, of):
        return list(self.world.store.ids(of))

    def row(self, of, place=-1):
        return self.world.store.row(of, self.ids(of)[place])

    def shown(self, of, identifier):
        return self.do(f"get_{of}", **{f"{of}_id": identifier})

    def refused(self, reason, tool, **arguments):
        before = self.world.store.difference()
        with pytest.raises(CallRefused, match=reason):
            self.world.call(tool, arguments)
        assert self.world.store.difference() == before


@pytest.fixture
def town():
    return Town()


def test_stock_agrees_with_its_movements_and_is_promised_once(town):
    town.do("create_seed", name="oats", price="2.50")
    (seed,) = town.ids("seed")
    hold = {"member": town.one, "seed": seed, "last_day": "2026-03-30"}
    town.refused("no more is set aside than is free", "create_seed_hold", pieces=2, **hold)
    town.refused("one to 20 pieces", "receive_seed", seed_id=seed, pieces=21)
    town.do("receive_seed", seed_id=seed, pieces=5)
    town.refused("longer than 10 days", "create_seed_hold", pieces=1,
                 **{**hold, "last_day": "2026-06-30"})  # fmt: skip
    town.refused("one to 4 pieces", "create_seed_hold", pieces=5, **hold)
    town.do("create_seed_hold", pieces=3, **hold)
    (first,) = town.ids("seed_hold")
    assert town.shown("seed_hold", first)["cost"] == "7.50"
    town.refused("set aside is not written off", "write_off_seed", seed_id=seed, pieces=3)
    town.refused("one to 4", "change_pieces_seed_hold", seed_hold_id=first, pieces_new=5)
    town.do("change_pieces_seed_hold", seed_hold_id=first, pieces_new=4)
    town.do("write_off_seed", seed_id=seed, pieces=1)
    assert town.shown("seed", seed)["free"] == 0
    town.do("collect_seed_hold", seed_hold_id=first)
    assert town.shown("seed", seed)["on_hand"] == 0
    assert [town.row("seed_movement", n)["pieces"] for n in range(3)] == [5, -1, -4]
    assert [r["seed_id"] for r in town.do("find_scarce_seed", below=1)["rows"]] == [seed]


def test_what_was_kept_too_long_is_not_collected(town):
    town.do("create_seed", name="oats", price="2.50")
    (seed,) = town.ids("seed")
    town.do("receive_seed", seed_id=seed, pieces=5)
    until = "2026-03-30"
    town.do("create_seed_hold", member=town.one, seed=seed, pieces=1, last_day=until)
    (hold,) = town.ids("seed_hold")
    town.refused(
        "until then already", "keep_until_seed_hold", seed_hold_id=hold, last_day_new=until
    )
    town.world.store.today += 9
    town.refused("day that is past", "collect_seed_hold", seed_hold_id=hold)
    town.do("keep_until_seed_hold", seed_hold_id=hold, last_day_new="2026-04-08")
    town.do("collect_seed_hold", seed_hold_id=hold)


def test_a_quota_bounds_what_counts_and_is_extended(town):
    for name in ("oats", "rye", "flax"):
        town.do("create_seed", name=name, price="1")
        town.do("receive_seed", seed_id=town.ids("seed")[-1], pieces=5)
    seeds = town.ids("seed")
    hold = {"member": town.one, "pieces": 1, "last_day": "2026-03-30"}
    town.do("create_seed_hold", seed=seeds[0], **hold)
    town.refused("beyond the hold quota", "create_seed_hold", seed=seeds[1], **hold)
    town.refused("is 3 at most", "extend_hold_quota_member", member_id=town.one, number=3)
    town.do("extend_hold_quota_member", member_id=town.one, number=1)
    town.do("create_seed_hold", seed=seeds[1], **hold)
    town.refused("in use", "give_up_hold_quota_member", member_id=town.one, number=1)
    town.do("release_seed_hold", seed_hold_id=town.ids("seed_hold")[0])
    assert town.shown("member", town.one)["hold_left"] == 1
    town.do("give_up_hold_quota_member", member_id=town.one, number=1)
    found = town.do("find_hold_room_member", at_least=1)["rows"]
    assert [row["member_id"] for row in found] == [town.other]
    town.do("bar_member", member_id=town.other)
    town.refused("not extended now", "extend_hold_quota_member", member_id=town.other, number=1)


def test_membership_has_places_and_one_of_each(town):
    town.do("create_club", name="chess", places=1)
    town.do("create_club", name="choir", places=2)
    chess, choir = town.ids("club")
    town.do("create_seat", member=town.one, club=chess)
    town.refused("no place left", "create_seat", member=town.other, club=chess)
    town.do("create_seat", member=town.other, club=choir)
    seat, moved = town.ids("seat")
    town.refused("no place left", "change_over_seat", seat_id=moved, other=chess)
    town.do("pause_seat", seat_id=seat)
    town.do("change_over_seat", seat_id=moved, other=chess)
    town.refused("no place left", "come_back_seat", seat_id=seat)
    town.do("create_seat", member=town.one, club=choir)
    town.refused("twice in one club", "create_seat", member=town.one, club=choir)
    town.do("leave_seat", seat_id=moved)
    town.do("shut_down_club", club_id=chess)
    town.refused("takes nobody now", "come_back_seat", seat_id=seat)
    assert town.shown("club", chess)["places_left"] == 1
    assert town.do("list_seat_of_club", group=chess)["rows"] == []


def test_a_message_is_rewritten_until_seen_and_answered_by_who_may(town):
    town.do("create_contract", member=town.one)
    (contract,) = town.ids("contract")
    for text in ("When does it end?", "And who pays?"):
        town.do("write_on_contract", contract_id=contract, text=text)
    town.refused("2 messages wait", "write_on_contract", contract_id=contract, text="Hello?")
    first, second = town.ids("contract_message")
    town.do("rewrite_contract_message", contract_message_id=first, text_new="When is it over?")
    town.do("see_contract_message", contract_message_id=first)
    town.refused("until somebody has seen it", "rewrite_contract_message",
                 contract_message_id=first, text_new="Never mind")  # fmt: skip
    reply = {"contract_message_id": first, "words": "In May"}
    town.refused("only who is responsible", "answer_contract_message", by=town.junior, **reply)
    assert town.do("list_waiting_contract", since="2026-01-01")["rows"]
    town.do("answer_contract_message", by=town.senior, **reply)
    town.do("take_back_contract_message", contract_message_id=second)
    assert town.do("list_waiting_contract", since="2026-01-01")["rows"] == []
    assert town.shown("contract", contract)["num_waiting"] == 0


def test_a_schedule_is_done_put_off_and_left_out_within_bounds(town):
    town.do("create_contract", member=town.one)
    (contract,) = town.ids("contract")
    me = {"contract_id": contract}
    town.refused("at the earliest", "note_done_contract", **me)
    town.refused("20 days|5 to 20", "change_rhythm_contract", rhythm=21, **me)
    town.do("change_rhythm_contract", rhythm=6, **me)
    town.do("put_off_due_contract", number=3, **me)
    town.refused("1 times at most", "put_off_due_contract", number=1, **me)
    town.world.store.today += 10
    town.do("leave_out_contract", **me)
    town.refused("due soon", "leave_out_contract", **me)
    town.world.store.today += 6
    town.refused("left out twice", "leave_out_contract", **me)
    town.do("note_done_contract", **me)
    assert town.row("contract")["next_due"] == town.world.store.today + 6
    assert town.row("contract")["put_off"] == 0
    assert len(town.do("list_due_contract", until="2027-01-01")["rows"]) == 1


def test_a_document_has_one_valid_version_that_was_published(town):
    town.do("create_contract", member=town.one)
    (contract,) = town.ids("contract")
    me = {"contract_id": contract}
    town.refused("before a version is published", "sign_contract", **me)
    town.do("revise_contract", wording="Short form", **me)
    town.refused("one draft", "revise_contract", wording="Long form", **me)
    first = town.ids("contract_version")[0]
    town.refused("only a published version", "return_to_contract", version=first, **me)
    town.refused("only who may publish", "publish_contract_version",
                 contract_version_id=first, by=town.junior)  # fmt: skip
    town.do("publish_contract_version", contract_version_id=first, by=town.senior)
    town.do("sign_contract", **me)
    town.refused("signed already", "sign_contract", **me)
    town.do("revise_contract", wording="Long form", **me)
    second = town.ids("contract_version")[1]
    town.do("rewrite_contract_version", contract_version_id=second, wording_new="Longer form")
    town.do("publish_contract_version", contract_version_id=second, by=town.senior)
    assert town.row("contract")["valid_version"] == 2
    town.do("return_to_contract", version=first, **me)
    assert town.row("contract")["valid_version"] == 1
    town.do("finish_contract", **me)
    town.refused("not worked on now", "return_to_contract", version=second, **me)


@pytest.mark.parametrize(("of", "field", "value"), [
    ("seed", "on_hand", 9), ("member", "hold_quota", 0), ("club", "places", 0),
    ("contract", "valid_version", 7),
])  # fmt: skip
def test_damage_is_seen_by_the_closures_and_by_sql(town, of, field, value):
    town.do("create_seed", name="oats", price="2.50")
    town.do("receive_seed", seed_id=town.ids("seed")[0], pieces=5)
    town.do("create_club", name="chess", places=1)
    town.do("create_seat", member=town.one, club=town.ids("club")[0])
    town.do("create_seed_hold", member=town.one, seed=town.ids("seed")[0], pieces=1,
            last_day="2026-03-30")  # fmt: skip
    town.do("create_contract", member=town.one)
    spec, store = town.machine.spec, town.world.store
    assert violations_by_sql(spec, export(store)) == []
    store.begin()
    store.write(of, town.ids(of)[0], field, value)
    store.commit()
    broken = {(rule.reason, i) for rule, i in town.machine.violations(store)}
    assert broken
    by_sql = violations_by_sql(spec, export(Store(spec, store.freeze())))
    assert set(by_sql) == broken


@pytest.mark.parametrize("part", ["stock()", "quota(seed)", "membership(x)", "thread()",
                                  "schedule(often=3)", "document()"])  # fmt: skip
def test_a_part_with_wrong_arguments_says_what_it_takes(part):
    text = f"class a(person):\n    name: unique(text)\n    {part}\n"
    with pytest.raises(LangError, match=r"needs|takes"):
        read_spec(text, name="wrong", parts=PARTS)
