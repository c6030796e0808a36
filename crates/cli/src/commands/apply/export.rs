//! `export`.

use clap::Args;
use clawfarm_api::{ConfigView, InstanceView};
use clawfarm_client::Client;
use clawfarm_model::{Code, ConfigName, Error};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use super::Fleet;
use crate::app::App;
use crate::errors::{FAILED, Failure, OK, Outcome};
use crate::manifest::{self, Manifest, of_instance};
use crate::output::clean_block;

/// So many instances are read at once.
const AT_ONCE: usize = 8;

/// `clawfarm export`.
#[derive(Debug, Args)]
#[command(
    long_about = "Writes configurations and instances as documents that 'clawfarm apply' takes: everything, or what is named. Of a configuration it writes the revision that is published, and tells on standard error when a newer one is not. Secrets are in them by name only. What is not written are the home or the dataset that an instance began with, and the values of its own secrets: 'clawfarm backup' has all of one instance. Ends with code 1 when something could not be written: instances that share a name with another can't be told apart by it.",
    after_help = "Examples:\n  clawfarm export > farm.yaml\n  clawfarm export --template support alice"
)]
pub(crate) struct ExportArgs {
    /// Instances, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    ids: Vec<String>,
    /// A configuration; several times for several
    #[arg(long, value_name = "NAME")]
    template: Vec<ConfigName>,
}

/// `clawfarm export`.
pub(crate) async fn export(app: &App, args: &ExportArgs) -> Outcome {
    let client = app.client().await?;
    let everything = args.ids.is_empty() && args.template.is_empty();
    let names = match everything {
        true => client.configs().await?.items.into_iter().map(|it| it.name).collect(),
        false => args.template.clone(),
    };
    let mut manifests = Vec::new();
    for name in &names {
        match client.config(name).await {
            Ok(view) => manifests.push(config(app, &client, &view).await?),
            // It was there a moment ago.
            Err(error) if everything && error.code() == Code::NotFound => {
                app.ui.warn(format_args!("{name} was removed meanwhile, and is left out"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let (views, shared) = match everything {
        true => Fleet::read(&client).await?.apart(),
        false => {
            let mut named = Vec::new();
            for id in &args.ids {
                named.push(client.instance(id).await?);
            }
            (named, Vec::new())
        }
    };
    manifests.extend(instances(app, &client, views, everything).await?);
    let documents: Vec<Value> = manifests.iter().map(Manifest::document).collect::<Result<_, _>>()?;
    if app.ui.json {
        app.ui.document(&documents)?;
    } else if app.ui.out_is_terminal {
        app.ui.line(clean_block(manifest::write(&documents)?.trim_end()))?;
    } else {
        app.ui.raw(manifest::write(&documents)?.as_bytes())?;
    }
    for (name, views) in &shared {
        let ids: Vec<_> = views.iter().map(|it| it.id.as_str()).collect();
        app.ui.warn(format_args!(
            "{} are all named {name}, and are left out: a document knows an instance by its name",
            ids.join(", ")
        ));
    }
    if shared.is_empty() { Ok(OK) } else { Err(Failure::Told(FAILED)) }
}

/// What the instances of a configuration go by.
async fn config(app: &App, client: &Client, view: &ConfigView) -> Result<Manifest, Error> {
    let (name, head) = (&view.config.name, view.config.head);
    match view.config.published {
        Some(number) if number == head => Ok(Manifest::of_config(name, &view.newest.content)),
        Some(number) => {
            app.ui.warn(format_args!(
                "{name}: revision {head} is newer than {number}, which is published and written here"
            ));
            Ok(Manifest::of_config(name, &client.revision(name, number).await?.content))
        }
        None => {
            app.ui.warn(format_args!("{name}: revision {head} is written here, and was never published"));
            Ok(Manifest::of_config(name, &view.newest.content))
        }
    }
}

/// Their documents, in their order.
async fn instances(
    app: &App,
    client: &Client,
    views: Vec<InstanceView>,
    everything: bool,
) -> Result<Vec<Manifest>, Error> {
    let one = |view: InstanceView| async move {
        match client.explain(view.id.as_str()).await {
            Ok(explained) => Ok(Some(Manifest::Instance(Box::new(of_instance(&view, &explained))))),
            // It was there a moment ago.
            Err(error) if everything && matches!(error.code(), Code::NotFound | Code::Gone) => {
                app.ui.warn(format_args!("{} was removed meanwhile, and is left out", view.id));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    };
    let all: Vec<Option<Manifest>> =
        futures::stream::iter(views.into_iter().map(one)).buffered(AT_ONCE).try_collect().await?;
    Ok(all.into_iter().flatten().collect())
}
