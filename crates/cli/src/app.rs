//! What a command works with: where it prints, and which server it speaks to.

use std::path::PathBuf;

use clawfarm_api::ServerInfo;
use clawfarm_client::Client;
use clawfarm_model::Error;

use crate::cli::Global;
use crate::connect::{self, Server};
use crate::output::Ui;

/// What a command works with.
#[derive(Debug)]
pub(crate) struct App {
    /// Where and how it prints.
    pub(crate) ui: Ui,
    /// What every command understands.
    pub(crate) global: Global,
}

impl App {
    /// From what was typed.
    pub(crate) fn new(global: Global) -> Self {
        Self { ui: Ui::new(global.json, global.color), global }
    }

    /// The folder that the server and its claws live in, as an absolute path.
    pub(crate) fn home(&self) -> Result<PathBuf, Error> {
        let home = match &self.global.home {
            Some(home) if home.as_os_str().is_empty() => {
                return Err(Error::invalid("--home", "it is empty").fix("give a folder, or leave it out"));
            }
            Some(home) => home.clone(),
            None => std::env::home_dir()
                .filter(|home| !home.as_os_str().is_empty())
                .ok_or_else(|| {
                    Error::invalid("--home", "you have no home folder to put .clawfarm in")
                        .fix("give a folder with --home or CLAWFARM_HOME")
                })?
                .join(".clawfarm"),
        };
        std::path::absolute(&home)
            .map_err(|e| Error::invalid("--home", format!("{} can't be used: {e}", home.display())))
    }

    /// The server this command is for.
    pub(crate) fn server(&self) -> Result<Server, Error> {
        Server::find(self)
    }

    /// A client of the server, which is started when it is this machine's and does not run.
    pub(crate) async fn client(&self) -> Result<Client, Error> {
        let server = self.server()?;
        connect::connect_or_start(self, &server).await
    }

    /// A client of the server if it runs; starts none, and takes one of any version.
    pub(crate) async fn running(&self) -> Result<Option<(Client, ServerInfo)>, Error> {
        let server = self.server()?;
        connect::connect(&server).await
    }
}
