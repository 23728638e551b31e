"""Is the promise kept?"""

from __future__ import annotations

from dashboards.parts import chart, rows, steps, value, watching, words, words_for
from grafana_foundation_sdk.builders import common, dashboard
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models


def error_rate(name: str, rate: str):
    errors = f'sum by (deployment) (matchpoint_audit_weighted_errors{{@, rate="{rate}"}} >= 0)'
    trials = f'sum by (deployment) (matchpoint_audit_weighted_trials{{@, rate="{rate}"}} > 0)'
    about = (
        "From annotations of sampled decisions, over all replicas: weighted errors by weighted trials. No value: "
        "no annotation counts for it. Unknown is not zero."
    )
    return value(
        name, (4, 5), about, "percentunit", {"{{deployment}}": f"{errors} / ({trials})"}
    ).no_value("not known")


def alarm(name: str, rate: str):
    about = (
        "Whether annotations of sampled decisions are evidence that the rate is above its limit. A false alarm "
        "comes with a probability of at most alarm_delta, ever. What to do: the runbook."
    )
    expr = f'max by (deployment) (matchpoint_rate_alarm{{@, rate="{rate}"}} & active)'
    made = value(name, (4, 5), about, "none", {"{{deployment}}": expr})
    return made.mappings(words_for(("no alarm", "text"), ("ALARM", "red"))).thresholds(
        steps((None, "text"), (1, "red"))
    )


def interval(name: str, rate: str):
    about = (
        "From annotations of sampled decisions, each weighted by the inverse of its probability of being sampled; "
        "the interval is 95 %. A gap: not known."
    )
    queries = {
        "{{deployment}} {{operating_point}} {{bound}}": f'matchpoint_audit_rate_ratio{{@, rate="{rate}"}}',
        "{{deployment}} limit ({{basis}})": f'matchpoint_rate_limit_ratio{{@, rate="{rate}"}} & active',
    }
    return chart(f"{name} with its interval, and its limit", (12, 8), about, "percentunit", queries)


WHAT_TO_DO = """\
| what you see | what to do |
| --- | --- |
| an alert | its section of the [runbook](/d/matchpoint-runbook) |
| FAR alarm | stop acting on accepts near the threshold, or activate a stricter operating point; recalibrate with strangers of today |
| FRR alarm | look at annotated rejects: camera, light, old pictures; then enrol newer ones, or recalibrate with queries of today |
| no value for a rate | annotate what waits: `matchpoint audit list` |
| canaries changed | model, preprocessing, index or gallery: `matchpoint canaries replay` names them |
| a promise that has ended | `matchpoint status` says what ended it; recalibrate |
| predicted FAR above its limit | recalibrate with `--grow-to` |
| searches unlike the calibration | see [traffic](/d/matchpoint-traffic); only annotations say which rate has changed |"""


