"""Chinese in what an agent says: its form, its denials and doubts, and what takes a value back.

    余额是１，２４０．５０元。还有别的需要吗？     余额是 1240.50 元。
    3月5日   2026年3月5号                          --03-05   2026-03-05
    十二块五角   二十三本                           left as it is; 23 of what is counted

Words are not set apart in Chinese. Denials are therefore looked for anywhere, and what only looks
like one (`没问题`, `不客气`) is taken out before.
"""

from __future__ import annotations

import re

HAN = "\u3400-\u9fff"
_LATIN = rf"[^\W{HAN}]"
"""A sign of a word, of any script that sets words apart."""
_MARKS = str.maketrans({"，": ", ", "！": "! ", "？": "? ", "；": "; ", "：": ": ", "￥": "¥"})
_THOUSANDS = re.compile(r"(?<=\d)，(?=\d{3}(?!\d))")
_DAY = re.compile(r"(?:(?<!\d)(\d{4}) ?年 ?)?(?<!\d)(\d{1,2}) ?月 ?(\d{1,2}) ?[日号]")
_COINS = re.compile(r"(?<!\d)(\d+)(?:元|块)(\d)角(?:(\d)分)?")
_SEAM = re.compile(rf"(?<=[{HAN}])(?=[0-9A-Za-z€$£¥+−-])|(?<=[0-9A-Za-z%])(?=[{HAN}])")
_DIGITS = "零一二三四五六七八九"
_COUNT = re.compile(
    r"(?:(?<=[有是为共剩])([零〇一])|([零〇二两三四五六七八九十百][零〇一二两三四五六七八九十百]{0,9}|一[十百]"
    r"[零〇一二两三四五六七八九十百]{0,9})) ?(?=[个位人间本张份件瓶次天晚周箱条项枚点部册盒名])"
)
"""Numbers in words before what they count; an `一` only where it counts."""
COUNTED = re.compile(r" ?(?:[个位人间本张份件瓶次天晚周箱条项枚点部册盒名号楼岁年]|分钟|小时)")
"""What follows a number that is no amount of money."""
LABEL = re.compile(r" ?[号楼](?!码)")
"""What follows a number that is a name: room 305."""

