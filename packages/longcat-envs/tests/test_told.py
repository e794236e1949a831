"""What counts as told: one value, undenied, and seen."""

import pytest
from longcat_envs._told import told


@pytest.mark.parametrize(
    ("said", "is_told"),
    [
        ("The city is Oslo.", True),
        ("No problem. It is OSLO, and I checked it.", True),
        ("The phone is not listed, but the city is Oslo.", True),
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
