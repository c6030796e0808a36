//! That links lead somewhere: those of the book's pages, and of the pages beside it. What is
//! elsewhere is only checked for its form, because a build must not need the network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use super::markdown::Page;

/// The folder of the book's pages, and its table of contents.
const BOOK: &str = "docs";
const SUMMARY: &str = "docs/SUMMARY.md";
/// Pages beside the book.
const BESIDE: [&str; 3] = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"];
/// What a block of code may be: a reader's tools colour it, and ours know what to check.
const LANGUAGES: [&str; 9] = ["console", "sh", "text", "json", "json5", "toml", "ini", "yaml", "rust"];

/// Every page with links to check, by its path from the repository's folder.
fn pages(root: &Path, files: &[PathBuf]) -> Result<BTreeMap<PathBuf, Page>> {
    let mut pages = BTreeMap::new();
    for file in files {
        let markdown = file.extension().is_some_and(|e| e == "md");
        let wanted = file.starts_with(BOOK) || BESIDE.iter().any(|name| Path::new(name) == file);
        if markdown && wanted && root.join(file).is_file() {
            let text = fs::read_to_string(root.join(file))
                .with_context(|| format!("{} can't be read", file.display()))?;
            pages.insert(file.clone(), Page::read(&text));
        }
    }
    Ok(pages)
}

/// What is wrong with the pages as they are written.
pub(super) fn problems(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let pages = pages(root, files)?;
    let mut problems = contents(&pages);
    for (file, page) in &pages {
        for (line, link) in &page.links {
            if let Err(why) = check(root, &pages, file, link) {
                problems.push(format!("{}:{line}: the link '{link}' {why}", file.display()));
            }
        }
        for (line, language) in page.blocks.iter().filter(|(_, l)| !LANGUAGES.contains(&l.as_str())) {
            problems.push(format!(
                "{}:{line}: the code's language is '{language}', not one of {}",
                file.display(),
                LANGUAGES.join(", ")
            ));
        }
    }
    Ok(problems)
}

/// What is wrong with the book that was built from them: pages that are not in it, anchors that
/// are other than we think.
pub(super) fn problems_of_book(root: &Path, files: &[PathBuf], book: &Path) -> Result<Vec<String>> {
    let pages = pages(root, files)?;
    let mut problems = Vec::new();
    let mut built = BTreeMap::new();
    for file in pages.keys().filter(|f| f.starts_with(BOOK) && f.as_path() != Path::new(SUMMARY)) {
        let path = book.join(html(file));
        match fs::read_to_string(&path) {
            Ok(text) => drop(built.insert(file.clone(), text)),
            Err(error) => problems.push(format!("{} is not in the book: {error}", file.display())),
        }
    }
    for (file, page) in pages.iter().filter(|(file, _)| file.starts_with(BOOK)) {
        for (line, link) in &page.links {
            let Some((target, anchor)) = local(file, link) else { continue };
            if let (Some(text), Some(anchor)) = (built.get(&target), anchor) {
                if !text.contains(&format!("id=\"{anchor}\"")) {
                    problems.push(format!(
                        "{}:{line}: '{link}': the book's page has no id=\"{anchor}\"",
                        file.display()
                    ));
                }
            } else if !pages.contains_key(&target) {
                let inside = target.strip_prefix(BOOK).unwrap_or(&target);
                if !book.join(inside).exists() {
                    problems.push(format!("{}:{line}: '{link}' is not in the book", file.display()));
                }
            }
        }
    }
    Ok(problems)
}

/// That each page of the book is in its table of contents, once.
fn contents(pages: &BTreeMap<PathBuf, Page>) -> Vec<String> {
    let Some(summary) = pages.get(Path::new(SUMMARY)) else { return vec![format!("there is no {SUMMARY}")] };
    let mut problems = Vec::new();
    let mut listed = BTreeSet::new();
    for (line, link) in &summary.links {
        let Some((target, _)) = local(Path::new(SUMMARY), link) else { continue };
        if !listed.insert(target) {
            problems.push(format!("{SUMMARY}:{line}: '{link}' is there already"));
        }
    }
    for file in pages.keys().filter(|f| f.starts_with(BOOK) && f.as_path() != Path::new(SUMMARY)) {
        if !listed.contains(file) {
            problems.push(format!("{} is not in {SUMMARY}: nobody would find it", file.display()));
        }
    }
    problems
}

fn check(root: &Path, pages: &BTreeMap<PathBuf, Page>, from: &Path, link: &str) -> Result<(), String> {
    if let Some((scheme, rest)) = link.split_once(':').filter(|(s, _)| !s.contains(['/', '#', '.'])) {
        return elsewhere(scheme, rest);
    }
    let Some((target, anchor)) = local(from, link) else {
        return Err("leads out of the repository".to_owned());
    };
    if from.starts_with(BOOK) && !target.starts_with(BOOK) {
        return Err(format!("leads out of {BOOK}/, which the book does not have"));
    }
    if !root.join(&target).exists() {
        return Err(format!("leads to {}, which is not there", target.display()));
    }
    match (anchor, pages.get(&target)) {
        (None, _) => Ok(()),
        (Some(anchor), Some(page)) if page.anchors.iter().any(|a| a == anchor) => Ok(()),
        (Some(anchor), Some(_)) => {
            Err(format!("leads to a heading '{anchor}', which {} has not", target.display()))
        }
        (Some(_), None) => Err("has an anchor, but leads to no page".to_owned()),
    }
}

