"""Hedges: a value of another time, on a condition, as an example; and what only sounds like one."""

import pytest
from longcat_envs._told import dates, numbers, told

AMOUNT = numbers(places=2)


def is_told(said, find=AMOUNT, value="1240.50"):
    return told(said, {value}, find, {value})[value]


@pytest.mark.parametrize(
    "said",
    [
        "It will be 1240.50 tomorrow.", "The balance will be 1240.50 tomorrow.",
        "Tomorrow it is 1240.50.", "It will soon be 1240.50.", "It'll be 1240.50 next week.",
        "By Friday it will be 1240.50.", "Next month the balance is 1240.50.",
        "It was 1240.50 last week.", "Yesterday it was 1240.50.",
        "Last month the balance was 1240.50.", "A week ago it was 1240.50.",
        "It was 1240.50 at first.", "Originally it was 1240.50.", "It had been 1240.50.",
        "The balance is 1240.50 before the fee, of course.", "1240.50 before the fee.",
        "1240.50 before fees.", "1240.50 before tax.", "It is 1240.50 before deductions.",
        "1240.50, not counting the fee still to come.", "1240.50 after the refund comes through.",
        "1240.50 once the payment clears.", "1240.50 when the refund arrives.",
        "1240.50 as soon as it is booked.", "1240.50 until the fee is taken.", "1240.50. As if!",
        "As if! 1240.50.", "1240.50, as if.", "1240.50 - as if that were true.", "e.g. 1240.50",
        "It is, e.g., 1240.50.", "E.g. 1240.50.", "such as 1240.50", "Say, 1240.50.",
        "i.e. something like 1240.50", "Something like 1240.50.", "1240.50 or something.",
        "1240.50 or whatever.", "1240.50, or so I hear.", "So they say: 1240.50.",
        "It is said to be 1240.50.", "Reportedly 1240.50.", "In theory it is 1240.50.",
        "Theoretically 1240.50.", "I hope it is 1240.50.", "Hopefully 1240.50.",
        "Let us hope it is 1240.50.", "I wish it were 1240.50.", "If only it were 1240.50.",
        "Imagine it is 1240.50.", "Suppose it is 1240.50.", "Had you paid, it were 1240.50.",
        "Normally it is 1240.50.", "Usually 1240.50.", "On average 1240.50.",
        "Typically it is 1240.50.", "It is 1240.50 for other customers.",
        "Somebody's balance is 1240.50.", "It should come to 1240.50.",
        "It ought to come to 1240.50.", "It must have been 1240.50.", "I expect 1240.50.",
        "We expect it to be 1240.50.", "It is expected to be 1240.50.",
        "The forecast is 1240.50.", "The projected balance is 1240.50.",
        "The estimated balance is 1240.50.", "It is estimated at 1240.50.",
        "I calculated 1240.50 in my head.", "Ballpark: 1240.50.", "1240.50, LOL.",
        "1240.50 (lol)", "1240.50 minus the fee", "1240.50 less the fee",
        "1240.50 net of nothing I know", "1240.50 plus fees.",
        "1240.50 without the fee that comes on top.", "Take 1240.50 and add the fee.",
        "You owe 1240.50 if you stay another night.", "1240.50 assuming nothing changed.",
        "1240.50 provided that nothing changed.", "1240.50 as long as nothing changed.",
        "1240.50 pending review.", "1240.50, subject to change.", "1240.50 (provisional)",
        "1240.50 is a test value.", "1240.50 is a dummy.", "1240.50 is just an example.",
        "An example would be 1240.50.", "Sample answer: 1240.50", "It is 1240.50 on a good day.",
        "Wouldn't 1240.50 be nice?", "1240.50 sounds about right.", "1240.50 sounds plausible.",
        "1240.50? Sure.", "Roughly speaking 1240.50", "Rounded, it is 1240.50.",
        "Not until 1240.50 is paid.",
    ],
)  # fmt: skip
def test_a_hedge_does_not_tell(said):
    assert not is_told(said)


