"""Sample earnings calls of invented companies, with structure that only context can predict.

- Speakers and figures are drawn per call, listed or said once and then repeated.
- The sector settles which goods are spoken of, the company its currency, the year its theme.
- Whether revenue rose or fell at the start settles every later verb and comparison about it.
- The passcode of the replay is a word without meaning that is read out again and again.
Every choice shows in the text, so minus its log-probability is the information in the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bdh.corpora.planted import Planted
from bdh.corpora.sample import words
from bdh.corpora.sample.choices import Choices, Text
from bdh.corpora.sample.words import PEOPLE, SURNAMES, nonsense

FIRST_YEAR, LAST_YEAR, LAST_TRAINING_YEAR = 2014, 2022, 2018
TRAINING_SHARE = 0.7
QUESTIONS = (7, 11)
OPERATOR = "Operator"

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


def years_of(documents: int) -> list[int]:
    """Year of every document, ascending: TRAINING_SHARE of them evenly until LAST_TRAINING_YEAR, the rest after."""
    early = round(TRAINING_SHARE * documents)
    first, later = LAST_TRAINING_YEAR - FIRST_YEAR + 1, LAST_YEAR - LAST_TRAINING_YEAR
    years = [FIRST_YEAR + number * first // early for number in range(early)]
    return years + [LAST_TRAINING_YEAR + 1 + n * later // (documents - early) for n in range(documents - early)]


def write_call(seed: str, year: int) -> tuple[dict[str, Any], Planted]:
    """The call of `year` that belongs to `seed`, about 5 kB, as a row of the table, and what is planted in it."""
    choices = Choices(seed)
    choices.forced(1.0 / (LAST_YEAR - FIRST_YEAR + 1))
    call = _open(choices, Text(), year)
    _present(call)
    for _ in range(choices.integer(*QUESTIONS)):
        _question(call)
    _say(call, OPERATOR, "operator", [("This ends the call. The passcode for the replay is ", None), *_passcode(call)])
    row = {
        "symbol": call.company.symbol,
        "company_name": call.company.name,
        "company_id": float(words.COMPANIES.index(call.company)),
        "year": call.year,
        "quarter": call.quarter,
        "date": f"{call.date} 00:00:00",
        "content": str(call.text),
        "structured_content": call.turns,
    }
    return row, Planted(choices.nats, call.text.spans)


def _open(choices: Choices, text: Text, year: int) -> Call:
    company, quarter = choices.pick(words.COMPANIES), choices.integer(1, 4)
    month, day = 3 * quarter - choices.integer(0, 1), choices.integer(1, 28)
    date = f"{year}-{month:02d}-{day:02d}"
    names = [f"{name} {choices.pick(SURNAMES)}" for name in choices.several(PEOPLE, 2 + choices.integer(2, 3))]
    call = Call(
        choices=choices,
        text=text,
        turns=[],
        company=company,
        year=year,
        quarter=quarter,
        date=date,
        executives=names[:2],
        analysts=names[2:],
        revenue=choices.integer(101, 999),
        percent=choices.integer(2, 30),
        rose=choices.chance(0.6),
        passcode=nonsense(choices),
    )
    text.add(f"{company.name} ({company.symbol}) {words.QUARTERS[quarter - 1]} quarter {year} call, {date}\n")
    text.add(f"Company Participants\n{names[0]} - Chief Executive\n{names[1]} - Chief Financial Officer\n")
    text.add("Conference Call Participants\n")
    for name in call.analysts:
        text.add(f"{name} - {choices.pick(words.FIRMS)}\n")
    return call


def _say(call: Call, speaker: str, role: str, parts: list[Part]) -> None:
    """One turn: the speaker on a line of its own, then the text, whose parts may be instances of a concept."""
    if call.turns:
        call.text.add("\n")
    call.text.add(speaker, "speaker_name")
    call.text.add("\n")
    with call.text.marked(f"role_{role}"):
        for part, concept in parts:
            call.text.add(part, concept)
    call.turns.append({"speaker": speaker, "text": "".join(part for part, _ in parts)})


def _present(call: Call) -> None:
    name, year = call.company.name, (str(call.year), "year")
    quarter = f"{words.QUARTERS[call.quarter - 1]} quarter of "
    chief, finance = call.executives
    _say(
        call,
        OPERATOR,
        "operator",
        [
            (f"Welcome to the {name} call for the {quarter}", None),
            year,
            (f". I hand over to {chief}. The passcode for the replay is ", None),
            *_passcode(call),
        ],
    )
    opening: list[Part] = [
        (f"Thank you. In the {quarter}", None),
        year,
        (" revenue ", None),
        ("rose" if call.rose else "fell", "direction"),
        (" by ", None),
        (str(call.percent), "number"),
        (" percent to ", None),
        *_revenue(call),
        (f", {_against(call)} our plan.", None),
    ]
    for _ in range(call.choices.integer(5, 8)):
        opening += [(" ", None), *_remark(call)]
    _say(call, chief, "executive", [*opening, (f" Now to {finance}.", None)])
    figures: list[Part] = [(f"Thank you, {chief}. ", None), *_recall(call)]
    for _ in range(call.choices.integer(5, 8)):
        figures += [(" ", None), *_figure(call)]
    _say(call, finance, "executive", figures)


def _question(call: Call) -> None:
    choices = call.choices
    analyst, answering = choices.pick(call.analysts), choices.pick(call.executives)
    _say(call, OPERATOR, "operator", [(f"The next question is from {analyst}.", None)])
    goods, market = _some_goods(call), _some_market(call)
    asked: list[Part] = [("How do the ", None), goods, (f" do in {market}, {answering}?", None)]
    _say(call, analyst, "analyst", asked)
    answer: list[Part] = [(f"In {market} the ", None), goods]
    if choices.chance(0.6):
        answer += [(f" gain from {choices.ranked(words.DRIVERS, 0.5)}. ", None)]
    else:
        answer += [(f" suffer from {choices.ranked(words.DRAGS, 0.5)}. ", None)]
    answer += _recall(call) if choices.chance(0.3) else _remark(call)
    for _ in range(choices.integer(0, 3)):
        answer += [(" ", None), *_remark(call)]
    _say(call, answering, "executive", answer)


def _remark(call: Call) -> list[Part]:
    """A sentence about the year, orders, a site, a mood or an outlook."""
    choices = call.choices
    match choices.pick(("theme", "orders", "site", "mood", "outlook"), (1.0, 3.0, 3.0, 2.0, 2.0)):
        case "theme":
            theme = words.THEMES[call.year % len(words.THEMES)]
            return [("Like everyone we felt ", None), (theme, "year_theme"), (f" in {_some_market(call)}.", None)]
        case "orders":
            return _orders(call)
        case "site":
            site = f"{choices.ranked(words.ACTIONS, 0.5)} a {choices.ranked(words.SITES, 0.5)}"
            number = (str(choices.integer(11, 99)), "number")
            goods = _some_goods(call)
            return [(f"Last {_period(call)} we {site} for ", None), number, (" sorts of ", None), goods, (".", None)]
        case "mood":
            feeling = f"{choices.ranked(words.MOODS, 0.5)} about {_some_market(call)}"
            return [(f"We remain {feeling} because of {_cause(call)}.", None)]
        case _:
            words_of = f"Next {_period(call)} {_cause(call)} should "
            goods = _some_goods(call)
            return [(f"{words_of}{choices.pick(('lift', 'slow', 'shift'))} the ", None), goods, (".", None)]


def _orders(call: Call) -> list[Part]:
    """A verb that agrees with a subject before two other nouns."""
    several = call.choices.chance(0.5)
    first, second = _some_goods(call), _some_goods(call)
    return [
        (f"Our {'orders' if several else 'demand'} for ", None),
        first,
        (" beside the ", None),
        second,
        (" ", None),
        ("are" if several else "is", "agreement"),
        (f" driven by {_cause(call)}.", None),
    ]


def _some_market(call: Call) -> str:
    """Where something is sold."""
    return call.choices.ranked(words.MARKETS, 0.5)


def _period(call: Call) -> str:
    return call.choices.ranked(words.PERIODS, 0.5)


def _cause(call: Call) -> str:
    return call.choices.ranked(words.DRIVERS + words.DRAGS, 0.3)


def _figure(call: Call) -> list[Part]:
    """A measure of some goods in the company's currency."""
    choices = call.choices
    measure, amount = choices.ranked(words.MEASURES, 0.5), str(choices.integer(11, 99))
    money: Part = (f"million {call.company.currency}", "currency")
    goods = _some_goods(call)
    change = f", after {choices.integer(11, 99)} a {_period(call)} ago." if choices.chance(0.5) else "."
    parts: list[Part] = [(f"The {measure} in ", None), goods, (" came to ", None), (amount, "number"), (" ", None)]
    return [*parts, money, (change, None)]


