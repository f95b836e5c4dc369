"""`POST /predictions`: the contract of the API that was there before this one, for programs that still speak it.

It answered what its table held: an entry for each molecule that it found, nothing for the others, so neither an
unknown model nor a malformed key is an error. Ours differs where the old one failed or was not defined: the output is
in the order asked; a molecule that is asked for twice is answered twice, and 1,000 at a time instead of 100; errors
have the form of all our answers. A SMILES is that of the library's table, null where it has none. The release and the
library that it is of are in a header.
"""

from http import HTTPStatus

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.api_gateway import ApiGatewayResolver
from pydantic import BaseModel, ConfigDict, Field

from precalc_assets.api.answers import JSON, dump
from precalc_assets.api.bodies import read_body
from precalc_assets.api.routes import check_number, provenance_header
from precalc_assets.api.served import ServedModels
from precalc_assets.sharding import INCHIKEY
from precalc_assets.tables import Value


class LegacyQuestion(BaseModel):
    """A model, and the InChIKeys of the molecules whose predictions are wanted."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={"example": {"modelId": "eos3b5e", "inputKeyArray": ["BSYNRYMUTXBXSQ-UHFFFAOYSA-N"]}},
    )

    model_id: str = Field(alias="modelId")
    inchikeys: list[str] = Field(alias="inputKeyArray", json_schema_extra={"maxItems": 1_000})


class LegacyOutput(BaseModel):
    """One molecule that was found: its SMILES, and the model's values in the order of its columns."""

    smiles: str | None
    value: list[Value]


class LegacyAnswer(BaseModel):
    """The molecules that were found, in the order asked; the others are not there."""

    model_config = ConfigDict(
        protected_namespaces=(),
        json_schema_extra={
            "example": {"model_id": "eos3b5e", "output": [{"smiles": "CC(=O)Oc1ccccc1C(=O)O", "value": [180.159]}]}
        },
    )

    model_id: str
    output: list[LegacyOutput]


def add_legacy_routes(app: ApiGatewayResolver, models: ServedModels) -> None:
    """Make a resolver answer for these models as the earlier API did."""

    @app.post(
        "/predictions",
        summary="Many molecules, as the earlier API answered",
        description="For programs that were written for it. What is not there is left out: a molecule, a malformed key,"
        " or all of them if the model is unknown. Write new programs for `POST /models/{model}/predictions`.",
        tags=["predictions"],
        deprecated=True,
    )
    def predict_as_before() -> Response[str]:
        question = read_body(app.current_event, LegacyQuestion)
        output: list[dict[str, object]] = []
        headers = {}
        served = models.find(question.model_id)
        if served:
            check_number(served, question.inchikeys)
            keys = [inchikey for inchikey in question.inchikeys if INCHIKEY.match(inchikey)]
            predictions = models.read(question.model_id, keys, smiles=True)
            if predictions:
                found = zip(predictions.smiles or (), predictions.rows, strict=True)
                output = [{"smiles": smiles, "value": row} for smiles, row in found if row is not None]
                headers = provenance_header(predictions)
        answer = dump({"model_id": question.model_id, "output": output})
        return Response(HTTPStatus.OK, JSON, answer, headers=headers)
