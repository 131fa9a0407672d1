"""Metrics of what others send and are sent: webhooks, the forge, notifications. They count from the start."""

from __future__ import annotations

from reconciler.adapters.metric_registry import MetricRegistry
from reconciler.core.model.notifications import NotificationEvent

_FORGE_RESULTS = ("ok", "refused", "rate_limited", "failed")
_WEBHOOK_CODES = (200, 202, 403, 408, 413, 503)


class OutsideMetrics(MetricRegistry):
    """The part of the metrics that is about others."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        gauge, counter = self._gauge, self._counter
        self._forge = counter("forge_requests", "Requests to the forge's API, by result.", "result")
        self._notifications = counter("notifications", "Notices by what became of them.", "event", "result")
        self._notifications_failing = gauge(
            "notifications_failing_since_timestamp_seconds", "When a receiver first accepted none; 0: all accept."
        )
        self._webhook = counter("webhook_requests", "Webhook requests, by the status of the response.", "code")
        for code in _WEBHOOK_CODES:
            self._webhook.labels(code)
        for result in _FORGE_RESULTS:
            self._forge.labels(result)
        for event in NotificationEvent:
            for result in ("accepted", "dropped"):
                self._notifications.labels(event, result)

    def notified(self, event: str, result: str) -> None:
        """A receiver has accepted a notice of this kind, or was given up."""
        self._notifications.labels(event, result).inc()

    def notifications_failing(self, since: float) -> None:
        self._notifications_failing.set(since)

    def forge_requested(self, result: str) -> None:
        """The forge has answered a request, or not."""
        self._forge.labels(result).inc()

    def announced(self, code: int) -> None:
        """The webhook has answered a request with this HTTP status."""
        self._webhook.labels(code).inc()
