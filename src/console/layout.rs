//! The layout around every page.

use axum::http::StatusCode;
use maud::{Markup, html};

use super::ask::path;
use super::frame::{SIGN_OUT, document};
use super::posted::TOKEN;
use super::problem::Problem;
use super::visitor::Visitor;
use super::words::{in_address, shown};
use crate::identity::Identity;
use matchpoint_client::proto::{DeploymentInfo, GetServerInfoRequest};

/// A kind of page of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    /// Searches for a picture.
    Try,
    /// Labels sampled decisions.
    Label,
    /// Shows whether the promise is kept.
    Promise,
    /// Lists the operating points.
    Points,
    /// Shows what is enrolled.
    Gallery,
}

impl Tab {
    const ALL: [Self; 5] = [
        Self::Try,
        Self::Label,
        Self::Promise,
        Self::Points,
        Self::Gallery,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Try => "Try",
            Self::Label => "Label",
            Self::Promise => "Promise",
            Self::Points => "Operating points",
            Self::Gallery => "Gallery",
        }
    }

    fn slug(self) -> &'static str {
        match self {
            Self::Try => "try",
            Self::Label => "label",
            Self::Promise => "promise",
            Self::Points => "points",
            Self::Gallery => "gallery",
        }
    }

    /// The call that a page of this kind needs.
    fn call(self) -> &'static str {
        match self {
            Self::Try => path::SEARCH,
            Self::Label => path::ANNOTATE,
            Self::Promise => path::GET_DRIFT,
            Self::Points => path::LIST_POINTS,
            Self::Gallery => path::LIST_ITEMS,
        }
    }

    /// The address of this page in a deployment.
    pub(super) fn of(self, deployment: &str) -> String {
        format!("/d/{}/{}", in_address(deployment), self.slug())
    }
}

/// The position of a page: its deployment, and the pages that the person can go to.
pub(super) struct Place {
    pub(super) deployment: DeploymentInfo,
    pub(super) tab: Tab,
    all: Vec<String>,
}

impl Place {
    /// The position of a page of this deployment.
    pub(super) async fn of(visitor: &Visitor, name: &str, tab: Tab) -> Result<Self, Problem> {
        if !visitor.may(tab.call()) {
            let message =
                "your key may not do what this page is for; ask for one with another scope";
            return Err(Problem::plain(StatusCode::FORBIDDEN, message).with_way_back());
        }
        let info = visitor.get_server_info(GetServerInfoRequest {}).await?;
        let all = info.deployments.iter().map(|one| one.name.clone());
        let all = all.collect();
        let found = info.deployments.into_iter().find(|one| one.name == name);
        let nowhere = || {
            let status = StatusCode::NOT_FOUND;
            let message = format!("there is no deployment `{name}` that you may use");
            Problem::plain(status, &message).with_way_back()
        };
        Ok(Self {
            deployment: found.ok_or_else(nowhere)?,
            tab,
            all,
        })
    }

    /// The deployments that this person may use.
    pub(super) fn all(&self) -> &[String] {
        &self.all
    }

    pub(super) fn name(&self) -> &str {
        &self.deployment.name
    }

    /// An address below that of this deployment.
    pub(super) fn below(&self, rest: &str) -> String {
        format!("/d/{}/{rest}", in_address(self.name()))
    }
}

/// The start page: the first kind of page that the person may see, of the first deployment.
pub(super) async fn first_page(visitor: &Visitor) -> Result<String, Problem> {
    let info = visitor.get_server_info(GetServerInfoRequest {}).await?;
    let tab = Tab::ALL.into_iter().find(|tab| visitor.may(tab.call()));
    let first = info.deployments.first();
    let nothing = || {
        let message = "there is nothing here that your key may do; ask for one with another scope";
        Problem::plain(StatusCode::FORBIDDEN, message).with_way_out()
    };
    let (tab, first) = tab.zip(first).ok_or_else(nothing)?;
    Ok(tab.of(&first.name))
}

/// A page of a deployment.
pub(super) fn page(visitor: &Visitor, place: &Place, content: &Markup) -> Markup {
    let name = place.name();
    let title = format!("{} · {}", place.tab.title(), shown(name));
    document(
        &title,
        &html! {
            a.skip href="#main" { "To the content" }
            header.top {
                a.brand href="/" { "Matchpoint" }
                (deployments(place))
                nav aria-label="Pages" {
                    @for tab in Tab::ALL.into_iter().filter(|tab| visitor.may(tab.call())) {
                        a href=(tab.of(name)) aria-current=[(tab == place.tab).then_some("page")] { (tab.title()) }
                    }
                }
                (person(visitor))
            }
            main #main tabindex="-1" { (content) }
        },
    )
}

/// The name of the deployment, with links to the others.
fn deployments(place: &Place) -> Markup {
    let name = place.name();
    html! {
        @if let [_] = place.all() {
            span.deployment { (shown(name)) }
        } @else {
            details.deployment {
                summary { (shown(name)) }
                ul {
                    @for other in place.all() {
                        li { a href=(place.tab.of(other)) aria-current=[(other == name).then_some("true")] { (shown(other)) } }
                    }
                }
            }
        }
    }
}

fn person(visitor: &Visitor) -> Markup {
    let name = match visitor.identity() {
        Identity::Anyone | Identity::Nobody => return html! {},
        Identity::Certified(name) => name.to_string(),
        Identity::Known(_) | Identity::Token(_) => {
            visitor.identity().name().unwrap_or_default().to_owned()
        }
    };
    html! {
        (form(visitor, SIGN_OUT, "person", &html! {
            span { (shown(&name)) }
            button.quiet { "Sign out" }
        }))
    }
}

/// A form with the token of the person's session.
pub(super) fn form(visitor: &Visitor, action: &str, class: &str, content: &Markup) -> Markup {
    html! {
        form class=(class) method="post" action=(action) enctype="multipart/form-data" {
            input type="hidden" name=(TOKEN) value=(visitor.session.form_token());
            (content)
        }
    }
}
