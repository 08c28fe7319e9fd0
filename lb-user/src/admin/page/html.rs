//! Writes HTML: what stands in this program's source goes through as it is, everything else is
//! escaped.
//!
//! The types keep them apart: only a `&'static str` is taken as markup.
//!
//! Must not know: what is written.

use std::fmt::{Display, Write as _};

/// A document under way.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Markup of this program.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Anything else: text between tags, or a value between the double quotes of an attribute.
    pub(super) fn text(&mut self, value: impl Display) -> &mut Self {
        let mut escaping = Escaping(&mut self.0);
        // Writing to a string does not fail.
        let _written = write!(escaping, "{value}");
        self
    }

    /// The document.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

struct Escaping<'a>(&'a mut String);

impl std::fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // Not allowed in HTML, and of no use in it.
                c if c.is_control() && !matches!(c, '\n' | '\t') => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut html = Html::default();
        html.text(text);
        html.finish()
    }

    #[test]
    fn nothing_gets_out_of_text_or_attribute() {
        assert_eq!(escaped("<script>alert(1)</script>"), "&lt;script&gt;alert(1)&lt;/script&gt;");
        assert_eq!(escaped("\" onclick='x' &amp;"), "&quot; onclick=&#39;x&#39; &amp;amp;");
        assert_eq!(escaped("a\0b\u{1b}c\nd"), "a\u{fffd}b\u{fffd}c\nd");
    }

    proptest! {
        #[test]
        fn no_text_holds_markup(text: String) {
            let escaped = escaped(&text);
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']));
            let back = escaped.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
            let back = back.replace("&#39;", "'").replace("&amp;", "&");
            let plain: String = text
                .chars()
                .map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c })
                .collect();
            prop_assert_eq!(back, plain);
        }
    }
}
