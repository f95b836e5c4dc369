"""The SQL of screens, run by DuckDB over the files that the engine reads, against the engine and a full scan."""

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import Files, full_scan, queries, same

from precalc_assets.screening.plan import make_plan
from precalc_assets.screening.sql import quoted, write_sql


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def duck(files: Files):
    """DuckDB with a view for each model, as the Glue database has a table: its columns by name, from all its files."""
    with duckdb.connect() as connection:
        for model in files.entries:
            pattern = files.root / "predictions" / f"model={model}" / "*.parquet"
            relation = f"read_parquet('{pattern}', union_by_name=true, hive_partitioning=false)"
            connection.execute(f"CREATE VIEW {quoted(model)} AS SELECT * FROM {relation}")
        yield connection


@pytest.mark.parametrize("models", [("eos1aaa",), ("eos1aaa", "eos2bbb"), ("eos3ccc", "eos1aaa", "eos2bbb")])
@given(data=st.data())
@settings(max_examples=60)
def test_sql_answers_what_engine_and_full_scan_do(files: Files, duck, models: tuple[str, ...], data: st.DataObject):
    query = data.draw(queries(*models))
    statements = write_sql(make_plan(query, files.entries.get, list), quoted)
    answer = files.engine().answer(query)
    assert duck.execute(statements.count).fetchone() == (answer.screened, answer.matched)
    assert answer.matched == full_scan(files, query)[0]
    if query.limit:
        assert same(duck.execute(statements.rows).fetchall(), list(answer.rows))