FAREWELL = re.compile(
    r"[,，;；]?\s*(?:请问)?(?:您|你)?(?:是否)?(?:还有|还需要|还要|有)(?:什么|别的|其他|其它|哪些)[^.!?。！？]*(?:[?？]|吗|么|$)"
    r"|[,，;；]\s*(?:如果?|若|要是)(?:您|你)?(?:还)?(?:有|需)(?:任何|什么)?(?:其他|其它|别的|问题|需要|疑问|要)"
    r"[^.!?。！？]*",
)
"""Offers of more help, also within a sentence that tells."""
_IDIOM = re.compile(
    r"没(?:有)?(?:任何)?问题|没错|不错|不客气|不用谢|不用客气|(?:不用|不必|别)(?:再)?担心|不好意思"
    r"|(?:没有?|未|不会?)(?:再)?(?:做|动|改|作|变)?(?:过)?(?:了)?(?:任何)?(?:其他|其它|别的)[^,.!?;。]{0,8}"
    r"|(?:其他|其它|别的|其余)[^,.!?;。0-9\0\1]{0,6}(?:没有?|未|不)(?:动|改动|改|变)(?:过)?"
    r"|(?:无需|不需要|不必|不用)(?:再|您|你)*[^,.;!?。\0\1]{0,8}(?=[,.;!?。]|$)"
    r"|(?:没有?|未)(?:再|另外)?(?:产生|收取|发生|扣除)?(?:任何|其他|额外)*的?(?:手续费|费用|扣款|改动|变动|变化)(?=[,.;!?。]|$)"
    r"|[正准]确无误|核对无误|毫无疑问|不仅|不但|非常|无论|不论|错过|不(?:含|包括|计)[^,.!?;。() \0\1]{1,8}"
    r"|(?:未|没有?)(?:付|还|缴|交|结|支付|结清|归还|取)"
)
_ASIDE = re.compile(
    r"(?<=\0)(?: ?(?:元|块钱?))? ?\( ?(?:没有|无|不收|未收|不另收)(?:任何|其他|另外的?)?"
    r"(?:手续费|服务费|费用|税费?|利息|小费|折扣|优惠|押金|违约金|罚款) ?\)"
)
"""What an amount comes without, in brackets behind it."""
_ACTS = (
    "修?改|变|动|取消|退|删|[新增添]加|[预安]?[订约排]|办(?!法)|处理|发|通知|联系|收(?!录)|扣|产生|付|支付|开[具通]|关闭"
    "|续|延|转(?!告)|借|还(?!原)|入住|签收|配送|派送|提交|登记|使用|影响|涉及|超[过出]"
)
_NOTHING_ELSE = "问题|异常|错误|差错|遗漏|欠款|逾期|罚款|冲突|手续费|服务费|附加费|费用|押金|利息|折扣|优惠|早餐"
_OF_THE_VALUE = (
    "[这那它此其该]|上述|以上|以下|信息|数据|数字|结果|答案|消息|说|(?<!电)话|前|时|的(?=[,;]|$)|如|若|要是|除非|只要|一旦|[本原]|曾|当初"
    "|假|错(?!误)|谎|骗|编|瞎|胡|乱|玩笑|可能|[也或兴]许|概|估|恐|好像|似|貌|听|猜|疑|以为|觉得|认为|想|确定|清楚|知道|保证|肯定|真|准"
    "|对|是|查|核|信|都没|谁|什么|哪|吗|么"
)
_ELSEWHERE = re.compile(
    rf"(?:(?<=[,;])|^)(?![^,;.!?。\0\1]*(?:{_OF_THE_VALUE}))[^,;.!?。\0\1]{{0,10}}?"
    rf"(?:(?:没有?|未|无法|不能|不可以?|不会|不支持|不允许)(?:再|被|给|为|帮|另外|单独|直接|做|作|进行)*"
    rf"(?:(?:您|你|我们?)的?)?(?:{_ACTS})[^,;.!?。\0\1]{{0,10}}"
    rf"|(?:没有?|无)(?:发现|产生|收取|发生)?(?:任何|其他|其它|别的)*的?(?:{_NOTHING_ELSE})了?)\s*(?=[,;.!?。]|$)"
)
"""A clause without a value that denies an act or a thing of its own: `我没有改动地址`."""
_CLAUSE = re.compile(r"(?<=[,;])")
_SUPPOSES = re.compile(
    r"\s*(?:要是|如果|假如|若是?|倘若|除非|当初|原来|本来|之前|从前|曾经?)(?![^,;]*(?:问题|疑问|需要|意见|疑虑|疑义))"
)
"""A clause of what is not so, or no longer: what it denies is meant."""
_DENIAL = re.compile(
    r"不|没|未(?!来)|非|无|否|假(?![期日])|错|谎|骗|编的|编造|瞎|胡说|乱说|玩笑|可能|也许|或许|大概|估计|恐怕"
    r"|应该(?=[是有在会为])|好像|似乎|貌似|据说|听说|猜|怀疑|疑|假设|以为|我(?:觉得|认为|想)"
    r"|想必|难说|大致|预计|估算|虚构|杜撰|谁说|怎么(?:会|可能)|"
    r"(?:^|[,;])\s*(?:之前|先前|以前|此前|原先)|相反|反话|另有|别的|其他|其它|才怪|别(?:信|当真|听)|本来|原本|原来|过去是|曾"
)
_IF = "(?:如果|要是|假如|倘若|若是|除非)"
_BOUND = re.compile(
    r"(?:比|从|由|除了?|高出|超出|少了|多了|变为|变成|涨到|降到)\s*(?:[€$£¥]|[A-Z]{3}\b)?\s*\0"
    r"|\0 ?(?:元|块钱?)? ?(?:附近|起|开始|往上|往下|出头)|"
    rf"{_IF}[^,\0]{{0,60}}\0|^[^\0]*\0.*{_IF}|"
    r"(?:大约|大概|约(?!定)|将近|接近|差不多|超过|不到|不足|至少|至多|最多|最少|高于|低于|多于|少于|大于|小于|上限|下限"
    r"|以外的?|[两双]倍|一半|之外)(?:是|为|有|的)?\s*(?:[€$£¥]|[A-Z]{3}\b)?\s*\0"
    r"|\0 ?(?:万|千|百|亿|多(?!谢|么)|余(?!额)|左右|上下|以上|以下|以内|以外|之外|开外|(?:元|块钱?)(?:多(?!谢)|左右|上下|以上"
    r"|以下|以内|不到|不等|加|减)|(?:元|块钱?)? ?的(?:一半|两倍|几倍|[二三四五]分之))"
)
_ASKS = re.compile(r"[吗么](?=\W*$)|是不是|是否|难道|(?:对|是)吧|对不对")
_BUT = re.compile(r",?\s*(?:但是?|不过|然而|只是)")
_BEGINS = r"^\W*(?:(?:哦|啊|嗯|等等|等一下|等下|抱歉|对不起|其实|事实上|说实话|老实说|哎呀?|哈+|噢)\W*)*(?:(?:但是?|不过)\W*)?"
_RETRACTION = re.compile(
    _BEGINS
    + r"(?:不(?=\W|$)|不对|不是|不真|不准|不算|错|假|骗|开?玩笑|才怪|并非|非也|没有的事|搞错|弄错|说错|我?瞎|胡说"
    r"|反话|没这回事)"
)
_TAKES_BACK = re.compile(
    r"(?:刚才|上面|以上|上述|前面|之前|那|这|它|所说|说的|数字|金额|数目|日期|答案|结果|信息|数据|我|全部|全都|都|一切|上一?句)"
    r"[^,.!?。]{0,10}(?:不对|不是真|不真|不准|不正确|不是实|不属实|不成立|有误|错(?!过)|假(?![期日])|编|虚构|杜撰|瞎|胡|骗|谎|玩笑|不算数|不可信"
    r"|不可靠|不确定|不清楚|不知道|没查|没有查|没核|没有核|未核|猜|乱说|乱讲|反话|另一个|别的)"
    r"|(?:别|不要|请勿|勿|不能|不可)(?:相?信|当真|采信|理会|依据)"
    r"|(?:忽略|无视|撤回|收回|忘掉|忘了|作废)(?:掉)?(?:刚才|上面|以上|上述|上一|前面|之前|我|那|这|它|该)|当我没说"
    r"|(?:真实|实际|真正|正确)的?[^,.!?。]{0,6}(?:更|不同|另|别的|不是)|没有?一[句个]是?真"
)
_CONDITION = re.compile(r"(?:如果|要是|假如|若|倘若|如有|如需|除非|是否).*", re.DOTALL)
_AHEAD = re.compile("下面|接下来|以下|下一句|下一条|后面|后续|待会")


