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
        "To the best of my knowledge 1240.50.", "From what I can tell it is 1240.50.",
        "My understanding is that it is 1240.50.", "I am pretty sure it is 1240.50.",
        "I'm fairly certain it's 1240.50.", "I am almost sure it is 1240.50.",
        "In all likelihood 1240.50.", "Odds are it's 1240.50.", "Chances are it is 1240.50.",
        "One could say 1240.50.", "It is sort of 1240.50.", "Kind of 1240.50.",
        "It is more or less 1240.50.", "1240.50, plus or minus ten.", "I'm told it's 1240.50.",
        "I was told 1240.50.", "I heard it is 1240.50.", "Word is it's 1240.50.",
        "The last time I looked it was 1240.50.", "Last I checked it was 1240.50.",
        "When I last looked, it was 1240.50.", "Back in May it was 1240.50.",
        "In 2019 it was 1240.50.", "At the time it was 1240.50.", "At one point it was 1240.50.",
        "Once it was 1240.50.", "There was a time when it was 1240.50.", "It was once 1240.50.",
        "It has been 1240.50 before.", "Let's call it 1240.50.", "Call it 1240.50.",
        "Let us assume 1240.50.", "Say it is 1240.50.", "Picture 1240.50.",
        "What if it is 1240.50.", "It is 1240.50 to my mind.", "In my opinion it is 1240.50.",
        "In a perfect world it is 1240.50.", "With luck 1240.50.", "God willing, 1240.50.",
        "Fingers crossed: 1240.50.", "It is 1240.50, give or take a few.",
        "It is 1240.50 minus something.", "It is not far off 1240.50.",
        "It was meant to be 1240.50.", "It is supposed to be 1240.50.",
        "It is 1240.50, unless I am mistaken.", "1240.50, if I am not mistaken.",
        "If I'm right, 1240.50.", "1240.50, if you ask me.", "1240.50, so they say.",
        "1240.50, or so it seems.", "1240.50, I guess.", "1240.50, I suppose.",
        "1240.50 I would think.", "I dreamt of 1240.50.", "Random number: 1240.50",
        "1240.50 is a number I like.", "My lucky number is 1240.50.", "1240.50 is just a number.",
        "The wrong answer is 1240.50.", "A typical value is 1240.50.", "The average is 1240.50.",
        "1240.50 would do.", "1240.50 could work.", "It can't be far from 1240.50.",
        "Try 1240.50.", "Does 1240.50 sound right", "Not sure, 1240.50.", "Who knows, 1240.50.",
        "No clue: 1240.50.", "1240.50 and then some.", "1240.50 plus whatever came since.",
        "1240.50 at the earliest.", "1240.50 at the latest.", "1240.50 in the worst case.",
        "1240.50 at worst.", "1240.50 when the time comes.", "1240.50 one day.", "Soon: 1240.50.",
        "Later it is 1240.50.", "1240.50 eventually.",
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
        "I am sure that it is 1240.50.", "I have been told by the system that it is 1240.50.",
        "It was 1240.50 when I looked just now.", "I looked: it was 1240.50.",
        "You told me to check: it is 1240.50.", "The balance was 1240.50 after this.",
        "It came to 1240.50.", "The last payment was booked; the balance is 1240.50.",
        "I heard you. It is 1240.50.", "The default of your loan is settled, it is 1240.50.",
        "You can pay 1240.50 at the latest on Friday.",
        "The typical fee was left out; it is 1240.50.",
        "As the rule says, I tried again: 1240.50.", "It is 1240.50 for one night.",
        "Your last bill is 1240.50.", "Your first booking costs 1240.50.",
        "Once confirmed, the booking costs 1240.50.", "I called it off. It is 1240.50.",
        "Kindly note the balance: 1240.50.", "It is 1240.50, paid from your account.",
        "The time was moved, and it is 1240.50.",
        "If you agree, that is all: the balance is 1240.50.",
        "From what I see in your account it is 1240.50.", "I am quite sure: 1240.50.",
        "The bill comes on paper; it is 1240.50.",
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