def _recall(call: Call) -> list[Part]:
    """Revenue again, as it was said at the start."""
    direction = "higher" if call.rose else "lower"
    head: list[Part] = [("As we said, revenue of ", None), *_revenue(call), (" is ", None), (direction, "direction")]
    return [*head, (" by ", None), (str(call.percent), "number"), (f" percent and {_against(call)} our plan.", None)]


def _revenue(call: Call) -> list[Part]:
    """The revenue of the quarter with its currency."""
    return [(str(call.revenue), "number"), (" ", None), (f"million {call.company.currency}", "currency")]


def _against(call: Call) -> str:
    """How revenue stands to the plan."""
    return "above" if call.rose else "below"


def _some_goods(call: Call) -> Part:
    """Goods, nine times of ten of the company's own sector."""
    sector = call.company.sector
    own = call.choices.chance(0.9)
    kind = sector if own else call.choices.pick([other for other in words.SECTORS if other != sector])
    return call.choices.ranked(words.SECTORS[kind], 0.5), f"sector_{kind.lower().replace(' ', '_')}"


def _passcode(call: Call) -> list[Part]:
    """The passcode of the replay, said again and again."""
    first = "repeated_again" if call.turns else "repeated_first"
    again: list[Part] = [
        part for _ in range(words.REPETITIONS - 1) for part in ((" ", None), (call.passcode, "repeated_again"))
    ]
    return [(call.passcode, first), *again, (".", None)]
