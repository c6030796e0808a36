//! A distribution's site, or a mirror of it, that does what a test says.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use ring::digest::{SHA256, SHA512, digest};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Where Ubuntu has the images of 24.04.
pub(crate) const UBUNTU: &str = "/releases/24.04/release/";

/// The name of Ubuntu's image for this processor.
pub(crate) fn ubuntu_file() -> String {
    format!("ubuntu-24.04-server-cloudimg-{}.img", arch())
}

pub(crate) fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// A file of the site, and how it is sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) body: Vec<u8>,
    /// What tells its version; none when empty.
    pub(crate) etag: String,
    /// The connection ends behind so many bytes of the body, as often as `cuts` says.
    pub(crate) cut_at: usize,
    pub(crate) cuts: usize,
    /// Nothing more comes behind so many bytes until the test lets it.
    pub(crate) hold_at: Option<usize>,
    /// Its length is not told.
    pub(crate) no_length: bool,
    /// It is somewhere else.
    pub(crate) redirect: String,
    /// It is answered with this so often before it is sent.
    pub(crate) status: u16,
    pub(crate) refusals: usize,
    /// The length that is told instead of its own.
    pub(crate) claimed: Option<u64>,
}

/// What was asked for, in order.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) if_range: Option<String>,
}

#[derive(Default)]
struct State {
    pages: HashMap<String, Page>,
    asked: Vec<Asked>,
}

/// The site; ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Site {
    state: Arc<Mutex<State>>,
    let_go: watch::Sender<bool>,
    /// Its address, ending in `/`.
    pub(crate) url: String,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::serve(None).await
    }

    /// The same with TLS.
    pub(crate) async fn with_tls(acceptor: tokio_rustls::TlsAcceptor) -> Self {
        Self::serve(Some(acceptor)).await
    }

    async fn serve(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let site = Self {
            state: Arc::default(),
            let_go: watch::Sender::new(false),
            url: format!("{scheme}://localhost:{port}/"),
        };
        let this = site.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (this, tls) = (this.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => this.answer(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                this.answer(stream).await;
                            }
                        }
                    }
                });
            }
        });
        site
    }

    pub(crate) fn put(&self, path: &str, page: Page) {
        self.state.lock().unwrap().pages.insert(path.to_owned(), page);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.state.lock().unwrap().pages.remove(path);
    }

    /// Puts Ubuntu's image there, sent as `page` says, with its list of digests.
    pub(crate) fn put_ubuntu(&self, page: Page) {
        self.put_list(UBUNTU, "SHA256SUMS", &ubuntu_file(), &page.body);
        self.put(&format!("{UBUNTU}{}", ubuntu_file()), page);
    }

    /// A list of digests as its makers write them.
    pub(crate) fn put_list(&self, folder: &str, name: &str, file: &str, body: &[u8]) {
        let algorithm = if name == "SHA512SUMS" { &SHA512 } else { &SHA256 };
        let mut list = format!("{} *another.img\n", "0".repeat(2 * algorithm.output_len()));
        for byte in digest(algorithm, body).as_ref() {
            let _ = write!(list, "{byte:02x}");
        }
        let _ = writeln!(list, " *{file}");
        self.put(&format!("{folder}{name}"), Page { body: list.into_bytes(), ..Page::default() });
    }

    /// What was asked for so far, below a path.
    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        self.state.lock().unwrap().asked.iter().filter(|asked| asked.path.contains(path)).cloned().collect()
    }

    /// Lets what is held go on, and holds nothing any more.
    pub(crate) fn let_go(&self) {
        self.let_go.send_replace(true);
    }

    async fn answer<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        // Whoever went away does not hear the rest.
        let _ = self.send(&mut stream, &String::from_utf8_lossy(&head)).await;
        let _ = stream.shutdown().await;
    }

    async fn send<S: AsyncWrite + Unpin>(&self, stream: &mut S, head: &str) -> std::io::Result<()> {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let (range, if_range) = (header("range"), header("if-range"));
        let page = {
            let mut state = self.state.lock().unwrap();
            let asked = Asked { path: path.clone(), range: range.clone(), if_range: if_range.clone() };
            state.asked.push(asked);
            let page = state.pages.get(&path).cloned();
            if let Some(kept) = state.pages.get_mut(&path) {
                kept.refusals = kept.refusals.saturating_sub(1);
                if kept.refusals == 0 && page.as_ref().is_some_and(|page| page.refusals == 0) {
                    kept.cuts = kept.cuts.saturating_sub(1);
                }
            }
            page
        };
        let Some(page) = page else {
            return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
        };
        if page.refusals > 0 {
            let text = format!("HTTP/1.1 {} No\r\ncontent-length: 0\r\n\r\n", page.status);
            return stream.write_all(text.as_bytes()).await;
        }
        if !page.redirect.is_empty() {
            let text =
                format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", page.redirect);
            return stream.write_all(text.as_bytes()).await;
        }
        let total = page.body.len();
        let from = range
            .filter(|_| !page.etag.is_empty() && if_range.is_none_or(|etag| etag == page.etag))
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let mut text = match from {
            Some(from) if from >= total => {
                return stream
                    .write_all(b"HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
            Some(from) => format!(
                "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {from}-{}/{total}\r\n",
                total - 1
            ),
            None => "HTTP/1.1 200 OK\r\n".to_owned(),
        };
        let from = from.unwrap_or(0);
        if !page.etag.is_empty() {
            let _ = write!(text, "etag: {}\r\n", page.etag);
        }
        if page.no_length {
            text.push_str("connection: close\r\n\r\n");
        } else {
            let length = page.claimed.unwrap_or((total - from) as u64);
            let _ = write!(text, "content-length: {length}\r\n\r\n");
        }
        stream.write_all(text.as_bytes()).await?;
        let end = if page.cuts > 0 { page.cut_at.clamp(from, total) } else { total };
        let hold = page.hold_at.unwrap_or(end).clamp(from, end);
        stream.write_all(&page.body[from..hold]).await?;
        stream.flush().await?;
        if page.hold_at.is_some() {
            let mut let_go = self.let_go.subscribe();
            let _ = let_go.wait_for(|go| *go).await;
        }
        stream.write_all(&page.body[hold..end]).await?;
        stream.flush().await
    }
}
