r"""Say when two answers are the same: 0.5 is \frac12.

`normalise` maps an answer to a key. Numbers become exact fractions; other short answers lose case,
LaTeX dress and final punctuation. Equal keys are one answer in a vote.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

_ANSWER = re.compile(
    r"(?im)(?:####|\b(?:final )?answers?(?: is| are)?|答案(?:是|为)?)"
    r"(?:[ \t]*+\**+[ \t]*+[:：=]\s*+(?:\*++\s*+)?|\*\*[ \t]*+\n\s*+"
    r"|[ \t]*+\**+[ \t]*+(?![:：=]))(\S[^\n]*)"
)
_TAGGED = re.compile(r"(?is)<answer>(.*?)</answer>")
_NUMBER_AND_TALK = re.compile(  # "1/2. Therefore ...", "0.5, because ..."
    r"([$*]*[-+−]?[$]?[\d.,/]*\d[%$*]*)"
    r"(?:[.;:!]\s+[A-Z(].*|[.,;:]?\s+(?:because|since|as|so|which)\b.*)"
)
_DRESS = re.compile(r"\\(?:left|right|displaystyle|boldsymbol|mathbf|mathrm|text|textbf|mbox|bf|rm"
                    r"|[bB]igg?[lr]?)"
                    r"(?![a-zA-Z])|\\[!,;: ]|[$]|\\[()\[\]]|~")  # fmt: skip
_FRACTION = re.compile(r"\\[dtc]?frac\s*(\{[^{}]*\}|\d|[a-z]|\\pi)\s*(\{[^{}]*\}|\d|[a-z]|\\pi)")
_OVER = re.compile(r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}")
_NUMBER = re.compile(
    r"([+-]?)(?:(\d+)\s+(?=\d+/))?(\d+(?:\.\d*)?|\.\d+)"
    r"(?:e([+-]?\d{1,4}))?(?:/([+-]?\d+(?:\.\d*)?))?(?:\s*(%))?"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SPACED = re.compile(r"[+-]?\d{1,3}(?:[ '’_]\d{3})+(?:\.\d+)?")
_POWER = re.compile(
    r"(?<=[\d.])\s*(?:\\times|\\cdot|[×·⋅*x])\s*10\s*(?:\^|\*\*)\s*\{?([+-]?\d{1,4})\}?"
)
_WRITTEN_OUT = (
    (re.compile(r"√|(?<!\\)\bsqrt(?=\()"), r"\\sqrt"),
    (re.compile("π"), r"\\pi"),
    (re.compile("∞"), r"\\infty"),
    (re.compile(r"\\lbrace(?![a-zA-Z])\s*"), "{"),
    (re.compile(r"\s*\\rbrace(?![a-zA-Z])"), "}"),
    (_OVER, r"\\frac{\1}{\2}"),
)
_UNIT_OF_ONE = (
    (re.compile(r"(?i)(?<=\d)\s*+(?:\{\s*+)?degrees?\s*\}?$"), ""),
    (re.compile(r"(?i)(?<=\d)\s*+(?:\{\s*+)?per ?cent\s*\}?$"), "%"),
    (re.compile(r"\^\{(\w)\}"), r"^\1"),
    (re.compile(r"(?<=[\w)])\s*(?:\\cdot|\\times|\*)?\s*(?=\\(?:sqrt|pi)(?![a-zA-Z]))"), ""),
)
_CHOICE = re.compile(r"\(?([a-j])[).:]?")


def normalise(text: str) -> str:
    r"""Return the key of an answer.

    >>> normalise(r"So it is $\boxed{\frac12}$.") == normalise("0.50") == normalise("Answer: 1/2")
    True
    >>> normalise("(B)") == normalise("B.")
    True
    """
    answer = _plain(final_answer(text))
    value = _value(answer)
    if value is not None:
        return f"={value}"
    choice = _CHOICE.fullmatch(answer)
    if choice:
        return choice[1]
    inner = re.sub(r"\s*([,;:/+*^=(){}\[\]-])\s*", r"\1", answer)
    value = _value(inner)
    if value is not None:
        return f"={value}"
    pieces = re.split(r"([,;(){}\[\]])", inner)
    if len(pieces) > 1 and len(inner) <= 200:  # a tuple or a list: number by number
        before = ["", *pieces]
        inner = "".join(
            piece if last in tuple(")}]") else _piece(piece)
            for last, piece in zip(before, pieces, strict=False)
        )
    return " ".join(inner.split())


def final_answer(text: str) -> str:
    r"""Return what an answer comes down to: the last `\boxed{}`, else after "answer:", else all.

    >>> final_answer(r"Either \boxed{3} or, better, \boxed{\frac{1}{4}}")
    '\\frac{1}{4}'
    """
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed
    tagged = _TAGGED.findall(text)
    if tagged:
        return str(tagged[-1])
    found = _ANSWER.findall(text)
    if found:
        talk = _NUMBER_AND_TALK.fullmatch(found[-1])
        return str(talk[1] if talk else found[-1])
    return text


def _last_boxed(text: str) -> str | None:
    for command in ("\\boxed", "\\fbox"):
        start = text.rfind(command + "{")
        if start < 0:
            start = text.rfind(command + " {")
        if start < 0:
            continue
        begin = text.index("{", start) + 1
        depth = 1
        for place in range(begin, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[begin:place]
    return None


def _plain(answer: str) -> str:
    answer = " ".join(answer.split())  # runs of blanks cost squares of their length further on
    answer = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", answer)  # 1½ is one and a half
    answer = unicodedata.normalize("NFKC", answer).replace("\N{FRACTION SLASH}", "/")
    answer = answer.replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-")
    answer = (
        answer.replace("\\{", "{")
        .replace("\\}", "}")
        .replace("\\%", "%")
        .replace("\\$", "")
        .replace("{,}", ",")
    )
    for pattern, plain in _WRITTEN_OUT:
        answer = pattern.sub(plain, answer)
    answer = re.sub(r"\^\s*\{?\s*\\?(?:circ|degree)\s*\}?|°", "", answer)
    answer = re.sub(r"(?<=\d)(?=\\[dtc]?frac)", " ", answer)  # a mixed number
    answer = _DRESS.sub("", answer)
    answer = re.sub(r"\\sqrt\s*(?:\{([^{}]*)\}|(\d))", r"\\sqrt(\1\2)", answer)
    answer = answer.strip(" \t\r\n*_`\"'“”‘’")
    answer = re.sub(r"[.。!,;]+$", "", answer).strip(" *_`\"'“”‘’")
    for pattern, plain in _UNIT_OF_ONE:
        answer = pattern.sub(plain, answer)
    for _ in range(4):  # nested fractions, from the inside out
        answer, changed = _FRACTION.subn(lambda m: f"{_group(m[1])}/{_group(m[2])}", answer)
        if not changed:
            break
    answer = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), answer)
    if _SPACED.fullmatch(answer):
        answer = re.sub(r"[ '’_]", "", answer)
    answer = _POWER.sub(r"e\1", answer)
    while answer.startswith("{") and answer.endswith("}") and answer.count("{") == 1:
        answer = answer[1:-1].strip()
    answer = re.sub(r"^[a-zA-Z]\s*=\s*(?=\S)", "", answer)
    return answer.casefold()


def _group(text: str) -> str:
    inner = text.strip("{} ")
    return inner if re.fullmatch(r"[\w.\\]+", inner) or inner.startswith("\\sqrt") else f"({inner})"


def _piece(piece: str) -> str:
    value = _value(piece.strip())
    return piece.strip() if value is None else str(value)


def _value(text: str) -> Fraction | None:
    text = re.sub(r"^([+-])\s+", r"\1", text)
    power = re.fullmatch(r"([+-]?)(\d{1,6})(?:\^|\*\*)\{?(\d{1,2})\}?", text)
    if power:
        return Fraction(int(power[1] + "1") * int(power[2]) ** int(power[3]))
    text = re.sub(r"^\((.*)\)$", r"\1", text) if re.fullmatch(r"\([-+\d./]+\)", text) else text
    text = re.sub(r"\(([+-]?\d+)\)", r"\1", text)
    found = _NUMBER.fullmatch(text)
    if found is None or len(text) > 400:
        return None
    sign, whole, number, exponent, below, percent = found.groups()
    value = Fraction(number) * Fraction(10) ** int(exponent or 0)
    if below is not None:
        if Fraction(below) == 0:
            return None
        value /= Fraction(below)
    value += int(whole or 0)
    if percent:
        value /= 100
    return -value if sign == "-" else value
