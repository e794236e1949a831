"""What counts as told: one value, undenied, and seen."""

import time

import pytest
from longcat_envs._told import dates, numbers, says, told


@pytest.mark.parametrize(
    ("said", "is_told"),
    [
        ("The city is Oslo.", True),
        ("No problem. It is OSLO, and I checked it.", True),
        ("The phone is not listed, but the city is Oslo.", True),
        ("The city is Oslo, but I am not sure of that.", False),
        ("The city is Oslo, but the phone is not listed.", False),  # what is denied is unclear
        ("Oslo. Is there anything else?", True),
        ("The city is not Oslo.", False),
        ("It isn’t Oslo.", False),
        ("The city is Oslo. No, that is wrong.", False),
        ("Oslo? I could not find out.", False),
        ("Perhaps Oslo.", False),
        ("Oslo, Porto, Lyon.", False),
        ("It is Osloer Strasse.", False),
        ("Is it Oslo?", False),
        ("", False),
    ],
)
def test_told_is_one_value_undenied(said, is_told):
    pattern = "(?:Oslo|Porto|Lyon)"
    assert told(said, {"Oslo"}, pattern, {"Oslo"}) == {"Oslo": is_told}
    assert told(said, {"Oslo"}, pattern, {"Porto"}) == {"Oslo": False}  # seen nowhere


def test_numbers_are_told_whole():
    for said, is_told in [
        ("It is 1,240 euros.", True), ("It is 1240.", True), ("It is 12401.", False),
        ("It is 1240.5.", False), ("1240 or 1241.", False), ("Order M1240: 1240.", True),
    ]:  # fmt: skip
        assert told(said, {"1240"}, "[0-9]+", {"1240"})["1240"] == is_told, said


def _says(said: str, find, value: str) -> bool:
    return told(said, {value}, find, {value})[value]


@pytest.mark.parametrize(
    "said",
    [
        "EUR1240.50", "1240.50EUR", "€1.240,50", "1240,50 €", "1 240.50 €", "1\u202f240.50",
        "1'240.50 CHF", "_1240.50_", "**1,240.50**", "```\n1240.50\n```", '{"amount": 1240.5}',
        "It was paid on 5 March 2026: 1240.50.", "Two or 2 nights come to 1240.50.",
        "It is 1240.50; I did not change anything else.", "1240.50. No other record was touched.",
        "1240.50. If that is wrong, say so.", "It is 1240.50 (no changes were made).",
        "It is 1240.50, is there anything else?",
    ],
)  # fmt: skip
def test_a_value_is_told_in_any_usual_form(said):
    assert _says(said, numbers(places=2), "1240.50")


@pytest.mark.parametrize(
    "said",
    [
        "1240.50 EUR300.00", "1240.50, 300.00EUR", "1240.50, 1.300,00", "1000.00-1240.50",
        "1240.50 " + "9" * 60, "9" * 60,
        "It is ~~1240.50~~.", "Is it 1240.50?!", "'Is it 1240.50?'", "It could be 1240.50.",
        "It is 1240.50, which I made up.", "1240.50 ain't it.", "Anything else than 1240.50.",
        "The next sentence is a lie. It is 1240.50.",
    ],
)  # fmt: skip
def test_other_values_and_doubts_count_in_any_form(said):
    assert not _says(said, numbers(places=2), "1240.50")


@pytest.mark.parametrize(
    "after",
    [
        "Actually, that is wrong.", "Sorry, I was mistaken.", "Forget what I said.",
        "The figure is incorrect.", "Do not believe me.", "In truth I have no idea.",
        "Please disregard the figure.", "On second thought, I'm not sure.", "I take that back.",
        "But don't trust this number.", "Well, no.", "Not really.", "That was a joke.",
    ],
)  # fmt: skip
def test_another_sentence_takes_it_back(after):
    assert not _says(f"It is 1240.50. {after}", numbers(places=2), "1240.50")
    assert _says("It is 1240.50. No fee was charged. Do not worry.", numbers(places=2), "1240.50")


