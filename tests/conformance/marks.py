"""What a test shows, in which variants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.conformance.client import VARIANTS, Variant

SOTW = tuple(variant for variant in VARIANTS if not variant.is_delta)
DELTA = tuple(variant for variant in VARIANTS if variant.is_delta)
ADS = tuple(variant for variant in VARIANTS if variant.aggregated)


def shows(section: str, row: str, variants: Iterable[Variant] = VARIANTS, *, matrix: int | None = None) -> Any:
    """Run a test in these variants, as one row of the table; `matrix`: and as a row of that section as well."""

    def mark(test: Any) -> Any:
        if matrix is not None:
            test = pytest.mark.shows("matrix", matrix)(test)
        return pytest.mark.parametrize("variant", list(variants), ids=str)(pytest.mark.shows(section, row)(test))

    return mark
