"""Libraries that the daemon's own servers need, imported as adapters/imports.py has it."""

from reconciler.adapters.imports import import_aiohttp as import_aiohttp
