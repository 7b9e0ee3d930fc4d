"""What is said in a sample call: the call's memory, and sentences made from it."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.corpora.sample import call_words as words
from bdh.corpora.sample.choices import Choices, Text

REPETITIONS = 5

Part = tuple[str, str | None]


@dataclass
class Call:
    """What a call remembers while it is written."""

    choices: Choices
    text: Text
    turns: list[dict[str, str]]
    company: words.Company
    year: int
    quarter: int
    date: str
    executives: list[str]
    analysts: list[str]
    revenue: int
    percent: int
    rose: bool
    passcode: str


def remark(call: Call) -> list[Part]:
    """A sentence about the year, orders, a site, a mood or an outlook."""
    choices = call.choices
    match choices.pick(("theme", "orders", "site", "mood", "outlook"), (1.0, 3.0, 3.0, 2.0, 2.0)):
        case "theme":
            theme = words.THEMES[call.year % len(words.THEMES)]
            return [("Like everyone we felt ", None), (theme, "year_theme"), (f" in {some_market(call)}.", None)]
        case "orders":
            return _orders(call)
        case "site":
            site = f"{choices.ranked(words.ACTIONS, 0.5)} a {choices.ranked(words.SITES, 0.5)}"
            number = (str(choices.integer(11, 99)), "number")
            goods = some_goods(call)
            return [(f"Last {_period(call)} we {site} for ", None), number, (" sorts of ", None), goods, (".", None)]
        case "mood":
            feeling = f"{choices.ranked(words.MOODS, 0.5)} about {some_market(call)}"
            return [(f"We remain {feeling} because of {_cause(call)}.", None)]
        case _:
            words_of = f"Next {_period(call)} {_cause(call)} should "
            goods = some_goods(call)
            return [(f"{words_of}{choices.pick(('lift', 'slow', 'shift'))} the ", None), goods, (".", None)]


def _orders(call: Call) -> list[Part]:
    """A verb that agrees with a subject before two other nouns."""
    several = call.choices.chance(0.5)
    first, second = some_goods(call), some_goods(call)
    return [
        (f"Our {'orders' if several else 'demand'} for ", None),
        first,
        (" beside the ", None),
        second,
        (" ", None),
        ("are" if several else "is", "agreement"),
        (f" driven by {_cause(call)}.", None),
    ]


def some_market(call: Call) -> str:
    """Where something is sold."""
    return call.choices.ranked(words.MARKETS, 0.5)


def _period(call: Call) -> str:
    return call.choices.ranked(words.PERIODS, 0.5)


def _cause(call: Call) -> str:
    return call.choices.ranked(words.DRIVERS + words.DRAGS, 0.3)


def figure(call: Call) -> list[Part]:
    """A measure of some goods in the company's currency."""
    choices = call.choices
    measure, amount = choices.ranked(words.MEASURES, 0.5), str(choices.integer(11, 99))
    money: Part = (f"million {call.company.currency}", "currency")
    goods = some_goods(call)
    change = f", after {choices.integer(11, 99)} a {_period(call)} ago." if choices.chance(0.5) else "."
    parts: list[Part] = [(f"The {measure} in ", None), goods, (" came to ", None), (amount, "number"), (" ", None)]
    return [*parts, money, (change, None)]


def recall(call: Call) -> list[Part]:
    """Revenue again, as it was said at the start."""
    direction = "higher" if call.rose else "lower"
    head: list[Part] = [("As we said, revenue of ", None), *revenue(call), (" is ", None), (direction, "direction")]
    return [*head, (" by ", None), (str(call.percent), "number"), (f" percent and {against(call)} our plan.", None)]


def revenue(call: Call) -> list[Part]:
    """The revenue of the quarter with its currency."""
    return [(str(call.revenue), "number"), (" ", None), (f"million {call.company.currency}", "currency")]


def against(call: Call) -> str:
    """How revenue stands to the plan."""
    return "above" if call.rose else "below"


def some_goods(call: Call) -> Part:
    """Goods, nine times of ten of the company's own sector."""
    sector = call.company.sector
    own = call.choices.chance(0.9)
    kind = sector if own else call.choices.pick([other for other in words.SECTORS if other != sector])
    return call.choices.ranked(words.SECTORS[kind], 0.5), f"sector_{kind.lower().replace(' ', '_')}"


def passcode(call: Call) -> list[Part]:
    """The passcode of the replay, said again and again."""
    first = "repeated_again" if call.turns else "repeated_first"
    again: list[Part] = [
        part for _ in range(REPETITIONS - 1) for part in ((" ", None), (call.passcode, "repeated_again"))
    ]
    return [(call.passcode, first), *again, (".", None)]
