//! `matchpoint switch`: replaces a served deployment by another one, and back.

mod compared_items;
mod fleet;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use self::compared_items::ComparedItems;
use self::fleet::{Fleet, FleetSwitched, STATE_MISMATCH};
use crate::cli::exit::{Exit, fail};
use crate::cli::output::{Output, items, short};
use crate::cli::served_info::served_info;
use crate::cli::server_address::ServerAddress;
use matchpoint_client::proto::DeploymentInfo;

/// Serve another model, gallery and operating point in place of a deployment's, without downtime
///
/// The server serves a link, which leads to the deployment's folder. This lets the link lead to
/// another folder, and has the server open that: it is verified before anything changes, requests
/// under way end with what they began with, and all later ones see the new model, gallery and
/// operating point together. If it cannot be opened the link leads where it did. If the items of that
/// folder are not those that are served (by id, label, metadata and source), or it has no valid operating
/// point and what is served has one, nothing is changed either, but for --anyway. What is enrolled or
/// deleted meanwhile is compared too, or refused for a moment, and never lost.
///
/// With --servers, all of them open and verify it before any serves it: one that cannot stops it, and nothing is
/// changed. The link is one that all of them serve; without it, the paths of all have to lead to the new folder already.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ln -s shop-1 shop && matchpoint serve --deployments shop     # once
  matchpoint build shop-2 --images-of shop --model models/new  # beside what is served
  matchpoint calibrate shop-2 --queries labelled.csv --target-far 0.01
  matchpoint switch shop shop-2
  matchpoint switch shop --back                                # to what was served before
  matchpoint switch shop shop-2 --servers http://127.0.0.1:50051,http://127.0.0.1:50052
  matchpoint switch --servers http://a:50051,http://b:50051,http://c:50051  # links lead there already")]
pub(crate) struct Switch {
    /// The link that is served
    #[arg(required_unless_present = "servers")]
    link: Option<PathBuf>,
    /// The folder that it is to lead to
    #[arg(conflicts_with = "back")]
    to: Option<PathBuf>,
    /// Return to the folder that it led to before
    #[arg(long, requires = "link")]
    back: bool,
    /// Several servers, with commas between them, that are switched together
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    servers: Vec<String>,
    /// Switch also if items would not be served any more, deleted ones would be again, or labels would be
    /// others, or if nothing would be decided any more for want of a valid operating point
    #[arg(long)]
    anyway: bool,
    #[command(flatten)]
    server: ServerAddress,
    /// Name of the deployment; may be left out if the server has one
    #[arg(long, default_value = "", hide_default_value = true)]
    deployment: String,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Switched {
    from: PathBuf,
    to: PathBuf,
    before: DeploymentInfo,
    now: DeploymentInfo,
    /// Items that are not served any more.
    items_left_behind: usize,
    /// Items that were not served before.
    items_added: usize,
    /// Items with another label, metadata or source than before.
    items_changed: usize,
}

/// How often items are compared with what is served while that changes.
const COMPARED_MAX: usize = 5;

/// A link, its new target and its old one.
struct LinkChange {
    link: PathBuf,
    from: PathBuf,
    to: PathBuf,
}

impl LinkChange {
    fn make(&self) -> anyhow::Result<()> {
        lead(&self.link, &self.to)
    }

    fn undo(&self) -> anyhow::Result<()> {
        lead(&self.link, &self.from)
    }

    /// Records the way back.
    fn remember(&self) -> anyhow::Result<()> {
        // The same folder was opened again.
        if self.from == self.to {
            return Ok(());
        }
        lead(&previous(&self.link), &self.from)
    }
}

impl Switch {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let change = match &self.link {
            Some(link) => Some(self.change(link)?),
            None => None,
        };
        match (change, self.servers.as_slice()) {
            (Some(change), []) => self.switch_one(change),
            (change, servers) => self.switch_all(change.as_ref(), servers),
        }
    }

