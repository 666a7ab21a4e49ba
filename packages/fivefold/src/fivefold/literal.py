"""Text on its way through Hydra and OmegaConf, unchanged.

Hydra's grammar would read a sweep, a list, a number or an error out of text; OmegaConf would read
an interpolation (`${x}`) or a missing value (`???`). So text is quoted for the first, escaped for
the second, and marked where neither has an escape. `decode` takes the mark off when the
configuration becomes an object.
"""

import re

from hydra.core.override_parser.types import Quote, QuotedString

_MARK = "\ufdd0"
"""A noncharacter of Unicode: no text in use begins with it, and if one does it is marked too."""

_INTERPOLATION = re.compile(r"(\\*)\$\{")


def encode(text: str) -> str:
    """Return the right-hand side of an override whose value is exactly this text."""
    return quote(escape(text))


def escape(text: str) -> str:
    """Return text that OmegaConf reads neither an interpolation nor a missing value from."""
    if text == "???" or text.startswith(_MARK):
        text = _MARK + text
    return _INTERPOLATION.sub(lambda found: found[1] * 2 + r"\${", text)


def quote(text: str) -> str:
    """Return text as a quoted string of Hydra's grammar; its interpolations stay what they are."""
    return QuotedString(text, Quote.single).with_quotes()


def decode(text: str) -> str:
    """Return the text that `encode` or `escape` was given, once they have read it."""
    return text.removeprefix(_MARK)
