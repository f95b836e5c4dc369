"""The thin layer around Dagster: partitions, resources, recording, and a folder per group of assets."""

import warnings

import dagster as dg

# The graph needs checks per partition (preview) and backfill policies (beta), and Dagster's version is pinned exactly,
# so the warnings at each start are noise.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
warnings.filterwarnings("ignore", category=dg.BetaWarning)
