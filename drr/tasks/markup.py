r"""Take off an answer the Markdown and TeX that only dress it: `**72**`, `$72$`, `\text{72 clips}`, `1{,}000`."""

import re
import unicodedata

_SYMBOLS = {
    r"\%": "%",
    r"\#": "#",
    r"\&": "&",
    r"\!": "",
    r"\,": "\u2009",
    r"\;": " ",
    r"\:": " ",
    "\\ ": " ",
    r"\(": "",
    r"\)": "",
    r"\[": "",
    r"\]": "",
    "{,}": ",",
    "~": " ",
}
_SYMBOL = re.compile("|".join(map(re.escape, _SYMBOLS)))
_NAMES = {
    "times": "×",
    "cdot": "·",
    "pounds": "£",
    "euro": "€",
    "approx": "≈",
    "colon": ":",
    "left": "",
    "right": "",
    "quad": " ",
    "qquad": " ",
    "displaystyle": "",
}
_NAME = re.compile(rf"\\({'|'.join(_NAMES)})(?![A-Za-z]) ?")
_DRESS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mbox|operatorname|boxed|bf|rm)(?![A-Za-z])"
)
_DEGREE = re.compile(r"\^\s?(?:\\circ(?![A-Za-z])|\{\s?\\circ\s?\})")
_PLAIN_FRACTION = re.compile(r"\\[dtc]?frac\s?(?:\{\s?([+\-−]?[\d.,]+)\s?\}\s?\{\s?([\d.,]+)\s?\}|(\d)\s?(\d))")
_TEX_PAIR = re.compile(r"\$\$?([^$]*)\$\$?(?!\d)")
_EMPHASIS = re.compile(r"(?<![\w)])(?:\*\*|__)|(?:\*\*|__)(?![\w(])|`")
_QUOTES = re.compile(r"[\"“”«»]")
_WORKED = re.compile(r"<<[^<>\n]*>>")
"""A calculation noted beside its result, as GSM8K does."""
_VULGAR = re.compile(r"[¼-¾⅐-⅞↉]")
_DOLLAR = "\uff04"
"""A dollar that is no mark of TeX, while those are taken off."""


def undressed(text: str) -> str:
    """`text` without marks of emphasis and TeX's dress. What is left of TeX (a backslash, `^`, `_`) is mathematics."""
    text = _VULGAR.sub(lambda match: " " + unicodedata.normalize("NFKC", match[0]), text.replace(r"\$", _DOLLAR))
    text = _TEX_PAIR.sub(r" \1 ", text).replace(_DOLLAR, "$")
    text = _QUOTES.sub("", _EMPHASIS.sub("", _WORKED.sub("", text)))
    text = _SYMBOL.sub(lambda match: _SYMBOLS[match[0]], text)
    text = _DEGREE.sub("°", text)
    text = _NAME.sub(lambda match: _NAMES[match[1]], text)
    text = _PLAIN_FRACTION.sub(lambda match: f" {match[1] or match[3]}/{match[2] or match[4]}", text)
    text = _DRESS.sub(" ", text)
    if "\\" not in text and "^" not in text and "_" not in text:
        text = text.replace("{", " ").replace("}", " ")
    return text.strip().rstrip(".").strip()