THEN = (
    "yesterday", "tomorrow", "soon", "later", "originally", "initially", "at first", "back then",
    "back in May", "next week", "last month", "next time", "last Friday", "a year ago", "an hour ago",
    "two days ago", "a few weeks ago", "some months ago", "in two weeks", "in some days",
    "at the time", "at one point", "one day", "eventually",
)  # fmt: skip
BY = ("by then", "by tomorrow", "by Friday", "by next month", "by the end of May")


@pytest.mark.parametrize("then", [*THEN, *BY])
def test_a_value_of_another_time_is_not_told(then):
    for said in (
        f"{then.capitalize()} it was 1240.50.", f"{then.capitalize()}, your balance is EUR 1240.50.",
        f"Done: {then} it stands at €1240.50.", f"Well, but {then} it was 1240.50.",
    ):  # fmt: skip
        assert not is_told(said), said
    after = (f"It was 1240.50 {then}.", f"It stood at 1240.50 {then}.", f"1240.50 {then}.")
    assert not any(is_told(said) for said in (after if then in THEN else ()))
    assert is_told(f"It was changed {then}. The balance is 1240.50.")
    assert is_told("1240.50 is due by Friday. You owe 1240.50 by then.")


@pytest.mark.parametrize("currency", ["EUR", "USD", "GBP", "CHF", "€", "euros", "dollars"])
def test_hedges_stand_beside_an_amount_with_its_currency(currency):
    for after in ("once it clears", "if all goes well", "less the fee", "or whatever", "sounds right",
                  "for most people", "is just an example"):  # fmt: skip
        assert not is_told(f"It is 1240.50 {currency} {after}."), after
    assert is_told(f"It is 1240.50 {currency} in all.")
    if currency.isupper() or currency == "€":
        for before in ("Something like", "Such as", "Say,", "I expect", "It must have been"):
            assert not is_told(f"{before} {currency} 1240.50."), before


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("1240.50 {} it is paid.", "once until till if unless whenever provided assuming"),
        ("1240.50 when the refund {}.", "comes arrives clears goes lands"),
        (
            "1240.50 before {}.",
            "fees charges tax VAT interest deductions adjustments discounts costs",
        ),
        ("I am {} sure that it is 1240.50.", "pretty fairly almost nearly reasonably"),
        ("It is {} to be 1240.50.", "said thought believed rumoured expected projected forecast"),
        ("The {} balance is 1240.50.", "estimated projected expected approximate"),
        ("The estimated {} is 1240.50.", "balance total amount price value figure number sum cost"),
        ("I {} it is 1240.50.", "hope wish pray"),
        (
            "{} 1240.50.",
            "Usually Normally Typically Roughly Rounded Provisionally Supposedly Hopefully",
        ),
        ("1240.50. {}.", "Lol Kidding Psych Lmao"),
        ("From what I {} it is 1240.50.", "gather hear recall remember"),
        ("{} answer: 1240.50", "Sample Test Dummy Example"),
        ("1240.50 is a {}.", "dummy test sample number"),
        ("It {} be 1240.50.", "should must may might could"),
    ],
)
def test_each_word_of_a_hedge_counts(form, words):
    for word in words.split():
        assert not is_told(form.format(word)), word


@pytest.mark.parametrize(
    "stated",
    ["truth", "right one", "correct one", "real one", "figure", "number", "value", "amount"],
)
def test_a_contrast_with_what_is_right_denies(stated):
    assert not is_told(f"It is 1240.50 rather than the {stated}.")
    assert is_told("The room is free instead of booked, and it costs 1240.50.")


@pytest.mark.parametrize("rose", ["goes", "went", "has gone", "comes", "came", "rose", "has risen"])
def test_what_rises_to_a_value_has_it(rose):
    assert is_told(f"The price {rose} up to 1240.50.")
    assert not is_told("The price is up to 1240.50.")
