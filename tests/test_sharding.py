"""Shards: the partition of the hash space, and parsing their names."""

from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precalc.identifiers import INCHIKEY
from precalc_assets.platform_errors import UsageError
from precalc_assets.sharding import (
    HASH_SPACE,
    contiguous_ranges,
    format_shards,
    key_hash,
    parse_shards,
    shard_index,
    shard_key,
    shard_keys,
    shard_of,
)

N_SHARDS = st.integers(1, 10_000)
HASHES = st.integers(0, HASH_SPACE - 1)
ETHANOL = "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"


@given(HASHES, N_SHARDS)
def test_a_molecule_is_in_the_shard_of_its_range_of_hashes(h: int, n: int) -> None:
    owners = [i for i in {0, n - 1, shard_index(h, n) - 1, shard_index(h, n), shard_index(h, n) + 1} if 0 <= i < n]
    holding = [i for i in owners if i * HASH_SPACE <= h * n < (i + 1) * HASH_SPACE]
    assert holding == [shard_index(h, n)]


@given(N_SHARDS)
def test_the_ends_of_the_hash_space_are_in_the_outer_shards(n: int) -> None:
    assert shard_index(0, n) == 0
    assert shard_index(HASH_SPACE - 1, n) == n - 1


@given(st.lists(HASHES, min_size=2), N_SHARDS)
def test_sorting_by_hash_sorts_by_shard(hashes: list[int], n: int) -> None:
    indices = [shard_index(h, n) for h in sorted(hashes)]
    assert indices == sorted(indices)


def test_the_hash_is_the_first_eight_bytes_of_sha256() -> None:
    assert key_hash(ETHANOL) == int(sha256(ETHANOL.encode()).hexdigest()[:16], 16)


def test_the_shard_of_a_known_molecule_never_changes() -> None:
    assert shard_of(ETHANOL, 50) == "03"


@given(N_SHARDS)
def test_keys_are_distinct_and_sort_as_their_numbers_do(n: int) -> None:
    keys = shard_keys(n)
    assert len(keys) == n
    assert keys == sorted(set(keys))
    assert len({len(key) for key in keys}) == 1
    assert [int(key) for key in keys] == list(range(n))


@pytest.mark.parametrize(("n", "first", "last"), [(1, "00", "00"), (50, "00", "49"), (101, "000", "100")])
def test_keys_have_at_least_two_digits(n: int, first: str, last: str) -> None:
    assert (shard_keys(n)[0], shard_keys(n)[-1]) == (first, last)


@given(st.data(), N_SHARDS)
def test_formatted_shards_are_parsed_back(data: st.DataObject, n: int) -> None:
    chosen = data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=50))
    keys = [shard_key(i, n) for i in sorted(chosen)]
    ranges = [f"{run[0]}-{run[-1]}" if len(run) > 1 else run[0] for run in contiguous_ranges(keys)]
    assert parse_shards(",".join(ranges), n) == keys
    assert parse_shards(" , ".join(reversed(ranges)), n) == keys


@given(st.sets(st.integers(0, 60)))
def test_contiguous_ranges_have_no_gap_inside_and_one_between(chosen: set[int]) -> None:
    keys = [shard_key(i, 61) for i in sorted(chosen)]
    ranges = contiguous_ranges(keys)
    assert [key for run in ranges for key in run] == keys
    assert all(int(b) == int(a) + 1 for run in ranges for a, b in pairwise(run))
    assert all(int(b[0]) > int(a[-1]) + 1 for a, b in pairwise(ranges))


def test_no_text_means_all_shards() -> None:
    assert parse_shards(None, 3) == ["00", "01", "02"]


@pytest.mark.parametrize(
    ("text", "shards"),
    [
        ("07", ["07"]),
        ("7", ["07"]),
        ("02-04", ["02", "03", "04"]),
        ("03,01,03", ["01", "03"]),
        ("01-02,02-03", ["01", "02", "03"]),
        (" 01 - 02 , 05 ", ["01", "02", "05"]),
    ],
)
def test_shards_are_parsed_from_keys_ranges_and_lists(text: str, shards: list[str]) -> None:
    assert parse_shards(text, 50) == shards


@pytest.mark.parametrize("text", ["", ",", "07,", "x", "-1", "1-", "1--2", "1-2-3", "0x1", "1.0", "07;08", "9999999"])
def test_malformed_shards_are_refused_with_the_text(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_shards(text, 50)
    assert repr(text) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "word"), [("50", "49"), ("00-50", "49"), ("5-3", "backwards")])
def test_a_missing_shard_is_refused_with_the_existing_ones(text: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        parse_shards(text, 50)


@pytest.mark.parametrize(
    "text", [ETHANOL.lower(), ETHANOL + "\n", ETHANOL[:-2], "X" + ETHANOL, "", "LFQSCWFLJHTTHZ_UHFFFAOYSA_N"]
)
def test_only_27_characters_of_the_right_kind_are_an_inchikey(text: str) -> None:
    assert INCHIKEY.match(ETHANOL)
    assert not INCHIKEY.match(text)


@pytest.mark.parametrize("text", ["07", "00-49", "00-03,07,20-29"])
def test_shards_are_formatted_as_they_are_parsed(text: str) -> None:
    assert format_shards(parse_shards(text, 50)) == text
