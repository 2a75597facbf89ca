"""Units, currencies and words of scale that may stand beside a number."""

import unicodedata
from dataclasses import dataclass
from fractions import Fraction

SCALE, CENT = "scale", "cent"
_WITH_CENTS = ("USD", "EUR", "AUD", "CAD", "NZD", "SGD", "HKD", "ZAR")


@dataclass(frozen=True, slots=True)
class Unit:
    """`factor` times the base unit of `kind`. A `scale` (percent, million) is a unit of plain number."""

    kind: str
    factor: Fraction

    @property
    def is_scale(self) -> bool:
        return self.kind == SCALE

    def measures_like(self, other: "Unit") -> bool:
        """Whether amounts in both units can be compared; a cent may be of any currency that has cents."""
        kinds = {self.kind, other.kind}
        return len(kinds) == 1 or (CENT in kinds and not kinds.isdisjoint(_WITH_CENTS))


# kind: factor to the kind's base unit: spellings. What is not listed (clips, apples) is a word and no unit, and so are
# spellings of several meanings (pounds, won).
_TABLE: dict[str, dict[str, str]] = {
    SCALE: {
        "1/1000": "‰",
        "1/100": "% percent pct",
        "12": "dozen dozens",
        "1000": "thousand thousands k K",
        "1000000": "million millions mn Mio",
        "1000000000": "billion billions bn",
        "1000000000000": "trillion trillions tn",
    },
    "length": {
        "1/1000": "mm millimeter millimeters millimetre millimetres",
        "1/100": "cm centimeter centimeters centimetre centimetres",
        "1": "m meter meters metre metres",
        "1000": "km kilometer kilometers kilometre kilometres",
        "127/5000": "inch inches",
        "381/1250": "ft foot feet",
        "1143/1250": "yd yard yards",
        "201168/125": "mi mile miles",
    },
    "mass": {
        "1/1000": "mg milligram milligrams",
        "1": "g gram grams",
        "1000": "kg kilogram kilograms kilo kilos",
        "1000000": "tonne tonnes",
        "45359237/1600000": "oz ounce ounces",
        "45359237/100000": "lb lbs",
    },
    "time": {
        "1/1000": "ms millisecond milliseconds",
        "1": "s sec secs second seconds",
        "60": "min mins minute minutes",
        "3600": "h hr hrs hour hours",
        "86400": "day days",
        "604800": "week weeks",
    },
    "calendar": {"1": "month months", "12": "year years yr yrs"},
    "volume": {
        "1/1000": "ml mL milliliter milliliters millilitre millilitres",
        "1": "l L liter liters litre litres",
        "473176473/1000000000": "pint pints",
        "946352946/1000000000": "quart quarts qt",
        "473176473/125000000": "gallon gallons gal",
    },
    "angle": {"1": "° degree degrees deg"},
    "celsius": {"1": "°C ℃"},
    "fahrenheit": {"1": "°F ℉"},
    "speed": {"1": "km/h kph kmh", "201168/125000": "mph", "18/5": "m/s"},
    "area": {"1": "m² m^2 m2", "1/10000": "cm² cm^2 cm2", "1000000": "km² km^2 km2"},
    "cubic": {"1": "m³ m^3 m3", "1/1000000": "cm³ cm^3 cm3"},
    "USD": {"1": "$ US$ USD dollar dollars"},
    "EUR": {"1": "€ EUR euro euros"},
    "GBP": {"1": "£ GBP", "1/100": "pence"},
    CENT: {"1/100": "¢ cent cents"},
    "JPY": {"1": "¥ JPY yen"},
    "INR": {"1": "₹ INR Rs Rs. rupee rupees"},
    "RUB": {"1": "₽ RUB ruble rubles rouble roubles"},
    "KRW": {"1": "₩ KRW"},
    "PLN": {"1": "zł PLN zloty"},
    "CZK": {"1": "Kč CZK"},
    "kr": {"1": "kr kr."},
    "BRL": {"1": "R$ BRL"},
    "CHF": {"1": "CHF Fr. francs"},
}

_CODES = """
    AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BSD BTN BWP BYN BZD CAD CDF CLP CNY COP
    CRC CUP CVE DJF DKK DOP DZD EGP ERN ETB FJD FKP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS IQD IRR ISK JMD
    JOD KES KGS KHR KMF KPW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN
    NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PYG QAR RON RSD RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN
    SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX UYU UZS VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWL RMB
"""
"""Codes of currencies (ISO 4217) without a spelling above."""

_UNITS = {
    spelling: Unit(kind, Fraction(factor))
    for kind, spellings in _TABLE.items()
    for factor, listed in spellings.items()
    for spelling in listed.split()
} | {code: Unit(code, Fraction(1)) for code in _CODES.split()}
_FOLDED = {spelling.casefold(): unit for spelling, unit in _UNITS.items() if len(spelling) > 3}

BEFORE = tuple(sorted((s for s, unit in _UNITS.items() if unit.kind.isupper() or unit.kind == "kr"), key=len)[::-1])
"""Spellings of currencies, which may stand before a number; the longest first."""


def unit_of(word: str) -> Unit | None:
    """The unit that `word` names, a currency symbol without a listed spelling included; None for any other word."""
    found = _UNITS.get(word) or (_FOLDED.get(word.casefold()) if len(word) > 3 else None)
    if found is None and len(word) == 1 and unicodedata.category(word) == "Sc":
        return Unit(word, Fraction(1))
    return found
