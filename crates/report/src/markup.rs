//! Builds HTML that is always balanced and escaped.
//!
//! Names of elements and attributes, and trusted markup, must be `'static`. Data are not `'static`, so they can
//! only be added as text.

use super::contents::{Picture, PicturedItem};

/// Markup under construction.
#[derive(Debug, Default)]
pub(super) struct Markup {
    html: String,
}

/// The attributes of an element: names from the source code, and values of any origin.
pub(super) type Attributes<'a> = &'a [(&'static str, &'a str)];

impl Markup {
    /// Adds an element, with the content that `content` adds.
    pub(super) fn element(
        &mut self,
        name: &'static str,
        attributes: Attributes<'_>,
        content: impl FnOnce(&mut Self),
    ) {
        self.open(name, attributes);
        content(self);
        self.html.push_str("</");
        self.html.push_str(name);
        self.html.push('>');
    }

    /// Adds an element that has no end tag, such as `img`.
    pub(super) fn void(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.open(name, attributes);
    }

    /// Adds an element that contains only text.
    pub(super) fn line(&mut self, name: &'static str, class: &'static str, text: &str) {
        let attributes = [("class", class)];
        let attributes = if class.is_empty() {
            &[][..]
        } else {
            &attributes
        };
        self.element(name, attributes, |inner| inner.text(text));
    }

    /// Adds an empty element of an SVG drawing.
    pub(super) fn shape(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.element(name, attributes, |_| {});
    }

    /// Adds text.
    pub(super) fn text(&mut self, text: &str) {
        push_escaped(&mut self.html, text);
    }

    /// Adds text from data within other text. It is isolated, so that right-to-left letters in it cannot
    /// reorder the text around it.
    pub(super) fn datum(&mut self, text: &str) {
        self.element("bdi", &[], |inner| inner.text(text));
    }

    /// Adds markup from the source code, such as a style sheet.
    pub(super) fn trusted(&mut self, markup: &'static str) {
        self.html.push_str(markup);
    }

    /// Adds a picture; returns whether it was one.
    pub(super) fn picture(&mut self, picture: &Picture) -> bool {
        let shown = is_picture(&picture.data_uri);
        if shown {
            self.void(
                "img",
                &[
                    ("src", &picture.data_uri),
                    ("alt", &picture.description),
                    ("title", &picture.description),
                ],
            );
        }
        shown
    }

    /// Adds markup that was built separately.
    pub(super) fn append(&mut self, other: Self) {
        if self.html.is_empty() {
            *self = other;
        } else {
            self.html.push_str(&other.html);
        }
    }

    /// Whether it is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.html.is_empty()
    }

    /// Adds an item: its picture if it has one, its label and its id.
    pub(super) fn item(&mut self, item: &PicturedItem) {
        self.element("div", &[("class", "item")], |inner| {
            if let Some(picture) = &item.picture {
                inner.picture(picture);
            }
            inner.element("div", &[("class", "item-label")], |label| {
                label.datum(&item.label);
            });
            inner.element("div", &[("class", "item-id")], |id| id.datum(&item.id));
        });
    }

    /// The markup as a string.
    pub(super) fn finish(self) -> String {
        self.html
    }

    fn open(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.html.push('<');
        self.html.push_str(name);
        for (attribute, value) in attributes {
            self.html.push(' ');
            self.html.push_str(attribute);
            self.html.push_str("=\"");
            push_escaped(&mut self.html, value);
            self.html.push('"');
        }
        self.html.push('>');
    }
}

fn push_escaped(html: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\n' | '\t' => html.push(' '),
            // Control characters are not allowed in HTML, and some change the writing direction of the rest of
            // the line.
            other if other.is_control() || turns_direction(other) => html.push('\u{fffd}'),
            other => html.push(other),
        }
    }
}

fn turns_direction(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether the URI is a picture in base64. A browser would load any other address.
fn is_picture(data_uri: &str) -> bool {
    let data = ["png", "jpeg", "webp"].iter().find_map(|kind| {
        data_uri
            .strip_prefix("data:image/")?
            .strip_prefix(kind)?
            .strip_prefix(";base64,")
    });
    data.is_some_and(|data| {
        !data.is_empty()
            && data
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> String {
        let mut markup = Markup::default();
        markup.element("p", &[("title", text)], |inner| inner.datum(text));
        markup.finish()
    }

    #[test]
    fn what_html_reads_is_written_so_that_it_does_not() {
        assert_eq!(
            text("a<b> & \"c\" 'd'"),
            "<p title=\"a&lt;b&gt; &amp; &quot;c&quot; &#39;d&#39;\">\
             <bdi>a&lt;b&gt; &amp; &quot;c&quot; &#39;d&#39;</bdi></p>"
        );
        assert_eq!(
            text("\u{0}\u{202e}\n"),
            "<p title=\"\u{fffd}\u{fffd} \"><bdi>\u{fffd}\u{fffd} </bdi></p>"
        );
    }

    #[test]
    fn only_a_picture_in_base64_is_a_picture() {
        for good in [
            "data:image/png;base64,iVBORw0KGgo=",
            "data:image/jpeg;base64,/9j+",
            "data:image/webp;base64,UklG",
        ] {
            assert!(is_picture(good), "{good}");
        }
        for bad in [
            "",
            "data:image/png;base64,",
            "data:image/svg+xml;base64,PHN2Zz4=",
            "data:text/html;base64,PHA+",
            "data:image/png;base64,\" onerror=\"x",
            "data:image/png,iVBORw0KGgo=",
            "javascript:alert(1)",
            "//example.org/a.png",
        ] {
            assert!(!is_picture(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_opens_an_element_or_ends_an_attribute(hostile in any::<String>()) {
            let html = text(&hostile);
            prop_assert_eq!(html.matches('<').count(), 4);
            prop_assert_eq!(html.matches('>').count(), 4);
            prop_assert_eq!(html.matches('"').count(), 2);
        }
    }
}