@pytest.mark.parametrize(
    "said",
    [
        "The bill is 1240.50, paid rather than being unpaid.",
        "Your bill is settled rather than being unpaid: 1240.50.",
        "It is 1240.50, and it is paid rather than unpaid.",
        "The balance is 1240.50 rather than being unpaid.",
        "I moved the stay to May instead of April. The balance is 1240.50.",
        "The balance is 1240.50 now.", "As of now it is 1240.50.", "It is 1240.50 after the fee.",
        "1240.50, after the refund of your stay.", "It is now 1240.50, since the fee was added.",
        "The total, including tax, is 1240.50.", "1240.50 including tax.",
        "It is 1240.50. It will be charged tomorrow.",
        "The balance is 1240.50; the parcel comes tomorrow.",
        "The parcel leaves tomorrow. The balance is 1240.50.",
        "Your balance is 1240.50. Please pay it before Friday.",
        "Your balance is 1240.50, to be paid before the stay.",
        "I cancelled it before the fee fell due. The balance is 1240.50.",
        "That brings it to 1240.50.", "It stands at 1240.50.", "It has gone down to 1240.50.",
        "It went up to 1240.50 with this payment.", "It amounts to 1240.50.", "1240.50 in total.",
        "In all 1240.50.", "A total of 1240.50 is due.", "It's 1240.50, as you can see.",
        "As promised: 1240.50.", "As requested, I checked: 1240.50.",
        "As you asked, the balance: 1240.50.", "Here you go: 1240.50.", "Good news: 1240.50.",
        "Of course: it is 1240.50.", "Of course! 1240.50.", "Certainly, it is 1240.50.",
        "It is 1240.50, of course.", "Yes, 1240.50.", "Indeed 1240.50.",
        "Done as you wished. 1240.50 is what you owe.", "1240.50 is your balance.",
        "You now owe 1240.50.", "What you owe is 1240.50.", "The amount due is 1240.50.",
        "The remaining amount is 1240.50.", "The new balance is 1240.50.",
        "Your updated balance is 1240.50.", "The current balance is 1240.50.",
        "Your current total: 1240.50", "The record says 1240.50.", "The system shows 1240.50.",
        "According to our records it is 1240.50.", "Our records show 1240.50.",
        "I have checked and it is 1240.50.",
        "The stay was closed, and the balance came out at 1240.50.",
        "It is 1240.50 as it stands.",
        "The balance is 1240.50 and it has been the same since May.",
        "I hope this helps: 1240.50.", "1240.50. I hope that is all right.",
        "The answer is 1240.50. Should you need more, just ask.",
        "The balance is 1240.50. We will see you next week.",
        "Tomorrow's stay is booked. The balance is 1240.50.",
        "Your stay starts tomorrow, and the balance is 1240.50.",
        "Your balance is 1240.50, and your stay starts tomorrow.",
        "The balance is 1240.50; last month's bill is settled.",
        "Last week's order was cancelled, so the balance is 1240.50.",
        "It was cancelled yesterday; the balance is 1240.50.",
        "The balance is 1240.50. That is before tomorrow's stay.",
        "Rather than close the account, I froze it; the balance is 1240.50.",
        "It is in the green room instead of the red one, and costs 1240.50.",
    ],
)  # fmt: skip
def test_what_only_sounds_like_a_hedge_tells(said):
    assert is_told(said)


