"""`precalc models fetch`, `install` and `remove`: a model's files and environments."""

import sys

from precalc_assets.inference import fetch as fetch_model
from precalc_assets.inference import open_model
from precalc_assets.inference import remove as remove_model
from precalc_assets.models import model_environment, require_checkpoints
from precalc_assets.platform_errors import UsageError
from precalc_assets.settings import load_settings


def fetch(word: str) -> None:
    """Fetch MODEL or MODEL@RELEASE and print its folder. Raises UsageError, ModelError."""
    model, _, release = word.partition("@")
    folder = fetch_model(model, load_settings(), release)
    require_checkpoints(folder.model, folder.path)
    print(folder.path)
    if release:
        print(
            f"runs use the newest release of {model}; to use this one, set PRECALC_MODELS_DIR={folder.path.parent}",
            file=sys.stderr,
        )


def install(model: str, *, skip_failed: bool) -> None:
    """Make a model's environment and print its name. Raises UsageError, ModelError."""
    settings = load_settings()
    if settings.model_backend != "framework":
        raise UsageError(
            f"the {settings.model_backend} backend installs {model} itself when it runs; "
            "set PRECALC_MODEL_BACKEND=framework to make an environment"
        )
    folder = open_model(model, settings)
    require_checkpoints(folder.model, folder.path)
    print(model_environment(folder, settings.cache_dir, skip_failed=skip_failed).name)


def remove(model: str) -> None:
    """Remove a model's environments and fetched copies. Raises UsageError, ModelError."""
    freed = remove_model(model, load_settings())
    print(f"removed the environments and the fetched copies of {model}: {freed / 1e6:,.1f} MB freed")