def test_an_end_of_a_range_is_not_told_even_if_the_other_was_spoken():
    find = numbers(places=2, exempt={"1.00"})
    for said in ("Between 1-90.00.", "90.00–1", "It is between 1 and 90.00."):
        assert not _says(said, find, "90.00"), said
    assert _says("For 1 it is 90.00.", find, "90.00")
    assert _says("It is -€90.00.", numbers(places=2), "-90.00")


def test_texts_and_dates_have_one_form():
    cities, day = "(?:Oslo|Porto)", "2026-03-05"
    assert _says("It is _Oslo_.", cities, "Oslo")
    assert not _says("Oslo, _Porto_", cities, "Oslo")
    assert not _says("Oslo, Por\u200bto", cities, "Oslo")
    for said in ("5 March 2026", "March 5th, 2026", "the 5th of March 2026", "2026/03/05", day):
        assert _says(f"It is on {said}.", dates(), day), said
    assert not _says(f"{day} or 6 March 2026", dates(), day)


def test_a_value_stands_in_a_text_whatever_else_is_said_of_it():
    cities = "(?:Oslo|Porto)"
    assert says("It is not OSLO, it is Porto.", "Oslo", cities)
    assert not says("It is Porto.", "Oslo", cities)
    assert not says("It is Osloer Strasse.", "Oslo", cities)
    assert says("It is 1,240.50.", "1240.50", numbers(places=2))


@pytest.mark.parametrize(
    "said",
    [
        "It is not\n1240.50", "It isn't\n\nEUR 1240.50", "The balance is not:\n\n1240.50",
        "Wrong answers:\n- mine\n- 1240.50", "These are not right:\n- All done. It is 1240.50.", "It is not the case that it is\n1240.50",
        "More than 1240.50.", "It is roughly EUR 1240.50.", "~1240.50", "<1240.50", "Twice 1240.50",
        "1240.50 thousand", "1240.50%", "1240.50-ish", "1240.50, give or take", "1240.50 plus a fee",
        "I wonder whether it is 1240.50.", "If it were 1240.50, I would say so.", "is it 1240.50",
        "I think it is 1240.50.", "It seems to be 1240.50.", "❌ 1240.50", "≠ 1240.50", "1240.50؟",
        "1240.50. Nope.", "1240.50. Totally false!", "1240.50. Kidding.",
        "1240.50. All I said is untrue.", "1240.50. None of this is true.",
        "1240.50. The real one is higher.", "1240.50. I did not check.",
    ],
)  # fmt: skip
def test_bounds_headings_and_broken_lines_do_not_tell(said):
    assert not _says(said, numbers(places=2), "1240.50")


def test_bounds_are_of_numbers_and_names_stand_where_they_like():
    name = r"\b(?:Anna Berg|Dan Klein)\b"
    for said in (
        "It is under Anna Berg.",
        "It lies above Anna Berg's.",
        "Besides Anna Berg, all left.",
    ):
        assert _says(said, name, "Anna Berg"), said
    for said in ("It is not Anna Berg.", "Dan Klein, but not Anna Berg.", "It may be Anna Berg."):
        assert not _says(said, name, "Anna Berg"), said


@pytest.mark.parametrize(
    "said",
    [
        "1. Cancelled it.\n2. The balance is 1240.50.", "Checked at 14:30: 1240.50.",
        "I cannot cancel it. Here is the rest:\n- Balance: **1240.50**\n- Fee: **paid**",
        "balance -> 1240.50", "<answer>1240.50</answer>", "About it: 1240.50.",
        "1240.50. It is not possible to cancel it.", "Done\n1240.50", "It is 1240.50. Wonderful!",
    ],
)  # fmt: skip
def test_lists_tags_and_what_cannot_be_done_do_not_hinder(said):
    assert _says(said, numbers(places=2), "1240.50")


def test_whole_numbers_are_told_in_words():
    find = numbers(places=0)
    for said in ("Three seats are left.", "There are 3 (three).", "three"):
        assert _says(said, find, "3"), said
    assert _says("There is only one. One moment. No one else was asked.", find, "1")
    assert _says("twenty-one", find, "21")
    assert not _says("There are 3, four at most.", find, "3")
    assert _says("It is minus 90.00.", numbers(places=2), "-90.00")


