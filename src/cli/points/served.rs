//! `matchpoint points --server`: the operating points of a deployment that is served.

use serde::Serialize;

use super::outcomes::{
    Activated, ComparedPoints, FlipLine, NONE_ACTIVE, comparison_text, list_text,
};
use super::promises;
use super::served_point::{ServedPoint, describe, whole_id};
use crate::cli::exit::{Exit, fail};
use crate::cli::output::Output;
use crate::cli::runtime::single_threaded;
use crate::cli::served_info::served_info;
use crate::cli::server_address::{ServerAddress, Which, name_of};
use matchpoint_client::Client;
use matchpoint_client::proto::{
    CompareOperatingPointsRequest, DeploymentInfo, Flip, ListOperatingPointsResponse,
};

/// All operating points of a deployment, under the keys of those of a folder.
#[derive(Serialize)]
pub(crate) struct ServedPoints {
    pub(crate) active: Option<String>,
    pub(crate) etag: String,
    pub(crate) operating_points: Vec<ServedPoint>,
}

impl ServedPoints {
    /// Requests all of them.
    pub(crate) async fn of(client: &Client, deployment: &str) -> anyhow::Result<Self> {
        let ListOperatingPointsResponse {
            operating_points,
            active_id,
            etag,
        } = client.operating_points(deployment).await?;
        let points = operating_points.into_iter().map(|point| ServedPoint {
            active: point.id == active_id,
            promises: Vec::new(),
            point,
        });
        Ok(Self {
            operating_points: points.collect(),
            active: Some(active_id).filter(|id| !id.is_empty()),
            etag,
        })
    }

    /// With what is left of the promises of the one that decides.
    pub(crate) fn today(mut self, info: &DeploymentInfo) -> Self {
        let mut all = self.operating_points.iter_mut();
        if let Some(one) = all.find(|one| one.point.id == info.operating_point_id) {
            one.promises.clone_from(&info.promises);
        }
        self
    }

    fn whole_id(&self, begins: &str) -> anyhow::Result<String> {
        let known = self.operating_points.iter();
        whole_id(begins, known.map(|one| one.point.id.as_str()))
    }
}

/// Connects, and requests the existing ones.
async fn known(which: &Which, server: &ServerAddress) -> anyhow::Result<(Client, ServedPoints)> {
    let client = server.connect().await?;
    let known = ServedPoints::of(&client, name_of(&which.deployment)?).await?;
    Ok((client, known))
}

/// Those that exist, with what is left of the promises of the one that decides.
async fn today(which: &Which, server: &ServerAddress) -> anyhow::Result<ServedPoints> {
    let (client, found) = known(which, server).await?;
    let info = served_info(&client, name_of(&which.deployment)?).await?;
    Ok(found.today(&info))
}

pub(crate) fn list(which: &Which, server: &ServerAddress) -> anyhow::Result<()> {
    let found = single_threaded()?.block_on(today(which, server))?;
    Output::new(which.json).result(&found, |found| {
        list_text(found.operating_points.iter().map(ServedPoint::line))
    })
}

pub(crate) fn show(which: &Which, server: &ServerAddress, id: Option<&str>) -> anyhow::Result<()> {
    let found = single_threaded()?.block_on(today(which, server))?;
    let id = match (id, &found.active) {
        (Some(id), _) => found.whole_id(id)?,
        (None, Some(active)) => active.clone(),
        (None, None) => return Err(fail(Exit::NoInput, NONE_ACTIVE)),
    };
    let mut points = found.operating_points.into_iter();
    let shown = points.find(|one| one.point.id == id).ok_or_else(|| {
        let message =
            format!("there is no operating point `{id}`; `matchpoint points list` has all");
        fail(Exit::NoInput, message)
    })?;
    Output::new(which.json).result(&shown, |shown| {
        let state = if shown.active { "decides now" } else { "kept" };
        let heading = format!("operating point {} ({state})\n", shown.point.id);
        heading + &promises::today(&shown.promises) + &describe(&shown.point)
    })
}

pub(crate) fn compare(
    which: &Which,
    server: &ServerAddress,
    [from, to]: [&str; 2],
    verbose: bool,
) -> anyhow::Result<()> {
    /// As many as the server lists.
    const LIMIT: u32 = 1000;
    let compared = single_threaded()?.block_on(async {
        let (client, found) = known(which, server).await?;
        let (from, to) = (found.whole_id(from)?, found.whole_id(to)?);
        let request = CompareOperatingPointsRequest {
            deployment: name_of(&which.deployment)?.to_owned(),
            from_id: from.clone(),
            to_id: to.clone(),
            limit: LIMIT,
        };
        let answer = client.compare(request).await?;
        anyhow::Ok(ComparedPoints {
            from,
            from_threshold: answer.from_threshold,
            to,
            to_threshold: answer.to_threshold,
            recorded: answer.recording_id,
            searches: answer.searches,
            flips_total: answer.flips_total,
            improvements: answer.improvements_total,
            flips: answer.flips,
        })
    })?;
    let activate = format!(
        "matchpoint points activate {} {} --server {}",
        which.deployment.display(),
        compared.to,
        server.url()
    );
    Output::new(which.json).result(&compared, |compared| {
        comparison_text(compared, flip_line, &activate, verbose)
    })
}

fn flip_line(flip: &Flip) -> FlipLine<'_> {
    FlipLine {
        improves: flip.improves,
        query: &flip.query_id,
        label: &flip.query_label,
        accepted: flip.accepted,
        found: Some((&flip.matched_item_id, &flip.matched_label, flip.score)),
    }
}

pub(crate) fn activate(which: &Which, server: &ServerAddress, id: &str) -> anyhow::Result<()> {
    let activated = single_threaded()?.block_on(async {
        let (client, found) = known(which, server).await?;
        let id = found.whole_id(id)?;
        let now = client.activate(name_of(&which.deployment)?, &id).await?;
        let (point, previous) = (now.operating_point, now.previous_id);
        anyhow::Ok(Activated::served(point, previous, now.etag))
    })?;
    Output::new(which.json).result(&activated, Activated::text)
}

pub(crate) fn roll_back(which: &Which, server: &ServerAddress) -> anyhow::Result<()> {
    let activated = single_threaded()?.block_on(async {
        let client = server.connect().await?;
        let now = client.roll_back(name_of(&which.deployment)?).await?;
        let (point, previous) = (now.operating_point, now.previous_id);
        anyhow::Ok(Activated::served(point, previous, now.etag))
    })?;
    Output::new(which.json).result(&activated, Activated::text)
}
