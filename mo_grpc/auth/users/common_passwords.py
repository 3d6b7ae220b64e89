"""Passwords that are tried first, of those that are long enough to be chosen at all (NIST SP 800-63B, 5.1.1.2)."""

from typing import Final

_WORDS = """
    password password1 passw0rd p@ssw0rd p@ssword letmein welcome welcome1 administrator admin admin123 superuser supervisor
    changeme change-me iloveyou sunshine princess football baseball basketball starwars superman batman monkey dragon master
    shadow michael jennifer jordan liverpool chelsea arsenal whatever trustno1 qwerty qwertyuiop qwerty123 asdfghjkl zxcvbnm
    1q2w3e4r 1q2w3e4r5t 1qaz2wsx qazwsxedc abc123 abcd1234 abcdefgh secret test testing default guest login company customer
    customers loan loans payment payments lender money summer winter spring autumn correcthorsebatterystaple
"""

_ENDINGS = (
    "",
    "1",
    "12",
    "123",
    "1234",
    "12345",
    "123456",
    "1234567",
    "12345678",
    "123456789",
    "!",
    "!!",
    "1!",
    "123!",
    "1234!",
)
_YEARS = tuple(str(year) for year in range(1970, 2031))

_SEQUENCES = (
    "0123456789" * 3,
    "1234567890" * 3,
    "9876543210" * 3,
    "0987654321" * 3,
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiopasdfghjklzxcvbnm",
    "1q2w3e4r5t6y7u8i9o0p",
    "1qaz2wsx3edc4rfv5tgb6yhn",
    "q1w2e3r4t5y6u7i8o9p0",
)


def _all() -> frozenset[str]:
    words = _WORDS.split()
    found = {word + ending for word in words for ending in (*_ENDINGS, *_YEARS, *(f"{year}!" for year in _YEARS))}
    found |= {word * times for word in words for times in (2, 3)}
    found |= {first + second for first in words for second in words}
    found |= {sequence[:length] for sequence in _SEQUENCES for length in range(12, len(sequence) + 1)}
    return frozenset(password for password in found if len(password) >= 12)


COMMON: Final = _all()
"""In lower case."""
