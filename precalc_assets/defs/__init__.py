"""The Dagster side, thin: partitions, resources, recording, and a folder per group of assets."""

import warnings

import dagster as dg

# Checks per partition are in preview, backfill policies in beta. The version is pinned exactly, and the graph rests on
# both: a warning at each start would tell nobody anything.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
warnings.filterwarnings("ignore", category=dg.BetaWarning)