def test_dates_of_any_order_and_hyphen_are_read():
    day, find = "2026-03-05", dates(year="2026")
    for said in ("2026\u201103\u201105", "2026–3–5", "05.03.2026", "5-Mar-2026", "5 March",
                 "Thursday, March 5th", "2026-03-05T12:00:00.5+00:00"):  # fmt: skip
        assert _says(f"It is {said}.", find, day), said
    assert _says("3/13/2026", find, "2026-03-13")
    for other in ("6 March", "06.03.2026", "06/03/2026", "2026-3-6", "May 3"):
        assert not _says(f"{day}, {other}", find, day), other
    assert not _says("05/03/2026", find, day)  # may be the third of May
    assert _says("Paid on 5 March: 1240.", "[0-9]+", "1240")


def test_a_name_that_sounds_like_a_denial_denies_nothing():
    find, title = numbers(places=2), "A Table for Nobody"
    said = f"The seat for {title} costs 12.00."
    assert not told(said, {"12.00"}, find, {"12.00"})["12.00"]
    assert told(said, {"12.00"}, find, {"12.00"}, names={title})["12.00"]
    assert not told(f"It is not {said}", {"12.00"}, find, {"12.00"}, names={title})["12.00"]


def test_a_long_message_is_read_quickly():
    for piece in (
        "if ",
        "\n",
        "a\n",
        "1. a\n",
        "not ",
        "*",
        "everything a b ",
        "a:\n",
        "没有改动，",
        "没改",
        "rather than ",
        "tomorrow ",
        "it is ",
        "and tomorrow a ",
        ",",
        "no fee was ",
        "\n- ",
        "-",
        "\0",
        "1",
        "12 ",
        "1240 ",
        "零",
        "?",
        "：",
    ):
        said = (piece * 12_000)[:12_000]
        for number in (f"{said} 1240", f"{said}1240 nights", f"It is 1240.\n{said}"):
            start = time.process_time()
            told(number, {"1240"}, numbers(places=0), {"1240"})
            assert time.process_time() - start < 1, piece


def test_signs_that_are_not_seen_do_not_stand_for_values():
    for said in ("The total is 12\x0140.", "The total is 1240\0."):
        assert told(said, {"1240"}, numbers(places=0), {"1240"})["1240"]


@pytest.mark.parametrize(
    "said",
    [
        "1240.50 (no fee)", "It is 1240.50 EUR (no fee).", "€1,240.50 (no late fees or charges)",
        "1240.50 [no tax included]", "1240.50 (without breakfast). Done.", "1240.50, no fee.",
        "It comes to 1240.50 euros (not including tax), and it is paid.", "1240.50, without tax",
        "1240.50 (no penalty applies); anything else?", "1240.50元（没有手续费）。", "1240.50（不收任何费用）",
    ],
)  # fmt: skip
def test_what_an_amount_comes_without_denies_nothing(said):
    assert _says(said, numbers(places=2), "1240.50")


@pytest.mark.parametrize(
    "said",
    [
        "1240.50 (not 900.00)", "1240.50 (no, wait, 900.00)", "1240.50 (not correct)", "1240.50 (no)",
        "1240.50 (no way)", "1240.50 (no longer)", "1240.50 (no fee, and not true)", "1240.50 (no idea)",
        "1240.50 (no fee) is wrong", "There is no fee of 1240.50.", "No fee: 1240.50", "1240.50 (no fee?)",
        "It is not 1240.50 (no fee).", "1240.50 (no such fee)", "1240.50, no fee is right",
        "1240.50 (no fee) (not really)", "1240.50（没有这回事）", "不是1240.50元（没有手续费）", "1240.50 (no refund of 900.00)",
    ],
)  # fmt: skip
def test_a_denial_in_brackets_denies(said):
    assert not _says(said, numbers(places=2), "1240.50")


