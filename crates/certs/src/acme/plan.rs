//! What is due: decided apart from being done.

use clawfarm_model::Timestamp;

use super::Timing;
use super::budget::may_begin;
use super::record::{Kept, Record, Wanted, Wish};
use super::times::{DAY, asks, lately, rests, waits};

/// After so many failures a name is tried again only when somebody wants it.
const GIVES_UP: u32 = 3;

/// What is due to be done about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A certificate is to be had.
    Get(String),
    /// The authority is to be asked when it wants one renewed.
    Ask(String),
    /// Nobody wants it any more, and there is none.
    Drop(String),
}

/// What this server would ask for. Others of the fleet may have been given other options, as while
/// they are changed one server after the other.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// The base domain.
    pub(super) base: &'a str,
    /// The names of its certificate.
    pub(super) names: Vec<String>,
    /// The authority.
    pub(super) directory: &'a str,
    /// How long things take.
    pub(super) timing: &'a Timing,
    /// The time.
    pub(super) now: Timestamp,
}

impl Plan<'_> {
    /// What is due now, what people wait for first.
    pub(super) fn due(&self, kept: &Kept) -> Vec<Due> {
        let mut due = Vec::new();
        // The base domain is for all who come, and is counted but never held back.
        let wish = kept.wishes.get(self.base);
        match kept.records.get(self.base) {
            Some(record) if !self.wants(record, &self.names, wish) => {}
            _ => due.push(Due::Get(self.base.to_owned())),
        }
        for (name, wanted) in kept.wishes.iter().filter(|(name, _)| *name != self.base) {
            match kept.records.get(name) {
                Some(record) if self.is_due(kept, name, record, Some(wanted)) => {
                    due.push(Due::Get(name.clone()));
                }
                None if self.is_below(name)
                    && self.is_apart()
                    && wanted.wish == Wish::Have
                    && may_begin(kept, wanted.owner.as_ref(), self.timing, self.now) =>
                {
                    due.push(Due::Get(name.clone()));
                }
                None if !lately(wanted.at, DAY, self.now) => due.push(Due::Drop(name.clone())),
                _ => {}
            }
        }
        for (name, record) in &kept.records {
            let there = due.iter().any(|it| matches!(it, Due::Get(other) if other == name));
            if there {
                continue;
            }
            if name != self.base && self.is_due(kept, name, record, None) {
                due.push(Due::Get(name.clone()));
            } else if self.is_forgotten(kept, name, record) {
                due.push(Due::Drop(name.clone()));
            } else if asks(record, self.now) {
                due.push(Due::Ask(name.clone()));
            }
        }
        due
    }

    /// Whether a name other than the base domain's is due.
    fn is_due(&self, kept: &Kept, name: &str, record: &Record, wanted: Option<&Wanted>) -> bool {
        if !self.is_below(name) {
            // Another server's, with another base domain: seen to when that has not done it.
            return record.chain.is_some() && self.is_late(record);
        }
        if !self.is_apart() && !self.is_covered(kept) {
            // The wildcard is to take its place, and is not there.
            return false;
        }
        let first = record.chain.is_none() || record.directory != self.directory;
        if first && !may_begin(kept, record.owner.as_ref(), self.timing, self.now) {
            return false;
        }
        let given_up = record.chain.is_none() && record.failures >= GIVES_UP && wanted.is_none();
        !given_up && self.wants(record, &[name.to_owned()], wanted)
    }

    fn wants(&self, record: &Record, names: &[String], wanted: Option<&Wanted>) -> bool {
        if self.is_others(record, names) && !self.is_late(record) {
            return false;
        }
        if wanted.is_some_and(|it| it.wish == Wish::Renew) {
            return true;
        }
        if waits(record, self.timing, self.now) {
            return false;
        }
        if record.chain.is_none() || !names.iter().all(|name| record.names.contains(name)) {
            return true;
        }
        if record.directory != self.directory {
            return !self.was_replaced(record, names) || self.is_late(record);
        }
        record.renew_at.is_some_and(|at| at <= self.now) && !rests(record, self.now)
    }

    /// Whether a certificate has all the names that this server can ask for, and more: it is left to
    /// who can ask for those, as long as there is time.
    fn is_others(&self, record: &Record, names: &[String]) -> bool {
        record.chain.is_some()
            && record.names.len() > names.len()
            && names.iter().all(|name| record.names.contains(name))
    }

    /// Whether the base domain's certificate is left to others.
    pub(super) fn is_left(&self, record: &Record) -> bool {
        self.is_others(record, &self.names) && !self.is_late(record)
    }

    /// Whether who would renew it has not come.
    fn is_late(&self, record: &Record) -> bool {
        let passed = |at: Option<Timestamp>| at.is_none_or(|at| at <= self.now);
        passed(record.renew_at) && passed(record.late_at)
    }

    /// Whether this server's kind of certificate was replaced not long ago by one of other options:
    /// servers must not take turns.
    pub(super) fn was_replaced(&self, record: &Record, names: &[String]) -> bool {
        record
            .replaced
            .iter()
            .any(|it| it.directory == self.directory && it.names == names && lately(it.at, DAY, self.now))
    }

    /// Whether each name below the base domain has a certificate of its own.
    fn is_apart(&self) -> bool {
        self.names.len() == 1
    }

    fn is_covered(&self, kept: &Kept) -> bool {
        let covers = |record: &Record| {
            record.chain.is_some() && self.names.iter().all(|name| record.names.contains(name))
        };
        kept.records.get(self.base).is_some_and(covers)
    }

    fn is_below(&self, name: &str) -> bool {
        name.strip_suffix(self.base).is_some_and(|rest| rest.ends_with('.'))
    }

    /// Whether a name never got one, and nobody has wanted it for a day.
    fn is_forgotten(&self, kept: &Kept, name: &str, record: &Record) -> bool {
        name != self.base
            && record.chain.is_none()
            && !kept.wishes.contains_key(name)
            && (record.failures >= GIVES_UP || !self.is_below(name))
            && record.tried_at.is_none_or(|at| !lately(at, DAY, self.now))
    }

    /// Whether a name is being got, without anybody having to say that it is wanted.
    pub(super) fn is_under_way(kept: &Kept, name: &str) -> bool {
        kept.wishes.contains_key(name)
            || kept.records.get(name).is_some_and(|it| it.chain.is_some() || it.failures < GIVES_UP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::Owner;
    use crate::acme::budget::issued;
    use crate::acme::record::Replaced;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000_000 + hours * 3_600_000)
    }

    fn few() -> Timing {
        Timing { weekly: 2, ..Timing::default() }
    }

    /// What is due for a server without a provider of DNS.
    fn due(kept: &Kept, directory: &str, hours: i64) -> Vec<Due> {
        plan(&["c.test"], directory, hours, &few()).due(kept)
    }

    /// For one with a provider.
    fn due_with_dns(kept: &Kept, directory: &str, hours: i64) -> Vec<Due> {
        plan(&["c.test", "*.c.test"], directory, hours, &few()).due(kept)
    }

    fn plan<'a>(names: &[&str], directory: &'a str, hours: i64, timing: &'a Timing) -> Plan<'a> {
        let names = names.iter().map(|it| (*it).to_owned()).collect();
        Plan { base: "c.test", names, directory, timing, now: at(hours) }
    }

    fn good(names: &[&str], renew: i64) -> Record {
        let names = names.iter().map(|it| (*it).to_owned()).collect();
        let mut record = Record::new(names, "d");
        record.chain = Some("chain".to_owned());
        record.renew_at = Some(at(renew));
        record.late_at = Some(at(renew + 100));
        record
    }

    fn wanted(wish: Wish) -> Wanted {
        Wanted { wish, owner: None, at: at(0) }
    }

    fn get(name: &str) -> Due {
        Due::Get(name.to_owned())
    }

    #[test]
    fn what_is_missing_or_near_its_end_is_due() {
        let mut kept = Kept::default();
        assert_eq!(due(&kept, "d", 0), [get("c.test")]);
        kept.records.insert("c.test".into(), good(&["c.test"], 10));
        kept.records.insert("a.c.test".into(), good(&["a.c.test"], 5));
        assert_eq!(due(&kept, "d", 0), []);
        assert_eq!(due(&kept, "d", 7), [get("a.c.test")]);
        assert_eq!(due(&kept, "d", 10), [get("c.test"), get("a.c.test")]);
        // Another authority, and more names.
        assert_eq!(due(&kept, "e", 0).len(), 2);
        assert_eq!(due_with_dns(&kept, "d", 0), [get("c.test")]);
        kept.records.get_mut("a.c.test").unwrap().ask_at = Some(at(1));
        assert_eq!(due(&kept, "d", 1), [Due::Ask("a.c.test".into())]);
    }

    #[test]
    fn what_failed_is_left_alone_for_a_while_unless_somebody_asks() {
        let mut kept = Kept::default();
        let mut failed = Record::new(vec!["c.test".to_owned()], "d");
        failed.again_at = Some(at(2));
        kept.records.insert("c.test".into(), failed);
        assert_eq!(due(&kept, "d", 1), []);
        assert_eq!(due(&kept, "d", 2), [get("c.test")]);
        kept.wishes.insert("c.test".into(), wanted(Wish::Have));
        assert_eq!(due(&kept, "d", 1), []);
        kept.wishes.insert("c.test".into(), wanted(Wish::Renew));
        assert_eq!(due(&kept, "d", 1), [get("c.test")]);
    }

    #[test]
    fn what_never_worked_is_tried_again_when_somebody_comes_and_forgotten_when_nobody_does() {
        let mut kept = Kept::default();
        kept.records.insert("c.test".into(), good(&["c.test"], 1000));
        let mut failed = Record::new(vec!["a.c.test".to_owned()], "d");
        (failed.failures, failed.again_at, failed.tried_at) = (2, Some(at(2)), Some(at(1)));
        kept.records.insert("a.c.test".into(), failed);
        assert_eq!(due(&kept, "d", 3), [get("a.c.test")]);
        kept.records.get_mut("a.c.test").unwrap().failures = 3;
        assert_eq!(due(&kept, "d", 3), []);
        kept.wishes.insert("a.c.test".into(), wanted(Wish::Have));
        assert_eq!((due(&kept, "d", 1), due(&kept, "d", 3)), (vec![], vec![get("a.c.test")]));
        assert_eq!(due(&kept, "d", 50), [get("a.c.test")]);
        kept.wishes.clear();
        assert_eq!((due(&kept, "d", 24), due(&kept, "d", 26)), (vec![], vec![Due::Drop("a.c.test".into())]));
    }

    #[test]
    fn only_so_many_new_names_a_week() {
        let mut kept = Kept::default();
        kept.records.insert("c.test".into(), good(&["c.test"], 1000));
        kept.wishes.insert("a.c.test".into(), wanted(Wish::Have));
        kept.issued = issued(&[], None, at(0));
        assert_eq!(due(&kept, "d", 2), [get("a.c.test")]);
        kept.issued = issued(&kept.issued, None, at(1));
        assert_eq!(due(&kept, "d", 2), []);
        // A renewal is not counted, and a new one of another authority is.
        kept.records.insert("a.c.test".into(), good(&["a.c.test"], 1));
        assert_eq!(due(&kept, "d", 2), [get("a.c.test")]);
        assert_eq!(due(&kept, "e", 2), [get("c.test")]);
        // Nor does one tenant have all.
        let owner = Owner { tenant: "t".to_owned(), alone: false };
        kept.issued = issued(&[], Some(&owner), at(0));
        kept.wishes.insert("b.c.test".into(), Wanted { owner: Some(owner), ..wanted(Wish::Have) });
        assert_eq!(due(&kept, "d", 0), []);
    }

    #[test]
    fn a_wildcard_is_left_to_who_can_renew_it() {
        let mut kept = Kept::default();
        kept.records.insert("c.test".into(), good(&["c.test", "*.c.test"], 10));
        for (directory, hours) in [("d", 5), ("e", 5), ("d", 50), ("e", 50)] {
            assert_eq!(due(&kept, directory, hours), [], "{directory} {hours}");
        }
        assert_eq!(due_with_dns(&kept, "d", 10), [get("c.test")]);
        kept.wishes.insert("c.test".into(), wanted(Wish::Renew));
        assert_eq!((due(&kept, "d", 5), due_with_dns(&kept, "d", 5)), (vec![], vec![get("c.test")]));
        // Nobody has.
        assert_eq!(due(&kept, "d", 110), [get("c.test")]);
    }

    #[test]
    fn names_of_their_own_are_shown_until_the_wildcard_is_there() {
        let mut kept = Kept::default();
        kept.records.insert("c.test".into(), good(&["c.test"], 1000));
        kept.records.insert("a.c.test".into(), good(&["a.c.test"], 5));
        assert_eq!(due_with_dns(&kept, "e", 7), [get("c.test")]);
        kept.records.insert("c.test".into(), good(&["c.test", "*.c.test"], 1000));
        assert_eq!(due_with_dns(&kept, "d", 7), [get("a.c.test")]);
    }

    #[test]
    fn servers_with_different_options_do_not_take_turns() {
        let mut kept = Kept::default();
        let mut of_e = good(&["c.test"], 1000);
        of_e.directory = "e".to_owned();
        kept.records.insert("c.test".into(), of_e.clone());
        assert_eq!(due(&kept, "d", 0), [get("c.test")], "a new authority is asked at once");
        let replaced = |at| Replaced { names: vec!["c.test".to_owned()], directory: "d".to_owned(), at };
        of_e.replaced = vec![replaced(at(-1))];
        kept.records.insert("c.test".into(), of_e.clone());
        assert_eq!((due(&kept, "d", 0), due(&kept, "e", 0)), (vec![], vec![]));
        assert_eq!((due(&kept, "d", 23), due(&kept, "f", 0)), (vec![get("c.test")], vec![get("c.test")]));
        // By a clock that was wrong.
        of_e.replaced = vec![replaced(at(9000))];
        kept.records.insert("c.test".into(), of_e);
        assert_eq!(due(&kept, "d", 0), [get("c.test")]);
    }

    #[test]
    fn a_new_one_rests_whatever_the_clock_says() {
        let mut kept = Kept::default();
        let mut record = good(&["c.test"], -5);
        record.rest_until = Some(at(24));
        kept.records.insert("c.test".into(), record.clone());
        assert_eq!((due(&kept, "d", 1), due(&kept, "d", 24)), (vec![], vec![get("c.test")]));
        kept.wishes.insert("c.test".into(), wanted(Wish::Renew));
        assert_eq!(due(&kept, "d", 1), [get("c.test")]);
        // What was asked for and failed is tried again.
        kept.wishes.clear();
        record.failures = 1;
        kept.records.insert("c.test".into(), record);
        assert_eq!(due(&kept, "d", 1), [get("c.test")]);
    }

    #[test]
    fn another_base_domains_are_left_to_its_servers() {
        let mut kept = Kept::default();
        kept.records.insert("c.test".into(), good(&["c.test"], 1000));
        kept.records.insert("other.test".into(), good(&["other.test"], 5));
        kept.wishes.insert("x.other.test".into(), wanted(Wish::Have));
        assert_eq!((due(&kept, "d", 6), due(&kept, "e", 6)), (vec![], vec![get("c.test")]));
        assert_eq!(due(&kept, "d", 106), [Due::Drop("x.other.test".into()), get("other.test")]);
    }
}