/// The file that a relative link leads to, and the anchor in it.
fn local<'a>(from: &Path, link: &'a str) -> Option<(PathBuf, Option<&'a str>)> {
    if link.split_once(':').is_some_and(|(scheme, _)| !scheme.contains(['/', '#', '.'])) {
        return None;
    }
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (link, None),
    };
    if path.is_empty() {
        return Some((from.to_owned(), anchor));
    }
    let mut target = from.parent()?.to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => target.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !target.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some((target, anchor))
}

/// The form of an address elsewhere.
fn elsewhere(scheme: &str, rest: &str) -> Result<(), String> {
    if !matches!(scheme, "https" | "http") {
        return Err(format!("begins with {scheme}:, which is neither https: nor http:"));
    }
    let host = rest.strip_prefix("//").map(|r| r.split(['/', '?', '#']).next().unwrap_or_default());
    let name = host.unwrap_or_default().split(':').next().unwrap_or_default();
    let sound =
        name.contains('.') && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    if !sound || rest.contains(char::is_whitespace) {
        return Err("is no address".to_owned());
    }
    if scheme == "http" && !name.starts_with("127.") {
        return Err("is not encrypted: write https:".to_owned());
    }
    Ok(())
}

/// Where mdBook puts a page.
fn html(file: &Path) -> PathBuf {
    let inside = file.strip_prefix(BOOK).unwrap_or(file);
    if inside.file_name().is_some_and(|name| name == "README.md") {
        inside.with_file_name("index.html")
    } else {
        inside.with_extension("html")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(pages: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in pages {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let files = pages.iter().map(|(file, _)| PathBuf::from(file)).collect();
        (root, files)
    }

    #[test]
    fn good_links_are_good_and_each_bad_one_is_named() {
        let good = "# A b\n[s](#a-b) [b](design/b.md#c) [j](x.json) [w](https://example.org/a) [l](http://127.0.0.1:1/)";
        let (root, files) = repository(&[
            ("README.md", "[a](docs/a.md#a-b)"),
            ("docs/SUMMARY.md", "[a](a.md) [b](design/b.md)"),
            ("docs/a.md", good),
            ("docs/design/b.md", "# C\n[up](../a.md)"),
            ("docs/x.json", "{}"),
        ]);
        assert_eq!(problems(root.path(), &files).unwrap(), Vec::<String>::new());
        for bad in [
            "[x](#c)",
            "[x](design/b.md#d)",
            "[x](gone.md)",
            "[x](../README.md)",
            "[x](../../x.md)",
            "[x](/etc)",
            "[x](ftp://example.org)",
            "[x](https://nowhere)",
            "[x](http://example.org)",
            "[x](x.json#a)",
            "```bash\nls\n```",
        ] {
            fs::write(root.path().join("docs/a.md"), format!("{good}\n\n{bad}\n")).unwrap();
            let problems = problems(root.path(), &files).unwrap();
            assert_eq!(problems.len(), 1, "{bad}: {problems:?}");
            assert!(problems[0].starts_with("docs/a.md:4: "), "{problems:?}");
        }
    }

    #[test]
    fn a_page_that_is_not_in_the_contents_is_named() {
        let (root, files) = repository(&[
            ("docs/SUMMARY.md", "[a](a.md) [a](a.md)"),
            ("docs/a.md", "# A"),
            ("docs/b.md", "# B"),
        ]);
        let problems = problems(root.path(), &files).unwrap();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[1].starts_with("docs/b.md is not in docs/SUMMARY.md"), "{problems:?}");
    }

    #[test]
    fn what_the_built_book_lacks_is_named() {
        let (root, files) = repository(&[
            ("docs/SUMMARY.md", "[h](README.md) [a](a.md)"),
            ("docs/README.md", "[a](a.md#x) [a](a.md#y) [j](x.json)"),
            ("docs/a.md", "# x\n\n# y"),
            ("book/index.html", ""),
            ("book/a.html", "<h1 id=\"x\">"),
        ]);
        let problems = problems_of_book(root.path(), &files[..3], &root.path().join("book")).unwrap();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].contains("id=\"y\"") && problems[1].contains("'x.json' is not in"),
            "{problems:?}"
        );
        fs::remove_file(root.path().join("book/index.html")).unwrap();
        assert_eq!(problems_of_book(root.path(), &files[..3], &root.path().join("book")).unwrap().len(), 3);
    }
}
