//! What a change of its configuration asks of a claw of a user's own type.

use std::collections::BTreeSet;

use clawfarm_model::{InstanceSpec, Result};

use super::file::{Reload, TypeFile};
use super::places;
use crate::Impact;
use crate::impact::{self, Asks};

/// What the change from one specification to another asks of a claw that is up.
pub(super) fn impact(file: &TypeFile, before: &InstanceSpec, after: &InstanceSpec) -> Impact {
    let (Ok(of_process), Ok(of_files)) = (words(file.process_places()), words(file.file_places())) else {
        return impact::of_any_type(before, after);
    };
    let listed: Vec<String> = [before, after]
        .into_iter()
        .filter_map(|spec| spec.config.model.as_ref())
        .flat_map(|model| {
            ["type", "api_key", "base_url"].map(|key| format!("providers.{}.{key}", model.provider.as_str()))
        })
        .collect();
    impact::of_places(before, after, |place| {
        let touched = |words: &BTreeSet<String>| words.iter().any(|word| touches(place, word, &listed));
        if touched(&of_process) {
            return Asks::Start;
        }
        let everywhere = impact::everywhere(place);
        match file.reload {
            _ if everywhere == Some(Asks::Start) => Asks::Start,
            Reload::Start if touched(&of_files) => Asks::Start,
            Reload::Itself if touched(&of_files) => Asks::Hot,
            _ => everywhere.unwrap_or(Asks::Nothing),
        }
    })
}

/// The places of a config that are filled in.
fn words(found: Result<BTreeSet<String>>) -> Result<BTreeSet<String>> {
    Ok(found?.iter().filter_map(|name| places::of_config(name)).collect())
}

/// Whether what is filled in at `word` may be otherwise when `place` is.
/// `listed` is what the list of providers says of the model's own.
fn touches(place: &str, word: &str, listed: &[String]) -> bool {
    let within = |outer: &str, inner: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    // Who the model's provider is decides its address, its key and its usual name, and the list
    // of providers has what the model itself does not say.
    let model = |path: &str| within("model", path) && path != "model.fallbacks";
    within(word, place)
        || within(place, word)
        || model(word) && (model(place) || listed.iter().any(|it| it == place))
}

#[cfg(test)]
mod tests {
    use clawfarm_model::config::ClawConfig;
    use serde_json::{Value, json};

    use super::*;

    fn of(reload: &str, before: Value, after: Value) -> Impact {
        let file = TypeFile::parse(&format!(
            r#"
version = "1"
command = ["x", "${{config.native.flag}}"]
{reload}
[env]
MODEL = "${{model.name}}"
[[file]]
path = "a.json"
format = "json"
template = '{{"word": "${{config.native.word}}", "tg": "${{config.channels.telegram.bot_token}}"}}'
"#
        ))
        .unwrap();
        let spec = |config: Value| {
            let mut spec: InstanceSpec = serde_json::from_value(json!({
                "claw_type": "mine", "version": "1", "runtime": "process", "target": "local",
            }))
            .unwrap();
            spec.config = serde_json::from_value::<Box<ClawConfig>>(config).unwrap();
            spec
        };
        impact(&file, &spec(before), &spec(after))
    }

    #[test]
    fn what_it_sees_needs_a_start_but_for_files_that_it_reads_by_itself() {
        let start = |field: &str| Impact::Restart(vec![field.to_owned()]);
        let word = |word: &str| json!({"native": {"word": word}});
        assert_eq!(of("", word("a"), word("a")), Impact::None);
        assert_eq!(of("", word("a"), word("b")), start("config.native.word"));
        let itself = "reload = \"itself\"";
        assert_eq!(of(itself, word("a"), word("b")), Impact::Hot);
        for (config, wanted) in [
            (json!({"native": {"flag": "x"}}), start("config.native.flag")),
            (json!({"env": {"A": "b"}}), start("config.env.A")),
            (json!({"model": {"provider": "demo"}}), start("config.model.provider")),
            // Not the model's own.
            (json!({"providers": {"openai": {"type": "openai"}}}), Impact::None),
            (json!({"channels": {"telegram": {"bot_token": {"secret": "tg"}}}}), Impact::Hot),
            (json!({"inbox": [{"path": "/x", "check": {"type": "open"}}]}), Impact::Hot),
            // It has no words for it.
            (json!({"logging": {"level": "debug"}}), Impact::None),
        ] {
            assert_eq!(of(itself, json!({}), config.clone()), wanted, "{config}");
        }
        let model = |url: &str| {
            let openai = json!({"type": "openai", "base_url": url});
            json!({"model": {"provider": "openai"}, "providers": {"openai": openai}})
        };
        assert_eq!(
            of(itself, model("http://a"), model("http://b")),
            start("config.providers.openai.base_url")
        );
        let mixed = json!({"native": {"word": "b", "flag": "c"}});
        assert_eq!(of(itself, word("a"), mixed), start("config.native.flag"), "only what needs it is named");
    }
}
