"""What is asked for matters: no task says a value that might as well be another."""

from importlib.resources import files
from random import Random
from types import SimpleNamespace

import pytest
from longcat_envs.history import load_setting
from longcat_envs.tasks import Call, Chains, TaskMaker, outcome, with_other_values
from longcat_envs.tasks import _make as making
from longcat_envs.tasks._effect import has_idle_value, other_values


@pytest.fixture(scope="module")
def workshop():
    return load_setting("workshop")


def _brought_back(setting, km):
    """A loan car that is out is brought back: kilometres above 300 are paid for."""
    base = setting.past(0).base
    loan = next(i for i, row in base.rows["loan"].items() if row["state"] == "out")
    chains = Chains(setting, 0, base.order[setting.spec.person][0], Random(0))
    return chains, [Call("bring_back_loan", {"loan_id": loan, "km_driven": km})]


@pytest.mark.parametrize(("km", "is_idle"), [(120, True), (300, True), (301, False), (540, False)])
def test_a_value_is_idle_if_another_one_does_the_same(workshop, km, is_idle):
    chains, chain = _brought_back(workshop, km)
    reached = chains.outcome(chain)
    assert reached is not None
    assert has_idle_value(chains, chain, reached) is is_idle
    assert outcome(chains.world) == reached  # the world stands where the chain leads


def _laboratory(tmp_path, *, is_kept):
    """The laboratory, in which who gave a certificate is written down, or no longer."""
    for suffix in ("world", "words.en"):
        text = (files("longcat_envs") / "domains" / f"laboratory.{suffix}").read_text("utf-8")
        if not is_kept:
            assert suffix != "world" or "        given_by = by\n" in text
            text = text.replace("        given_by = by\n", "")
        (tmp_path / f"laboratory.{suffix}").write_text(text, "utf-8")
    return load_setting(str(tmp_path / "laboratory.world"))


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_record_is_idle_if_another_one_does_the_same(tmp_path, is_kept):
    setting = _laboratory(tmp_path, is_kept=is_kept)
    past, waits = next(
        (past, identifier) for past in range(9)
        for identifier, row in setting.past(past).base.rows["certificate"].items()
        if row["state"] == "signed_up"
    )  # fmt: skip
    base = setting.past(past).base
    may = [i for i, row in base.rows["keeper"].items() if row["role"] in ("safety", "head")]
    assert len(may) > 1
    chains = Chains(setting, past, base.rows["certificate"][waits]["researcher"], Random(0))
    chain = [Call("pass_it_certificate", {"certificate_id": waits, "by": may[0]})]
    reached = chains.outcome(chain)
    assert reached is not None
    assert has_idle_value(chains, chain, reached) is not is_kept
    assert outcome(chains.world) == reached


def test_each_value_is_changed_and_no_record(workshop):
    tool = workshop.machine.tools["bring_back_loan"]
    given = {"loan_id": "L1", "km_driven": 120}
    others = list(with_other_values(tool, given))
    assert {other["km_driven"] for other in others} == {119, 121}
    assert all(other["loan_id"] == "L1" for other in others)


@pytest.mark.parametrize(("kind", "value", "others"), [
    ("date", "2026-05-01", ["2026-09-30"]), ("date", "2026-03-03", ["2026-05-01", "2026-09-30"]),
    ("int", 0, [1, 2]), ("int", 3, [4, 2]), ("flag", True, [False]), ("enum", "b", ["a", "c"]),
    ("money", "0.50", ["1.50", "2.50"]), ("money", "1.00", ["2.00", "0.50"]),
    ("text", "ab", ["abx", "xab"]),
])  # fmt: skip
def test_other_values_are_of_the_type_and_never_the_one_given(kind, value, others):
    assert other_values(SimpleNamespace(kind=kind, options=("a", "b", "c")), value) == others


def test_both_ends_of_a_stay_are_changed():
    hotel = load_setting("hotel")
    tool = next(t for t in hotel.machine.tools.values()
                if any(p.type.kind == "days" for p in t.parameters))  # fmt: skip
    days = next(p.name for p in tool.parameters if p.type.kind == "days")
    given = dict.fromkeys((p.name for p in tool.parameters), "1")
    given |= {f"{days}_from": "2026-05-01", f"{days}_until": "2026-05-03"}
    others = list(with_other_values(tool, given))
    assert given not in others
    changed = {(other[f"{days}_from"], other[f"{days}_until"]) for other in others}
    wanted = {("2026-09-30", "2026-05-03"), ("2026-05-01", "2026-05-01"),
              ("2026-05-01", "2026-09-30")}  # fmt: skip
    assert wanted <= changed


def test_the_maker_leaves_out_what_has_an_idle_value(workshop, monkeypatch):
    judged = []

    def is_idle(chains, chain, reached):
        judged.append(chain)
        return len(judged) <= 2

    monkeypatch.setattr(making, "has_idle_value", is_idle)
    maker = TaskMaker(workshop, seed=0, difficulty="shallow")
    next(maker)
    assert len(judged) == 3
    assert maker.num_failed >= 2