    /// Checks whether the link may be changed; changes nothing yet.
    fn change(&self, link: &Path) -> anyhow::Result<LinkChange> {
        // With a trailing slash, as shells complete it, a link would mean its target.
        let link: PathBuf = link.components().collect();
        let from = leads_to(&link)?;
        let to = match (&self.to, self.back) {
            (Some(to), _) => fs::canonicalize(to)
                .map_err(|cause| fail(Exit::NoInput, format!("{}: {cause}", to.display())))?,
            (None, true) => leads_to(&previous(&link)).map_err(|_none| {
                let message = format!("{} was not switched before", link.display());
                fail(Exit::NoInput, message)
            })?,
            (None, false) => {
                let message = "say where the link is to lead, or --back";
                return Err(fail(Exit::Usage, message));
            }
        };
        check_free(&previous(&link))?;
        Ok(LinkChange { link, from, to })
    }

    /// Compares the items of the new folder with those that are served, and refuses what is not meant.
    fn compare(&self, change: &LinkChange) -> anyhow::Result<ComparedItems> {
        // Refuses a folder that is no deployment, too.
        let compared = ComparedItems::of(&change.from, &change.to)?;
        // Going back is urgent: what it does not accept any more is only reported.
        let left_behind = !self.back && 0 < compared.left_behind.count;
        let differs = left_behind || 0 < compared.added.count || 0 < compared.changed.count;
        if self.anyway || !differs {
            return Ok(compared);
        }
        let (link, to) = (change.link.display(), change.to.display());
        let message = format!(
            "the items of {to} are not those that are served: {}; nothing was changed. Bring it up to date (`matchpoint build {to} --images-of {link} --prune`, or from the list that you keep, with --prune), or give --anyway if this is meant",
            compared.say()
        );
        Err(fail(Exit::Mismatch, message))
    }

    /// The state that has to be served until the replacement, if it is that of a server; empty if none has to.
    fn expected(&self, info: DeploymentInfo) -> String {
        if self.anyway {
            String::new()
        } else {
            info.state
        }
    }

    fn switch_one(self, change: LinkChange) -> anyhow::Result<Exit> {
        let runtime = crate::cli::runtime::single_threaded()?;
        let client = runtime.block_on(self.server.connect())?;
        // Going back is urgent here, too.
        let undecided_allowed = self.anyway || self.back;
        for _ in 0..COMPARED_MAX {
            let served = runtime.block_on(served_info(&client, &self.deployment))?;
            let expected = self.expected(served);
            let compared = self.compare(&change)?;
            change.make()?;
            let reload = client.reload(&self.deployment, undecided_allowed, &expected);
            let [before, now] = match runtime.block_on(reload) {
                Ok(served) => served,
                Err(refused) => {
                    change.undo()?;
                    if refused.reason() == Some(STATE_MISMATCH) {
                        continue;
                    }
                    return Err(refused).context("nothing was changed");
                }
            };
            change.remember()?;
            let switched = Switched {
                from: change.from,
                to: change.to,
                before,
                now,
                items_left_behind: compared.left_behind.count,
                items_added: compared.added.count,
                items_changed: compared.changed.count,
            };
            Output::new(self.json).result(&switched, text)?;
            return Ok(Exit::Done);
        }
        Err(changes_too_often())
    }

    fn switch_all(&self, change: Option<&LinkChange>, servers: &[String]) -> anyhow::Result<Exit> {
        let runtime = crate::cli::runtime::single_threaded()?;
        let fleet = Fleet::connect(servers, &self.server, &self.deployment);
        let mut fleet = runtime.block_on(fleet)?;
        for _ in 0..COMPARED_MAX {
            if let Some(change) = change {
                let seen = runtime.block_on(fleet.look(|info| self.expected(info)));
                seen.context("nothing was changed")?;
                self.compare(change)?;
                change.make()?;
            }
            let prepared = runtime.block_on(fleet.prepare(self.anyway || self.back));
            let state = match prepared {
                Ok(state) => state,
                Err(refused) => {
                    change.map_or(Ok(()), LinkChange::undo)?;
                    return Err(refused).context("nothing was changed");
                }
            };
            let Some(served) = runtime.block_on(fleet.serve(&state)).transpose() else {
                change.map_or(Ok(()), LinkChange::undo)?;
                continue;
            };
            // The link leads there, even if one of them does not serve it.
            change.map_or(Ok(()), LinkChange::remember)?;
            Output::new(self.json).result(&served?, FleetSwitched::text)?;
            return Ok(Exit::Done);
        }
        Err(changes_too_often())
    }
}

