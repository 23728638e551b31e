"""What is the traffic like?"""

from __future__ import annotations

from dashboards.parts import chart, panel, per_second, quantile, rows, target, value, watching, words
from grafana_foundation_sdk.builders import dashboard, heatmap
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOR_WHOM = """\
Labels and items are in no metric: there are too many of them, and they may be names of people.

- `matchpoint drift report` says in words what is known, what is not, and what to do; `--html FILE` makes a page of it.
- `matchpoint audit list` and `matchpoint audit show ID` have the decisions themselves, with their pictures where `audit_images` is on.
- `matchpoint calibrate --report FILE` has the worst labels and conditions of the calibration."""


def scores():
    made = panel(
        heatmap.Panel(),
        "Score of the best match",
        (16, 8),
        "Cosine similarity of each search's best match, in searches a second. Bucket bounds are fixed, so days and "
        "replicas can be compared. A change of its shape is a change of the traffic, the gallery or the capture.",
        [
            target(0, "{{le}}", per_second("matchpoint_match_score_bucket", "le")).format(
                PromQueryFormat.HEATMAP
            )
        ],
    )
    colour = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(64)
    colour = colour.scale(HeatmapColorScale.EXPONENTIAL).exponent(0.5).reverse(False)
    return made.color(colour).cell_values(heatmap.CellValues().unit("reqps"))


