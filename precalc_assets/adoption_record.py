"""The record of a comparison between a new release and the stored predictions of earlier ones, and which are compared.

`inference.adoption` compares releases. Manifests, the canary's report and cards hold this record.
"""

import re
from datetime import datetime

from precalc_assets.frozen_record import FrozenRecord

_SEMVER = re.compile(r"v?(?P<major>\d+)\.\d+\.\d+")


class Adoption(FrozenRecord):
    """The result of comparing a new release with stored predictions of earlier releases (`computed_by`).

    The new release predicted `different` of the `molecules` otherwise, for instance `example`.
    """

    computed_by: tuple[str, ...]
    molecules: int
    different: int
    example: str
    compared_at: datetime

    @property
    def equal(self) -> bool:
        """Whether all predictions are the same, so that the stored ones may be kept."""
        return not self.different

    def __str__(self) -> str:
        by, on = ", ".join(self.computed_by), f"{self.compared_at:%Y-%m-%d}"
        if self.equal:
            return f"by {by}; this release printed the same for {self.molecules:,} of its molecules on {on}"
        return f"not by {by}: {self.different:,} of {self.molecules:,} molecules differ on {on} ({self.example})"


def same_major(one: str, other: str) -> bool:
    """Return whether two releases differ but share their MAJOR version. False for other names, such as commits."""
    first, second = _SEMVER.fullmatch(one), _SEMVER.fullmatch(other)
    return one != other and first is not None and second is not None and first["major"] == second["major"]
