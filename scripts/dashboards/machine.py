"""How does the machine do?"""

from __future__ import annotations

from dashboards.parts import chart, per_second, quantile, rows, steps, value, watching, words_for
from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import common as kinds

FAULT = 'code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DEADLINE_EXCEEDED|DATA_LOSS"'


def stage(name: str, about: str):
    of = f', stage="{name}"'
    queries = {
        f"{{{{deployment}}}} p{q[2:].ljust(2, '0')}": quantile("matchpoint_stage_seconds", q, of)
        for q in ("0.5", "0.99")
    }
    return chart(
        f"Stage: {name}", (6, 7), f"{about} Median and 99th percentile, estimated from buckets.", "s", queries
    )


def machine() -> dashboard.Dashboard:
    calls = "rate(matchpoint_requests_total{%}[$__rate_interval])"
    faults = f"rate(matchpoint_requests_total{{%, {FAULT}}}[$__rate_interval])"
    missed = per_second("matchpoint_index_missed_neighbours_total", "deployment")
    checked = per_second("matchpoint_index_checked_neighbours_total", "deployment")
    served = ("instance", "deployment", "model", "precision", "execution_provider", "fingerprint")
    ready = value(
        "Ready",
        (4, 4),
        "Whether requests are answered. No value: Prometheus cannot reach it.",
        "none",
        {"{{instance}}": "matchpoint_ready{%}"},
    )
    ready = ready.mappings(words_for(("not ready", "red"), ("ready", "green"))).no_value("unreachable")
    errors = value(
        "Server errors",
        (3, 4),
        "Share of calls that fail by the server's fault.",
        "percentunit",
        {"": f"(sum({faults}) or vector(0)) / sum({calls})"},
    )
    version = value(
        "Version", (3, 4), "Of the build that runs.", "none", {"{{version}}": "matchpoint_build_info{%}"}
    )
    return watching(
        "machine",
        "Is it up, and where does the time go?",
        "now-6h",
        "30s",
        [
            ready.thresholds(steps((None, "red"), (1, "green"))),
            version.text_mode(kinds.BigValueTextMode.NAME),
            value(
                "Requests",
                (3, 4),
                "Finished calls and stream items a second.",
                "reqps",
                {"": f"sum({calls})"},
            ),
            errors.thresholds(steps((None, "green"), (0.001, "orange"), (0.01, "red"))).no_value("no calls"),
            rows(
                "Deployments",
                (11, 4),
                "What is served, by which model, and where the model really runs.",
                {name: name.replace("execution_provider", "runs on") for name in served},
                ["matchpoint_model_info{@} == 1"],
            ),
            chart(
                "Calls by method and code",
                (12, 8),
                "Finished calls and stream items. INVALID_ARGUMENT and NOT_FOUND are the caller's; CANCELLED: the caller left first.",
                "reqps",
                {"{{method}} {{code}}": f"sum by (method, code) ({calls})"},
            ),
            chart(
                "Time of a call by method: median and 99th percentile",
                (12, 8),
                "From a request's arrival to its answer. Estimated from buckets.",
                "s",
                {
                    f"{{{{method}}}} p{p}": quantile("matchpoint_request_seconds", q, by="method")
                    for p, q in (("50", "0.5"), ("99", "0.99"))
                },
            ),
            stage("queue", "Waiting for a worker."),
            stage("decode", "Decoding and resizing the image."),
            stage("inference", "Running the model."),
            stage("search", "Searching the gallery, or comparing."),
            "More than it can do?",
            chart(
                "Requests that wait for a worker",
                (8, 7),
                "Looked at twice a second.",
                "short",
                {"{{instance}} {{model}} {{precision}}": "matchpoint_queue_length{%}"},
            ),
            chart(
                "Requests refused, queue full",
                (8, 7),
                "RESOURCE_EXHAUSTED with QUEUE_FULL. More is asked than the workers can do.",
                "reqps",
                {"{{deployment}}": per_second("matchpoint_queue_rejected_total", "deployment")},
            ),
            chart(
                "Requests that left the queue undone",
                (8, 7),
                "gone: their callers hung up. late: not to be done by their deadlines any more. displaced: their places went to clients that had fewer. stuck: their workers did not come back, and were given up.",
                "reqps",
                {
                    "{{model}} {{precision}} {{reason}}": "sum by (model, precision, reason) (rate(matchpoint_dropped_jobs_total{%}[$__rate_interval]))"
                },
            ),
            chart(
                "Connections",
                (12, 7),
                "Open, and closed by the server a second: beyond `connections_max`, too slow to begin, idle, or for want of file descriptors.",
                "short",
                {
                    "open": "sum(matchpoint_connections{%})",
                    "closed: {{reason}}": "sum by (reason) (rate(matchpoint_connections_closed_total{%}[$__rate_interval]))",
                },
            ),
            chart(
                "Calls turned away",
                (12, 7),
                "At a limit that clients share, and for want of a key or a scope.",
                "reqps",
                {
                    "{{limit}}": "sum by (limit) (rate(matchpoint_limit_refusals_total{%}[$__rate_interval]))",
                    "{{code}}": 'sum by (code) (rate(matchpoint_requests_total{%, code=~"UNAUTHENTICATED|PERMISSION_DENIED"}[$__rate_interval]))',
                },
            ),
            "Index, disk and journal",
            chart(
                "Share of the nearest items that the index misses",
                (8, 7),
                "From a sample of searches that is done again by comparing with every item. Nothing where every search compares with every item.",
                "percentunit",
                {"{{deployment}}": f"{missed} / {checked}"},
            ),
            chart(
                "Memory of the index",
                (8, 7),
                "Codes and links. Vectors of settled items stay on disk.",
                "bytes",
                {"{{deployment}}": "matchpoint_gallery_index_bytes{@}"},
            ),
            value(
                "Generation",
                (4, 7),
                "Number of the gallery's state; grows with each change.",
                "none",
                {"{{deployment}}": "matchpoint_gallery_generation{@}"},
            ),
            value(
                "States that decide",
                (4, 7),
                "Of items, model, index and operating point. More than one, and replicas of one deployment decide differently.",
                "none",
                {
                    "{{deployment}}": "count by (deployment) (count by (deployment, state) (matchpoint_state_info{@}))"
                },
            ),
            chart(
                "Behind the store",
                (8, 7),
                "Since when a deployment is not known to have all that its store has. Grows while the store is out of reach. Nothing without a store.",
                "s",
                {"{{deployment}}": "matchpoint_store_lag_seconds{@}"},
            ),
            value(
                "Makes the changes",
                (4, 7),
                "1 at the server that makes the changes of a deployment that is kept in a store.",
                "none",
                {"{{deployment}}": "matchpoint_store_writer{@}"},
            ),
            chart(
                "Index in Qdrant",
                (8, 7),
                "Proposals that do not count, searches that compared every item in their place, and points that were written anew, a second. Nothing without Qdrant.",
                "none",
                {
                    "{{deployment}} {{reason}}": per_second(
                        "matchpoint_index_refused_proposals_total", "deployment, reason"
                    ),
                    "{{deployment}} exact": per_second(
                        "matchpoint_index_exact_searches_total", "deployment"
                    ),
                    "{{deployment}} repaired": per_second(
                        "matchpoint_index_repaired_points_total", "deployment"
                    ),
                },
            ),
            value(
                "Qdrant answers",
                (4, 7),
                "1 while the index in Qdrant is there, and is followed.",
                "none",
                {"{{deployment}}": "matchpoint_index_ready{@}"},
            ),
            value(
                "Changes that Qdrant lacks",
                (4, 7),
                "Generations of the gallery. What Qdrant lacks is compared one by one. Nothing without Qdrant.",
                "short",
                {
                    "{{deployment}}": "matchpoint_gallery_generation{@} - on (instance, deployment) matchpoint_index_generation{@}"
                },
            ),
            value(
                "Items changed on the disk",
                (4, 7),
                "Found while they were served. From the first on, nothing is accepted until a restart.",
                "short",
                {"{{deployment}}": "sum by (deployment) (matchpoint_gallery_damaged_items_total{@})"},
            ).thresholds(steps((None, "text"), (1, "red"))),
            chart(
                "Decisions in the journal",
                (8, 7),
                "",
                "short",
                {"{{deployment}}": "matchpoint_journal_decisions{@}"},
            ),
            chart(
                "Size of the journal", (8, 7), "", "bytes", {"{{deployment}}": "matchpoint_journal_bytes{@}"}
            ),
            chart(
                "Not recorded",
                (8, 7),
                "Answered, and missing in every rate of the audit.",
                "reqps",
                {
                    "{{deployment}} {{reason}}": per_second(
                        "matchpoint_recording_lost_total", "deployment, reason"
                    )
                },
            ),
        ],
    )
