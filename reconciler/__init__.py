"""Keeps the env files of Docker Compose servers equal to SOPS-encrypted files in git."""
