"""The daemon's HTTP servers."""

from reconciler.app.wiring.imports import import_aiohttp

import_aiohttp()
