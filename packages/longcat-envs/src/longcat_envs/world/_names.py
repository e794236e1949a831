"""Names and other texts of the seeded people and things: pinned lists of our own."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

FIRST = (
    "Ada Amir Anna Arne Aylin Bea Bela Carla Chidi Clara Dana David Diego Dora Elena Elif "
    "Emil Erik Esra Eva Farid Femi Finn Gita Greta Hana Hugo Ida Igor Ines Iris Ivan Jana "
    "Jonas Julia Kaya Keiko Lara Leo Lina Luis Maja Marco Marta Mei Milan Mina Nadia Nils "
    "Noor Olga Omar Oscar Paula Petra Piet Ravi Rita Rosa Ruth Samir Sara Selma Sofia Sven "
    "Tara Theo Tomas Uma Vera Viktor Yara Yusuf Zara Zoe"
)
LAST = (
    "Abel Adeyemi Alvarez Amato Arslan Bauer Becker Berg Blanc Bond Carter Castro Chen Cohen "
    "Costa Cruz Dahl Demir Diaz Eriksen Faber Ferri Fischer Fontaine Frost Garcia Gomez Grant "
    "Haas Hansen Hoffman Holm Horvat Ito Ivanov Jansen Kaya Keller Khan Kim Klein Kovac "
    "Kowalski Lang Larsen Lee Lind Lopez Lund Marin Meyer Moreau Moss Nagy Novak Okafor Olsen "
    "Park Patel Perez Petrov Popov Quinn Ramos Reyes Ricci Roth Rossi Sato Schmidt Silva "
    "Singh Stone Suzuki Tanaka Torres Vargas Vogel Wagner Walsh Weber Wolf Yilmaz Zeman Zhang"
)
TOWNS = (
    "Aarhus Bergen Bologna Braga Brno Cork Delft Gdansk Gent Girona Graz Kaunas Leeds Linz "
    "Lund Lyon Malaga Nantes Odense Parma Porto Rijeka Split Tartu Turku Utrecht Varna Vigo"
)
SHOPS = (
    "Alder Books|Blue Heron Cafe|Corner Bakery|Delta Sports|Ember Grill|Fjord Outdoor|Garden & Co"
    "|Harbour Fish|Iron Tools|Juniper Pharmacy|Kite Toys|Lumen Electronics|Maple Furniture"
    "|Northside Market|Opal Jewellers|Pine Cinema|Quartz Watches|River Cycles|Sage Organics"
)
ZH_LAST = "王 李 张 刘 陈 杨 赵 黄 周 吴 徐 孙 胡 朱 高 林 何 郭 马 罗 梁 宋 郑 谢 韩 唐 冯 于 董 萧 程 曹 袁 邓 许 傅 沈 曾 彭 吕"
ZH_FIRST = (
    "伟 芳 娜 敏 静 丽 强 磊 军 洋 勇 艳 杰 娟 涛 明 超 秀英 霞 平 刚 桂英 建华 志强 晓东 雨桐 子涵 欣怡 浩然 宇轩 思远 嘉怡 文博 雅琴 俊杰 "
    "晨曦 梦洁 天佑 海燕 国栋 春梅 立新 少华 佳宁 若溪 一鸣 家豪 慧敏 玉兰 振华"
)
ZH_EMAIL = (
    "wang li zhang liu chen yang zhao huang zhou wu xu sun hu zhu gao lin he guo ma luo liang song"
)
ZH_TOWNS = "苏州 无锡 常州 杭州 南京 扬州 绍兴 宁波 厦门 福州 泉州 长沙 武汉 宜昌 成都 绵阳 昆明 大理 桂林 洛阳 开封 西安 太原 大连 青岛 烟台 济南 合肥"
ZH_STREETS = "中山 人民 解放 建设 和平 新华 文化 湖滨 青年 东风 花园 长江"
HOSTS = "post.example mail.example inbox.example letters.example home.example"
STREETS = "Mill Station Church Bridge Market Castle Harbour Garden Forest Park Lake Hill"


def _word(words: str, rng: Random) -> str:
    return rng.choice(words.split())


def _person(rng: Random) -> str:
    return f"{_word(FIRST, rng)} {_word(LAST, rng)}"


def _phone(rng: Random) -> str:
    return f"0{rng.randint(20, 98)} {rng.randint(100, 999)} {rng.randint(1000, 9999)}"


def _email(rng: Random) -> str:
    return f"{_word(FIRST, rng)}.{_word(LAST, rng)}{rng.randint(2, 98)}@{_word(HOSTS, rng)}".lower()


def _digits(rng: Random) -> str:
    return str(rng.randint(1000, 9999))


def _tag(rng: Random) -> str:
    return f"{rng.choice('ABCDEFGHK')}{rng.choice('LMNPRSTV')}-{rng.randint(100, 999)}"


def _person_zh(rng: Random) -> str:
    return f"{_word(ZH_LAST, rng)}{_word(ZH_FIRST, rng)}"


def _phone_zh(rng: Random) -> str:
    # No mobile number begins with 12: nobody is called here.
    return f"12{rng.randint(0, 9)} {rng.randint(1000, 9999)} {rng.randint(1000, 9999)}"


def _email_zh(rng: Random) -> str:
    return f"{_word(ZH_EMAIL, rng)}.{_word(ZH_EMAIL, rng)}{rng.randint(2, 98)}@{_word(HOSTS, rng)}"


_ENGLISH: dict[str, Callable[[Random], str]] = {
    "person": _person, "phone": _phone, "email": _email, "digits": _digits, "tag": _tag,
    "town": lambda rng: _word(TOWNS, rng), "shop": lambda rng: rng.choice(SHOPS.split("|")),
    "street": lambda rng: f"{_word(STREETS, rng)} Street {rng.randint(1, 120)}",
}  # fmt: skip
POOLS: dict[str, dict[str, Callable[[Random], str]]] = {
    "en": _ENGLISH,
    "zh": {
        **_ENGLISH, "person": _person_zh, "phone": _phone_zh, "email": _email_zh,
        "town": lambda rng: _word(ZH_TOWNS, rng),
        "street": lambda rng: f"{_word(ZH_STREETS, rng)}路{rng.randint(1, 120)}号",
    },
}  # fmt: skip
"""By language, kinds of texts by name."""
