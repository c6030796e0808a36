//! The phases of an instance as a drawing and as a table, from the function that moves between
//! them. Where things stand is given here; that nothing of it is wrong or missing is checked.

use anyhow::{Result, bail};
use clawfarm_model::phase::{Phase, Signal};

use super::svg::{At, Drawing};
use Phase as P;
use Signal as S;

const BOX: (i32, i32) = (112, 36);

/// Where each phase stands: its upper left corner, and its colours.
const PLACES: [(Phase, (i32, i32), &str); 15] = [
    (P::Creating, (30, 116), "box way"),
    (P::Booting, (212, 116), "box way"),
    (P::Running, (412, 116), "box up"),
    (P::Ready, (606, 116), "box up"),
    (P::Unhealthy, (806, 116), "box bad"),
    (P::Updating, (606, 14), "box way"),
    (P::Stopping, (412, 240), "box way"),
    (P::Waking, (606, 240), "box way"),
    (P::Failed, (30, 366), "box bad"),
    (P::Exited, (156, 366), "box down"),
    (P::Stopped, (282, 366), "box down"),
    (P::Suspended, (536, 366), "box asleep"),
    (P::Warm, (662, 366), "box asleep"),
    (P::Destroying, (412, 478), "box way"),
    (P::Destroyed, (606, 478), "box down"),
];

const UP: &[Phase] = &[P::Running, P::Ready, P::Unhealthy];
const ASLEEP: &[Phase] = &[P::Suspended, P::Warm];
const DOWN: &[Phase] = &[P::Failed, P::Exited, P::Stopped];

