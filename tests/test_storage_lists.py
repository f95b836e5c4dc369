"""Listing a store: an answer that breaks off is asked for again."""

import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from precalc_assets.storage import list_folder, list_sizes


@pytest.mark.parametrize(("broken", "given"), [(0, True), (2, True), (3, False)])
def test_a_list_that_breaks_off_is_asked_for_three_times(broken, given, monkeypatch):
    store = MemoryStore()
    obstore.put(store, "a/b", b"123")
    asked = []

    def breaking(call):
        def ask(*arguments):
            asked.append(arguments)
            if len(asked) <= broken:
                raise GenericError("Generic S3 error: Error getting list response body")
            return call(*arguments)

        return ask

    for name in ("list", "list_with_delimiter"):
        monkeypatch.setattr(obstore, name, breaking(getattr(obstore, name)))
    for ask, expected in ((list_sizes, {"a/b": 3}), (lambda *of: len(list_folder(*of)["objects"]), 1)):
        asked.clear()
        if given:
            assert ask(store, "a") == expected
        else:
            with pytest.raises(GenericError):
                ask(store, "a")
