"""Conditions as a person writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precalc.errors import UsageError
from precalc.expressions import parse_conditions, parse_names, parse_order, write_conditions, write_name

A, B, C = "eos3b5e.weight", "eos4e40.score", "eos4e40.label"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("", []),
        (f"{A}>1", [{"column": A, "op": "gt", "value": 1}]),
        (f"{A} >= -1.5e-3", [{"column": A, "op": "ge", "value": -0.0015}]),
        (f"{A} < .5", [{"column": A, "op": "lt", "value": 0.5}]),
        (f"{A} <= 2.", [{"column": A, "op": "le", "value": 2.0}]),
        (f"{A} BETWEEN 200 AND 400", [{"column": A, "op": "between", "value": [200, 400]}]),
        (f"{C} in ('low','it''s')", [{"column": C, "op": "in", "value": ["low", "it's"]}]),
        (f"{C} = '= ) or'", [{"column": C, "op": "eq", "value": "= ) or"}]),
        (f"{A} is null", [{"column": A, "op": "is_null"}]),
        (
            f"{A} > 1 and {B} == 2",
            [{"column": A, "op": "gt", "value": 1}, {"column": B, "op": "eq", "value": 2}],
        ),
        (f"{A}>1 or {B}>2", [{"any": [{"column": A, "op": "gt", "value": 1}, {"column": B, "op": "gt", "value": 2}]}]),
        (
            f"\n({A}>1 or {B}>2)\tand ({C}='x')",
            [
                {"any": [{"column": A, "op": "gt", "value": 1}, {"column": B, "op": "gt", "value": 2}]},
                {"column": C, "op": "eq", "value": "x"},
            ],
        ),
        ('eos3b5e."pKa, ""acid""" > 1', [{"column": 'eos3b5e.pKa, "acid"', "op": "gt", "value": 1}]),
        ("eos3b5e-v2.and > 1", [{"column": "eos3b5e-v2.and", "op": "gt", "value": 1}]),
        (f"{A} = 9223372036854775807", [{"column": A, "op": "eq", "value": 2**63 - 1}]),
    ],
)
def test_conditions_are_read(expression: str, expected: list[object]):
    assert repr(parse_conditions(expression)) == repr(expected)
    assert repr(parse_conditions(write_conditions(expected))) == repr(expected)


@pytest.mark.parametrize(
    ("expression", "place", "words"),
    [
        ("weight > 1", 1, "a column is expected"),
        (f"{A}", 15, "a comparison is expected"),
        (f"{A} >", 17, "a number is expected"),
        (f"{A} > > 1", 18, "a number is expected"),
        (f"{A} > one", 18, "a number is expected"),
        (f"{A} > 1.5.2", 18, "a number is expected"),
        (f"{A} > 1e999", 18, "too large"),
        (f"{A} > {'9' * 5_000}", 18, "too large"),
        (f"{A} <> 1", 17, "a number is expected"),
        (f"{A} like 'x'", 16, "a comparison is expected"),
        (f"{A} between 1, 2", 25, "`and` is expected"),
        (f"{A} in 1, 2", 19, "a list in parentheses"),
        (f"{A} in (1, 2", 24, "a comma or )"),
        (f"{A} is not null", 19, "`null` is expected"),
        (f"{A} > 1 {B} > 2", 20, "`and` or the end is expected"),
        (f"{A} > 1 and", 23, "a column is expected"),
        (f"{A} > 1 and {B} > 2 or {C} = 'x'", 42, "alternatives in parentheses"),
        (f"{A} > 1 or {B} > 2 and {C} = 'x'", 41, "alternatives in parentheses"),
        (f"({A} > 1 and {B} > 2)", 21, "parentheses hold alternatives"),
        (f"(({A} > 1))", 2, "a column is expected"),
        (f"{A} > 1; drop table x", 19, "`and` or the end"),
        (f"{C} = 'open", 17, "a text in single quotes"),
        (f'{C} = "x"', 17, "a text in single quotes"),
        ('eos3b5e."open > 1', 1, "a column is expected"),
        (f"{A} > 1\0", 19, "`and` or the end"),
    ],
)
def test_a_mistake_is_shown_at_its_place(expression: str, place: int, words: str):
    with pytest.raises(UsageError, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
        parse_conditions(expression)
    message, line, caret = str(caught.value).split("\n")
    assert message.startswith(f"character {place}: ")
    if place <= len(expression):
        assert line[caret.index("^")] == expression[place - 1]


def test_a_long_expression_is_refused():
    with pytest.raises(UsageError, match="has 260,008 characters; up to 20,000"):
        parse_conditions(" and ".join([f"{A} > 1.23"] * 10_000)[:260_008].ljust(260_008))


def test_order_and_names_are_read():
    assert parse_order(f'{B} desc, {A} asc, eos3b5e."x y"') == [
        {"column": B, "descending": True},
        {"column": A, "descending": False},
        {"column": "eos3b5e.x y", "descending": False},
    ]
    assert parse_names(f'{A}, eos3b5e."x, y"') == [A, "eos3b5e.x, y"]
    assert (parse_order(""), parse_names(" ")) == ([], [])
    for parse, wrong in ((parse_order, f"{A} down"), (parse_order, f"{A},"), (parse_names, f"{A} {B}")):
        with pytest.raises(UsageError, match="is expected"):
            parse(wrong)


WORDS = f"""{A} {B} eos3b5e."x_y" and or in is null between asc ( ) , > <= = 1 -.5 'x' ' " . -- ; é \0 1e5""".split()


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=12).map(" ".join))
def test_any_text_is_read_or_refused(text: str):
    for parse in (parse_conditions, parse_order, parse_names):
        try:
            found = parse(text)
        except UsageError as error:
            assert "\n" in str(error)
        else:
            assert isinstance(found, list)


@given(st.text(min_size=1))
def test_a_written_name_is_read_back(name: str):
    assert parse_names(write_name(f"eos3b5e.{name}")) == [f"eos3b5e.{name}"]
