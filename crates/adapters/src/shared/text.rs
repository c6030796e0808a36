//! Texts that are shown to people.

/// At most 80 characters of a text that a claw or its user wrote, safe to print.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
