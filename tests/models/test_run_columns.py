"""A model's declared columns: names, types, and defaults for missing declarations."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precalc_assets.columns import OUR_NAMES, Column, public_name, read_columns
from precalc_assets.platform_errors import ModelError

HEADER = "name,type,direction,description\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes files of a framework folder, and returns the folder."""

    def write(columns: str | bytes | None, example: str | None = None, folder: str = "examples") -> Path:
        for name, content in (("columns/run_columns.csv", columns), (f"{folder}/run_output.csv", example)):
            if content is not None:
                path = tmp_path / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("declared", "kind"), [("float", "float"), ("Float", "float"), (" Integer ", "integer"), ("other", "string")]
)
def test_columns_are_read_in_order_with_their_types(write: Write, declared: str, kind: str) -> None:
    framework = write(f"\ufeff{HEADER}b,{declared},high,Some text\r\na,string,,\r\n")
    columns, warnings = read_columns(framework)
    assert columns == (Column("b", kind, "high", "Some text"), Column("a", "string", "", ""))  # type: ignore[arg-type]
    assert warnings == ()


@pytest.mark.parametrize("name", ["2_halo_pyridine", "Mol Weight (g/mol)", "a,b", 'say "x"', "µ", "a-b", "LogP"])
def test_a_column_may_have_any_name(write: Write, name: str) -> None:
    quoted = name.replace('"', '""')
    (column,), warnings = read_columns(write(f'{HEADER}" {quoted} ",float,,x\n'))
    assert (column.name, column.declared, warnings) == (name, name, ())


@pytest.mark.parametrize("name", [*OUR_NAMES, "SMILES", "InChIKey"])
def test_a_name_of_ours_is_given_a_suffix(write: Write, name: str) -> None:
    (column,), _ = read_columns(write(f"{HEADER}{name},float,,x\n"))
    assert (column.name, column.declared) == (f"{name}_predicted", name)


names = st.lists(st.sampled_from([*OUR_NAMES, "Key", "a", "", "_predicted", "_PREDICTED", "_"]), max_size=4).map(
    "".join
)


@given(names, names)
def test_every_declared_name_has_a_name_of_its_own(one: str, other: str) -> None:
    assert Column(public_name(one), "float", "", "").declared == one
    assert (public_name(one) == public_name(other)) == (one == other)
    assert public_name(one).lower() not in OUR_NAMES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HEADER + "a,float,,x\n,float,,x\n", ["line 3", "has no name"]),
        (HEADER + "a,float,,x\na,float,,x\n", ["line 3", "'a' is taken"]),
        (HEADER + "key,float,,x\nkey,float,,x\n", ["line 3", "'key' is taken"]),
        (HEADER, ["declares no columns", "examples/run_output.csv"]),
        (HEADER + ",,,\n,,,\n", ["declares no columns"]),
        ("", ["declares no columns"]),
        ("column;kind\na;float\n", ["line 2", "has no name"]),
        (b"\x89PNG\r\n\x1a\n\0\xff", ["not a CSV file in UTF-8"]),
        (None, ["is missing", "examples/run_output.csv"]),
    ],
    ids=str,
)
def test_a_bad_columns_file_is_named_with_its_line(write: Write, content: str | bytes | None, words: list[str]) -> None:
    framework = write(content)
    with pytest.raises(ModelError) as error:
        read_columns(framework)
    assert all(word in str(error.value) for word in [str(framework / "columns" / "run_columns.csv"), *words])
    assert "\n" not in str(error.value)


def test_blank_rows_are_passed_over_with_a_warning(write: Write) -> None:
    columns, warnings = read_columns(write(HEADER + ",,,\na,float,,x\n , ,,\nb,integer,,x\n,,,\n,,,\n"))
    assert [(column.name, column.type) for column in columns] == [("a", "float"), ("b", "integer")]
    (warning,) = warnings
    assert "blank rows are skipped (line 2, line 4, line 6 and 1 more)" in warning


EXAMPLE = """key,input,count,score,name,code,empty,smiles
K,C,1,2,a,0x1,,CC
K,C,,0.5,b,,,CC
K,C,-3,nan,,,,CC
"""
TYPES = [
    ("count", "integer"),
    ("score", "float"),
    ("name", "string"),
    ("code", "string"),
    ("empty", "string"),
    ("smiles_predicted", "string"),
]


@pytest.mark.parametrize("content", [None, HEADER, HEADER + ",,,\n,,,\n"], ids=["missing", "header", "blank rows"])
@pytest.mark.parametrize("folder", ["examples", "example"])
def test_missing_columns_are_those_of_the_own_example(write: Write, content: str | None, folder: str) -> None:
    framework = write(content, EXAMPLE, folder)
    columns, warnings = read_columns(framework)
    assert [(column.name, column.type) for column in columns] == TYPES
    (warning,) = warnings
    assert f"the columns are those of {framework / folder / 'run_output.csv'}" in warning


def test_integers_beyond_64_bits_are_floats(write: Write) -> None:
    columns, _ = read_columns(write(None, f"a,b\n{2**63},1\n"))
    assert [column.type for column in columns] == ["float", "integer"]


@pytest.mark.parametrize(
    ("example", "kind"), [("a,b\n1.5,x\n", "float"), ("b\nx\n", "string"), (None, "string")], ids=str
)
@pytest.mark.parametrize("declared", ["double", ""])
def test_an_unknown_type_is_that_of_the_example(write: Write, declared: str, example: str | None, kind: str) -> None:
    (column,), (warning,) = read_columns(write(f"{HEADER}a,{declared},,x\n", example))
    assert column.type == kind
    assert f"line 2: 'a' has the unknown type {declared!r}; it is read as {kind}" in warning


def test_a_good_columns_file_is_read_without_the_example(write: Write) -> None:
    (column,), warnings = read_columns(write(HEADER + "a,float,,x\n", "\0\0"))
    assert (column.name, warnings) == ("a", ())