@pytest.mark.parametrize(
    "said",
    [
        "It is 1240.50, and I changed nothing else.",
        "Your balance: 1240.50. I didn't have to change your address.",
        "The balance is 1240.50; the booking could not be cancelled.",
        "The balance is 1240.50, and the phone number was left as it was.", "1240.50 it is!",
        "All done! Your new total comes to 1240.50, nothing more to pay.",
        "That leaves you with 1240.50.", "You have 1240.50 left, no more, no less.",
        "Balance = 1240.50", "The balance is 1,240.50 EUR as of today.",
        "I can confirm that your balance is 1240.50.", "It's exactly 1240.50.",
        "Sure thing: 1240.50!", "The balance is 1240.50. You're all set, no need to do anything.",
        "The price is 1240.50 (rate times nights).", "**Balance:** 1240.50\n**Status:** closed",
        "| balance | 1240.50 |", "I've updated it; the balance is 1240.50.",
        "The balance is $1240.50, I hope that helps.",
        "I looked it up: 1240.50. Have a nice day!", "1240.50 — done.",
        "The balance is 1240.50. Let me know if you don't agree.",
        "The balance is 1240.50. Sorry that I could not do the other thing.",
        "The cancellation was refused because of rule R3. The balance is 1240.50.",
        "I was unable to cancel the stay. Your balance is 1240.50.",
        "Unfortunately the stay cannot be cancelled; the balance is 1240.50.",
        "There were no problems: 1240.50.",
        "The bill is not settled yet, its balance is 1240.50.",
        "No stay was cancelled and the balance is 1240.50.",
    ],
)  # fmt: skip
def test_what_is_said_of_other_things_does_not_hinder(said):
    assert _says(said, numbers(places=2), "1240.50")


@pytest.mark.parametrize(
    "said",
    [
        "1240.50... NOT.", "1240.50 /s", "1240.50, said no one ever.", "Yeah right, 1240.50.",
        "It was 1240.50 yesterday.", "1240.50 in your dreams.", "As if it were 1240.50.",
        "It used to read 1240.50.", "1240.50 would be the balance of somebody else.",
        "Legend has it that it is 1240.50.", "Some say 1240.50.", "1240.50 is what it should be.",
        "It ought to be 1240.50.", "1240.50 is a placeholder.", "For example 1240.50.",
        "Let it be 1240.50.", "Pretend it says 1240.50.", "My bet is 1240.50.",
        "I would guess 1240.50", "1240.50 (unverified)", "1240.50 (tbc)", "1240.50 tbd",
        "1240.50, to be confirmed.", "1240.50? ", "Could it be 1240.50",
        "I read somewhere that it is 1240.50.", "The bot says 1240.50, ignore it.",
        "If memory serves, 1240.50.", "1240.50 is outdated.", "1240.50 is no longer valid.",
        "1240.50 is the old balance.", "Old balance: 1240.50", "Previous balance: 1240.50",
        "It was 1240.50 before I changed it.", "It's 1240.50 or thereabouts.", "1240.50 ± 10",
        "Up to 1240.50", "As much as 1240.50", "At most 1240.50", "Max 1240.50",
        "No less than 1240.50", "1240.50 and change", "1240.50-something",
        "In the region of 1240.50", "In the ballpark of 1240.50", "Order of 1240.50",
        "north of 1240.50", "just shy of 1240.50", "just short of 1240.50",
        "a little more than 1240.50", "1240.50 multiplied by two", "half of 1240.50",
        "1240.50 less 5", "1240.50 off", "Not a cent more than 900, forget 1240.50",
        "Error: 1240.50", "Everything but 1240.50", "It's 1240.50. Or is it?",
        "It's 1240.50. Gotcha!", "It's 1240.50. April fool!", "It's 1240.50. Haha, no.",
        "It's 1240.50. I'm bluffing.", "It's 1240.50. (This is a lie.)",
        "It's 1240.50. Don't quote me on that.",
        "It's 1240.50. That figure is a shot in the dark.", "It's 1240.50. I can't vouch for it.",
        "It's 1240.50. Take it with a grain of salt.",
        "It was not settled, it is 1240.50.", "That cannot be paid, 1240.50.", "It is 1240.50, if it was not booked.",
        "The figure was not changed right: 1240.50", "No answer was right and it is 1240.50.",
    ],
)  # fmt: skip
def test_what_is_old_supposed_or_bounded_does_not_tell(said):
    assert not _says(said, numbers(places=2), "1240.50")