def is_chinese(text: str) -> bool:
    """Whether a text holds Chinese characters."""
    return re.search(f"[{HAN}]", text) is not None


def is_in(word: str, text: str, flags: int = 0) -> bool:
    """Whether a word stands in a text; Chinese words are not set apart."""
    inner = re.escape(word)
    if not is_chinese(word):
        inner = rf"(?<!{_LATIN}){inner}(?!{_LATIN})"
    return re.search(inner, text, flags) is not None


def set_apart(text: str) -> str:
    """Put marks, dates and numbers that stand in Chinese into the form that the rest knows."""
    text = _DAY.sub(lambda m: f" {m[1] or '-'}-{int(m[2]):02}-{int(m[3]):02} ", text)
    text = _COINS.sub(lambda m: f"{m[1]}.{m[2]}{m[3] or '0'}元", text)
    return _SEAM.sub(" ", re.sub(r"负 ?(?=[€$£¥]?\d)", "-", text))


def marks(text: str) -> str:
    """Write full marks as plain ones with a space, so that sentences end there."""
    return _THOUSANDS.sub(",", text).translate(_MARKS)


def counts(text: str) -> list[tuple[int, int, str]]:
    """Find whole numbers in words: where each begins and ends, and what it is."""
    return [(m.start(), m.start() + len(m[1] or m[2]), str(_value(m[1] or m[2])))
            for m in _COUNT.finditer(text)]  # fmt: skip


def _value(text: str) -> int:
    total, digit = 0, 0
    for sign in text.replace("〇", "零").replace("两", "二"):
        if sign in "十百":
            total += (digit or 1) * (10 if sign == "十" else 100)
            digit = 0
        else:
            digit = _DIGITS.index(sign)
    return total + digit


def is_bounded(text: str) -> bool:
    """Whether a number, marked as in `_doubts`, is a bound, an estimate or a part of a sum."""
    return _BOUND.search(text) is not None


def without_idioms(text: str) -> str:
    """Take out what only looks like a denial, or denies something else in a clause of its own."""
    clauses = _CLAUSE.split(_ASIDE.sub("", text))
    return "".join(
        one if _SUPPOSES.match(one) else _IDIOM.sub("", _ELSEWHERE.sub("", one)) for one in clauses
    )


def denies(text: str) -> bool:
    """Whether a part of a sentence denies or doubts."""
    return _DENIAL.search(text) is not None


def asks(sentence: str) -> bool:
    """Whether a sentence is a question, with its mark or without."""
    return _ASKS.search(sentence) is not None


def parts(text: str) -> list[str]:
    """Split a sentence at its `but`."""
    return _BUT.split(text)


def takes_back(sentence: str) -> bool:
    """Whether a sentence without a value takes back one said before."""
    sentence = _CONDITION.sub("", _IDIOM.sub("", sentence))
    return bool(_RETRACTION.match(sentence) or _TAKES_BACK.search(sentence))


def warns(sentence: str) -> bool:
    """Whether a sentence without a value denies what follows it."""
    return bool(_AHEAD.search(sentence) and _DENIAL.search(_IDIOM.sub("", sentence)))
