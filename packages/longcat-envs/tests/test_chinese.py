"""Chinese: what is told, how a person answers, and tasks of the domains that have such words."""

import dataclasses
import re

import pytest
from longcat_envs import _chinese
from longcat_envs._fields import DomainError
from longcat_envs._person import MAX_IDLE, Person
from longcat_envs._plain import plain
from longcat_envs._told import dates, numbers, told
from longcat_envs.attacks import CAREFUL, CARELESS, audit_task, run_agents, word_faults
from longcat_envs.difficulty import solve_figures
from longcat_envs.figures import check_figures, list_rows
from longcat_envs.history import Setting, languages, load_setting
from longcat_envs.running._person import ModelPerson
from longcat_envs.tasks import TaskMaker, WorldEnvironment, WorldTask, system_prompt
from longcat_envs.world import builtin_worlds

DOMAINS = ("clinic", "hotel", "library", "logistics", "restaurant")


def says(said: str, value: str = "1240.50", find=None) -> bool:
    return told(said, {value}, find or numbers(places=2), {value})[value]


@pytest.mark.parametrize(
    "said",
    [
        "余额是1240.50元。", "你的余额是１，２４０．５０元，已经办好了。还有什么可以帮您的吗？",
        "预订已取消。余额：¥1,240.50", "没问题！一共1240.50元。", "订单改好了，别的没有动。总价为1240.5元",
        "您305号房3月14日的预订总价是1240.50元。", "1240元5角", "电话我没有查到，但余额是1240.50元。",
        "余额是1240.50元。不客气！", "余额是1240.50元，如有其他问题请告诉我。", "住3晚，共1240.50元。",
        "余额是1240.50元。如果不对，请告诉我。", "RMB1240.50", "- 余额：**1240.50**元\n- 状态：已付",
        "余额是 1240.50 元；我没有动其他任何记录。", "核对无误，是1240.50元。", "未付的总额是1240.50元。",
        "如果需要的话，我再查。余额是1240.50元。", "不含小费的总额是1240.50元。", "余额1240.50元，约定的时间是3月5日。",
        "余额是1240.50元，无需其他操作。", "已取消，没有产生任何费用，余额是1240.50元。",
    ],
)  # fmt: skip
def test_a_value_is_told_in_chinese(said):
    assert says(said)


@pytest.mark.parametrize(
    "said",
    [
        "余额不是1240.50元。", "余额可能是1240.50元。", "大约1240.50元", "1240.50元左右", "余额是1240.50元吗？",
        "余额是1240.50元。不对。", "余额是1240.50元。刚才说的是假的。", "余额是1240.50元。开玩笑的。",
        "1240.50元或者300元", "余额是1240.50元，但我不确定。", "我猜是1240.50元。", "余额不是\n1240.50元",
        "下面这句话是假的。余额是1240.50元。", "别信：余额是1240.50元。", "超过1240.50元", "余额是1240.50元!错了!",
        "余额是1240.50元。别信。", "余额是1240.50元。上面的数字是我编的。", "1240.50万元", "1240.50元的两倍",
        "如果是1240.50元的话就好了。", "余额是1240.50元，这不对。", "余额是1240.50元。实际的更高。",
        "1240.50元。我瞎说的。", "是不是1240.50元", "余额曾经是1240.50元", "1240.50元才怪", "余额不包括1240.50元",
        "余额应该是1240.50元", "余额是1240.50元，除非记错了。", "要是1240.50元就好了。", "以上都不对:1240.50", "1240.50元。我没有查过。", "1240元8角", "无需支付1240.50元", "余额比1240.50元高一些", "余额从1240.50元变了", "余额大致是1240.50元", "1240.50元起",
        "余额在1240.50元附近", "余额是1240.50元。以上内容纯属虚构。", "余额是1240.50元。请忽略上一条。", "余额是1240.50元，对吧",
        "谁说余额是1240.50元", "余额怎么会是1240.50元", "除了1240.50元", "余额预计为1240.50元", "之前余额是1240.50元", "将变为1240.50元",
        "没有产生费用1240.50元",
    ],
)  # fmt: skip
def test_denials_and_doubts_in_chinese_do_not_tell(said):
    assert not says(said)


@pytest.mark.parametrize(
    "said",
    [
        "余额是1240.50元，我没有改动地址。", "余额为1240.50元，地址没有变更，电话也没动。", "您的预订不能取消，余额是1240.50元。",
        "没有发现异常，余额是1240.50元。", "余额是1240.50元，没有欠款。", "已经付清，没有逾期，一共1240.50元，预订没有取消。",
        "总额是1240.50元，还没有退款。", "已改好，没有影响别的预订，总额1240.50元。", "房间不可退，总价是1240.50元。",
        "余额是1240.50元，未产生手续费，也没有扣款。", "没有预订早餐，一共1240.50元。", "系统不允许修改日期，费用是1240.50元。",
        "余额是1240.50元，无罚款；包裹没有签收。", "我没有给您续借，应付1240.50元。",
    ],
)  # fmt: skip
def test_a_clause_that_denies_something_else_leaves_the_value_told(said):
    assert says(said)


