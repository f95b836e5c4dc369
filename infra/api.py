"""The API stack: API Gateway, its Lambdas, keys, limits, alarms and dashboard."""

import json
from collections.abc import Mapping

from aws_cdk import Acknowledgment, CfnOutput, Duration, RemovalPolicy, Stack, Validations
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from infra.functions import RETENTION, make_inchikeys, make_reader, make_screens
from infra.parameters import Parameters

_STAGE = "v1"
_RATE, _BURST = 50, 100
"""Requests per second of a key, rate and burst; one request asks for up to 1,000 molecules."""
_QUOTA = 1_000_000
"""Requests per month of a key: it limits the cost of a leaked key (docs/deploy.md has the amount)."""
_ALL_KEYS = 4
"""The stage's rate and burst are this many times those of a key."""

_OPEN = {
    "/": (5, 20),
    "/browse/{proxy+}": (5, 20),
    # Swagger UI: 1.7 MB, compressed 0.5 MB.
    "/docs": (1, 10),
    "/health": (5, 20),
    "/openapi.json": (5, 20),
    "/screen": (5, 20),
}
"""Routes that answer GET without a key, since a browser has none before it is pasted into the page, with their rate and
burst in requests per second. They have no quota, so this limits their costs: see docs/deploy.md."""
_RDKIT_ROUTES = ("/inchikeys", "/rows", "/drawings")
_INCHIKEYS_RATE, _INCHIKEYS_BURST = 10, 20
"""Requests per second, rate and burst. 1,000 molecules take the Lambda with RDKit a third of a second of one core, at
worst 20 s. Reserved concurrency is no alternative: Lambda refuses it to new accounts, whose limit is ten."""

_SCREENS = "/screens"
_SCREENS_RATE, _SCREENS_BURST = 2, 5
"""Requests per second, rate and burst. A Lambda answers one screen at a time, and one that has just started reads
columns of 1.4 million molecules from S3 first, which takes seconds."""

_SLOW = Duration.seconds(3)
"""The 95th percentile that raises the alarm; the largest answers take less than one second."""

_PERIOD = Duration.minutes(5)

_REFUSALS = {
    # API Gateway's own answers, in the format of all other errors.
    apigateway.ResponseType.INVALID_API_KEY: ("invalid_api_key", "send a key that is valid in the header x-api-key"),
    apigateway.ResponseType.THROTTLED: ("too_many_requests", "too many requests; wait a second and retry"),
    apigateway.ResponseType.QUOTA_EXCEEDED: ("quota_exceeded", "the key has used up its requests of this month"),
    apigateway.ResponseType.REQUEST_TOO_LARGE: (
        "body_too_large",
        "the body is larger than 10 MB; send fewer molecules per request",
    ),
    apigateway.ResponseType.DEFAULT_4_XX: ("bad_request", "there is no such route, or the request is malformed"),
    apigateway.ResponseType.DEFAULT_5_XX: ("unavailable", "the predictions cannot be read now; retry later"),
}

# API Gateway does not reveal the day on which the monthly quota resets; clients stop at the code.
_RETRY_AFTER = {"too_many_requests": 5, "quota_exceeded": 3_600, "unavailable": 10}
"""Seconds after which a client may retry, by error code."""


