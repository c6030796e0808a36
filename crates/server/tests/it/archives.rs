//! Archives over HTTP: streamed out, streamed in, refused.

use bytes::Bytes;
use clawfarm_api::{CreateInstance, RestoreQuery};
use clawfarm_client::Client;
use clawfarm_model::name::InstanceName;
use clawfarm_model::{Code, Timestamp};
use futures::stream::{self, StreamExt};
use http::Method;

use crate::farm::{Farm, LIMIT, Running, request};

async fn ready(client: &Client, made: &clawfarm_api::Accepted) -> String {
    let begun = std::time::Instant::now();
    loop {
        let wait = std::time::Duration::from_secs(10);
        let now = client
            .operation_changed(&made.operation.id, Timestamp::from_millis(i64::MAX), wait)
            .await
            .unwrap();
        if now.state.ended() {
            assert!(now.error.is_none(), "{now:?}");
            return made.instance.id.as_str().to_owned();
        }
        assert!(begun.elapsed() < LIMIT, "{now:?}");
    }
}

async fn send(
    client: &Client,
    query: &RestoreQuery,
    bytes: Vec<u8>,
) -> clawfarm_model::Result<clawfarm_api::Accepted> {
    let length = bytes.len() as u64;
    let pieces: Vec<_> = bytes.chunks(64 << 10).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    client.restore(query, length, stream::iter(pieces).boxed()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_goes_out_and_comes_in_and_what_is_none_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path()).await;
    let client = server.client();
    let new = CreateInstance { claw_type: "openclaw".into(), ..CreateInstance::default() };
    let id = ready(&client, &client.create(&new, None).await.unwrap()).await;
    let pieces: Vec<_> = client.backup(&id).await.unwrap().collect().await;
    let archive: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.unwrap()).collect();
    let query = RestoreQuery { name: Some(InstanceName::new("bob").unwrap()), ..RestoreQuery::default() };
    let bob = ready(&client, &send(&client, &query, archive.clone()).await.unwrap()).await;
    assert!(bob.starts_with("bob-"));
    assert_eq!(client.backup("nobody").await.err().unwrap().code(), Code::NotFound);

    // It is known to be wrong long before it was sent: its caller is told all the same.
    let mut long = archive.clone();
    long[10] ^= 1;
    long.resize(24 << 20, 7);
    let error = send(&client, &query, long).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("archive")), "{error:?}");
    let error = send(&client, &query, archive[..archive.len() / 2].to_vec()).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("archive")), "{error:?}");
    // Larger than any other body may be, and cut off on its way.
    let broken = stream::iter([Ok(Bytes::from(vec![1; 2 << 20])), Err(std::io::Error::other("gone"))]);
    assert!(client.restore(&query, 4 << 20, broken.boxed()).await.is_err());
    let all = client.instances(&Default::default()).await.unwrap().items;
    assert_eq!(all.len(), 2, "{all:?}");
    server.ended().await;
}

#[tokio::test]
async fn what_is_not_said_to_be_an_archive_is_not_read() {
    let farm = Farm::new().await;
    for (path, content_type, status, field) in [
        ("/api/v1/restore", "application/json", 415, "Content-Type"),
        ("/api/v1/restore?nam=bob", "application/zstd", 400, "nam"),
        ("/api/v1/restore?name=B%20b", "application/zstd", 400, "name"),
        ("/api/v1/restore?target=nowhere", "application/zstd", 400, "archive"),
    ] {
        let built = request(Method::POST, path).header("content-type", content_type);
        let answer = farm.ask(built.body(axum::body::Body::from("x")).unwrap()).await;
        let problem = answer.json();
        assert_eq!(
            (answer.status.as_u16(), problem["field"].as_str()),
            (status, Some(field)),
            "{path}: {problem}"
        );
        assert!(problem["fix"].is_string(), "{problem}");
    }
}
