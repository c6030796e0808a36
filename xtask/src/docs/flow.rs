//! How a request becomes a running claw, as a drawing. Which crate does what is said in it, and
//! checked against the table of arrows.

use anyhow::{Result, bail};

use super::svg::{At, Drawing};
use crate::arrows;

/// A box: its words, what is said below them, the crate that does it, its corner and size.
struct Part {
    name: &'static str,
    says: &'static str,
    of: Option<&'static str>,
    corner: (i32, i32),
    size: (i32, i32),
    class: &'static str,
}

const PARTS: &[Part] = &[
    part("command, program", "over a unix socket or HTTPS", None, (20, 40), (180, 74), "box"),
    part("API", "who is it? is it well-formed?", Some("clawfarm-server"), (250, 40), (190, 74), "box asleep"),
    part("use case", "may they? what follows?", Some("clawfarm-control"), (490, 40), (170, 74), "box asleep"),
    part("store", "SQLite or PostgreSQL", Some("clawfarm-store"), (740, 40), (150, 74), "box down"),
    part("reconciler", "observe, decide, act", Some("clawfarm-control"), (490, 206), (170, 74), "box asleep"),
    part(
        "runtime",
        "idempotent verbs",
        Some("clawfarm-runtime-process"),
        (250, 206),
        (190, 74),
        "box asleep",
    ),
    part("shim", "one a claw: lock, limits, output", Some("clawfarm-shim"), (250, 362), (190, 74), "box up"),
    part("claw", "OpenClaw: own user, own files", None, (20, 362), (180, 74), "box up"),
    part(
        "adapter",
        "what this claw type needs",
        Some("clawfarm-adapters"),
        (490, 362),
        (170, 74),
        "box asleep",
    ),
];

/// An arrow: from which part to which, along which points; dashed where something is told back.
struct Way {
    from: &'static str,
    to: &'static str,
    seen: bool,
    points: &'static [(i32, i32)],
    /// Lines of words, each at its point.
    words: &'static [(At, (i32, i32), &'static str)],
}

const WAYS: &[Way] = &[
    way("command, program", "API", false, &[(200, 66), (248, 66)], &[]),
    way("API", "use case", false, &[(440, 66), (488, 66)], &[]),
    way(
        "use case",
        "store",
        false,
        &[(660, 66), (738, 66)],
        &[
            (At::Middle, (700, 22), "one transaction: what is wanted,"),
            (At::Middle, (700, 36), "event, audit entry, operation"),
        ],
    ),
    way(
        "store",
        "reconciler",
        false,
        &[(760, 114), (760, 228), (662, 228)],
        &[(At::Start, (768, 162), "the write wakes it;"), (At::Start, (768, 177), "so does a timer")],
    ),
    way(
        "reconciler",
        "store",
        true,
        &[(660, 258), (880, 258), (880, 116)],
        &[(At::Middle, (770, 251), "what was seen")],
    ),
    way(
        "store",
        "command, program",
        true,
        &[(740, 98), (700, 98), (700, 140), (110, 140), (110, 116)],
        &[(At::Middle, (420, 134), "progress and events, as they happen")],
    ),
    way("reconciler", "runtime", false, &[(490, 232), (442, 232)], &[]),
    way("runtime", "reconciler", true, &[(440, 258), (488, 258)], &[]),
    way(
        "reconciler",
        "adapter",
        false,
        &[(575, 280), (575, 360)],
        &[(At::Start, (583, 316), "what to run, with"), (At::Start, (583, 331), "which files; is it well?")],
    ),
    way(
        "runtime",
        "shim",
        false,
        &[(330, 280), (330, 360)],
        &[(At::End, (322, 316), "starts it once,"), (At::End, (322, 331), "asks it afterwards")],
    ),
    way(
        "shim",
        "runtime",
        true,
        &[(362, 362), (362, 282)],
        &[(At::Start, (370, 316), "runs, ended,"), (At::Start, (370, 331), "how")],
    ),
    way("shim", "claw", false, &[(250, 398), (202, 398)], &[]),
    way(
        "API",
        "claw",
        false,
        &[(270, 114), (270, 172), (110, 172), (110, 360)],
        &[(At::Start, (118, 316), "messages")],
    ),
];

const fn part(
    name: &'static str,
    says: &'static str,
    of: Option<&'static str>,
    corner: (i32, i32),
    size: (i32, i32),
    class: &'static str,
) -> Part {
    Part { name, says, of, corner, size, class }
}

const fn way(
    from: &'static str,
    to: &'static str,
    seen: bool,
    points: &'static [(i32, i32)],
    words: &'static [(At, (i32, i32), &'static str)],
) -> Way {
    Way { from, to, seen, points, words }
}

/// The drawing.
pub(super) fn drawing() -> Result<String> {
    is_true()?;
    let mut drawing = Drawing::new("flow", 910, 500, "How what is asked for becomes what runs");
    // What lives in the server's process, and what goes on without it.
    drawing.rect("group", (232, 8), (670, 282));
    drawing.text("small", At::End, (892, 283), "the server's process");
    drawing.rect("group", (8, 348), (444, 102));
    drawing.text("small", At::Start, (20, 468), "goes on when the server ends");
    for way in WAYS {
        drawing.arrow(way.seen, way.points);
    }
    for part in PARTS {
        let ((x, y), (width, _)) = (part.corner, part.size);
        drawing.rect(part.class, part.corner, part.size);
        let middle = x + width / 2;
        drawing.text("name", At::Start, (middle, y + 25), part.name);
        drawing.text("small middle", At::Start, (middle, y + 44), part.says);
        if let Some(of) = part.of {
            drawing.text("small middle", At::Start, (middle, y + 62), of);
        }
    }
    for (at, point, words) in WAYS.iter().flat_map(|way| way.words) {
        drawing.text("small label", *at, *point, words);
    }
    Ok(drawing.finish())
}

/// Fails when a part's crate does not exist, or may not know the one its arrow leads to.
fn is_true() -> Result<()> {
    let crate_of = |name: &str| PARTS.iter().find(|p| p.name == name).and_then(|p| p.of);
    for of in PARTS.iter().filter_map(|p| p.of) {
        if !arrows::knows(of, of) {
            bail!("the drawing names the crate {of}, which is not there: mend xtask/src/docs/flow.rs");
        }
    }
    for way in WAYS.iter().filter(|w| !w.seen) {
        for end in [way.from, way.to] {
            if !PARTS.iter().any(|p| p.name == end) {
                bail!("the drawing has an arrow at '{end}', which it does not show");
            }
        }
        // The store wakes by a signal, and the reconciler reaches a runtime by its trait.
        let (Some(from), Some(to)) = (crate_of(way.from), crate_of(way.to)) else { continue };
        let by_trait = arrows::knows(to, "clawfarm-runtime") && arrows::knows(from, "clawfarm-runtime");
        if !(arrows::knows(from, to) || arrows::knows(to, from) || by_trait) {
            bail!("the drawing leads from {from} to {to}, which know nothing of each other");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drawing_names_crates_that_know_each_other() {
        is_true().unwrap();
    }

    #[test]
    fn nothing_lies_on_another() {
        for (index, a) in PARTS.iter().enumerate() {
            for b in &PARTS[index + 1..] {
                let apart = |a: i32, aw: i32, b: i32, bw: i32| a + aw <= b || b + bw <= a;
                assert!(
                    apart(a.corner.0, a.size.0, b.corner.0, b.size.0)
                        || apart(a.corner.1, a.size.1, b.corner.1, b.size.1),
                    "{} lies on {}",
                    a.name,
                    b.name
                );
            }
        }
    }
}
