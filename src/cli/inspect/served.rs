//! `matchpoint inspect --server`: what a running server serves under one name.

use serde::Serialize;

use crate::cli::output::{Output, percent, table};
use crate::cli::points::promises::today;
use crate::cli::points::served::ServedPoints;
use crate::cli::points::served_point::{created, describe};
use crate::cli::runtime::single_threaded;
use crate::cli::served_info::served_info;
use crate::cli::server_address::ServerAddress;
use matchpoint_client::proto::DeploymentInfo;

/// A deployment as its server describes it.
#[derive(Serialize)]
struct InspectedService {
    #[serde(flatten)]
    info: DeploymentInfo,
    #[serde(flatten)]
    points: ServedPoints,
}

/// Shows a deployment; the only one that is served if `name` is empty.
pub(crate) fn inspect(server: &ServerAddress, name: &str, json: bool) -> anyhow::Result<()> {
    let found = single_threaded()?.block_on(async {
        let client = server.connect().await?;
        let info = served_info(&client, name).await?;
        let points = ServedPoints::of(&client, &info.name).await?;
        let points = points.today(&info);
        anyhow::Ok(InspectedService { info, points })
    })?;
    Output::new(json).result(&found, text)
}

fn text(found: &InspectedService) -> String {
    let info = &found.info;
    let mut rows = vec![
        (
            "model",
            format!(
                "{} {} on {}, fingerprint {}",
                info.model_name, info.precision, info.execution_provider, info.model_fingerprint
            ),
        ),
        (
            "gallery",
            format!(
                "{} items, {} labels, {} components, id {}, generation {}",
                info.gallery_items,
                info.gallery_labels,
                info.dimension,
                info.gallery_id,
                info.generation
            ),
        ),
        ("index", info.index.clone()),
    ];
    if let (Some(share), Some(added)) = (info.gallery_coverage, info.items_added) {
        let removed = info.items_removed.unwrap_or_default();
        let covered = format!(
            "{} of the gallery: {added} items were added or changed since the calibration, {removed} are gone",
            percent(share)
        );
        rows.push(("covers", covered));
    }
    let mut text = format!("deployment `{}`, served\n{}", info.name, table(&rows));
    if info.operating_point_id.is_empty() {
        text.push_str(
            "nothing is accepted: there is no valid operating point; run `matchpoint calibrate`\n",
        );
    }
    for one in &found.points.operating_points {
        let state = match (one.active, info.operating_point_id == one.point.id) {
            (true, true) => "decides now",
            (true, false) => "active, and NOT VALID HERE",
            (false, _) => "not active",
        };
        text.push_str(&format!(
            "operating point {} ({state}), made {}\n{}{}",
            one.point.id,
            created(&one.point),
            today(&one.promises),
            describe(&one.point)
        ));
    }
    text
}
