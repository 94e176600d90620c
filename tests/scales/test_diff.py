"""Two tables compared."""

from __future__ import annotations

import json
import math

from trtforge.scales.codecs.trt_cache import CalibrationCache
from trtforge.scales.diff import diff
from trtforge.scales.table import Receipt, ScaleTable, TensorRange


def table(**amax: float) -> ScaleTable:
    return ScaleTable({name: TensorRange(-value, value / 2, 1) for name, value in amax.items()})


def test_equal_tables() -> None:
    result = diff(table(a=1.0, b=2.0), table(b=2.0, a=1.0))
    assert result.same and result.equal == 2 and result.median_ratio == 1.0
    assert "all scales equal" in result.to_text()


def test_largest_differences_first() -> None:
    result = diff(table(a=1.0, b=1.0, c=1.0, z=0.0, same=3.0), table(a=1.5, b=0.25, c=1.1, z=1.0, same=3.0))
    assert [change.name for change in result.changed] == ["z", "b", "a", "c"]
    assert result.changed[0].distance == math.inf
    assert result.changed[1].ratio == 0.25
    assert result.equal == 1
    assert result.median_ratio == 1.1
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["changed"][0]["ratio"] is None


def test_tensors_of_one_side_and_limited_text() -> None:
    result = diff(table(a=1.0, **{f"n{i}": 1.0 for i in range(30)}), table(a=1.0, b=1.0))
    assert not result.same
    assert result.only_b == ("b",) and len(result.only_a) == 30
    text = result.to_text(limit=3)
    assert "only in b: b" in text and "27 more only in a" in text


def test_receipts_are_compared() -> None:
    def with_receipt(graph: str) -> ScaleTable:
        return ScaleTable(table(a=1.0).ranges, Receipt("minmax", {}, "s", {}, graph, "w", {}))

    assert diff(with_receipt("g"), with_receipt("g")).receipts == ()
    assert diff(with_receipt("g"), with_receipt("h")).receipts == ("model graph",)
    assert "receipts differ in model graph" in diff(with_receipt("g"), with_receipt("h")).to_text()
    assert len(diff(with_receipt("g"), table(a=1.0)).receipts) == 1


def test_a_table_equals_what_its_cache_gives_back() -> None:
    original = table(a=0.1, b=7.3, c=1e-9)
    cache = CalibrationCache.from_table(original, tensorrt="8.6.2")
    assert cache.to_table().ranges["a"].amax != original.ranges["a"].amax
    assert diff(original, cache.to_table()).same
