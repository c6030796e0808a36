//! A page of Markdown as a checker sees it: its headings, links and code.

use std::collections::BTreeMap;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// What a page holds.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// The anchors of its headings, as mdBook makes them.
    pub(crate) anchors: Vec<String>,
    /// Its headings, as plain words.
    pub(crate) headings: Vec<String>,
    /// Where its links and pictures lead, with the line they are on.
    pub(crate) links: Vec<(usize, String)>,
    /// Its code between words.
    pub(crate) codes: Vec<String>,
    /// The language of each of its blocks of code, with the line they begin on.
    pub(crate) blocks: Vec<(usize, String)>,
}

impl Page {
    /// Reads a page.
    pub(crate) fn read(text: &str) -> Self {
        let mut page = Self::default();
        let mut heading: Option<String> = None;
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES | Options::ENABLE_STRIKETHROUGH;
        for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
            let line = || text[..range.start].matches('\n').count() + 1;
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let words = heading.take().unwrap_or_default();
                    let anchor = anchor(&words);
                    let again = seen.entry(anchor.clone()).or_default();
                    page.anchors.push(if *again == 0 { anchor } else { format!("{anchor}-{again}") });
                    *again += 1;
                    page.headings.push(words);
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push((line(), dest_url.into_string()));
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    page.blocks.push((line(), language.into_string()));
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Indented)) => {
                    page.blocks.push((line(), String::new()));
                }
                Event::Text(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                }
                Event::Code(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                    page.codes.push(words.into_string());
                }
                _ => {}
            }
        }
        page
    }
}

/// The anchor that mdBook gives a heading.
fn anchor(words: &str) -> String {
    words
        .trim()
        .chars()
        .filter_map(|c| match c {
            c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c.to_lowercase().next().unwrap_or(c)),
            c if c.is_whitespace() => Some('-'),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_without_what_is_in_code() {
        let page = Page::read(
            "# One `two`\n\nsee [a](b.md#c), ![p](q.svg) and `[no](no.md)`\n\n## Same\n\n## Same\n\n```sh\n[no](no.md)\n```\n",
        );
        assert_eq!(page.anchors, ["one-two", "same", "same-1"]);
        assert_eq!(page.headings[0], "One two");
        assert_eq!(page.links, [(3, "b.md#c".to_owned()), (3, "q.svg".to_owned())]);
        assert_eq!(page.codes, ["two", "[no](no.md)"]);
        assert_eq!(page.blocks, [(9, "sh".to_owned())]);
    }

    #[test]
    fn anchors_are_those_of_the_book() {
        assert_eq!(anchor("POST /api/v1/instances"), "post-apiv1instances");
        assert_eq!(anchor("What's new: 2"), "whats-new-2");
    }
}
