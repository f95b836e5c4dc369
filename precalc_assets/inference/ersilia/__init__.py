"""Running a model by the ersilia CLI: fetched and served in a place of its own, asked over HTTP, never imported.

The CLI is GPL-3, so that it stays a program beside ours; what is known of it here are its commands, its folders and
the answers of its servers.
"""

from precalc_assets.inference.ersilia.ersilia_backend import ErsiliaBackend, fetch_from_hub

__all__ = ["ErsiliaBackend", "fetch_from_hub"]
