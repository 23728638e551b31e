//! `matchpoint calibrate` without a target: what there is to choose from, and what to type next.

use serde::Serialize;

use super::doubts::Doubts;
use super::exit::Exit;
use super::operating_point_text::price_text;
use super::output::{percent, table, wrapped};
use super::output_file::OutputFile;
use super::report_model;
use crate::deployment::RefusedItem;
use matchpoint_calibration::menu::{Menu, MenuLine, MenuStanding};
use matchpoint_report::ReportContents;

/// The menu of one set of searches. Nothing is written but a report, where one is asked for.
#[derive(Serialize)]
pub(super) struct MenuReport<'a> {
    /// `menu`: no threshold was chosen.
    pub(super) outcome: &'static str,
    /// What there is to choose from.
    #[serde(flatten)]
    pub(super) menu: Menu,
    /// The command that chooses, but for the target.
    pub(super) next: String,
    /// Queries that could not be used.
    pub(super) failed: Vec<RefusedItem>,
    /// What makes the trials less than they seem.
    #[serde(flatten)]
    pub(super) doubts: Doubts<'a>,
}

/// Prints a menu, and writes its page.
pub(super) fn show(
    title: &str,
    report: &MenuReport<'_>,
    page: Option<&OutputFile>,
    json: bool,
) -> anyhow::Result<Exit> {
    let output = OutputFile::output(page, json);
    output.result(report, text)?;
    if let Some(file) = page {
        let contents = ReportContents {
            created: Some(crate::clock::now_rfc_3339()),
            ..report_model::menu_page(title, &report.menu, &report.next)
        };
        file.write_page(output, &contents)?;
    }
    Ok(Exit::Done)
}

fn text(report: &MenuReport<'_>) -> String {
    let menu = &report.menu;
    let mut text: String = report
        .failed
        .iter()
        .map(|one| format!("failed: {one}\n"))
        .collect();
    text.push_str(&report.doubts.text());
    text.push_str(&format!(
        "what {} labels of strangers support at {} confidence; nothing was chosen, and nothing was changed\n",
        menu.stranger_labels,
        percent(menu.confidence)
    ));
    let rows = menu
        .lines
        .iter()
        .map(|line| (percent(line.far), line_text(line)));
    let rows: Vec<(String, String)> = rows
        .map(|(far, line)| (format!("FAR {far}"), line))
        .collect();
    let rows: Vec<(&str, String)> = rows
        .iter()
        .map(|(far, line)| (far.as_str(), line.clone()))
        .collect();
    text.push_str(&table(&rows));
    text.push_str(&wrapped(
        "each line holds by itself. Take the one that you would ask for by what a false accept costs; to take it by the FRR that stands here is to look before choosing, and of all lines together one is missed more often than the confidence says",
        "  ",
    ));
    let far = menu
        .lowest_certified()
        .or_else(|| menu.lines.iter().find(|line| line.threshold.is_some()));
    let estimated = far.is_some_and(|line| line.standing == MenuStanding::Estimated);
    text.push_str(&format!(
        "next: {} --target-far {}{}{}\n",
        report.next,
        far.map_or(0.1, |line| line.far),
        if estimated { " --estimated" } else { "" },
        if far.is_none() {
            " (and more labels of strangers)"
        } else {
            ""
        }
    ));
    text
}

fn line_text(line: &MenuLine) -> String {
    let needed = line.labels_needed;
    let standing = match line.standing {
        MenuStanding::Certified => format!("certified (takes {needed} labels at the least)"),
        MenuStanding::AimedAt => "aimed at, not certified".to_owned(),
        MenuStanding::Estimated => format!("estimated only: a certificate takes {needed} labels"),
        MenuStanding::Unsupported => return format!("too few labels: it takes {needed}"),
    };
    let threshold = line
        .threshold
        .map_or_else(String::new, |threshold| threshold.to_string());
    let frr = line.frr.map_or_else(
        || "unknown".to_owned(),
        |frr| {
            let (lower, upper) = (percent(frr.interval.lower), percent(frr.interval.upper));
            format!("{} [{lower} .. {upper}]", percent(frr.estimate))
        },
    );
    let price = line
        .price
        .map_or_else(String::new, |price| format!("; {}", price_text(&price)));
    format!("accept from {threshold}, {standing}, FRR {frr}{price}")
}
