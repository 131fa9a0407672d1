"""Keeps the env files of Docker Compose servers equal to SOPS-encrypted files in git."""

DISTRIBUTION = "reconcilerd"
"""The name to install; the command and the package are called reconciler, and that name belongs to another project."""
