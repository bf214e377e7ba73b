"""What a server counts, for Prometheus."""

from typing import Any

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 180, 600)
PAUSES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """Counters of one server, in a registry of its own.

    Attributes:
        requests: by route and status.
        errors: refusals, by their `code` or `type`.
        prompt_tokens, cached_tokens, generated_tokens, images: sums over all answers.
        first_token, between_tokens: histograms of seconds.
        waiting, running: answers now.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Any:
            return Counter(f"pixtral_{name}", text, labels, registry=registry)

        self.requests = counter("requests", "Requests answered", "route", "status")
        self.errors = counter("errors", "Requests refused or failed", "kind")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts")
        self.cached_tokens = counter("cached_tokens", "Tokens of prompts known from before")
        self.generated_tokens = counter("generated_tokens", "Tokens written")
        self.images = counter("images", "Pictures and pages looked at")
        self.first_token = Histogram(
            "pixtral_first_token_seconds", "From the request to its first token",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.between_tokens = Histogram(
            "pixtral_between_tokens_seconds", "From one token of an answer to the next",
            buckets=PAUSES, registry=registry,
        )  # fmt: skip
        self.waiting = Gauge("pixtral_waiting", "Answers that wait", registry=registry)
        self.running = Gauge("pixtral_running", "Answers being written", registry=registry)
        self._kept = Gauge(
            "pixtral_kept_bytes", "Keys, values and image features kept for later questions",
            registry=registry,
        )  # fmt: skip
        self._memory = Gauge(
            "pixtral_memory_bytes", "Memory that MLX holds", ["kind"], registry=registry
        )

    def text(self, kept_bytes: int) -> bytes:
        """All of them, as Prometheus reads them.

        Arguments:
            kept_bytes: in the prompt cache now.
        """
        import mlx.core as mx
        from prometheus_client import generate_latest

        self._kept.set(kept_bytes)
        self._memory.labels("active").set(mx.get_active_memory())
        self._memory.labels("pooled").set(mx.get_cache_memory())
        self._memory.labels("peak").set(mx.get_peak_memory())
        return generate_latest(self.registry)
