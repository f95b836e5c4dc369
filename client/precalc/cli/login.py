"""`precalc login`: checks and stores the key of an API."""

import sys
from contextlib import closing

import typer

from precalc.api_keys import check_key, forget_key, normal_url, store_key
from precalc.remote import RemoteSource


def login(url: str, *, forget: bool) -> None:
    """Prompt for an API's key without showing it, verify it with the API, and store it in the keyring."""
    url = normal_url(url)
    if forget:
        print(f"the key of {url} is removed" if forget_key(url) else f"there was no key of {url}", file=sys.stderr)
        return
    # A password manager may pipe the key in: then there is no prompt.
    typed = typer.prompt(f"key of {url}", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    key = check_key(url, typed.strip())
    with closing(RemoteSource(url, key)) as source:
        n_models = len(source.models())
    store_key(url, key)
    print(f"{url} accepts the key and has {n_models:,} models; the key is in this machine's keyring", file=sys.stderr)
