//! The parts of the book that are made from the code (`cargo xtask docs`), and what its pages
//! are held against.

mod api;
mod flow;
mod phases;
mod svg;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// What follows these lines in a page, up to [`END`], is generated.
const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end of what is generated -->";

/// A generated file, or the generated part of a page.
struct Made {
    file: &'static str,
    /// The part's name, when the rest of the page is written by hand.
    part: Option<&'static str>,
    text: String,
}

/// Everything generated but `openapi.json` and `commands.md`, which have their own.
fn made() -> Result<Vec<Made>> {
    let whole = |file, text| Made { file, part: None, text };
    let document = serde_json::to_value(clawfarm_server::openapi()).context("the API's description")?;
    let api = api::pages(&document)?;
    Ok(vec![
        whole("docs/diagrams/phases.svg", phases::drawing()?),
        whole("docs/diagrams/flow.svg", flow::drawing()?),
        Made { file: "docs/phases.md", part: Some("transitions"), text: phases::table() },
        whole("docs/api.md", api.requests),
        whole("docs/api-types.md", api.types),
    ])
}

/// Writes what is not as the code has it now.
pub(crate) fn write(root: &Path) -> Result<()> {
    for made in made()? {
        let path = root.join(made.file);
        let (kept, wanted) = compare(root, &made)?;
        if kept == wanted {
            continue;
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
        }
        fs::write(&path, wanted).with_context(|| format!("{} can't be written", made.file))?;
        println!("{} written", made.file);
    }
    Ok(())
}

/// What is not as the code has it now.
pub(crate) fn problems(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for made in made()? {
        let (kept, wanted) = compare(root, &made)?;
        if kept != wanted {
            problems.push(format!("{} is not current: run `cargo xtask docs`", made.file));
        }
    }
    Ok(problems)
}

/// The file as it is and as it should be.
fn compare(root: &Path, made: &Made) -> Result<(String, String)> {
    let kept = match fs::read_to_string(root.join(made.file)) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).with_context(|| format!("{} can't be read", made.file)),
    };
    let wanted = match made.part {
        Some(part) => with_part(&kept, part, &made.text).with_context(|| format!("in {}", made.file))?,
        None => made.text.clone(),
    };
    Ok((kept, wanted))
}

/// A page with its generated part put in anew.
fn with_part(page: &str, part: &str, text: &str) -> Result<String> {
    let begin = format!("{BEGIN}{part} -->\n");
    let Some((before, rest)) = page.split_once(&begin) else {
        bail!("there is no line '{}'", begin.trim_end());
    };
    let Some((_, after)) = rest.split_once(END) else { bail!("there is no line '{END}' after it") };
    Ok(format!("{before}{begin}\n{text}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marked_part_of_a_page_is_replaced() {
        let page = format!("# A\n\n{BEGIN}x -->\nold\n{END}\nmine\n");
        let new = with_part(&page, "x", "new").unwrap();
        assert_eq!(new, format!("# A\n\n{BEGIN}x -->\n\nnew\n{END}\nmine\n"));
        assert_eq!(with_part(&new, "x", "new").unwrap(), new);
        assert!(with_part(&page, "y", "").is_err());
        assert!(with_part(&page.replace(END, ""), "x", "").is_err());
    }
}
