"""What a request's body asks for, checked before anything else is done with it."""

from http import HTTPStatus
from typing import TypeVar

from aws_lambda_powertools.utilities.data_classes.common import BaseProxyEvent
from pydantic import BaseModel, ValidationError

from precalc_assets.api.problems import Problem

_JSON = "application/json"

Question = TypeVar("Question", bound=BaseModel)


def read_body(event: BaseProxyEvent, question: type[Question]) -> Question:
    """Return what a body of JSON asks for.

    Powertools would do so if a route had it as a parameter. It also reads forms, and fails on some bodies that are
    none of those it knows.

    Raises Problem that names the first place where the body is not what it has to be.
    """
    if (event.headers.get("content-type") or _JSON).partition(";")[0].strip().lower() != _JSON:
        message = "the body has to be JSON, and the header content-type: application/json"
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    try:
        return question.model_validate_json(event.decoded_body or "")
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        if first["type"] != "json_invalid":
            place = ".".join(["body", *map(str, first["loc"])])
            raise Problem(HTTPStatus.BAD_REQUEST, "bad_request", f"{place}: {first['msg']}") from None
    except ValueError:
        pass  # It is not in base64, or not in UTF-8.
    raise Problem(HTTPStatus.BAD_REQUEST, "invalid_json", "the body is not JSON in UTF-8")