def promise() -> dashboard.Dashboard:
    limits = 'matchpoint_rate_limit_ratio{@, rate="far"} & active'
    of_annotations = {
        "{{deployment}} annotated": "sum by (deployment) (matchpoint_audit_annotated_decisions{@} & active)",
        "{{deployment}} sampled": "sum by (deployment) (matchpoint_audit_sampled_decisions{@} & active)",
        "{{deployment}} sampled since the latest annotation": (
            "sum by (deployment) (matchpoint_audit_sampled_since_annotation_decisions{@} & active)"
        ),
        "{{deployment}} hours since the latest annotation": (
            "(time() - max by (deployment) (matchpoint_audit_latest_annotation_timestamp_seconds{@} & active)) / 3600"
        ),
    }
    without_annotations = {
        "{{deployment}} predicted, {{bound}}": "matchpoint_predicted_far_ratio{@} & active",
        "{{deployment}} limit ({{basis}})": limits,
        "{{deployment}} left out, {{bound}}": "matchpoint_left_out_far_ratio{@} & active",
        "{{deployment}} left out, limit": "matchpoint_left_out_limit_ratio{@} & active",
        "{{deployment}} not exceeded": "matchpoint_far_bound_ratio{@} & active",
    }
    canaries = {
        "{{deployment}} {{rate}} errors": "matchpoint_canary_errors{@} & active",
        "{{deployment}} {{rate}} canaries": "matchpoint_canary_trials{@} & active",
        "{{deployment}} changed": "matchpoint_canary_changed{@}",
        "{{deployment}} failed": "matchpoint_canary_failed{@}",
        "{{deployment}} {{rate}} alarm": "max by (deployment, rate) (matchpoint_canary_alarm{@} & active)",
    }
    lookalikes = {
        "{{deployment}} enrolled in an hour": 'increase(matchpoint_enrolment_checks_total{@, outcome="lookalike"}[1h])',
        "{{deployment}} labels accepted as others": "matchpoint_left_out_accepted{@} & active",
        "{{deployment}} labels searched for, left out": "matchpoint_left_out_searches{@} & active",
    }
    since_calibration = {
        "{{deployment}} {{operating_point}}": "matchpoint_gallery_size_ratio{@} & active",
        "{{deployment}}: share that the calibration has seen": "matchpoint_gallery_coverage_ratio{@}",
    }
    standing = value(
        "Promises in today's gallery",
        (24, 4),
        "What the operating point promised at its calibration, and whether that stands after what was added or removed "
        "since. Ended: nothing bounds the rate below its target any more; what the rate is, annotations say.",
        "none",
        {"{{deployment}} {{rate}}": "min by (deployment, rate) (matchpoint_promise_stands{@} & active)"},
    )
    standing = standing.mappings(words_for(("ENDED", "red"), ("stands", "text"))).thresholds(
        steps((None, "red"), (1, "text"))
    )
    evidence = {
        "{{deployment}} {{rate}}": "matchpoint_evidence_log_ratio{@} & active",
        "{{deployment}} alarm": "max by (deployment) (matchpoint_evidence_alarm_log_ratio{@} & active)",
    }
    points = {
        "deployment": "deployment",
        "operating_point": "operating point",
        "Value #A": "threshold",
        "Value #B": "promised FAR",
        "Value #C": "FAR upper bound",
        "Value #D": "calibrated",
    }
    deciding = rows(
        "Operating points that decide",
        (24, 5),
        "The threshold, and what was promised and measured at calibration.",
        points,
        [
            "matchpoint_threshold{@} & active",
            "matchpoint_target_far_ratio{@} & active",
            "matchpoint_far_upper_bound_ratio{@} & active",
            "1000 * matchpoint_calibration_timestamp_seconds{@} & active",
        ],
    )
    units = {
        "threshold": "none",
        "promised FAR": "percentunit",
        "FAR upper bound": "percentunit",
        "calibrated": "dateTimeAsIso",
    }
    for column, unit in units.items():
        deciding = deciding.override_by_name(column, [models.DynamicConfigValue(id_val="unit", value=unit)])
    deciding = deciding.override_by_name("threshold", [models.DynamicConfigValue(id_val="decimals", value=4)])
    since = "matchpoint_rate_alarm_since_timestamp_seconds{@} > 0 & active"
    firing = 'ALERTS{job="matchpoint", alertstate="firing"}'
    return watching(
        "promise",
        "Are false accepts and false rejects as rare as the operating point says?",
        "now-7d",
        "5m",
        [
            alarm("FAR: alarm", "far"),
            alarm("FRR: alarm", "frr"),
            error_rate("FAR now", "far"),
            error_rate("FRR now", "frr"),
            error_rate("Wrong accepts now", "fdr"),
            value(
                "Annotations",
                (4, 5),
                "Sampled decisions that have one. Without annotations nothing here is known.",
                "none",
                of_annotations,
            ),
            interval("FAR", "far"),
            interval("FRR", "frr"),
            deciding,
            standing,
            "Without annotations",
            chart(
                "FAR of today's gallery, and its limit",
                (12, 8),
                "Predicted: what calibration measured, carried over to the number of items, blind to everything else. "
                "Left out: items of the gallery itself, each searched for with its label left out; of labels like "
                "those that are enrolled.",
                "percentunit",
                without_annotations,
            ),
            chart(
                "Gallery since the calibration",
                (12, 8),
                "Items by those that the calibration covers: above 1 the promised FAR no longer covers the gallery, "
                "since it grows with what is added or exchanged. Decisions go on; recalibrate.",
                "none",
                since_calibration,
            )
            .thresholds(steps((None, "green"), (1, "red")))
            .thresholds_style(
                common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
            ),
            chart(
                "Canaries: share in error, 95 % interval",
                (8, 8),
                "Pictures whose truth is known. They know nothing of new traffic.",
                "percentunit",
                {"{{deployment}} {{rate}} {{bound}}": "matchpoint_canary_rate_ratio{@} & active"},
            ),
            chart(
                "Canaries: errors, changed, failed",
                (8, 8),
                "Changed: otherwise than in the first round under the operating point. The log names them.",
                "none",
                canaries,
            ),
            chart(
                "Look-alikes",
                (8, 8),
                "Items that were enrolled although a search accepts them as others, and labels of the gallery that are accepted as others.",
                "none",
                lookalikes,
            ),
            "Since when?",
            value(
                "Alarm since",
                (6, 8),
                "When the sampled decision was made at which the evidence reached its limit. No value: no alarm.",
                "dateTimeAsIso",
                {"{{deployment}} {{rate}}": f"1000 * max by (deployment, rate) ({since})"},
            ).no_value("no alarm"),
            chart(
                "Evidence against the promise (ln E), and where an alarm is raised",
                (9, 8),
                "May be looked at at any time. Falling evidence is no proof that the promise is kept.",
                "any",
                evidence,
            ),
            chart(
                "CUSUM by its limit (fast, no guarantee)",
                (9, 8),
                "Above 1: a change is suspected, sooner than evidence shows it. Raises a false alarm now and then by design, and pages nobody.",
                "none",
                {"{{deployment}} {{rate}}": "matchpoint_rate_cusum_ratio{@} & active"},
            ),
            "What do I do?",
            rows(
                "Alerts that fire",
                (12, 9),
                "Each has a section in the runbook: what it means, what to look at, what to do.",
                {name: name for name in ("alertname", "severity", "deployment", "instance", "rate")},
                [f"sum by (alertname, severity, deployment, instance, rate) ({firing})"],
            ),
            words("What do I do?", (12, 9), WHAT_TO_DO),
        ],
    )
