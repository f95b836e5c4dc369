"""`precalc models …`: what is done with a model's folder before it is run."""

import sys

from precalc_assets.inference import fetch as fetch_model
from precalc_assets.models import require_checkpoints
from precalc_assets.settings import load_settings


def fetch(word: str) -> None:
    """Fetch MODEL or MODEL@RELEASE and print where it is. Raises UsageError, ModelError."""
    model, _, release = word.partition("@")
    folder = fetch_model(model, load_settings(), release)
    require_checkpoints(folder.model, folder.path)
    print(folder.path)
    if release:
        print(
            f"{model} is run at its newest release; to have this one run: PRECALC_MODELS_DIR={folder.path.parent}",
            file=sys.stderr,
        )