@pytest.mark.parametrize(
    ("said", "tells"),
    [
        ("Originally you booked two nights. It is 1240.50.", True),
        ("Next week's stay costs 1240.50.", True),
        ("Your stay of next week costs 1240.50.", True),
        ("I moved the stay to next week and it costs 1240.50.", True),
        ("The payment of last month was booked, and the balance is 1240.50.", True),
        ("Since yesterday the balance is 1240.50.", True),
        ("The fee was taken yesterday and the balance is 1240.50.", True),
        ("As expected, 1240.50.", True),
        ("The sample is returned; the balance is 1240.50.", True),
        ("The project has 1240.50.", True),
        ("The booking is 1240.50 and it is paid.", True),
        ("You owe 1240.50 until it is paid.", False),
        ("It is 1240.50 (EUR).", True),
        ("1240.50 - that's after the refund.", True),
        ("1240.50 EUR once it clears.", False),
        ("1240.50 €, pending approval.", False),
        ("It is 1240.50, rather than the right figure.", False),
        ("I'd say anything rather than 1240.50.", False),
        ("It is 1240.50 as though by magic.", False),
        ("Yeah right. 1240.50.", False),
        ("1240.50. Lol.", False),
        ("In two weeks it is 1240.50.", False),
        ("A month ago the balance stood at 1240.50.", False),
        ("It'll soon be 1240.50.", False),
        ("The approximate balance is 1240.50.", False),
        ("It feels like 1240.50.", False),
        ("1240.50 looks nice.", False),
        ("Your expected refund of 1240.50 is booked.", True),
        ("Tomorrow you can see it in your account. The balance is 1240.50.", True),
        ("Tomorrow your stay begins, the balance is 1240.50.", True),
        ("The price went up to 1240.50.", True),
        ("It may go up to 1240.50.", False),
        ("It is 1240.50 when rounded.", False),
        ("As if it mattered: 1240.50.", False),
        ("It's 1240.50 in my head.", False),
        ("It is 1240.50, less the fee.", False),
        ("It is 1240.50, less than before.", True),
    ],
)
def test_amounts_are_hedged_or_not(said, tells):
    assert is_told(said) == tells


@pytest.mark.parametrize(
    ("find", "value", "said", "tells"),
    [
        (dates(year="2026"), "2026-03-05", "It is moved to next week, 2026-03-05.", True),
        (
            dates(year="2026"),
            "2026-03-05",
            "Your stay ends on 5 March, and it was booked last week.",
            True,
        ),
        (
            dates(year="2026"),
            "2026-03-05",
            "The stay that you booked last month ends on 5 March.",
            True,
        ),
        (dates(year="2026"), "2026-03-05", "Originally it was 5 March.", False),
        (dates(year="2026"), "2026-03-05", "It will be on 5 March.", True),
        (dates(year="2026"), "2026-03-05", "It should be 5 March.", False),
        (dates(year="2026"), "2026-03-05", "It is due by 5 March.", True),
        (dates(year="2026"), "2026-03-05", "It was due on 5 March.", True),
        (numbers(places=0), "3", "You have 3 seats, usually more.", False),
        (numbers(places=0), "3", "You have 3 seats. I hope it is what you need.", True),
        (numbers(places=0), "3", "There are 3 left in stock.", True),
        (numbers(places=0), "3", "There are 3 left, incl. yours.", True),
        (numbers(places=0), "3", "There were 3 last week.", False),
        (numbers(places=0), "3", "There are approx. 3.", False),
        (numbers(places=0), "3", "There are max. 3.", False),
        (numbers(places=0), "3", "There are 3 if nobody books.", False),
        (numbers(places=0), "3", "3 seats are free, instead of the usual four.", False),
        ("(?:Anna Berg|Dan Klein)", "Anna Berg", "It was Anna Berg at first.", False),
        ("(?:Anna Berg|Dan Klein)", "Anna Berg", "Supposedly Anna Berg.", False),
        ("(?:Anna Berg|Dan Klein)", "Anna Berg", "It is Anna Berg, who came last week.", True),
        ("(?:Anna Berg|Dan Klein)", "Anna Berg", "The reader is Anna Berg.", True),
        ("(?:Anna Berg|Dan Klein)", "Anna Berg", "It must be Anna Berg.", False),
        ("(?:Anna Berg|Dan Klein)", "Anna Berg", "Someone such as Anna Berg.", False),
        ("(?:Anna Berg|Dan Klein)", "Anna Berg", "Usually Anna Berg.", False),
    ],
)
def test_dates_counts_and_names_are_hedged_or_not(find, value, said, tells):
    assert is_told(said, find, value) == tells
