"""smdebug is imported mended and quiet, before a test module imports it."""

import breedlab.debugging.smdebug_compat  # noqa: F401