fn changes_too_often() -> anyhow::Error {
    let message = format!(
        "what is served changed {COMPARED_MAX} times while its items were compared; nothing was changed: stop what enrols and deletes for a moment, or give --anyway, by which what is written meanwhile is left behind"
    );
    fail(Exit::Mismatch, message)
}

/// Where the previous target of a link is recorded.
fn previous(link: &Path) -> PathBuf {
    let mut name = link.as_os_str().to_owned();
    name.push(".previous");
    name.into()
}

fn leads_to(link: &Path) -> anyhow::Result<PathBuf> {
    let shown = link.display();
    let is_link = fs::symlink_metadata(link).is_ok_and(|found| found.is_symlink());
    if !is_link {
        let message = format!(
            "{shown} is no link; stop the server once, and: mv {shown} {shown}-1 && ln -s {shown}-1 {shown}"
        );
        return Err(fail(Exit::Usage, message));
    }
    fs::canonicalize(link).map_err(|cause| fail(Exit::NoInput, format!("{shown}: {cause}")))
}

/// Points a link to a folder, atomically.
pub(crate) fn lead(link: &Path, to: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot change the link {}", link.display());
    check_free(link)?;
    // An unused name: files that somebody keeps beside the link are not ours to remove.
    let beside = link.with_file_name(format!(".matchpoint-{}", uuid::Uuid::now_v7()));
    symlink(to, &beside).with_context(failed)?;
    fs::rename(&beside, link)
        .inspect_err(|_| drop(fs::remove_file(&beside)))
        .with_context(failed)
}

/// Refuses a path that is not a link, before anything is changed.
fn check_free(link: &Path) -> anyhow::Result<()> {
    let taken = fs::symlink_metadata(link).is_ok_and(|found| !found.is_symlink());
    if !taken {
        return Ok(());
    }
    let message = format!("{} is in the way; move it elsewhere", link.display());
    Err(fail(Exit::Usage, message))
}

fn text(switched: &Switched) -> String {
    let one = |name: &str, folder: &Path, served: &DeploymentInfo| {
        let point = match served.operating_point_id.as_str() {
            "" => "no valid operating point: nothing is accepted",
            point => point,
        };
        format!(
            "  {name:<7} {}: {}, {} {} ({}), {point}\n",
            folder.display(),
            items(served.gallery_items),
            served.model_name,
            served.precision,
            short(&served.model_fingerprint)
        )
    };
    let mut said = [
        one("before", &switched.from, &switched.before),
        one("now", &switched.to, &switched.now),
    ]
    .concat();
    for (count, what) in [
        (
            switched.items_left_behind,
            "that were served before are not any more",
        ),
        (switched.items_added, "were not served before"),
        (
            switched.items_changed,
            "have another label, metadata or source than before",
        ),
    ] {
        if 0 < count {
            said.push_str(&format!("  {count} items {what}\n"));
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_led_elsewhere_and_nothing_beside_it_is_touched() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["one", "two", "folder"] {
            fs::create_dir(at(folder)).unwrap();
        }
        symlink(at("one"), at("shop")).unwrap();
        symlink(at("one"), at("shop.new")).unwrap();
        lead(&at("shop"), &at("two")).unwrap();
        assert_eq!(fs::read_link(at("shop")).unwrap(), at("two"));
        assert_eq!(fs::read_link(at("shop.new")).unwrap(), at("one"));
        let refused = lead(&at("folder"), &at("two")).unwrap_err().to_string();
        assert!(refused.contains("is in the way"), "{refused}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 5);
    }
}
