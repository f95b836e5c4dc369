"""What a request's path, query and header fields ask for, checked before anything is read. Its body is in `bodies`."""

from collections.abc import Collection, Sequence
from http import HTTPStatus

from aws_lambda_powertools.utilities.data_classes.common import BaseProxyEvent

from precalc_assets.api.problems import Problem, shortened
from precalc_assets.sharding import INCHIKEY

SMILES = "smiles"
"""What `include` may name."""

MAX_MODELS = 500
"""Models that one request may name; the hub has 240."""


def read_query(event: BaseProxyEvent, allowed: Collection[str]) -> dict[str, str]:
    """Return the query's parameters. Raises Problem for one that nobody knows, or that is there twice."""
    given: dict[str, list[str]] = event.resolved_query_string_parameters or {}
    for name, values in given.items():
        if name not in allowed:
            message = f"there is no parameter {shortened(name)} here; there is {' and '.join(sorted(allowed))}"
            raise _bad_query(message)
        if len(values) > 1:
            raise _bad_query(f"the parameter {name} is given {len(values):,} times; give it once")
    return {name: values[0] for name, values in given.items()}


def includes_smiles(query: dict[str, str]) -> bool:
    """Return whether SMILES are wanted. Raises Problem for anything else."""
    if "include" in query and query["include"] != SMILES:
        raise _bad_query(f"include={shortened(query['include'])} is not known; write include={SMILES}")
    return "include" in query


def named_models(query: dict[str, str]) -> list[str] | None:
    """Return the models that are named, each once, in the order of the question; None for all that there are."""
    if "models" not in query:
        return None
    names = list(dict.fromkeys(query["models"].split(",")))
    if "" in names:
        raise _bad_query("models= names models with commas between them: models=eos3b5e,eos4e40")
    if len(names) > MAX_MODELS:
        raise _bad_query(f"models= names {len(names):,} models; name up to {MAX_MODELS:,} at a time")
    return names


def check_inchikeys(inchikeys: Sequence[str]) -> None:
    """Raise Problem for the first that is no InChIKey, with its place."""
    for at, inchikey in enumerate(inchikeys, start=1):
        if not INCHIKEY.match(inchikey):
            which = f"number {at:,}, {shortened(inchikey)}," if len(inchikeys) > 1 else shortened(inchikey)
            raise Problem(
                HTTPStatus.BAD_REQUEST,
                "malformed_inchikey",
                f"{which} is not an InChIKey; it has 27 characters, like BSYNRYMUTXBXSQ-UHFFFAOYSA-N",
            )


def _bad_query(message: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, "bad_query", message)
