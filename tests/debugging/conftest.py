"""smdebug is imported mended and quiet, before a test module imports it."""

import breedlab.debugging.mends  # noqa: F401
