"""The optional packages, which the extras of `precalc-client` install; each is imported where it is used."""

from importlib.util import find_spec

from precalc.errors import UsageError


def require(package: str, extra: str) -> None:
    """Raise UsageError, with the command that installs it, if the package of an extra is missing.

    >>> require("no_such_package", "smiles")
    Traceback (most recent call last):
    precalc.errors.UsageError: no_such_package is not installed; run: pip install 'precalc-client[smiles]'
    """
    if find_spec(package) is None:
        raise UsageError(f"{package} is not installed; run: pip install 'precalc-client[{extra}]'")
