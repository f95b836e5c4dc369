"""Access to AWS: a session with credentials, and the remedy for each of AWS's errors.

`storage` and `tables.dynamodb` import this module only for a URL of AWS: boto3 takes a third of a second to load.
"""

import os

import boto3
from botocore import exceptions
from botocore.exceptions import BotoCoreError, ClientError

from precalc_assets.platform_errors import UsageError
from precalc_assets.store_urls import is_server_url

_LOG_IN = "set AWS_PROFILE (after `aws sso login`), or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_LOG_IN_AGAIN = "the credentials have expired: log in again (`aws sso login`), or renew AWS_SESSION_TOKEN"
_ALLOW = "let the role's policy allow it, or set AWS_PROFILE to one that may"
_REACH = "check that AWS_ENDPOINT_URL is correct or unset, and that the network reaches it"
_REGION = "set AWS_DEFAULT_REGION to the region of the bucket"
_SLOWER = "lower PRECALC_TABLE_WRITE_UNITS, or run fewer loads at once"

# Amazon DynamoDB Developer Guide, "Error handling"; Amazon S3 API Reference, "Error responses".
_WAYS_OUT = {
    "AccessDenied": _ALLOW,
    "AccessDeniedException": _ALLOW,
    "AllAccessDisabled": _ALLOW,
    "AuthorizationHeaderMalformed": _REGION,
    "ExpiredToken": _LOG_IN_AGAIN,
    "ExpiredTokenException": _LOG_IN_AGAIN,
    "IllegalLocationConstraintException": _REGION,
    "InvalidAccessKeyId": _LOG_IN,
    "InvalidSignatureException": _LOG_IN,
    "LimitExceededException": "drop unused tables, or ask AWS for a higher quota",
    "NoSuchBucket": "create the bucket, or correct PRECALC_STORE_URL",
    "PermanentRedirect": _REGION,
    "ProvisionedThroughputExceededException": _SLOWER,
    "RequestLimitExceeded": _SLOWER,
    "SignatureDoesNotMatch": _LOG_IN,
    "ThrottlingException": _SLOWER,
    "UnrecognizedClientException": _LOG_IN,
}


def open_session(region: str | None = None) -> boto3.Session:
    """Return a session with credentials from boto3's standard chain: variables, profiles, SSO, the machine's role.

    Raises UsageError when there are none, when AWS_PROFILE names a profile that does not exist, and for a variable of
    an endpoint that is no URL.
    """
    for name, value in os.environ.items():
        is_url = value.startswith(("http://", "https://")) and is_server_url(value)
        if name.startswith("AWS_ENDPOINT_URL") and value and not is_url:
            raise UsageError(f"{name}={value[:200]!r} is not the URL of an endpoint; correct it or unset it")
    try:
        session = boto3.Session(region_name=region)
        credentials = session.get_credentials()
        if credentials is not None:
            credentials.get_frozen_credentials()  # Some are fetched or refreshed only when they are used.
    except BotoCoreError as error:
        raise UsageError(f"there are no AWS credentials: {error}; {_LOG_IN}") from error
    if credentials is None:
        raise UsageError(f"there are no AWS credentials; {_LOG_IN}")
    return session


def way_out(code: str | None) -> str:
    """Return the remedy for AWS's error code; None means that AWS did not answer."""
    if code is None:
        return _REACH
    return _WAYS_OUT.get(code, "try again; AWS's documentation has more about it")


def explain(error: BotoCoreError | ClientError) -> str:
    """Return botocore's error in one line, with its remedy."""
    if isinstance(error, ClientError):
        answer = error.response.get("Error", {})
        code = answer.get("Code", "")
        return f"{code}: {answer.get('Message') or 'AWS gives no reason'}; {way_out(code)}"
    is_network = isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError)
    return f"{error}; {_REACH if is_network else _LOG_IN}"
