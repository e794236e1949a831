"""Thoughts are told from text by structure."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longcat_heavythink import split_thoughts
from longcat_heavythink._thoughts import LiveThoughts


@pytest.mark.parametrize(
    ("content", "thoughts", "text"),
    [
        ("plain", "", "plain"),
        ("<THINK>a</THINK>b", "a", "b"),
        ("[think]a[/think]b", "a", "b"),
        ("<thought>a</thought>b", "a", "b"),
        ("<|START_THINKING|>a<|END_THINKING|>b", "a", "b"),
        ("<|start_thinking|>a<|end_thinking|>b", "a", "b"),
        ("So.\n<|START_THINKING|>\na\n<|END_THINKING|>\nb", "a", "So.\n\nb"),
        ("So.\n<Think>\na\n</Think>\nb", "a", "So.\n\nb"),
        ("<think>a</think>b", "a", "b"),
        ("\n <longcat_think>\na\n</longcat_think>\nb", "a", "b"),
        ("[THINK]a[/THINK]b", "a", "b"),
        ("<think>a</think><think>b</think>c", "a\nb", "c"),
        ("a\n</think>\nb", "a", "b"),
        ("<think>a </think> said\n</think>\nb", "a\nsaid", "b"),
        ("So.\n<think>\na\n</think>\nb", "a", "So.\n\nb"),
        ("use </think> to end thoughts", "", "use </think> to end thoughts"),
        ("Write `<think>` and `</think>`.", "", "Write `<think>` and `</think>`."),
        ("```\n</think>\n```\nends it", "", "```\n</think>\n```\nends it"),
        ("<think>a</think>b: </think> is a tag", "a", "b: </think> is a tag"),
        ("<b>bold</b> [1]", "", "<b>bold</b> [1]"),
        ("<thinker>x</thinker>", "", "<thinker>x</thinker>"),
    ],
)
def test_a_tag_counts_at_the_start_or_alone_on_its_line(content, thoughts, text):
    parts = split_thoughts(content)
    assert (parts.thoughts, parts.text, parts.unclosed) == (thoughts, text, False)


@pytest.mark.parametrize(
    "content",
    ["<think>a", "<think>a</longcat_think>b", "x\n<think>\na", "<thought>a", "<|START_THINKING|>a"],
)
def test_thoughts_that_never_end_are_said_so(content):
    parts = split_thoughts(content)
    assert parts.unclosed
    assert "a" not in parts.text


@given(
    st.text(alphabet="ab </think>\n[]T", max_size=30), st.text(alphabet="xy <\n", max_size=20),
    st.lists(st.integers(0, 60), max_size=6),
)  # fmt: skip
def test_live_thoughts_do_not_depend_on_how_the_text_is_cut(thoughts, text, cuts):
    whole = f"<think>{thoughts}</think>{text}"
    places = [0, *sorted(min(c, len(whole)) for c in cuts), len(whole)]
    live = LiveThoughts()
    said = [live.feed(whole[a:b]) for a, b in pairwise(places)]
    once = LiveThoughts().feed(whole)
    assert "".join(t for t, _ in said) == once[0]
    assert "".join(t for _, t in said) == once[1]


def test_live_thoughts_know_tags_in_any_case():
    live = LiveThoughts()
    said = [live.feed(piece) for piece in ("<TH", "INK>six</TH", "INK>42")]
    assert ["".join(parts) for parts in zip(*said, strict=True)] == ["42", "six"]