@pytest.mark.parametrize(
    "said",
    [
        "余额是1240.50元，不对。", "余额是1240.50元，我没查。", "余额是1240.50元，我不确定。", "余额是1240.50元，没有这回事。",
        "我没查过，余额是1240.50元。", "可能没有改动，余额是1240.50元。", "没改之前，余额是1240.50元。", "如果不能取消，余额是1240.50元。",
        "没有退款的话，余额是1240.50元。", "要是没有扣款，余额是1240.50元。", "余额是1240.50元，这个数字没有核对。", "不，余额是1240.50元。",
        "没有人知道，余额是1240.50元。", "不能保证，余额是1240.50元。", "余额是1240.50元，我没说真话。", "余额是1240.50元，没有，没有。",
        "没有更新，余额是1240.50元。", "余额是1240.50元，不能信。", "余额是1240.50元，无从查起。", "退款没有收到1240.50元。",
        "余额是1240.50元，没有改动，但这不对。", "余额是1240.50元，地址没有变更，我猜的。", "没有取消，不是1240.50元。",
        "取消时没有退款，余额是1240.50元。", "当初没有付款，余额是1240.50元。", "余额是1240.50元，没有办法确认。", "原来没有扣款，余额是1240.50元",
    ],
)  # fmt: skip
def test_a_clause_that_denies_the_value_does_not_tell(said):
    assert not says(said)


def test_counts_and_days_are_read_in_chinese():
    count, day = numbers(places=0), dates(year="2026")
    for said, value in [("还有三本", "3"), ("305号房的人数是4。", "4"), ("只有一个", "1"), ("二十三本", "23"),
                        ("一共十二位客人", "12"), ("剩两次", "2"), ("一百零五箱", "105")]:  # fmt: skip
        assert says(said, value, count), said
    assert not says("有3本，其中两本是新的", "3", count)
    assert says("等一下。一共3本。", "3", count)
    for said in ("到期日是3月5日。", "2026年3月5日", "3月5号到期", "在2026-03-05到期", "03月05日"):
        assert says(said, "2026-03-05", day), said
    for said in ("3月6日", "3月5日或3月6日", "13月5日", "2025年3月5日"):
        assert not says(said, "2026-03-05", day), said


def test_a_chinese_name_that_sounds_like_a_denial_denies_nothing():
    find = numbers(places=2)
    said = "寄往无锡的包裹的运费是12.00元。"
    assert not told(said, {"12.00"}, find, {"12.00"})["12.00"]
    assert told(said, {"12.00"}, find, {"12.00"}, names={"无锡"})["12.00"]


def test_only_chinese_is_set_apart():
    assert plain("从2026年3月5日到3月8号，共-12.5元") == "从 2026-03-05 到 --03-08 , 共 -12.5 元"
    text = "Room 305 (Dr Müller), from 2026-03-05: 12.50 EUR"
    assert plain(text) == text
    assert _chinese.is_in("苏州", "寄往苏州的包裹")
    assert not _chinese.is_in("ski", "skiing")
    assert _chinese.is_in("AB-123", "面单AB-123。")


def test_a_person_answers_in_chinese():
    person = Person(
        "我是王芳。取消预订。", "新号码是1。", topics=("新号码",), change="改一处。", language="zh"
    )
    assert person.answer("请问新号码是多少？") == "新号码是1。"
    assert person.was_asked
    assert person.answer("信息都查到了，可以继续办理吗？") == "改一处。"
    assert person.answer("要我现在办吗？") == "好的，请办吧。"
    assert person.answer("请稍等，我查一下。") == "好的。"
    assert person.answer("") == "不好意思，我没听清。"
    assert person.answer("都办好了，还有什么可以帮您的吗？") is None
    again = Person("取消预订。", "", language="zh")
    assert again.answer("请问您要做什么？") == "就像我说的：取消预订。"
    assert Person("我是王芳。", "B", language="zh").answer("您还有什么信息没有告诉我？") == "B"
    for _ in range(MAX_IDLE - 1):
        again.answer("请稍等。")
    assert again.answer("请稍等。") is None


@pytest.fixture(scope="module", params=DOMAINS)
def setting(request):
    return load_setting(request.param, "zh")


def test_a_domain_in_chinese_is_whole(setting):
    figures = check_figures(setting)
    assert figures["language"] == "zh"
    assert figures["dead_tools"] == []
    assert figures["violations"] == figures["violations_by_sql"] == 0
    english = load_setting(setting.spec.name).words
    assert set(setting.words.asks) == set(english.asks)
    assert set(setting.words.figures) == set(english.figures)
    assert set(setting.words.nouns) == set(english.nouns)
    assert setting.words.numbers == english.numbers


