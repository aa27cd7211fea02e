"""What is known of the subjects beside their shapes: a table of ages, groups, scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from otreg.cohort.rows import Manifest, Problems, Row, read_rows, source_name
from otreg.surface import FloatArray

_MISSING = {"na", "nan", "n/a", "."}


class Covariates:
    """A table with a column ``subject``, and others.

    Parameters
    ----------
    table : path or sequence of mappings
        See :func:`otreg.cohort.rows.read_rows`.
    names : sequence of str
        Of the subjects of the template, in order. Subjects that the table has beside them are left aside; those that
        it lacks have no values.

    Raises
    ------
    ManifestError
        With everything that is wrong: no column of subjects, subjects that come twice, none that is known.
    InputError
        If the table cannot be read.
    """

    def __init__(self, table: Manifest, names: Sequence[str]) -> None:
        self._problems = Problems(source_name(table))
        rows = read_rows(table, self._problems)
        self.columns = [
            name
            for name in dict.fromkeys(column for row in rows for column in row.values)
            if name != "subject"
        ]
        self._rows: dict[str, Row] = {}
        for row in rows:
            name = row.values.get("subject")
            if name is None:
                self._problems.add(row.where, "no subject")
            elif str(name) in self._rows:
                self._problems.add(row.where, f"subject {name!r} comes a second time")
            else:
                self._rows[str(name)] = row
        self._names = list(names)
        if not set(names) & set(self._rows):
            shown = ", ".join(list(names)[:3])
            self._problems.add("table", f"knows none of the template's subjects ({shown}, …)")

    def numbers(self, column: str) -> FloatArray:
        """A column as numbers, one for each subject; NaN where it is empty. What is no number is a problem."""
        values = []
        for name in self._names:
            cell = self._cell(column, name)
            try:
                value = math.nan if cell is None else float(cell)
            except ValueError:
                self._problems.add(self._rows[name].where, f"{column} {cell!r} is no number")
                value = math.nan
            if math.isinf(value):
                self._problems.add(self._rows[name].where, f"{column} {cell!r} is not finite")
            values.append(value)
        return np.array(values, dtype=np.float64)

    def words(self, column: str) -> list[str | None]:
        """A column as words, one for each subject; None where it is empty."""
        return [self._cell(column, name) for name in self._names]

    def check(self) -> None:
        """Raise ManifestError for everything that has been found wrong."""
        self._problems.check()

    def _cell(self, column: str, name: str) -> str | None:
        if column not in self.columns:
            known = ", ".join(self.columns) or "none"
            self._problems.add("header", f"no column {column!r}; it has: {known}")
            return None
        row = self._rows.get(name)
        value = None if row is None else row.values.get(column)
        return None if value is None or str(value).strip().lower() in _MISSING else str(value)
