//! Small drawings as SVG: boxes, arrows and words, in colours that the page around may choose.
//!
//! The pages take a drawing in as it is, so that `docs/theme/clawfarm.css` gives its colours
//! for light and dark. What stands behind the comma of a `var()` is for the file by itself.

use std::fmt::Write as _;

/// The look of all drawings. One line each and no blank one: Markdown ends HTML at a blank line.
const STYLE: &str = "\
.ground{fill:var(--d-ground,#fff)}
.box{fill:var(--d-box,#f4f6f9);stroke:var(--d-line,#5b6675);stroke-width:1.3}
.up{fill:var(--d-up,#dcf3e0);stroke:var(--d-up-line,#2f7d43)}
.asleep{fill:var(--d-asleep,#dfe9fb);stroke:var(--d-asleep-line,#3565b5)}
.down{fill:var(--d-down,#ececee);stroke:var(--d-down-line,#6b6f76)}
.bad{fill:var(--d-bad,#fbe1df);stroke:var(--d-bad-line,#b3423a)}
.way{stroke-dasharray:5 3}
.group{fill:none;stroke:var(--d-faint,#9aa3af);stroke-width:1;stroke-dasharray:2 3}
.edge{fill:none;stroke:var(--d-line,#5b6675);stroke-width:1.4}
.seen{stroke-dasharray:6 4}
.tip{fill:var(--d-line,#5b6675)}
text{font:14px 'Open Sans',sans-serif;fill:var(--d-ink,#1c2430)}
.name{text-anchor:middle;font-weight:600}
.small{font-size:12px;fill:var(--d-dim,#4d5866)}
.middle{text-anchor:middle}
.end{text-anchor:end}
.label{paint-order:stroke;stroke:var(--d-paper,#fff);stroke-width:5px;stroke-linejoin:round}
";

/// A drawing that is being made. Lengths are in its own units, one a CSS pixel at full size.
pub(super) struct Drawing {
    name: &'static str,
    width: i32,
    height: i32,
    title: &'static str,
    body: String,
}

/// How a line of text stands at its point.
#[derive(Clone, Copy)]
pub(super) enum At {
    Start,
    Middle,
    End,
}

impl At {
    const fn class(self) -> &'static str {
        match self {
            Self::Start => "",
            Self::Middle => " middle",
            Self::End => " end",
        }
    }
}

impl Drawing {
    /// An empty one. `name` keeps its ids apart from those of others on the same page.
    pub(super) const fn new(name: &'static str, width: i32, height: i32, title: &'static str) -> Self {
        Self { name, width, height, title, body: String::new() }
    }

    /// A box with round corners.
    pub(super) fn rect(&mut self, class: &str, (x, y): (i32, i32), (width, height): (i32, i32)) {
        self.line(&format!(
            r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}" rx="7"/>"#
        ));
    }

    /// A line of text; `class` says of what kind.
    pub(super) fn text(&mut self, class: &str, at: At, (x, y): (i32, i32), text: &str) {
        let class = format!("{class}{}", at.class());
        self.line(&format!(r#"<text class="{}" x="{x}" y="{y}">{}</text>"#, class.trim(), escape(text)));
    }

    /// An arrow along points, with its head at the last. `seen` draws it dashed.
    pub(super) fn arrow(&mut self, seen: bool, points: &[(i32, i32)]) {
        let mut path = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let _ = write!(path, "{}{x} {y}", if index == 0 { "M" } else { "L" });
        }
        let class = if seen { "edge seen" } else { "edge" };
        let name = self.name;
        self.line(&format!(r#"<path class="{class}" d="{path}" marker-end="url(#{name}-tip)"/>"#));
    }

    /// The drawing as a file.
    pub(super) fn finish(self) -> String {
        let Self { name, width, height, title, body } = self;
        // The rules hold inside of this drawing only: on a page they would reach every other.
        let style: String = STYLE.lines().map(|rule| format!("#{name} {rule}\n")).collect();
        format!(
            "<svg id=\"{name}\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             role=\"img\" aria-labelledby=\"{name}-title\">\n\
             <title id=\"{name}-title\">{}</title>\n\
             <style>\n{style}</style>\n\
             <defs><marker id=\"{name}-tip\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" \
             markerHeight=\"7\" orient=\"auto-start-reverse\"><path class=\"tip\" d=\"M0 0L10 5L0 10z\"/></marker></defs>\n\
             <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n\
             {body}</svg>\n",
            escape(title)
        )
    }

    fn line(&mut self, text: &str) {
        self.body.push_str(text);
        self.body.push('\n');
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_has_no_blank_line_and_no_raw_words() {
        let mut drawing = Drawing::new("d", 10, 10, "a < b");
        drawing.text("name", At::End, (1, 2), "x & <y>");
        drawing.arrow(true, &[(0, 0), (5, 5)]);
        let text = drawing.finish();
        assert!(text.lines().all(|line| !line.trim().is_empty()), "{text}");
        assert!(text.contains("x &amp; &lt;y&gt;") && text.contains("a &lt; b"), "{text}");
        assert!(text.contains(r#"d="M0 0L5 5""#), "{text}");
    }
}