def test_people_in_chinese_write_nothing_in_english(setting):
    maker = TaskMaker(setting, seed=31, pasts=[0])
    for task in [next(maker) for _ in range(5)]:
        for text in (*task.wishes, task.withheld, task.change, task.answer):
            rest = re.sub(r"\S+@[\w.]+|[A-Z]{2}-\d{3}", "", text, flags=re.ASCII)
            assert not re.search(r"[A-Za-z{}|]", rest), text
            assert not re.search(r"我我|您您|《《|的的|\d{4}-\d", text), text
        assert "".join(task.wishes).count("。") > 1
        assert "answer in Chinese" in system_prompt(setting, task)


def test_the_audit_finds_nothing_in_chinese_tasks(setting):
    _audit(setting, deep=1, shallow=1, pasts=[0])


@pytest.mark.long
def test_the_audit_finds_nothing_in_many_chinese_tasks(setting):
    _audit(setting, deep=20, shallow=10, pasts=range(2))


def _audit(setting: Setting, *, deep: int, shallow: int, pasts):
    for difficulty, number in (("deep", deep), ("shallow", shallow)):
        maker = TaskMaker(setting, seed=31, difficulty=difficulty, pasts=pasts)
        for _ in range(number):
            task = next(maker)
            assert audit_task(setting, task).faults == [], task.opening


@pytest.fixture(scope="module")
def hotel():
    return load_setting("hotel", "zh")


@pytest.fixture(scope="module")
def hotel_tasks(hotel):
    maker = TaskMaker(hotel, seed=32, pasts=range(2))
    return [next(maker) for _ in range(12)]


def test_agents_pass_and_fail_in_chinese_by_what_they_do(hotel, hotel_tasks):
    tried = set()
    for task in (*(t for t in hotel_tasks if t.withheld or t.change), hotel_tasks[0]):
        for name, played in run_agents(hotel, task, CAREFUL):
            assert played.passed, (name, task.opening)
            tried.add(name)
        assert [n for n, played in run_agents(hotel, task, CARELESS) if played.passed] == []
    assert {"ask", "summarise", "greet", "confirm"} <= tried


def test_what_is_withheld_in_chinese_must_be_true(hotel, hotel_tasks):
    task = next(t for t in hotel_tasks if t.withheld or t.change)
    for kind in ("withheld", "change"):
        words = {
            "withheld": "具体金额是99123元。",
            "change": "办之前我要改一处：具体金额是99123元。",
        }
        damaged = dataclasses.replace(task, **{kind: words[kind]})
        assert list(word_faults(hotel, damaged, WorldEnvironment(hotel, damaged)))
    damaged = dataclasses.replace(task, opening=task.opening + "再加77123元。")
    assert list(word_faults(hotel, damaged, WorldEnvironment(hotel, damaged)))
    damaged = dataclasses.replace(task, opening=task.opening + "改到8月9日。")
    assert list(word_faults(hotel, damaged, WorldEnvironment(hotel, damaged)))


def test_what_is_withheld_is_asked_for_by_any_of_its_names(hotel):
    maker = TaskMaker(hotel, seed=34, pasts=range(2))
    task = next(t for t in maker if t.withheld.startswith("新号码"))
    for words in ("请提供您的手机号。", "请问新号码是多少？", "请告诉我新的电话。"):
        person = Person(
            task.opening, task.withheld, topics=task.topics, change=task.change, language="zh"
        )
        assert person.answer(words) == task.withheld


def test_tasks_are_of_the_language_of_their_world(hotel, hotel_tasks):
    task = hotel_tasks[0]
    assert task.id.startswith("hotel-zh-")
    assert WorldTask.from_json(task.to_json()) == task
    english = load_setting("hotel")
    assert english != hotel
    assert english.past(0).base.rows["guest"] != hotel.past(0).base.rows["guest"]
    with pytest.raises(ValueError, match="must be in 'en' as its world is, is in 'zh'"):
        WorldEnvironment(english, task)


def test_a_language_without_words_is_an_error():
    assert languages("hotel") == ("en", "zh")
    assert languages("bank") == ("en",)
    with pytest.raises(DomainError, match="the words of bank must be in one of en, got 'zh'"):
        load_setting("bank", "zh")
    rows = {row["domain"]: row["languages"] for row in list_rows()}
    assert {name for name in builtin_worlds() if "zh" in rows[name]} == set(DOMAINS)


def test_the_blind_solver_reads_chinese(hotel):
    maker = TaskMaker(hotel, seed=33, difficulty="shallow", pasts=range(2))
    found = solve_figures(hotel, [next(maker) for _ in range(6)])["summary"]
    assert found["found"] == found["tasks"] == 6


def test_a_model_that_is_the_person_is_told_to_write_chinese(hotel_tasks):
    task = next(t for t in hotel_tasks if t.withheld)
    seen = []

    class Endpoint:
        def ask(self, messages):
            seen.append(messages)
            return {"content": task.withheld}

    person = ModelPerson(Endpoint(), task, "a hotel")
    assert person.answer("多少？") == task.withheld
    assert person.was_asked
    assert "language zh" in seen[0][0]["content"]
