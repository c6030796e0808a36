//! Pages: a list is read in parts that stay right while rows are added.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clawfarm_model::{Error, Result};
use sea_orm::{ColumnTrait, Condition};

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Where the page before ended, as it said in [`Page::next`]; `None` for the first.
    pub cursor: Option<String>,
    /// How many at most, 1 to [`PageRequest::MAX`].
    pub limit: u32,
}

impl PageRequest {
    /// The most that one page holds: about a megabyte of instances.
    pub const MAX: u32 = 500;
    /// What a caller gets who does not say.
    pub const DEFAULT: u32 = 100;

    /// The first page of the default size.
    #[must_use]
    pub const fn first() -> Self {
        Self { cursor: None, limit: Self::DEFAULT }
    }

    /// The page after `cursor`, of at most `limit`.
    #[must_use]
    pub const fn after(cursor: Option<String>, limit: u32) -> Self {
        Self { cursor, limit }
    }

    /// The checked limit.
    pub(crate) fn rows(&self) -> Result<usize> {
        if (1..=Self::MAX).contains(&self.limit) {
            return Ok(self.limit as usize);
        }
        Err(Error::invalid("limit", format!("{} is out of range", self.limit))
            .fix(format!("give 1 to {}", Self::MAX)))
    }

    /// The checked place in a list of this kind.
    pub(crate) fn place(&self, list: &str) -> Result<Option<Place>> {
        self.cursor.as_deref().map(|text| Place::decode(list, text)).transpose()
    }
}

impl Default for PageRequest {
    fn default() -> Self {
        Self::first()
    }
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where to go on; `None` when this was the last page.
    pub next: Option<String>,
}

/// A place in a list: the keys of the last row that was read. Rows added later do not move
/// it, as they would move a row number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: i64,
    pub(crate) id: String,
}

impl Place {
    /// Opaque text, so that nobody builds on what is in it.
    pub(crate) fn encode(&self, list: &str) -> String {
        URL_SAFE_NO_PAD.encode(format!("1.{list}.{}.{}", self.at, self.id))
    }

    /// The rows after it, in a list ordered by these two columns.
    pub(crate) fn after<C: ColumnTrait>(&self, at: C, id: C) -> Condition {
        let same_time = Condition::all().add(at.eq(self.at)).add(id.gt(self.id.as_str()));
        Condition::any().add(at.gt(self.at)).add(same_time)
    }

    /// The rows before it: those that follow in a list ordered by these two columns downwards.
    pub(crate) fn before<C: ColumnTrait>(&self, at: C, id: C) -> Condition {
        let same_time = Condition::all().add(at.eq(self.at)).add(id.lt(self.id.as_str()));
        Condition::any().add(at.lt(self.at)).add(same_time)
    }

    fn decode(list: &str, text: &str) -> Result<Self> {
        let read = || {
            let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
            let text = String::from_utf8(bytes).ok()?;
            let (at, id) = text.strip_prefix("1.")?.strip_prefix(list)?.strip_prefix('.')?.split_once('.')?;
            let plain = id.len() <= 80 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            Some(Self { at: at.parse().ok()?, id: plain.then(|| id.to_owned())? })
        };
        read().ok_or_else(|| {
            Error::invalid("cursor", format!("it is no cursor of the list of {list}"))
                .fix("give the 'next' of the page before unchanged, or none for the first page")
        })
    }
}

/// Makes a page of rows read with one more than asked for: the surplus row says that there
/// is a next page and is not shown.
pub(crate) fn page<R, T>(
    mut rows: Vec<R>,
    limit: usize,
    list: &str,
    place: impl Fn(&R) -> Place,
    read: impl Fn(R) -> Result<T>,
) -> Result<Page<T>> {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = if more { rows.last().map(|row| place(row).encode(list)) } else { None };
    Ok(Page { items: rows.into_iter().map(read).collect::<Result<_>>()?, next })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cursor_is_of_one_list_and_unaltered() {
        let place = Place { at: 1_795_228_885_109, id: "alice-x7k2m".into() };
        let cursor = PageRequest::after(Some(place.encode("instances")), 10);
        assert_eq!(cursor.place("instances").unwrap(), Some(place));
        for (list, text) in [
            ("operations", cursor.cursor.clone().unwrap()),
            ("instances", "!".to_owned()),
            ("instances", String::new()),
            ("instances", URL_SAFE_NO_PAD.encode("1.instances.x.alice")),
            ("instances", URL_SAFE_NO_PAD.encode("1.instances.5.a'b")),
            ("instances", URL_SAFE_NO_PAD.encode("2.instances.5.a")),
        ] {
            let error = PageRequest::after(Some(text), 10).place(list).unwrap_err();
            assert_eq!(error.field_name(), Some("cursor"));
        }
    }

    #[test]
    fn a_limit_out_of_range_is_refused() {
        for limit in [0, 501, u32::MAX] {
            let error = PageRequest::after(None, limit).rows().unwrap_err();
            assert_eq!(error.field_name(), Some("limit"));
        }
        assert_eq!(PageRequest::first().rows().unwrap(), 100);
    }

    proptest! {
        #[test]
        fn any_text_is_a_cursor_or_refused(text in ".*") {
            let _ = PageRequest::after(Some(text), 1).place("instances");
        }
    }

    #[test]
    fn fuzz_cursors() {
        let place = Place { at: 1_795_228_885_109, id: "alice-x7k2m".into() };
        clawfarm_fuzz::fuzz_text(&[&place.encode("instances")], |text| {
            if let Ok(place) = Place::decode("instances", text) {
                assert_eq!(Place::decode("instances", &place.encode("instances")).unwrap(), place);
            }
        });
    }
}
