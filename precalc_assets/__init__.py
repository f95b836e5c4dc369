"""precalc: every model of the Ersilia Model Hub, run once over a reference library and served by InChIKey."""
