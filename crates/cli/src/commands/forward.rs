//! `port-forward`: ports of an instance on this machine.

use std::net::Ipv4Addr;
use std::sync::Arc;

use clap::Args;
use clawfarm_client::Client;
use clawfarm_model::{Code, Error};
use tokio::net::{TcpListener, TcpStream};

use crate::app::App;
use crate::errors::{Outcome, tell_error};
use crate::output::Ui;

/// `clawfarm port-forward`.
#[derive(Debug, Args)]
#[command(
    long_about = "Makes ports of an instance reachable on this machine, at 127.0.0.1, until Ctrl-C. Each is given as [LOCAL:]REMOTE; without LOCAL, or with 0, a free port is chosen and printed. Without any it is the instance's gateway. Only ports that the instance itself listens on are reached, wherever the server is. An instance that sleeps is woken by a connection. Every program on this machine can use the local port while it is open.",
    after_help = "Examples:\n  clawfarm port-forward alice\n  clawfarm port-forward alice 8080:3000\n  clawfarm --context prod port-forward alice 9222 5432:5432"
)]
pub(crate) struct ForwardArgs {
    /// The instance, by id, name or a unique beginning of either
    #[arg(value_name = "INSTANCE")]
    id: String,
    /// The ports, each as REMOTE or LOCAL:REMOTE
    #[arg(value_name = "PORTS", value_parser = ports)]
    ports: Vec<Ports>,
}

/// A port here, 0 for any, and one of the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    local: u16,
    remote: u16,
}

fn ports(text: &str) -> Result<Ports, String> {
    let (local, remote) = text.split_once(':').unwrap_or(("", text));
    let number = |part: &str| {
        // `parse` takes a sign.
        part.parse::<u16>().ok().filter(|_| part.bytes().all(|b| b.is_ascii_digit()))
    };
    let local = if local.is_empty() { Some(0) } else { number(local) };
    match (local, number(remote)) {
        (Some(local), Some(remote @ 1..)) => Ok(Ports { local, remote }),
        _ => Err(format!("'{text}' is not of the form [LOCAL:]REMOTE, with ports of 1 to 65535")),
    }
}

/// `clawfarm port-forward`. Ends with Ctrl-C.
pub(crate) async fn run(app: &App, args: &ForwardArgs) -> Outcome {
    let client = app.client().await?;
    let instance = client.instance(&args.id).await?;
    let id: Arc<str> = instance.id.as_str().into();
    let wanted = match args.ports.as_slice() {
        [] => {
            let remote = instance.port.ok_or_else(|| {
                Error::new(Code::Conflict, format!("'{id}' has no gateway's port yet"))
                    .field("PORTS")
                    .fix("wait until it is made, or name a port")
            })?;
            vec![Ports { local: 0, remote }]
        }
        given => given.to_vec(),
    };
    // All of them or none.
    let mut listeners = Vec::new();
    for ports in &wanted {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.local)).await.map_err(|e| {
            Error::new(Code::Conflict, format!("port {} can't be used here: {e}", ports.local))
                .field("PORTS")
                .fix("give another, or leave it out to have one chosen")
                .source(e)
        })?;
        listeners.push((listener, ports.remote));
    }
    for (listener, remote) in &listeners {
        let local = listener.local_addr()?;
        if app.ui.json {
            app.ui
                .document_line(&serde_json::json!({ "local": local, "instance": &*id, "remote": remote }))?;
        } else {
            app.ui.line(format_args!("{local} -> {id}:{remote}"))?;
        }
    }
    let serving = listeners.into_iter().map(|(listener, remote)| {
        let (client, id, ui) = (client.clone(), Arc::clone(&id), app.ui.clone());
        async move { accept(&ui, &client, &id, listener, remote).await }
    });
    futures::future::try_join_all(serving).await?;
    Ok(crate::errors::OK)
}

/// Serves connections to one local port; returns when no more can be taken.
async fn accept(
    ui: &Ui,
    client: &Client,
    id: &Arc<str>,
    listener: TcpListener,
    remote: u16,
) -> Result<(), Error> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (ui, client, id) = (ui.clone(), client.clone(), Arc::clone(id));
                tokio::spawn(async move {
                    if let Err(error) = carry(&ui, &client, &id, remote, stream).await {
                        tell_error(&ui, &error);
                    }
                });
            }
            // One that hung up before it was taken is no reason to stop.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                return Err(Error::new(Code::Internal, format!("no more connections can be taken: {e}"))
                    .fix("close some, and try again")
                    .source(e));
            }
        }
    }
}

async fn carry(ui: &Ui, client: &Client, id: &str, remote: u16, stream: TcpStream) -> Result<(), Error> {
    // What is small must not wait for more; an error here only means slower.
    let _ = stream.set_nodelay(true);
    match client.port_forward(id, Some(remote)).await {
        Ok(tunnel) => tunnel.carry(stream).await,
        Err(error) => {
            // Told before it is hung up on, so that whoever sees that can read why.
            tell_error(ui, &error);
            drop(stream);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_people_write_them() {
        assert_eq!(ports("3000"), Ok(Ports { local: 0, remote: 3000 }));
        assert_eq!(ports(":3000"), Ok(Ports { local: 0, remote: 3000 }));
        assert_eq!(ports("0:3000"), Ok(Ports { local: 0, remote: 3000 }));
        assert_eq!(ports("8080:80"), Ok(Ports { local: 8080, remote: 80 }));
        for wrong in ["", ":", "0", "80:0", "80:", "65536", "+80", "-1", "a", "1:2:3", "1.2.3.4:80", " 80"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
