//! What was found, as text.

use super::DiscoverReport;
use super::candidates::QueryCounts;
use crate::cli::output::{failed_but, percent, table, wrapped};
use matchpoint_calibration::analysis::discovery::GroupingError;
use matchpoint_calibration::rates::Rate;

/// Members of a group that are named; --json and the list name all.
const MEMBERS_SHOWN: usize = 3;
/// Groups that are shown.
const GROUPS_SHOWN: usize = 20;
/// Below this precision every picture has to be looked at.
const PRECISE: f64 = 0.9;

/// As text.
pub(super) fn text(report: &DiscoverReport) -> String {
    let mut text = failed_but(&report.failed, Some("--json"));
    let alike = &report.alike;
    let mut rows = vec![
        ("queries", queries(&report.queries)),
        (
            "alike from",
            format!(
                "similarity {:.4}: {} of {} pairs of two of {} known labels reach it",
                alike.threshold.get(),
                percent(alike.far),
                alike.pairs,
                alike.labels
            ),
        ),
    ];
    if 0 < report.fitted_labels {
        let labels = report.fitted_labels;
        let what = format!("{labels} labels of the gallery: the model's head was fitted to them");
        rows.push(("left out", what));
    }
    if 0 < report.known_unused {
        let unused = report.known_unused;
        let what = format!("{unused} known pictures: there are enough without them");
        rows.push(("left out", what));
    }
    let grouped = report.queries.grouped;
    rows.push(("such groups", measured(report.measured.as_ref(), grouped)));
    if let Some(error) = &report.of_known_queries {
        rows.push(("these groups", worth(error, "queries whose label is known")));
    }
    text.push_str(&table(&rows));
    // The lower one: the labels that are known of the queries may be few.
    let errors = [report.of_known_queries.as_ref(), report.measured.as_ref()];
    let precisions = errors.into_iter().flatten();
    let precisions = precisions.filter_map(|error| error.precision.as_ref());
    let precision = precisions.min_by(|a, b| a.estimate.total_cmp(&b.estimate));
    let doubtful = precision.is_none_or(|rate| rate.estimate < PRECISE);
    if let Some(rate) = precision.filter(|_| doubtful)
        && !report.groups.is_empty()
    {
        let warning = format!(
            "only {} of pairs in such groups are of one label: look at every picture. A head (`matchpoint adapt`) \
             makes pictures of one label more alike",
            percent(rate.estimate)
        );
        text.push_str(&wrapped(&warning, "warning: "));
    }
    text.push_str(&groups(report, doubtful));
    if let (Some(csv), Some(enrol)) = (&report.csv, &report.enrol) {
        text.push_str(&format!("written to {}\n", csv.display()));
        if 0 < report.pictures_removed {
            let what = format!(
                "{} pictures are not in it: they were removed since they were searched for",
                report.pictures_removed
            );
            text.push_str(&wrapped(&what, "warning: "));
        }
        let how = "to enrol them: rename the labels in it, remove the lines that do not belong, and then (a server of this \
                   deployment has to be stopped for it)";
        text.push_str(&wrapped(how, ""));
        text.push_str(&format!("  {enrol}\n"));
    }
    text
}

fn queries(counts: &QueryCounts) -> String {
    let mut text = match counts.recorded {
        Some(recorded) => format!(
            "{recorded} rejected searches, {} with a picture",
            counts.searched
        ),
        None => format!("{}", counts.searched),
    };
    let others = [
        (counts.known, "annotated as enrolled or unusable"),
        (counts.older as u64, "older ones not looked at"),
        (counts.accepted as u64, "accepted today"),
        (counts.undecided as u64, "undecided today"),
    ];
    for (count, what) in others {
        if 0 < count {
            text.push_str(&format!("; {count} {what}"));
        }
    }
    text.push_str(&format!("; {} to group", counts.grouped));
    text
}

fn measured(error: Option<&GroupingError>, grouped: usize) -> String {
    const OF: &str = "known pictures, of labels that did not set that similarity";
    match error {
        Some(error) if error.rows_at_once < grouped as u64 => format!(
            "{}. At most {} of them were grouped at once, and {grouped} queries are: among more, fewer pairs are right",
            worth(error, OF),
            error.rows_at_once
        ),
        Some(error) => worth(error, OF),
        None => "not measured: it takes 10 known labels with enough pictures for a group each, and four times the pairs".to_owned(),
    }
}

fn worth(error: &GroupingError, of: &str) -> String {
    let share = |rate: Option<&Rate>| {
        let shown = |rate: &Rate| {
            format!(
                "{} [{} .. {} at 95 %]",
                percent(rate.estimate),
                percent(rate.interval.lower),
                percent(rate.interval.upper)
            )
        };
        rate.map_or_else(|| "unknown, without any".to_owned(), shown)
    };
    format!(
        "of {} {of}: {} of {} groups are of one label, and of pairs within groups {}; of pairs of one label they hold {}",
        error.rows,
        error.of_one_label,
        error.groups,
        share(error.precision.as_ref()),
        share(error.recall.as_ref())
    )
}

fn groups(report: &DiscoverReport, doubtful: bool) -> String {
    let groups = &report.groups;
    if groups.is_empty() {
        return "no group: no queries are alike enough, each with each\n".to_owned();
    }
    let mut text = match (groups.len(), doubtful) {
        (1, true) => "1 group of queries that are alike; nothing is enrolled\n".to_owned(),
        (count, true) => format!("{count} groups of queries that are alike; nothing is enrolled\n"),
        (1, false) => "1 group that looks like one new thing; nothing is enrolled\n".to_owned(),
        (count, false) => {
            format!("{count} groups that each look like one new thing; nothing is enrolled\n")
        }
    };
    for group in groups.iter().take(GROUPS_SHOWN) {
        let pictures = match (group.members.len(), group.pictures) {
            (queries, pictures) if queries == pictures => format!("{queries} queries"),
            (queries, pictures) => format!("{queries} queries, {pictures} different pictures"),
        };
        let nearest = group.nearest.as_ref().map_or_else(String::new, |nearest| {
            format!(
                "; nearest enrolled label {} at {:.4}",
                nearest.label, nearest.similarity
            )
        });
        text.push_str(&wrapped(
            &format!(
                "{pictures}, similarity {:.4} to {:.4}{nearest}",
                group.loosest.similarity, group.tightest.similarity
            ),
            &format!("  {:<8}  ", group.label),
        ));
        let shown: Vec<&str> = group
            .members
            .iter()
            .take(MEMBERS_SHOWN)
            .map(String::as_str)
            .collect();
        let more = match group.members.len().saturating_sub(MEMBERS_SHOWN) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let members = format!("{}{more}", shown.join(", "));
        text.push_str(&wrapped(&members, "            "));
    }
    if GROUPS_SHOWN < groups.len() {
        let more = groups.len() - GROUPS_SHOWN;
        text.push_str(&format!(
            "  {more} more groups, which --json and --csv name\n"
        ));
    }
    text
}
