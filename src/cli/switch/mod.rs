//! `matchpoint switch`: replaces a served deployment by another one, and back.

mod fleet;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use self::fleet::{Fleet, FleetSwitched};
use crate::cli::exit::{Exit, fail};
use crate::cli::output::{Output, short};
use crate::cli::server_address::ServerAddress;
use crate::deployment::{DeploymentError, Folder};
use matchpoint_client::proto::DeploymentInfo;
use matchpoint_gallery::params::IndexParams;
use matchpoint_gallery::{Access, Gallery};

/// Serve another model, gallery and operating point in place of a deployment's, without downtime
///
/// The server serves a link, which leads to the deployment's folder. This lets the link lead to
/// another folder, and has the server open that: it is verified before anything changes, requests
/// under way end with what they began with, and all later ones see the new model, gallery and
/// operating point together. If it cannot be opened the link leads where it did. If items that
/// are served are not in that folder, or it has no valid operating point and what is served has one,
/// nothing is changed either, but for --anyway.
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
    /// Switch also if items that are served now will not be any more, or if nothing would be decided
    /// any more for want of a valid operating point
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
}

/// A link, its new target and its old one.
struct LinkChange {
    link: PathBuf,
    from: PathBuf,
    to: PathBuf,
    items_left_behind: usize,
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
        // Refuses a folder that is no deployment, before anything changes.
        let items_left_behind = left_behind(&from, &to)?;
        // Going back is urgent, so it is only reported.
        if 0 < items_left_behind && !self.anyway && !self.back {
            let message = format!(
                "{items_left_behind} items that are served are not in {}; enrol them there, as `matchpoint build {} --images-of {}` does, or give --anyway",
                to.display(),
                to.display(),
                link.display()
            );
            return Err(fail(Exit::Mismatch, message));
        }
        check_free(&previous(&link))?;
        Ok(LinkChange {
            link,
            from,
            to,
            items_left_behind,
        })
    }

    fn switch_one(self, change: LinkChange) -> anyhow::Result<Exit> {
        let runtime = crate::cli::runtime::single_threaded()?;
        let client = runtime.block_on(self.server.connect())?;
        change.make()?;
        // Going back is urgent here, too.
        let undecided_allowed = self.anyway || self.back;
        let switched = runtime.block_on(client.reload(&self.deployment, undecided_allowed));
        let [before, now] = match switched {
            Ok(served) => served,
            Err(refused) => {
                change.undo()?;
                return Err(refused).context("nothing was changed");
            }
        };
        change.remember()?;
        let switched = Switched {
            from: change.from,
            to: change.to,
            before,
            now,
            items_left_behind: change.items_left_behind,
        };
        Output::new(self.json).result(&switched, text)?;
        Ok(Exit::Done)
    }

    fn switch_all(&self, change: Option<&LinkChange>, servers: &[String]) -> anyhow::Result<Exit> {
        let runtime = crate::cli::runtime::single_threaded()?;
        let fleet = Fleet::connect(servers, &self.server, &self.deployment);
        let fleet = runtime.block_on(fleet)?;
        change.map_or(Ok(()), LinkChange::make)?;
        let prepared = runtime.block_on(fleet.prepare(self.anyway || self.back));
        let state = match prepared {
            Ok(state) => state,
            Err(refused) => {
                change.map_or(Ok(()), LinkChange::undo)?;
                return Err(refused).context("nothing was changed");
            }
        };
        // From now on the link leads there, even if one of them restarts.
        change.map_or(Ok(()), LinkChange::remember)?;
        let switched = runtime.block_on(fleet.serve(state))?;
        Output::new(self.json).result(&switched, FleetSwitched::text)?;
        Ok(Exit::Done)
    }
}

/// How many items of one deployment are not in another.
fn left_behind(from: &Path, to: &Path) -> anyhow::Result<usize> {
    // A file is not opened twice, and no index is needed.
    if from == to {
        return Ok(0);
    }
    let open = |path: &Path| -> anyhow::Result<Gallery> {
        let folder = Folder::open(path)?;
        let params = IndexParams {
            graph_from_items: usize::MAX,
            ..IndexParams::default()
        };
        let gallery = Gallery::open(&folder.gallery_file(), Access::ReadOnly, params);
        Ok(gallery.map_err(DeploymentError::from)?)
    };
    let (served, other) = (open(from)?.view(), open(to)?);
    let gone = served
        .items()
        .filter(|(item, _)| other.get(&item.id).is_none());
    Ok(gone.count())
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
            "  {name:<7} {}: {} items, {} {} ({}), {point}\n",
            folder.display(),
            served.gallery_items,
            served.model_name,
            served.precision,
            short(&served.model_fingerprint)
        )
    };
    let left_behind = match switched.items_left_behind {
        0 => String::new(),
        count => format!("  {count} items that were served before are not any more\n"),
    };
    format!(
        "{}{}{left_behind}",
        one("before", &switched.from, &switched.before),
        one("now", &switched.to, &switched.now)
    )
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
