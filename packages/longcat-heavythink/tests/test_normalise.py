"""Equal answers have equal keys, different ones have not."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longcat_heavythink import final_answer, normalise

SAME = [
    ["0.5", r"\frac12", r"$\frac{1}{2}$", r"\dfrac12", r"\tfrac{1}{2}", "1/2", ".5", "0.50", "½",
     r"\boxed{0.5}", "The answer is 1/2.", "x = 0.5", "50%", r"50\%", "50 %", r"5\times10^{-1}", "#### 0.5",
     "**0.5**", "**Answer:** 0.5", "Final answer: $0.5$", r"\left(\frac{1}{2}\right)", "+0.5",
     "work...\nAnswer: \\(\\frac{1}{2}\\)", "0.5 ", "5e-1", r"\text{0.5}", r"{1 \over 2}", "1 / 2",
     "The answer is:\n\n1/2", "**Final Answer**\n\n1/2", "**Final Answer:**\n1/2", "5·10^-1",
     "5 x 10^-1", "50 percent", "50 per cent", "<think>no</think>\n<answer>0.5</answer>",
     "The answer is 0.5, because it is half.", "The answer is **1/2**. Check: 0.5.", "０.５"],
    ["1000", "1,000", "1e3", r"1\,000", "1 000", "1{,}000", "10^3", r"10^{3}", r"\$1,000", "1000.", "1'000", "1_000"],
    ["-1/2", "−0.5", r"-\frac{1}{2}", r"\frac{-1}{2}", "- 0.5", r"\frac{1}{-2}"],
    ["1.5", "1 1/2", r"1\frac12", "3/2", "1½"],
    ["(B)", "B", "B.", "b", r"\text{B}", r"\boxed{\text{(B)}}", "Answer: (B)"],
    ["(1, 2)", "(1,2)", r"\left(1, 2\right)", "(1.0, 2)", r"\bigl(1,2\bigr)"],
    [r"\frac{\sqrt{2}}{2}", r"\sqrt{2}/2", r"\sqrt2/2", "√2/2", "sqrt(2)/2"],
    [r"2\sqrt{3}", r"2 \sqrt3", r"2\cdot\sqrt{3}", "2√3"],
    [r"\pi/2", r"\frac{\pi}{2}", r"\frac\pi2", "π/2"],
    [r"\infty", "∞"],
    ["x^2+1", "x^{2} + 1"],
    [r"\{1, 2\}", "{1,2}", r"\left\{1,2\right\}", r"\lbrace 1,2 \rbrace"],
    ["Paris", "paris.", "**Paris**", "The answer is Paris.", "“Paris”"],
    ["90", "90°", r"90^\circ", r"90^{\circ}", "90 degrees", r"90\text{ degrees}"],
    ["12", "答案是 12", "答案:12"],
]  # fmt: skip


@pytest.mark.parametrize("answers", SAME, ids=lambda answers: answers[0])
def test_ways_to_write_one_answer(answers):
    assert {normalise(answer) for answer in answers} == {normalise(answers[0])}


def test_different_answers_differ():
    keys = [normalise(answers[0]) for answers in SAME]
    assert len(set(keys)) == len(keys)
    for a, b in [("1,2", "12"), ("(1,2)", "(2,1)"), ("1/0", "0"), ("5 cm", "5 m"), ("0.5", "0.05"),
                 ("-1", "1"), ("a", "b"), ("3.14", "314"), ("2^10", "210"), ("f(2)+1", "f(2)1"),
                 ("The answer is Mr. Smith", "The answer is Mr. Jones")]:  # fmt: skip
        assert normalise(a) != normalise(b)


@pytest.mark.parametrize(
    "answer", ["1e999999999", "9" * 5000, "{" * 3000, r"\frac" * 2000, "", "("]
)
def test_strange_answers_do_no_harm(answer):
    assert isinstance(normalise(answer), str)


@given(st.fractions(max_denominator=999).filter(lambda f: abs(f) < 10**6))
def test_a_number_is_itself_however_it_is_written(value):
    key = normalise(f"{value.numerator}/{value.denominator}")
    sign = "-" if value < 0 else ""
    latex = rf"\boxed{{{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}}}"
    assert normalise(latex) == key == f"={value}"


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-9999, max_value=9999)
)
def test_a_decimal_equals_its_fraction(value):
    assert normalise(str(value)) == f"={Fraction(value)}"


def test_the_last_box_counts_with_its_braces():
    assert final_answer(r"\boxed{1} no: \boxed{\frac{1}{4}}") == r"\frac{1}{4}"
    assert final_answer(r"\boxed{open") == r"\boxed{open"


@pytest.mark.parametrize("text", ["answer{}x", "answer:{}x", "1{}x", "1{}degree", "a{}pi", "{}"])
def test_long_runs_of_blanks_take_no_time(text):
    began = time.process_time()
    for blank in (" ", "\n", "*"):
        normalise(text.format(blank * 30_000))
    assert time.process_time() - began < 5  # seconds of CPU
