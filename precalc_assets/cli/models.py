"""`precalc models fetch`, `install` and `remove`: what is done with a model's files before it is run, and after."""

import sys

from precalc_assets.inference import fetch as fetch_model
from precalc_assets.inference import open_model
from precalc_assets.inference import remove as remove_model
from precalc_assets.models import model_environment, require_checkpoints
from precalc_assets.platform_errors import UsageError
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


def install(model: str, *, skip_failed: bool) -> None:
    """Make the environment of a model and print its name. Raises UsageError, ModelError."""
    settings = load_settings()
    if settings.model_backend != "framework":
        raise UsageError(
            f"the {settings.model_backend} backend installs {model} by itself when it is run; "
            "set PRECALC_MODEL_BACKEND=framework to make an environment"
        )
    folder = open_model(model, settings)
    require_checkpoints(folder.model, folder.path)
    print(model_environment(folder, settings.cache_dir, skip_failed=skip_failed).name)


def remove(model: str) -> None:
    """Remove a model's environments and what was fetched of it. Raises UsageError, ModelError."""
    freed = remove_model(model, load_settings())
    print(f"removed the environments and the fetched copies of {model}: {freed / 1e6:,.1f} MB are free again")