def traffic() -> dashboard.Dashboard:
    shadow = "matchpoint_shadow_decisions_total"
    compared = per_second(shadow, "deployment")
    same = " + ".join(
        per_second(shadow, "deployment", f', live="{kind}", shadow="{kind}"{more}')
        for kind, more in (("accept", ', label_agreement="same"'), ("reject", ""), ("undecided", ""))
    )
    differ = {"{{deployment}} all": f"1 - ({same}) / {compared}"}
    for live, other in (("accept", "reject"), ("reject", "accept")):
        flipped = per_second(shadow, "deployment", f', live="{live}", shadow="{other}"')
        differ[f"{{{{deployment}}}} {live} -> {other}"] = f"{flipped} / {compared}"
    accepted = per_second("matchpoint_decisions_total", "deployment, operating_point", ', decision="accept"')
    decided = per_second("matchpoint_decisions_total", "deployment, operating_point")
    failures = per_second("matchpoint_image_failures_total", "deployment")
    decoded = per_second("matchpoint_stage_seconds_count", "deployment", ', stage="decode"')
    norm = "matchpoint_feature_norm"
    candidate = (
        "instance",
        "deployment",
        "model",
        "precision",
        "operating_point",
        "execution_provider",
        "fingerprint",
    )
    return watching(
        "traffic",
        "What is asked, what is answered, and is that like the calibration? No error rates: those are under promise.",
        "now-7d",
        "5m",
        [
            chart(
                "Accept rate by operating point (not the FAR)",
                (8, 8),
                "Accepted, of all decided. It moves with what callers send as much as with errors: nothing here knows "
                "which decisions are right.",
                "share",
                {"{{deployment}} {{operating_point}}": f"{accepted} / ({decided} > 0)"},
            ),
            scores(),
            chart(
                "Decisions by operating point",
                (12, 8),
                "ACCEPT, REJECT and UNDECIDED. Undecided means that no valid operating point is active. For review: rejects that a person is to look at. Unrecorded: searches that their callers left out of all records, and of every rate.",
                "reqps",
                {
                    "{{deployment}} {{operating_point}} {{decision}}": per_second(
                        "matchpoint_decisions_total", "deployment, operating_point, decision"
                    ),
                    "{{deployment}} {{operating_point}} for review": per_second(
                        "matchpoint_reviews_total", "deployment, operating_point"
                    ),
                    "{{deployment}} unrecorded": per_second("matchpoint_unrecorded_searches_total", "deployment"),
                },
            ),
            words("Which labels, which items?", (12, 8), FOR_WHOM),
            "Is it like the calibration?",
            chart(
                "Evidence that it is not (ln E), and where an alarm is raised",
                (7, 8),
                "No error rate: whether searches look like those of the calibration, whatever part of them is mated. "
                "Valid at any time of looking. Blind to strangers that look like enrolled things.",
                "any",
                {
                    "{{deployment}} evidence": "matchpoint_traffic_evidence_log_ratio{@} & active",
                    "{{deployment}} alarm": "matchpoint_traffic_evidence_alarm_log_ratio{@} & active",
                },
            ),
            chart(
                "The clearest share of each feature, and its limit",
                (7, 8),
                "Of the latest 500 searches, beside what the share is at most while traffic is like the calibration. "
                "Which share it is, `matchpoint drift report` says.",
                "share",
                {
                    "{{deployment}} {{feature}}": 'matchpoint_traffic_share_ratio{@, bound="recent"} & active',
                    "{{deployment}} {{feature}} limit": 'matchpoint_traffic_share_ratio{@, bound="limit"} & active',
                },
            ),
            value(
                "Searches compared",
                (4, 8),
                "With the calibration, since the operating point decides or evidence was reset.",
                "none",
                {"{{deployment}}": "matchpoint_traffic_compared_searches{@} & active"},
            ),
            chart(
                "Share of searches that goes to a person",
                (6, 8),
                "With a review band: what is counted, beside what the calibration predicts whatever part of searches is mated.",
                "percentunit",
                {"{{deployment}} {{bound}}": "matchpoint_review_ratio{@} & active"},
            ),
            chart(
                "Share of searches beside the threshold",
                (8, 8),
                "In the strata just below and just above it: what a small change of scores would decide otherwise. "
                "Blind to truth.",
                "percentunit",
                {
                    "{{deployment}} {{side}}": (
                        'deployment_operating_point_side:matchpoint_beside_threshold:ratio_rate1h{job="matchpoint", deployment=~"$deployment"}'
                    )
                },
            ),
            chart(
                "Margin to the next label: median and 5th percentile",
                (8, 8),
                "How much nearer the best item is than the best of another label. Blind to what is not enrolled.",
                "none",
                {
                    "{{deployment}} p50": quantile("matchpoint_match_margin", "0.5"),
                    "{{deployment}} p5": quantile("matchpoint_match_margin", "0.05"),
                },
            ),
            chart(
                "Length of features: mean and 5th percentile",
                (8, 8),
                "Before they are made 1. Falls with blur, dark and empty pictures for many models. Blind to truth and to strangers.",
                "any",
                {
                    "{{deployment}} mean": f"{per_second(norm + '_sum', 'deployment')} / {per_second(norm + '_count', 'deployment')}",
                    "{{deployment}} p5": quantile(norm, "0.05"),
                },
            ),
            chart(
                "Decisions by stratum of the audit",
                (12, 8),
                "Stratum 0 is far below the threshold, the highest far above it. A shift towards the threshold is worth "
                "a look; what it means only annotations say.",
                "reqps",
                {
                    "{{deployment}} stratum {{stratum}}": per_second(
                        "matchpoint_recorded_decisions_total",
                        "deployment, stratum",
                        ', source="live", filtered="false"',
                    )
                },
            ),
            rows(
                "Strata of the audit",
                (12, 8),
                "Where each begins and ends, as score less threshold. 0 is the threshold.",
                {
                    "deployment": "deployment",
                    "stratum": "stratum",
                    "bound": "end",
                    "Value": "score - threshold",
                },
                ["max by (deployment, stratum, bound) (matchpoint_audit_stratum_edge{@})"],
            ),
            "Pictures and gallery",
            chart(
                "Images that cannot be used, by reason",
                (8, 7),
                "Answered INVALID_ARGUMENT: undecodable, unsupported_format, too_large, no_content, no_embedding.",
                "ops",
                {
                    "{{deployment}} {{reason}}": per_second(
                        "matchpoint_image_failures_total", "deployment, reason"
                    )
                },
            ),
            chart(
                "Share of images that cannot be used",
                (8, 7),
                "Of all that reached a worker.",
                "share",
                {"{{deployment}}": f"{failures} / ({failures} + {decoded})"},
            ),
            chart(
                "What is said of accepts unasked",
                (8, 7),
                "A precision of what is spoken of, never a FAR: rejects are not heard.",
                "none",
                {"{{deployment}} {{verdict}}": "matchpoint_accept_feedback{@} & active"},
            ),
            chart(
                "Items and labels",
                (12, 7),
                "",
                "short",
                {
                    "{{deployment}} items": "matchpoint_gallery_items{@}",
                    "{{deployment}} labels": "matchpoint_gallery_labels{@}",
                },
            ),
            chart(
                "Changes of the gallery",
                (12, 7),
                "Items enrolled, replaced and removed.",
                "ops",
                {
                    "{{deployment}} {{change}}": per_second(
                        "matchpoint_gallery_changes_total", "deployment, change"
                    )
                },
            ),
            "A candidate beside it (matchpoint shadow)",
            chart(
                "Share of decisions that differ",
                (8, 7),
                "Another decision, or another label accepted. Says that the two differ, not which is right: that needs annotations.",
                "percentunit",
                differ,
            ),
            chart(
                "Compared and skipped",
                (8, 7),
                "Queries a second. Skipped: it came as a vector, requests waited, the candidate was behind, or it failed.",
                "reqps",
                {
                    "{{deployment}} compared": compared,
                    "{{deployment}} {{reason}}": per_second(
                        "matchpoint_shadow_skipped_total", "deployment, reason"
                    ),
                },
            ),
            rows(
                "Candidates",
                (8, 7),
                "What is compared with what is served. Nothing is answered from it.",
                {name: name.replace("execution_provider", "runs on") for name in candidate},
                ["matchpoint_shadow_info{@} == 1"],
            ),
        ],
    )
