//! The frame of a page that does not depend on who sees it.

use maud::{DOCTYPE, Markup, html};

use super::assets;

/// The address where a person signs in with a key and where a session ends.
pub(super) const SIGN_IN: &str = "/sign-in";
pub(super) const SIGN_OUT: &str = "/sign-out";

/// A page that belongs to no deployment.
pub(super) fn bare(title: &str, content: &Markup) -> Markup {
    document(
        title,
        &html! {
            header.top { a.brand href="/" { "Matchpoint" } }
            main.bare #main { (content) }
        },
    )
}

/// A document with the style sheet and the script.
pub(super) fn document(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Matchpoint" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href=(assets::address(assets::STYLE));
                script defer src=(assets::address(assets::SCRIPT)) {}
            }
            body { (body) }
        }
    }
}
