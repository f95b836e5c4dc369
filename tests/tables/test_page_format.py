"""The page format: values are read back exactly, and stored in as few bytes as possible."""

import math
import struct
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from table_doubles import record_batch

from precalc_assets.columns import Column
from precalc_assets.platform_errors import TableError
from precalc_assets.sharding import HASH_SPACE, shard_index
from precalc_assets.tables import pages
from precalc_assets.tables.directory import TableColumns
from precalc_assets.tables.page_writer import DtypeChooser, PageEncoder, Rows
from precalc_assets.tables.pages import Page, narrowed, page_index, page_layout
from precalc_assets.tables.paging import ShardRows

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = {
    "float": st.one_of(
        st.floats(),
        st.floats(width=32),
        st.integers(-300, 70_000).map(float),
        st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1e308, -1e308, 2.0**63, 2.0**64, -(2.0**63), math.inf, -math.inf]),
    ),
    "integer": st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.integers(-200, 300),
        st.sampled_from([0, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, -128, -129, 2**63 - 1, -(2**63)]),
    ),
    "string": st.one_of(TEXT, st.sampled_from(["", "é", "🧪" * 50, "\x00", "x" * 3_000])),
}


@st.composite
def tables(draw):
    columns, values = [], []
    n = draw(st.integers(1, 12))
    for at in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(sorted(VALUES)))
        cell = VALUES[kind] | st.none() if draw(st.booleans()) else VALUES[kind]
        columns.append(Column(f"c{at}", kind, "", ""))
        values.append(draw(st.lists(cell, min_size=n, max_size=n)))
    return columns, list(zip(*values, strict=True))


