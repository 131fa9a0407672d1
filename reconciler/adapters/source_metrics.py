"""Metrics of what is read from git: queries, signatures, decryption. The counters count; alerts read the states."""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.adapters.outside_metrics import OutsideMetrics

_DECRYPT_REASONS = ("key", "ciphertext", "sops")
_VERIFICATION_REASONS = ("signature", "unavailable")


class SourceMetrics(OutsideMetrics):
    """The part of the ``Metrics`` port that is about sources."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self._unreachable_since: dict[str, float] = {}
        gauge, counter = self._gauge, self._counter
        self._git_fetch = counter("git_fetch", "Queries of the git remote.", "environment", "result")
        self._git_last = gauge(
            "git_last_fetch_success_timestamp_seconds", "When the git remote last answered.", "environment"
        )
        self._git_failing_since = gauge(
            "git_failing_since_timestamp_seconds", "When git first did not answer; 0: it answers.", "environment"
        )
        self._verification = counter(
            "source_verification", "Checks of commits' signatures.", "environment", "result", "reason"
        )
        self._unverified = gauge(
            "source_unverified", "1 while the branch's head is refused for its signatures.", "environment", "reason"
        )
        self._decrypt = counter("decrypt", "Calls of sops.", "environment", "result", "reason")
        self._decryption_failing = self._sparse_gauge(
            "decryption_failing", "1 while the source cannot be decrypted.", "environment", "target", "reason"
        )

    def start_source_at_zero(self, environment: str) -> None:
        """Start the environment's series."""
        for result in ("ok", "failed"):
            self._git_fetch.labels(environment, result)
        for series, reasons in ((self._verification, _VERIFICATION_REASONS), (self._decrypt, _DECRYPT_REASONS)):
            series.labels(environment, "ok", "")
            for reason in reasons:
                series.labels(environment, "failed", reason)
        for gauge in (self._git_last, self._git_failing_since):
            gauge.labels(environment)
        self._set_unverified(environment, "")

    # --- the port ---

    def fetched(self, environment: str, ok: bool, at: float) -> None:
        self._git_fetch.labels(environment, "ok" if ok else "failed").inc()
        if ok:
            self._unreachable_since.pop(environment, None)
            self._git_last.labels(environment).set(at)
            self._set_unverified(environment, "")  # a refused head is no successful query
        since = 0.0 if ok else self._unreachable_since.setdefault(environment, at)
        self._git_failing_since.labels(environment).set(since)

    def verified(self, environment: str, result: str, reason: str = "") -> None:
        self._verification.labels(environment, result, reason).inc()
        self._set_unverified(environment, reason)

    def _set_unverified(self, environment: str, current: str) -> None:
        for reason in _VERIFICATION_REASONS:
            self._unverified.labels(environment, reason).set(int(reason == current))

    def decrypted(self, environment: str, result: str, reason: str = "") -> None:
        self._decrypt.labels(environment, result, reason).inc()

    def undecryptable(self, environment: str, reasons: Mapping[str, str]) -> None:
        self._decryption_failing.keep(environment, reasons)
        for target, reason in reasons.items():
            self._decryption_failing.set(environment, target, 1, reason)
