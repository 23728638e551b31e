//! `matchpoint calibrate` without a target: lists the possible targets and the next command.

use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::output::doubts::Doubts;
use crate::cli::output::file::OutputFile;
use crate::cli::output::{self, ShownFlags, percent, wrapped};
use crate::cli::points::text::price_text;
use crate::deployment::RefusedItem;
use matchpoint_calibration::menu::{Menu, MenuLine, MenuStanding};
use matchpoint_report::ReportContents;
use matchpoint_report::calibrated::menu_page;

/// The menu for a set of searches. Nothing is written except a report, if one is requested.
#[derive(Serialize)]
pub(crate) struct MenuReport<'a> {
    /// Always `menu`: no threshold was chosen.
    pub(crate) outcome: &'static str,
    /// The possible targets.
    #[serde(flatten)]
    pub(crate) menu: Menu,
    /// The next command, without its target.
    pub(crate) next: String,
    /// Queries that could not be used.
    pub(crate) failed: Vec<RefusedItem>,
    /// The reasons why the trials count for less than they seem.
    #[serde(flatten)]
    pub(crate) doubts: Doubts<'a>,
}

/// Prints a menu, and writes its page if requested.
pub(crate) fn show(
    title: &str,
    report: &MenuReport<'_>,
    page: Option<&OutputFile>,
    shown: ShownFlags,
) -> anyhow::Result<Exit> {
    let output = OutputFile::output(page, shown.json);
    output.result(report, |report| text(report, shown.verbose))?;
    if let Some(file) = page {
        let contents = ReportContents {
            created: Some(crate::clock::now_rfc_3339()),
            ..menu_page(title, &report.menu, &report.next)
        };
        file.write_page(output, &contents)?;
    }
    Ok(Exit::Done)
}

fn text(report: &MenuReport<'_>, verbose: bool) -> String {
    let menu = &report.menu;
    let mut text = format!(
        "What {} labels of strangers support at {} confidence (nothing was chosen, nothing changed):\n",
        menu.stranger_labels,
        percent(menu.confidence)
    );
    let (supported, others): (Vec<&MenuLine>, Vec<&MenuLine>) = menu
        .lines
        .iter()
        .partition(|line| line.standing != MenuStanding::Unsupported);
    let rows = supported.iter();
    let rows: Vec<[String; 4]> = rows.map(|line| line_cells(line)).collect();
    text.push_str(&columns(&rows));
    let others = others.iter().enumerate().map(|(at, line)| {
        let (far, needed) = (percent(line.far), line.labels_needed);
        match at {
            0 => format!("FAR {far} (it takes {needed})"),
            _ => format!("{far} ({needed})"),
        }
    });
    let others: Vec<String> = others.collect();
    if !others.is_empty() {
        let others = format!("Too few labels for {}", others.join(", "));
        text.push_str(&wrapped(&others, "  "));
    }
    let hint = if verbose {
        ""
    } else {
        " What the proof costs: --verbose"
    };
    let choose = format!(
        "Choose by what a false accept costs. Each line holds by itself: who chooses by the FRR beside it misses the FAR more often than the confidence says.{hint}"
    );
    text.push_str(&wrapped(&choose, "  "));
    text.push_str(&output::failed(&report.failed, verbose));
    text.push_str(&report.doubts.text());
    let prices = supported
        .iter()
        .filter_map(|line| Some((line.far, line.price.as_ref()?)));
    for (far, price) in prices.filter(|_| verbose) {
        let price = format!("FAR {}: {}", percent(far), price_text(price));
        text.push_str(&wrapped(&price, "  "));
    }
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

/// The cells of a line: FAR, threshold, FRR, and what the labels certify.
fn line_cells(line: &MenuLine) -> [String; 4] {
    let needed = line.labels_needed;
    let standing = match line.standing {
        MenuStanding::Certified => format!("certified; takes {needed} labels"),
        MenuStanding::AimedAt => "aimed at, not certified".to_owned(),
        MenuStanding::Estimated => format!("estimated; a certificate takes {needed} labels"),
        MenuStanding::Unsupported => format!("too few labels: it takes {needed}"),
    };
    let threshold = line
        .threshold
        .map_or_else(String::new, |threshold| format!("accept from {threshold}"));
    let frr = line.frr.map_or_else(
        || "FRR unknown".to_owned(),
        |frr| {
            let (lower, upper) = (percent(frr.interval.lower), percent(frr.interval.upper));
            format!("FRR {} [{lower} .. {upper}]", percent(frr.estimate))
        },
    );
    [
        format!("FAR {}", percent(line.far)),
        threshold,
        frr,
        standing,
    ]
}

/// Aligns the cells of all rows in columns.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let line = |row: &[String; N]| {
        let cells = row.iter().enumerate();
        let line: String = cells
            .map(|(at, cell)| format!("  {cell:<0$}", width(at)))
            .collect();
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}
