"""What is on record of predictions of an earlier release that a new one was shown to reproduce.

How releases are compared is in `inference.adoption`. Manifests, the canary's report and cards hold this record.
"""

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class Adoption(BaseModel):
    """What came of comparing a new release with the stored predictions of earlier ones (`computed_by`).

    `different` of the `molecules` came out otherwise, the `example` among them.
    """

    model_config = ConfigDict(frozen=True)

    computed_by: tuple[str, ...]
    molecules: int
    different: int
    example: str
    compared_at: datetime

    @property
    def equal(self) -> bool:
        """Whether all came out the same, so that what is stored may be kept."""
        return not self.different

    def __str__(self) -> str:
        by, on = ", ".join(self.computed_by), f"{self.compared_at:%Y-%m-%d}"
        if self.equal:
            return f"by {by}; this release printed the same for {self.molecules:,} of its molecules on {on}"
        return f"not by {by}: {self.different:,} of {self.molecules:,} molecules differ on {on} ({self.example})"
