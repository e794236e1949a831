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


POOLS: dict[str, Callable[[Random], str]] = {
    "person": _person, "phone": _phone, "email": _email, "digits": _digits, "tag": _tag,
    "town": lambda rng: _word(TOWNS, rng), "shop": lambda rng: rng.choice(SHOPS.split("|")),
    "street": lambda rng: f"{_word(STREETS, rng)} Street {rng.randint(1, 120)}",
}  # fmt: skip
"""Kinds of texts by name."""
