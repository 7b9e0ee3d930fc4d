"""Vocabulary of the sample earnings calls; every company is invented. Lists are ordered: earlier words are likelier."""

from __future__ import annotations

from dataclasses import dataclass

from bdh.corpora.sample.names import listed


@dataclass(frozen=True)
class Company:
    """An invented company; a digit in the symbol keeps it apart from every listed one."""

    symbol: str
    name: str
    sector: str
    currency: str


COMPANIES = (
    Company("QV1", "Quorvane Pipeworks", "Energy", "dollars"),
    Company("BX2", "Brexolith Drilling", "Energy", "euros"),
    Company("UM3", "Umberwick Power", "Energy", "dollars"),
    Company("ZL4", "Zelphane Clinics", "Health Care", "francs"),
    Company("OT5", "Ostravelle Remedies", "Health Care", "dollars"),
    Company("MY6", "Mynthia Devices", "Health Care", "euros"),
    Company("TK7", "Tokkarel Chips", "Technology", "dollars"),
    Company("PD8", "Pondrasoft Networks", "Technology", "pounds"),
    Company("IV9", "Ivelldata Systems", "Technology", "dollars"),
    Company("GN1", "Grenopel Grocers", "Consumer Goods", "pounds"),
    Company("LW2", "Lowmarrow Toys", "Consumer Goods", "dollars"),
    Company("HK3", "Hesskettle Kitchens", "Consumer Goods", "francs"),
)
SECTORS: dict[str, tuple[str, ...]] = {
    "Energy": listed("pipelines turbines refineries wells tankers grids dynamos collieries boilers dams"),
    "Health Care": listed("vaccines implants trials hospitals dosages scanners bandages therapies tonics wards"),
    "Technology": listed("chips servers licences routers databases sensors wafers upgrades antennas modems"),
    "Consumer Goods": listed("kettles puzzles cereals carpets umbrellas candles blenders sweaters pans soaps"),
}
# What a year brings: year modulo the number of themes, so that test years meet themes of the training years.
THEMES = ("the dry summer", "the port strike", "the new tariff", "the rail works", "the price cap")
MARKETS = (
    "the north",
    "the islands",
    "the large cities",
    "the coastal towns",
    "the border country",
    "the mountain region",
    "the river valleys",
    "our home market",
)
DRIVERS = (
    "stronger orders",
    "better prices",
    "careful planning",
    "a larger sales team",
    "shorter queues",
    "two new depots",
    "loyal customers",
    "a mild winter",
    "faster lorries",
    "good weather",
)
DRAGS = (
    "late deliveries",
    "higher wages",
    "weak demand",
    "costly repairs",
    "a slow start",
    "spoiled stock",
    "a flooded plant",
    "old machines",
    "rising rents",
    "a lost contract",
)
MEASURES = ("margin", "cash flow", "order book", "payroll", "inventory", "tax bill", "rent", "interest")
ACTIONS = listed("opened closed renewed repaired enlarged leased insured painted sold moved")
SITES = ("warehouse", "workshop", "showroom", "laboratory", "depot", "bakery", "quay", "garage")
MOODS = listed("pleased cautious confident patient surprised ready proud worried")
PERIODS = ("week", "month", "quarter", "season", "year")
FIRMS = ("Ablethwick Partners", "Cordwimple Research", "Fennimole and Sons", "Oldmarrow Capital", "Tidewhistle Notes")
QUARTERS = ("first", "second", "third", "fourth")
