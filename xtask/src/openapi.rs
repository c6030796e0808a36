//! The API's description, as it is checked in.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// Where it is, from the repository's folder.
const FILE: &str = "docs/openapi.json";

/// Writes it, if it is not as the server has it now.
pub(crate) fn write(root: &Path) -> Result<()> {
    let made = made()?;
    if kept(root)?.as_deref() == Some(made.as_str()) {
        println!("{FILE} is current");
        return Ok(());
    }
    std::fs::write(root.join(FILE), made).with_context(|| format!("{FILE} can't be written"))?;
    println!("{FILE} written");
    Ok(())
}

/// Fails when it is not as the server has it now.
pub(crate) fn check(root: &Path) -> Result<()> {
    match kept(root)? {
        Some(kept) if kept == made()? => Ok(()),
        Some(_) => bail!("{FILE} is not current: run `cargo xtask openapi`"),
        None => bail!("there is no {FILE}: run `cargo xtask openapi`"),
    }
}

fn made() -> Result<String> {
    let text = clawfarm_server::openapi().to_pretty_json().context("the API's description")?;
    Ok(text + "\n")
}

fn kept(root: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(root.join(FILE)) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("{FILE} can't be read")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_old_is_found_and_mended() {
        let root = std::env::temp_dir().join(format!("clawfarm-xtask-{}", std::process::id()));
        std::fs::create_dir_all(root.join("docs")).unwrap();
        assert!(check(&root).unwrap_err().to_string().contains("there is no"));
        std::fs::write(root.join(FILE), "{}").unwrap();
        assert!(check(&root).unwrap_err().to_string().contains("not current"));
        write(&root).unwrap();
        check(&root).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
    }
}
