"""The scripted person: agrees when asked whether to go on, in any usual form, and ends when it is settled."""

import pytest
from longcat_envs._person import Person


@pytest.mark.parametrize(
    "asked",
    [
        "Ready when you are.", "Just say the word.", "OK?", "Do I have your permission?",
        "Reply YES to go on.", "Type 1 to confirm.", "Please confirm the following: I cancel it.",
        "Awaiting your confirmation.", "Let me know if I may proceed.",
        "Say yes and I will do it.", "I'd cancel the stay then. Agreed?",
        "Are you happy with that?", "Is that all right with you?", "Do you approve?",
        "Before I do that I need your consent.", "Waiting for your go-ahead.",
        "Does that work for you?", "Sound good?", "Everything correct?", "Would that be okay?",
        "Can I have your OK?", "I am about to cancel your stay. Yes or no?",
        "With your permission I will cancel it.", "Please reply with yes.", "May I?", "Deal?",
        "Proceed?",
        "I have found it. Shall I go on?", "Please confirm.", "Is that right?",
    ],
)  # fmt: skip
def test_a_person_agrees_in_whatever_form_one_asks(asked):
    assert Person("I am Ann. Cancel my stay.", "").answer(asked) == "Yes, please."
    change = "One change before you do: the day is Friday."
    assert Person("I am Ann. Cancel it.", "", change=change).answer(asked) == change


@pytest.mark.parametrize(
    "asked",
    ["我找到了，可以办吗？", "您确认后我就办。", "请回复“是”。", "等您确认。", "您看行不行？", "您同意吗？", "请回复1继续。", "要我办吗？", "麻烦您确认一下。"],
)  # fmt: skip
def test_a_person_agrees_in_chinese(asked):
    assert Person("我是王芳。取消预订。", "", language="zh").answer(asked) == "好的，请办吧。"


@pytest.mark.parametrize(
    "said",
    [
        "All of that is done.", "I have cancelled your stay. Have a nice day!", "Done as you approved.",
        "Thank you for your confirmation, it is cancelled.", "With your permission on file it is done.",
        "Your stay is cancelled. Is there anything else?", "It is done, the deal is closed.",
        "I cannot do that: a rule forbids it.", "You owe 12.00.", "都办好了。", "预订已按您的确认取消。",
    ],
)  # fmt: skip
def test_a_person_ends_the_talk_when_it_is_settled(said):
    assert Person("I am Ann. Cancel my stay.", "").answer(said) is None


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("Which day do you mean?", "The day is Friday."),
        ("Could you tell me the day, please?", "The day is Friday."),
        ("What day should it be? Then I will go on.", "The day is Friday."),
        ("What is the weather like?", "As I said: I am Ann. Move it to some day."),
        ("One moment, please.", "All right."),
    ],
)
def test_what_is_asked_for_is_answered_and_not_agreed_to(asked, answer):
    person = Person("I am Ann. Move it to some day.", "The day is Friday.", topics=("day",))
    assert person.answer(asked) == answer