def encoded(columns, rows, start=0, stop=None):
    """Return the dtypes, layout and hashes of all rows, and the page of the rows from start to stop."""
    hashes = np.arange(1, len(rows) + 1, dtype=np.uint64) * np.uint64(2**63 // 5_000)
    batch = record_batch([""] * len(rows), columns, rows)
    chooser = DtypeChooser(columns)
    chooser.add(batch)
    layout = page_layout(tuple(c.type for c in columns), chooser.dtypes())
    encoder = PageEncoder(layout, columns, Rows(hashes, batch))
    return chooser.dtypes(), layout, hashes.tolist(), encoder.encode(start, len(rows) if stop is None else stop)


def bits(row):
    """Return a row's exact values, including types and signs of zero; all NaN are equal."""
    return [struct.pack("<d", v) if type(v) is float and v == v else repr(v) for v in row]


@settings(max_examples=150, deadline=None)
@given(tables())
def test_values_are_read_back_exactly_with_their_type(table):
    columns, rows = table
    _, layout, hashes, value = encoded(columns, rows)
    page = Page(layout, value)
    assert [bits(page.row(h)) for h in hashes] == [bits(row) for row in rows]


@settings(max_examples=75, deadline=None)
@given(tables())
def test_wide_and_narrow_rows_are_read_alike(table):
    columns, rows = table
    dtypes, layout, hashes, value = encoded(columns, rows)
    with patch.object(pages, "_NARROW", 0):
        wide = page_layout.__wrapped__(tuple(c.type for c in columns), dtypes)
    assert (wide.numbers._pick is None) == any(g.width > 1 and g.dtype != "utf8" for g in wide.groups)
    narrow_page, wide_page = Page(layout, value), Page(wide, value)
    assert [bits(wide_page.row(h)) for h in hashes] == [bits(narrow_page.row(h)) for h in hashes]


@settings(max_examples=150, deadline=None)
@given(tables(), st.data())
def test_some_columns_are_read_as_all_are(table, data):
    columns, rows = table
    _, layout, hashes, value = encoded(columns, rows)
    at = st.none() | st.integers(0, len(columns) - 1)
    chosen = data.draw(st.lists(at, min_size=1, max_size=len(columns), unique=True))
    page = Page(narrowed(layout, tuple(chosen)), value)
    expected = [[None if at is None else row[at] for at in chosen] for row in rows]
    assert [bits(page.row(h)) for h in hashes] == [bits(row) for row in expected]


BYTE = st.integers(0, 255)


@settings(max_examples=75, deadline=None)
@given(st.data(), st.integers(1, 5), st.booleans())
def test_rows_of_bytes_stay_so_if_they_are_asked_for(data, width, with_nulls):
    columns = [Column(f"c{at}", "integer", "", "") for at in range(width)]
    whole = st.tuples(*[BYTE] * width)
    rows = data.draw(st.lists(whole, min_size=1, max_size=8)) + [(None,) * width] * with_nulls
    _, layout, hashes, value = encoded(columns, rows)
    page = Page(layout, value)
    found = [page.row(h, as_bytes=True) for h in hashes]
    assert found == [row if row[0] is None else bytes(row) for row in rows]
    backwards = narrowed(layout, tuple(range(width)[::-1]))
    assert [tuple(Page(backwards, value).row(h, as_bytes=True)) for h in hashes] == [row[::-1] for row in rows]


@settings(max_examples=75, deadline=None)
@given(tables())
def test_other_rows_are_tuples_also_where_bytes_are_asked_for(table):
    columns, rows = table
    _, layout, hashes, value = encoded(columns, rows)
    page = Page(layout, value)
    assert [bits(page.row(h, as_bytes=True)) for h in hashes] == [bits(row) for row in rows]


@settings(max_examples=50, deadline=None)
@given(tables(), st.data())
def test_a_page_holds_the_rows_from_start_to_stop(table, data):
    columns, rows = table
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    _, layout, hashes, value = encoded(columns, rows, start, stop)
    page = Page(layout, value)
    there = [page.row(h) is not None for h in hashes]
    assert there == [start <= at < stop for at in range(len(rows))]
    assert [bits(page.row(h)) for h in page.hashes] == [bits(row) for row in rows[start:stop]]


@pytest.mark.parametrize(
    ("kind", "values", "dtype"),
    [
        ("integer", [0, 255], "u1"),
        ("integer", [-1, 127], "i1"),
        ("integer", [256], "u2"),
        ("integer", [-1, 128], "i2"),
        ("integer", [65_536], "u4"),
        ("integer", [-32_769], "i4"),
        ("integer", [2**32], "u8"),
        ("integer", [2**63 - 1], "u8"),
        ("integer", [-(2**63), 2**63 - 1], "i8"),
        ("integer", [None, None], "u1?"),
        ("integer", [None, -7], "i1?"),
        ("float", [0.0, 2.0], "u1"),
        ("float", [-0.0, 2.0], "f4"),
        ("float", [0.5], "f4"),
        ("float", [0.1], "f8"),
        ("float", [5e-324], "f8"),
        ("float", [1e308], "f8"),
        ("float", [2.0**40], "f4"),
        ("float", [2.0**40 + 1], "u8"),
        ("float", [2.0**40 + 1, math.inf], "f8"),
        ("float", [math.nan, math.inf], "f4"),
        ("float", [None, 1.0], "u1?"),
        ("string", ["1"], "utf8"),
        ("string", [None, ""], "utf8?"),
    ],
)
def test_a_column_gets_the_narrowest_exact_dtype(kind, values, dtype):
    columns = [Column("c", kind, "", "")]
    rows = [(value,) for value in values]
    dtypes, layout, hashes, value = encoded(columns, rows)
    assert dtypes == (dtype,)
    assert [bits(Page(layout, value).row(h)) for h in hashes] == [bits(row) for row in rows]


def test_large_strings_and_sliced_arrays_are_encoded():
    columns = [Column("s", "string", "", ""), Column("i", "integer", "", "")]
    for text in (pa.string(), pa.large_string()):
        batch = pa.record_batch({"s": pa.array(["a", None, "ccc", "🧪"], text), "i": [1, None, 3, 4]}).slice(1, 3)
        chooser = DtypeChooser(columns)
        chooser.add(batch)
        layout = page_layout(("string", "integer"), chooser.dtypes())
        encoder = PageEncoder(layout, columns, Rows(np.array([1, 2, 3], np.uint64), batch))
        page = Page(layout, encoder.encode(0, 3))
        assert [page.row(h) for h in (1, 2, 3)] == [(None, None), ("ccc", 3), ("🧪", 4)]


def test_a_molecule_missing_from_a_page_has_no_row():
    _, layout, hashes, value = encoded([Column("c", "integer", "", "")], [(1,), (2,)])
    assert [Page(layout, value).row(h) for h in (0, hashes[0] + 1, HASH_SPACE - 1)] == [None] * 3


def test_a_match_across_two_hashes_is_no_molecule():
    columns, hashes = [Column("c", "integer", "", "")], [0x0102030405060708, 0x1112131415161718, 0x2122232425262728]
    straddling = int.from_bytes(b"".join(h.to_bytes(8, "little") for h in hashes)[3:11], "little")
    everywhere = 0x0101010101010101
    keys = sorted([*hashes, everywhere, everywhere - 1])
    batch = record_batch([""] * len(keys), columns, [(at,) for at in range(len(keys))])
    layout = page_layout(("integer",), ("u1",))
    page = Page(layout, PageEncoder(layout, columns, Rows(np.array(keys, np.uint64), batch)).encode(0, len(keys)))
    assert page.hashes == tuple(keys)
    assert page.row(straddling) is None
    assert [page.row(h) for h in keys] == [(at,) for at in range(len(keys))]


@pytest.mark.parametrize("distance", [1, 254, 255, 256, 257, 510, 511, 700])
def test_counts_that_are_mostly_zero_are_listed_and_read_back_exactly(distance):
    columns = [Column(f"c{at}", "integer", "", "") for at in range(900)]
    rows = [tuple(7 if at in (0, distance, 899) else 0 for at in range(900)), (0,) * 900, (None,) + (0,) * 899]
    _, layout, hashes, value = encoded(columns, rows)
    assert len(pages.decompress(value)) < 200
    assert [Page(layout, value).row(h) for h in hashes] == rows
    chosen = 899, distance, 0, 450
    some = Page(narrowed(layout, chosen), value)
    assert [some.row(h) for h in hashes] == [tuple(row[at] for at in chosen) for row in rows]


@given(st.lists(st.binary(max_size=3), max_size=6), st.integers(0, 2**32 - 1))
def test_a_list_that_does_not_fit_is_an_error(entries, listed):
    columns = [Column("c", "integer", "", "")]
    _, layout, hashes, value = encoded(columns, [(0,)] * 8)
    payload = pages.decompress(value)
    numbers_at = 4 + 8 * 8
    changed = payload[:numbers_at] + struct.pack("<I", listed) + b"".join(entries)
    try:
        row = Page(layout, zstandard.compress(changed)).row(hashes[3])
    except TableError:
        return
    assert len(row) == 1


@pytest.mark.parametrize("at", [0, 9, 30, -1])
def test_a_page_with_a_wrong_byte_is_an_error(at):
    _, layout, _, value = encoded([Column("c", "float", "", "")], [(i / 7,) for i in range(40)])
    damaged = bytearray(value)
    damaged[at] ^= 0x10
    with pytest.raises(TableError, match="damaged"):
        Page(layout, bytes(damaged))


def test_a_value_beyond_its_dtype_is_an_error():
    columns = [Column("c", "integer", "", "")]
    rows = Rows(np.array([1], np.uint64), record_batch([""], columns, [(256,)]))
    with pytest.raises(TableError, match="changed during the load"):
        PageEncoder(page_layout(("integer",), ("u1",)), columns, rows)


@pytest.mark.parametrize("kind", ["float", "string"])
def test_predictions_of_another_type_are_an_error(kind):
    batch = record_batch([""], [Column("c", "integer", "", "")], [(1,)])
    with pytest.raises(TableError, match="'c' is of type"):
        DtypeChooser([Column("c", kind, "", "")]).add(batch)


@given(
    st.lists(st.integers(0, HASH_SPACE - 1), min_size=1, max_size=50),
    st.integers(1, 10_000),
    st.integers(1, 2**20),
)
def test_pages_ascend_with_the_hash_and_numpy_agrees(hashes, n_shards, n_pages):
    hashes = sorted(hashes)
    pages = [page_index(h, n_shards, n_pages) for h in hashes]
    assert all(0 <= page < n_pages for page in pages)
    places = [(shard_index(h, n_shards), page) for h, page in zip(hashes, pages, strict=True)]
    assert places == sorted(places)
    rows = ShardRows(TableColumns("eos0abc", n_shards, ()), "00", lambda: iter(()))
    assert rows.page_of(np.array(hashes, np.uint64), n_pages).tolist() == pages
