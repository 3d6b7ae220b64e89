"""CSV files for people, who open them in a spreadsheet: the one place where the service writes such files."""

import csv
import io
import re
from collections.abc import Iterable
from numbers import Number

# Where a cell may begin, whatever the spreadsheet takes for its separator, and what makes a formula of it there, also behind
# quotes, since a quoted text is cut at a separator that the spreadsheet does not see as quoted. CR LF is one line end.
_FORMULA = re.compile(r'(?:^|\r\n|\r(?!\n)|[;,\t\n])(?=[ "]*[=+\-@\t\r\n])')


def csv_lines(rows: Iterable[Iterable[object]]) -> str:
    """Rows as lines of CSV (RFC 4180): numbers as they are, everything else quoted and without formulas; None is empty.

    A text that a spreadsheet would take for a formula, as a whole or behind a separator within, gets an apostrophe there, which
    makes it a text again (OWASP, "CSV Injection"). Numbers cannot be formulas and stay numbers, negative ones included.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerows([value if isinstance(value, Number) else _text(value) for value in row] for row in rows)
    return buffer.getvalue()


def _text(value: object) -> str:
    return "" if value is None else _FORMULA.sub(r"\g<0>'", str(value))