class ApiStack(Stack):
    """A regional REST API with keys and a usage plan, and its Lambdas."""

    def __init__(self, scope: Construct, name: str, parameters: Parameters) -> None:
        super().__init__(scope, name, description="precalc: the read API of predictions")
        reader, inchikeys, screens = (make(self, parameters) for make in (make_reader, make_inchikeys, make_screens))
        api = self._make_api(parameters, reader, inchikeys, screens)
        key = self._make_key(parameters, api)
        alarms = self._make_alarms(api, {"": reader, "InChIKeys": inchikeys, "Screens": screens})
        if parameters.alarm_email:
            self._send(alarms, parameters.alarm_email)
        functions = {"Lambda": reader, "Lambda with RDKit": inchikeys, "Lambda with Arrow": screens}
        self._make_dashboard(parameters, api, functions, alarms)
        CfnOutput(self, "Url", value=api.url, description="URL of the API; send the key in the header x-api-key")
        CfnOutput(
            self, "KeyId", value=key.key_id, description="see the key: aws apigateway get-api-key --include-value"
        )

    def _make_api(
        self,
        parameters: Parameters,
        reader: lambda_.IFunction,
        inchikeys: lambda_.IFunction,
        screens: lambda_.IFunction,
    ) -> apigateway.RestApi:
        access_log = logs.LogGroup(self, "AccessLog", retention=RETENTION, removal_policy=RemovalPolicy.DESTROY)
        api = apigateway.RestApi(
            self,
            "Api",
            rest_api_name=f"{parameters.prefix}-api",
            endpoint_types=[apigateway.EndpointType.REGIONAL],
            # API Gateway decodes the base64 of a gzipped answer only for these types.
            binary_media_types=["*/*"],
            default_method_options=apigateway.MethodOptions(api_key_required=True),
            default_integration=apigateway.LambdaIntegration(reader, allow_test_invoke=False),
            # A setting of the account and region: other APIs may depend on it when this one is removed.
            cloud_watch_role=True,
            cloud_watch_role_removal_policy=parameters.removal,
            deploy_options=apigateway.StageOptions(
                stage_name=_STAGE,
                access_log_destination=apigateway.LogGroupLogDestination(access_log),
                access_log_format=apigateway.AccessLogFormat.json_with_standard_fields(
                    caller=False,
                    http_method=True,
                    ip=True,
                    protocol=True,
                    request_time=True,
                    resource_path=True,
                    response_length=True,
                    status=True,
                    user=False,
                ),
                logging_level=apigateway.MethodLoggingLevel.ERROR,
                metrics_enabled=True,
                throttling_rate_limit=_RATE * _ALL_KEYS,
                throttling_burst_limit=_BURST * _ALL_KEYS,
                method_options={
                    **{f"{path}/POST": _limited(_INCHIKEYS_RATE, _INCHIKEYS_BURST) for path in _RDKIT_ROUTES},
                    **{f"{_SCREENS}/{method}": _limited(_SCREENS_RATE, _SCREENS_BURST) for method in ("GET", "POST")},
                    **{f"{path.rstrip('/') or '/'}/GET": _limited(*limits) for path, limits in _OPEN.items()},
                },
            ),
        )
        rest = api.root.add_proxy()
        for path in _OPEN:
            api.root.resource_for_path(path).add_method("GET", api_key_required=False)
        molecules = [api.root.resource_for_path(path) for path in _RDKIT_ROUTES]
        for resource in molecules:
            resource.add_method("POST", apigateway.LambdaIntegration(inchikeys, allow_test_invoke=False))
        screened = api.root.resource_for_path(_SCREENS)
        for method in ("GET", "POST"):
            screened.add_method(method, apigateway.LambdaIntegration(screens, allow_test_invoke=False))
        if parameters.cors_origins:
            # A browser sends a preflight request without a key, which the application answers.
            for resource in (rest, *molecules, screened):
                resource.add_method("OPTIONS", api_key_required=False)
        # The CDK's automatic output duplicates `Url`, without a description.
        api.node.try_remove_child("Endpoint")
        for kind, (code, message) in _REFUSALS.items():
            body = json.dumps({"error": {"code": code, "message": message}})
            headers = {"Retry-After": f"'{_RETRY_AFTER[code]}'"} if code in _RETRY_AFTER else {}
            if parameters.cors_origins:
                # Any page may read why a key was refused.
                headers["Access-Control-Allow-Origin"] = "'*'"
            api.add_gateway_response(
                code, type=kind, templates={"application/json": body}, response_headers=headers or None
            )
        _acknowledge_openness(api)
        return api

    def _make_key(self, parameters: Parameters, api: apigateway.RestApi) -> apigateway.IApiKey:
        plan = api.add_usage_plan(
            "Plan",
            name=f"{parameters.prefix}-readers",
            throttle=apigateway.ThrottleSettings(rate_limit=_RATE, burst_limit=_BURST),
            quota=apigateway.QuotaSettings(limit=_QUOTA, period=apigateway.Period.MONTH),
            api_stages=[apigateway.UsagePlanPerApiStage(stage=api.deployment_stage)],
        )
        key = api.add_api_key("Key", description=f"{parameters.prefix}: the first of its readers")
        plan.add_api_key(key)
        return key

    def _make_alarms(
        self, api: apigateway.RestApi, functions: Mapping[str, lambda_.IFunction]
    ) -> list[cloudwatch.Alarm]:
        latency = api.metric_latency(statistic="p95", period=_PERIOD)
        server_errors = api.metric_server_error(statistic="Sum", period=_PERIOD)
        return [
            self._alarm("Errors", "The API answers with a server error", server_errors, 1, 1),
            *(
                alarm
                for name, function in functions.items()
                for alarm in (
                    self._alarm(f"{name}Crashes", "A Lambda ended without an answer", _errors(function), 1, 1),
                    self._alarm(f"{name}Throttles", "Lambda refuses requests", _throttles(function), 1, 1),
                )
            ),
            self._alarm("Latency", "One answer in twenty is slow", latency, _SLOW.to_milliseconds(), 3),
        ]

    def _alarm(
        self, name: str, meaning: str, metric: cloudwatch.IMetric, limit: float, periods: int
    ) -> cloudwatch.Alarm:
        return cloudwatch.Alarm(
            self,
            name,
            alarm_description=meaning,
            metric=metric,
            threshold=limit,
            evaluation_periods=periods,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            # There were no requests.
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )

    def _send(self, alarms: list[cloudwatch.Alarm], address: str) -> None:
        topic = sns.Topic(self, "Alarms", enforce_ssl=True)
        topic.add_subscription(subscriptions.EmailSubscription(address))
        for alarm in alarms:
            alarm.add_alarm_action(actions.SnsAction(topic))

    def _make_dashboard(
        self,
        parameters: Parameters,
        api: apigateway.RestApi,
        functions: Mapping[str, lambda_.IFunction],
        alarms: list[cloudwatch.Alarm],
    ) -> None:
        percentiles = ("p50", "p95", "p99")
        graphs = {
            "Requests": [api.metric_count(), api.metric_client_error(), api.metric_server_error()],
            "Latency, ms": [api.metric_latency(statistic=percentile, label=percentile) for percentile in percentiles],
        }
        for name, function in functions.items():
            graphs[f"{name}, ms"] = [function.metric_duration(statistic=p, label=p) for p in percentiles]
            graphs[name] = [function.metric_invocations(), function.metric_errors(), function.metric_throttles()]
        widgets = [cloudwatch.GraphWidget(title=title, left=metrics, width=12) for title, metrics in graphs.items()]
        cloudwatch.Dashboard(
            self,
            "Dashboard",
            dashboard_name=f"{parameters.prefix}-api",
            widgets=[
                [cloudwatch.AlarmStatusWidget(alarms=alarms, width=24)],
                *(widgets[at : at + 2] for at in range(0, len(widgets), 2)),
            ],
        )


