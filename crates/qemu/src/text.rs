//! Text of other programs, made fit to show.

/// How much of another program's text is shown, in characters: an error, not a log.
const SHOWN: usize = 400;

/// Another program's text on one line, without control characters, cut where it is long.
pub(crate) fn tame(text: &str) -> String {
    let mut shown = String::new();
    for (count, c) in text.trim().chars().enumerate() {
        if count == SHOWN {
            shown.push('…');
            break;
        }
        shown.push(if c == '\n' || c == '\t' { ' ' } else { c });
    }
    shown.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::tame;

    #[test]
    fn a_terminal_is_not_moved_about_by_it() {
        assert_eq!(tame(" a\nb\x1b[31mc\0\n"), "a b[31mc");
        assert_eq!(tame(&"x".repeat(1000)).chars().count(), 401);
    }
}
