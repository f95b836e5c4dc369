"""The ersilia backend: the CLI serves the model, and the server is restarted at intervals."""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from precalc_assets.inference.ersilia.served_model import BreakerOpenError, ask, is_up
from precalc_assets.inference.ersilia.slot import Slot, is_fetched, taken_slot
from precalc_assets.inference.model_backend import BatchError, call_timeout, no_answer
from precalc_assets.models.environment import ERSILIA_VERSION
from precalc_assets.models.fetching import describe_model
from precalc_assets.models.folder import ModelFolder, read_packed
from precalc_assets.platform_errors import InfrastructureError, ModelError, UsageError
from precalc_assets.processes import require_room, require_space
from precalc_assets.settings import Settings

logger = logging.getLogger(__name__)

_HEALTHY_SECONDS = 120.0
"""Timeout for a new server to answer. The CLI returns a little before that."""

_FRESH_SECONDS = 24 * 3600.0
"""Maximum age of a fetched image. The hub changes a model a few times a year; a daily run has the change in a day."""

_DOCKER_ROOT = Path("/var/lib/docker")
"""Docker's default folder for images on Linux (`dockerd --data-root`)."""


class ErsiliaBackend:
    """Serves a model with the ersilia CLI, and sends one POST per call: the server runs the model once for each."""

    def __init__(self, folder: ModelFolder, settings: Settings) -> None:
        self.columns = folder.columns
        self.release = folder.metadata.release
        self.environment = f"ersilia-{ERSILIA_VERSION}"
        self._model = folder.model
        self._source = None if is_fetched(folder, settings.cache_dir) else folder
        self._settings = settings
        self._lifetime = settings.restart_batches * settings.batch_size
        self._asked = 0
        self._slot: Slot
        self._url = ""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._slot = stack.enter_context(taken_slot(self._model, self._settings.cache_dir))
            version = self.release if "-v" in self._model else ""
            fetched = self._slot.fetch(self._source, find_version=lambda: version)
            if self._source is None:
                self._require_release(read_packed(fetched, self._model, self._slot.version).metadata.release)
            self.restart()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Close the server, and keep the fetched model for the next run."""
        self._stack.close()

    def _require_release(self, fetched: str) -> None:
        """Raise InfrastructureError if this slot's copy has another release than the opened model.

        The model may have been opened from a slot that another worker now holds, and the hub may have changed before
        this slot was filled.
        """
        if fetched != self.release:
            self._slot.forget()
            raise InfrastructureError(
                f"the hub has changed {self._model} meanwhile, from the release {self.release} to {fetched}; "
                "run the same command again"
            )

    def is_healthy(self) -> bool:
        """See `ServedModelBackend.is_healthy`."""
        return is_up(self._url)

    def restart(self) -> None:
        """See `ServedModelBackend.restart`."""
        self._asked = 0
        self._url = self._slot.serve(self._source)
        deadline = time.monotonic() + _HEALTHY_SECONDS
        while not self.is_healthy():
            if time.monotonic() > deadline:
                raise ModelError(
                    f"{self._model} is served at {self._url}, but did not answer within {_HEALTHY_SECONDS:g} s"
                )
            time.sleep(0.1)

    def predict(self, smiles: Sequence[str], deadline: float = math.inf) -> list[bytes]:
        """See `ModelBackend.predict`."""
        if self._asked >= self._lifetime:
            self.restart()
        self._asked += len(smiles)
        try:
            try:
                return self._ask(smiles, deadline)
            except BreakerOpenError:
                self.restart()
                return self._ask(smiles, deadline)
        except BreakerOpenError:
            raise BatchError("the server answers no request, even after a restart") from None
        except BatchError:
            require_space(self._slot.path)
            raise

    def _ask(self, smiles: Sequence[str], deadline: float) -> list[bytes]:
        timeout = call_timeout(len(smiles), deadline, self._settings)
        try:
            return ask(self._url, self._model, self.columns, smiles, timeout)
        except TimeoutError:
            self._asked = self._lifetime  # the request still runs in the server, so the next call restarts it
            raise no_answer(timeout, deadline) from None


def fetch_from_hub(model: str, settings: Settings) -> ModelFolder:
    """Fetch a model's image from the hub, unless it was fetched within a day, and return the model's folder.

    A versioned id (`eos…-v1`) is fetched once, at the tag of its newest release. Raises UsageError if the hub does not
    have it, ModelError with the CLI's message, or if the disk has no room for the image.
    """
    has_version = "-v" in model

    def find_version() -> str:
        try:
            release, metadata = describe_model(model, settings)
        except (UsageError, ModelError) as error:
            if has_version:
                raise
            logger.warning("the size of %s's image is unknown before the fetch: %s", model, error)
            return ""
        if _DOCKER_ROOT.exists():
            remedy = "remove images with `docker system prune --all`, or set PRECALC_MODEL_BACKEND=framework"
            require_room(_DOCKER_ROOT, metadata.image_megabytes or 0, f"the image of {model}", remedy)
        return release if has_version else ""

    with taken_slot(model, settings.cache_dir) as slot:
        max_age = math.inf if has_version else _FRESH_SECONDS
        return read_packed(slot.fetch(None, max_age=max_age, find_version=find_version), model, slot.version)
