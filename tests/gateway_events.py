"""Events of API Gateway, as Lambdas receive them."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs


def event(method: str, url: str, body: str | None, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the event of a REST API's proxy integration, as in the API Gateway Developer Guide."""
    path, _, query = url.partition("?")
    given = parse_qs(query, keep_blank_values=True)
    sent = {"Host": "abc.execute-api.eu-central-1.amazonaws.com", "Accept": "*/*"}
    sent |= {name.replace("_", "-").title(): value for name, value in headers.items()}
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": sent,
        "multiValueHeaders": {name: [value] for name, value in sent.items()},
        "queryStringParameters": {name: values[-1] for name, values in given.items()} or None,
        "multiValueQueryStringParameters": given or None,
        "pathParameters": {"proxy": path.removeprefix("/")},
        "stageVariables": None,
        "requestContext": {
            "resourcePath": "/{proxy+}",
            "httpMethod": method,
            "path": f"/v1{path}",
            "stage": "v1",
            "protocol": "HTTP/1.1",
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "identity": {"sourceIp": "192.0.2.1"},
        },
        "body": body,
        "isBase64Encoded": False,
    }