/// Phases that arrows begin at together: a name, its corner and size, where its name stands.
type Group = (&'static str, (i32, i32), (i32, i32), (i32, i32));
const GROUPS: [Group; 3] = [
    ("up", (396, 80), (538, 98), (924, 172)),
    ("asleep", (520, 350), (270, 76), (782, 420)),
    ("down", (14, 350), (396, 76), (402, 420)),
];

/// An arrow: from which phases, on which signal, to which, along which points, with its words
/// where.
struct Edge {
    from: &'static [Phase],
    signal: Signal,
    to: Phase,
    points: &'static [(i32, i32)],
    label: (At, (i32, i32)),
}

const EDGES: &[Edge] = &[
    edge(&[P::Creating], S::StartBegun, P::Booting, &[(142, 134), (210, 134)], At::Middle, (176, 127)),
    edge(&[P::Booting], S::Up, P::Running, &[(324, 134), (410, 134)], At::Middle, (359, 127)),
    edge(&[P::Running], S::ProbePassed, P::Ready, &[(524, 134), (604, 134)], At::Middle, (564, 149)),
    edge(&[P::Ready], S::ProbeFailed, P::Unhealthy, &[(718, 126), (804, 126)], At::Middle, (760, 119)),
    edge(
        &[P::Running],
        S::ProbeFailed,
        P::Unhealthy,
        &[(468, 116), (468, 98), (862, 98), (862, 114)],
        At::Middle,
        (564, 102),
    ),
    edge(&[P::Unhealthy], S::ProbePassed, P::Ready, &[(806, 142), (720, 142)], At::Middle, (762, 157)),
    edge(UP, S::UpdateBegun, P::Updating, &[(570, 80), (570, 32), (604, 32)], At::End, (562, 54)),
    edge(&[P::Updating], S::ProbePassed, P::Ready, &[(662, 50), (662, 114)], At::Start, (670, 68)),
    edge(UP, S::StopBegun, P::Stopping, &[(468, 178), (468, 238)], At::Start, (476, 213)),
    edge(
        &[P::Stopping],
        S::StartBegun,
        P::Booting,
        &[(412, 252), (300, 252), (300, 154)],
        At::Start,
        (310, 245),
    ),
    edge(
        &[P::Stopping],
        S::Stopped,
        P::Stopped,
        &[(434, 276), (434, 316), (338, 316), (338, 364)],
        At::End,
        (424, 309),
    ),
    edge(
        &[P::Stopping],
        S::Suspended,
        P::Suspended,
        &[(500, 276), (500, 316), (580, 316), (580, 364)],
        At::Middle,
        (540, 335),
    ),
    edge(UP, S::Frozen, P::Warm, &[(862, 178), (862, 384), (776, 384)], At::End, (854, 290)),
    edge(ASLEEP, S::WakeBegun, P::Waking, &[(662, 350), (662, 278)], At::Start, (670, 318)),
    edge(&[P::Waking], S::ProbePassed, P::Ready, &[(662, 240), (662, 154)], At::Start, (670, 213)),
    edge(DOWN, S::PrepareBegun, P::Creating, &[(86, 350), (86, 154)], At::Start, (94, 250)),
    edge(DOWN, S::StartBegun, P::Booting, &[(240, 350), (240, 154)], At::End, (232, 250)),
    edge(&[P::Destroying], S::Destroyed, P::Destroyed, &[(524, 496), (604, 496)], At::Middle, (563, 489)),
];

/// Where arrows from anywhere begin.
const ANYWHERE: (i32, i32) = (156, 478);
const FROM_ANYWHERE: &[Edge] = &[
    edge(&[], S::GaveUp, P::Failed, &[(156, 496), (86, 496), (86, 404)], At::Middle, (86, 450)),
    edge(&[], S::Ended, P::Exited, &[(212, 478), (212, 404)], At::Middle, (212, 450)),
    edge(&[], S::DestroyBegun, P::Destroying, &[(268, 496), (410, 496)], At::Middle, (338, 489)),
];

/// What leads to one phase from wherever it comes: what is seen is believed whatever was
/// thought before, and what ends a life may end any. Not drawn from each, but said.
const GENERAL: &[Signal] = &[
    S::Up,
    S::ProbePassed,
    S::Frozen,
    S::StopBegun,
    S::Stopped,
    S::Suspended,
    S::Ended,
    S::GaveUp,
    S::DestroyBegun,
    S::Destroyed,
];

/// Drawn from one group, true of more: said below the drawing.
const ALSO: &[(Signal, &[Phase])] = &[
    (S::UpdateBegun, DOWN),
    (S::UpdateBegun, &[P::Booting, P::Waking, P::Stopping]),
    (S::UpdateEnded, &[P::Updating]),
];

const fn edge(
    from: &'static [Phase],
    signal: Signal,
    to: Phase,
    points: &'static [(i32, i32)],
    at: At,
    label: (i32, i32),
) -> Edge {
    Edge { from, signal, to, points, label: (at, label) }
}

/// The words of a signal, and whether it is something seen (else it is something done).
const fn words(signal: Signal) -> (&'static str, bool) {
    match signal {
        S::PrepareBegun => ("prepare", false),
        S::StartBegun => ("start", false),
        S::WakeBegun => ("wake", false),
        S::Up => ("it is up", true),
        S::ProbePassed => ("probe passes", true),
        S::ProbeFailed => ("probe fails", true),
        S::Frozen => ("frozen", true),
        S::StopBegun => ("stop", false),
        S::Stopped => ("down, to stay", true),
        S::Suspended => ("down, to sleep", true),
        S::Ended => ("ended by itself", true),
        S::UpdateBegun => ("update", false),
        S::UpdateEnded => ("update undone", false),
        S::GaveUp => ("given up", false),
        S::DestroyBegun => ("remove", false),
        S::Destroyed => ("gone", true),
    }
}

/// The drawing.
pub(super) fn drawing() -> Result<String> {
    is_true()?;
    let mut drawing =
        Drawing::new("phases", 944, 570, "The phases of an instance and what leads from one to another");
    for (name, corner, size, (x, y)) in GROUPS {
        drawing.rect("group", corner, size);
        drawing.text("small", At::End, (x, y), name);
    }
    for edge in EDGES.iter().chain(FROM_ANYWHERE) {
        drawing.arrow(words(edge.signal).1, edge.points);
    }
    for (phase, (x, y), class) in PLACES {
        drawing.rect(class, (x, y), BOX);
        drawing.text("name", At::Middle, (x + BOX.0 / 2, y + 23), phase.as_str());
    }
    drawing.rect("group", ANYWHERE, BOX);
    drawing.text("middle", At::Start, (ANYWHERE.0 + BOX.0 / 2, ANYWHERE.1 + 23), "from any phase");
    for edge in EDGES.iter().chain(FROM_ANYWHERE) {
        drawing.text("small label", edge.label.0, edge.label.1, words(edge.signal).0);
    }
    drawing.arrow(false, &[(30, 546), (66, 546)]);
    drawing.text("small", At::Start, (76, 550), "clawfarm does it");
    drawing.arrow(true, &[(206, 546), (242, 546)]);
    drawing.text("small", At::Start, (252, 550), "it is seen");
    drawing.rect("box way", (350, 536), (34, 20));
    drawing.text("small", At::Start, (394, 550), "on the way");
    drawing.text(
        "small",
        At::Start,
        (500, 550),
        "'update' begins from what is down or on its way too; undone: 'stopping'",
    );
    Ok(drawing.finish())
}

/// Fails when the drawing says what is not so, or leaves out what is.
fn is_true() -> Result<()> {
    let wrong = wrong(&EDGES.iter().collect::<Vec<_>>());
    if !wrong.is_empty() {
        bail!("{}: mend xtask/src/docs/phases.rs", wrong.join("; "));
    }
    Ok(())
}

fn wrong(edges: &[&Edge]) -> Vec<String> {
    let mut wrong = Vec::new();
    for edge in edges {
        for from in edge.from {
            if from.next(edge.signal) != Some(edge.to) {
                wrong.push(format!("the drawing leads from {from} to {} by {:?}", edge.to, edge.signal));
            }
        }
    }
    let drawn = |from: Phase, signal: Signal, to: Phase| {
        edges.iter().any(|e| e.signal == signal && e.to == to && e.from.contains(&from))
            || ALSO.iter().any(|(s, phases)| *s == signal && phases.contains(&from))
    };
    for from in Phase::ALL {
        for signal in Signal::ALL {
            let Some(to) = from.next(signal).filter(|to| *to != from) else { continue };
            let said = if GENERAL.contains(&signal) { to == aim(signal) } else { drawn(from, signal, to) };
            if !said {
                wrong.push(format!("the drawing does not lead from {from} to {to} by {signal:?}"));
            }
        }
    }
    for edge in FROM_ANYWHERE {
        if !GENERAL.contains(&edge.signal) || aim(edge.signal) != edge.to {
            wrong.push(format!("the drawing leads from anywhere to {} by {:?}", edge.to, edge.signal));
        }
    }
    wrong
}

/// Where a general signal leads: from most phases.
fn aim(signal: Signal) -> Phase {
    let reached = |to: &Phase| Phase::ALL.iter().filter(|from| from.next(signal) == Some(*to)).count();
    Phase::ALL.into_iter().max_by_key(reached).unwrap_or(P::Failed)
}

/// The table of all transitions, as Markdown.
pub(super) fn table() -> String {
    let mut text = "| what | leads to | from |\n|---|---|---|\n".to_owned();
    for signal in Signal::ALL {
        let (name, seen) = words(signal);
        let mut rows: Vec<(String, Vec<Phase>)> = Vec::new();
        for from in Phase::ALL {
            let to = match from.next(signal) {
                Some(to) if to == from => "stays as it is".to_owned(),
                Some(to) => format!("`{to}`"),
                None => continue,
            };
            match rows.iter_mut().find(|(t, _)| *t == to) {
                Some((_, phases)) => phases.push(from),
                None => rows.push((to, vec![from])),
            }
        }
        rows.sort_by_key(|(to, phases)| (to.starts_with("stays"), std::cmp::Reverse(phases.len())));
        for (index, (to, phases)) in rows.iter().enumerate() {
            let what = if index == 0 {
                format!("{name} ({})", if seen { "seen" } else { "done" })
            } else {
                String::new()
            };
            text.push_str(&format!("| {what} | {to} | {} |\n", list(phases)));
        }
    }
    text
}

fn list(phases: &[Phase]) -> String {
    let others: Vec<Phase> = Phase::ALL.into_iter().filter(|p| !phases.contains(p)).collect();
    if others.is_empty() {
        return "every phase".to_owned();
    }
    if others.len() < 5 {
        return format!("every phase but {}", names(&others));
    }
    names(phases)
}

fn names(phases: &[Phase]) -> String {
    phases.iter().map(|p| p.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drawing_says_what_is_so() {
        is_true().unwrap();
    }

    #[test]
    fn an_arrow_that_is_missing_or_wrong_is_noticed() {
        // What is general is said in the table; each other arrow must be there.
        for (index, edge) in EDGES.iter().enumerate().filter(|(_, e)| !GENERAL.contains(&e.signal)) {
            let rest: Vec<&Edge> =
                EDGES.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, e)| e).collect();
            let missing =
                edge.from.iter().any(|from| !ALSO.iter().any(|(s, p)| *s == edge.signal && p.contains(from)));
            assert_eq!(!wrong(&rest).is_empty(), missing, "{:?} to {}", edge.signal, edge.to);
        }
        let lie = edge(&[P::Stopped], S::WakeBegun, P::Waking, &[], At::Middle, (0, 0));
        assert_eq!(wrong(&EDGES.iter().chain([&lie]).collect::<Vec<_>>()).len(), 1);
    }

    #[test]
    fn every_phase_stands_somewhere_and_by_itself() {
        for phase in Phase::ALL {
            assert_eq!(PLACES.iter().filter(|(p, ..)| *p == phase).count(), 1, "{phase}");
        }
        for (index, (a, (ax, ay), _)) in PLACES.iter().enumerate() {
            for (b, (bx, by), _) in &PLACES[index + 1..] {
                assert!((ax - bx).abs() >= BOX.0 || (ay - by).abs() >= BOX.1, "{a} lies on {b}");
            }
        }
    }

    #[test]
    fn every_signal_is_in_the_table() {
        let table = table();
        for signal in Signal::ALL {
            assert!(table.contains(&format!("| {} (", words(signal).0)), "{signal:?}");
        }
        assert!(table.contains("| wake (done) | `waking` | warm, suspended |"), "{table}");
        assert!(table.contains("every phase but destroyed"), "{table}");
    }
}