def _limited(rate: float, burst: int) -> apigateway.MethodDeploymentOptions:
    """Return the limits of one method, with the options of all methods, which it does not inherit."""
    return apigateway.MethodDeploymentOptions(
        logging_level=apigateway.MethodLoggingLevel.ERROR,
        metrics_enabled=True,
        throttling_rate_limit=rate,
        throttling_burst_limit=burst,
    )


def _errors(function: lambda_.IFunction) -> cloudwatch.IMetric:
    return function.metric_errors(period=_PERIOD)


def _throttles(function: lambda_.IFunction) -> cloudwatch.IMetric:
    return function.metric_throttles(period=_PERIOD)


def _acknowledge_openness(api: apigateway.RestApi) -> None:
    """Tell cdk-nag why a key gives access to all routes, and why pages need none."""
    keys = "Predictions are public; keys tell readers apart and limit them, they protect no secret."
    logs_policy = "arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"
    reasons = {
        "APIG2": "The Lambda validates each request, and answers errors in the API's format.",
        "APIG3": "A firewall costs more per month than the API; throttling and quotas limit abuse.",
        "APIG4": keys,
        "COG4": keys,
        f"IAM4[Policy::{logs_policy}]": "API Gateway needs it to write logs; its documentation names this policy.",
    }
    Validations.of(api).acknowledge(
        *(Acknowledgment(id=f"AwsSolutions-{rule}", reason=reason) for rule, reason in reasons.items())
    )
