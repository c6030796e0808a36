//! Fetching, from a site that does not always do what it should.

use std::sync::Arc;
use std::time::Duration;

use clawfarm_model::Code;
use clawfarm_runtime::NoProgress;
use clawfarm_vm_images::{Format, Images, Origin, Signature};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::tempdir;

use crate::site::{Page, Site, UBUNTU, arch, ubuntu_file};
use crate::support::{Heard, config, images, named, names, on_the_way, raw_disk};

const REF: &str = "ubuntu:24.04";
const MIB: usize = 1 << 20;

fn page(body: &[u8]) -> Page {
    Page { body: body.to_vec(), etag: "\"one\"".into(), ..Page::default() }
}

#[tokio::test]
async fn an_image_is_fetched_once_and_is_what_its_site_says() {
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let disk = raw_disk(3, 1);
    site.put_ubuntu(page(&disk));
    let images = images(folder.path(), &site.url);
    let heard = Heard::default();
    let record = images.fetch(&named(REF), &heard).await.unwrap();
    assert_eq!((record.format, record.disk_bytes), (Format::Raw, disk.len() as u64));
    assert_eq!(std::fs::read(images.path_of(&named(REF))).unwrap(), disk);
    let Origin::Fetched { url, signature } = &record.origin else { panic!("{record:?}") };
    assert!(url.starts_with(&site.url) && *signature == Signature::NoKeyring, "{record:?}");
    let all = heard.all().join("\n");
    assert!(all.contains(&format!("step download {}", disk.len())), "{all}");
    assert!(all.contains(&format!("at {}", disk.len())), "{all}");

    // Neither this one nor another process that begins asks again.
    let before = site.asked("").len();
    assert_eq!(images.fetch(&named(REF), &NoProgress).await.unwrap(), record);
    let later = Images::open(config(folder.path(), &site.url)).unwrap();
    assert_eq!(later.fetch(&named(REF), &NoProgress).await.unwrap(), record);
    assert_eq!(site.asked("").len(), before);
    assert_eq!(names(&folder.path().join("images")), [REF]);
    assert!(on_the_way(&folder.path().join("images")).is_empty());
}

#[tokio::test]
async fn debian_s_longer_digests_are_checked_too() {
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let disk = raw_disk(1, 1);
    let (place, file) = ("/bookworm/latest/", format!("debian-12-genericcloud-{}.qcow2", arch()));
    site.put(&format!("{place}{file}"), page(&disk));
    site.put_list(place, "SHA512SUMS", &file, b"something else");
    let images = images(folder.path(), &site.url);
    let error = images.fetch(&named("debian:12"), &NoProgress).await.unwrap_err();
    assert!(error.message().contains("another digest"), "{error}");
    site.put_list(place, "SHA512SUMS", &file, &disk);
    let record = images.fetch(&named("debian:12"), &NoProgress).await.unwrap();
    assert!(record.digest.starts_with("sha256:"), "{record:?}");
    assert!(matches!(record.origin, Origin::Fetched { signature: Signature::NotSigned, .. }));
}

#[tokio::test]
async fn a_connection_that_is_cut_is_gone_on_with() {
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let disk = raw_disk(3, 1);
    site.put_ubuntu(Page { cut_at: MIB, cuts: 1, ..page(&disk) });
    let images = images(folder.path(), &site.url);
    images.fetch(&named(REF), &NoProgress).await.unwrap();
    assert_eq!(std::fs::read(images.path_of(&named(REF))).unwrap(), disk);
    let asked = site.asked(".img");
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[1].range, Some(format!("bytes={MIB}-")));
    assert_eq!(asked[1].if_range.as_deref(), Some("\"one\""));
}

#[tokio::test]
async fn what_is_cut_again_and_again_is_given_up_and_gone_on_with_later() {
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let disk = raw_disk(2, 1);
    site.put_ubuntu(Page { cut_at: MIB, cuts: usize::MAX, ..page(&disk) });
    let images = images(folder.path(), &site.url);
    let error = images.fetch(&named(REF), &NoProgress).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.fix_text().is_some());
    let listed = images.list().await.unwrap();
    let one = listed.iter().find(|one| one.reference == named(REF)).unwrap();
    assert_eq!((one.partial_bytes, one.record.is_none()), (Some(MIB as u64), true));
    site.put_ubuntu(page(&disk));
    images.fetch(&named(REF), &NoProgress).await.unwrap();
    assert_eq!(site.asked(".img").last().unwrap().range, Some(format!("bytes={MIB}-")));
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_begun_anew() {
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let (old, new) = (raw_disk(2, 1), raw_disk(2, 2));
    let images = images(folder.path(), &site.url);
    site.put_ubuntu(Page { cut_at: MIB, cuts: usize::MAX, ..page(&old) });
    images.fetch(&named(REF), &NoProgress).await.unwrap_err();
    // Another list: what was begun is of no use, and nothing of it is asked on.
    site.put_ubuntu(Page { etag: "\"two\"".into(), ..page(&new) });
    images.fetch(&named(REF), &NoProgress).await.unwrap();
    assert_eq!(std::fs::read(images.path_of(&named(REF))).unwrap(), new);
    assert_eq!(site.asked(".img").last().unwrap().range, None);
}

#[tokio::test]
async fn a_site_that_mixes_two_versions_is_noticed() {
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let (old, new) = (raw_disk(2, 1), raw_disk(2, 2));
    let images = images(folder.path(), &site.url);
    // The list is of the new one already while the old one is sent, under the same tag.
    site.put_ubuntu(page(&new));
    let path = format!("{UBUNTU}{}", ubuntu_file());
    site.put(&path, Page { cut_at: MIB, cuts: usize::MAX, ..page(&old) });
    images.fetch(&named(REF), &NoProgress).await.unwrap_err();
    site.put(&path, page(&new));
    images.fetch(&named(REF), &NoProgress).await.unwrap();
    assert_eq!(std::fs::read(images.path_of(&named(REF))).unwrap(), new);
    let ranges: Vec<bool> = site.asked(".img").iter().rev().take(2).map(|it| it.range.is_some()).collect();
    assert_eq!(ranges, [false, true], "first gone on with, then begun anew");
}

#[tokio::test]
async fn a_wrong_digest_is_refused_and_leaves_nothing() {
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let disk = raw_disk(1, 1);
    site.put_ubuntu(page(&disk));
    site.put(&format!("{UBUNTU}{}", ubuntu_file()), page(&raw_disk(1, 9)));
    let images = images(folder.path(), &site.url);
    let error = images.fetch(&named(REF), &NoProgress).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::Unavailable, Some("image")), "{error}");
    assert!(error.message().contains("another digest"), "{error}");
    assert!(names(&folder.path().join("images")).is_empty());
    assert!(on_the_way(&folder.path().join("images")).is_empty());
    site.put_ubuntu(page(&disk));
    images.fetch(&named(REF), &NoProgress).await.unwrap();
}

#[tokio::test]
async fn what_the_site_does_not_have_is_told() {
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let images = images(folder.path(), &site.url);
    let day = images.fetch(&named("ubuntu:24.04@20250115"), &NoProgress).await.unwrap_err();
    assert_eq!((day.code(), day.field_name()), (Code::NotFound, Some("image")), "{day}");
    assert!(day.message().contains("/releases/24.04/release-20250115/"), "{day}");
    site.put_ubuntu(page(&raw_disk(1, 1)));
    site.remove(&format!("{UBUNTU}{}", ubuntu_file()));
    assert_eq!(images.fetch(&named(REF), &NoProgress).await.unwrap_err().code(), Code::NotFound);
    // A list that does not name it.
    site.put_list(UBUNTU, "SHA256SUMS", "other.img", b"");
    let error = images.fetch(&named(REF), &NoProgress).await.unwrap_err();
    assert!(error.code() == Code::NotFound && error.message().contains("no digest"), "{error}");
    // What no site has is not asked for.
    let before = site.asked("").len();
    let error = images.fetch(&named("my-own:1"), &NoProgress).await.unwrap_err();
    assert_eq!((error.code(), site.asked("").len()), (Code::NotFound, before));
    assert!(on_the_way(&folder.path().join("images")).is_empty());
}

#[tokio::test]
async fn a_site_that_is_busy_is_asked_again() {
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let disk = raw_disk(1, 1);
    site.put_ubuntu(Page { status: 503, refusals: 2, ..page(&disk) });
    images(folder.path(), &site.url).fetch(&named(REF), &NoProgress).await.unwrap();
    assert_eq!(site.asked(".img").len(), 3);
    // What is refused for good is not.
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    site.put_ubuntu(Page { status: 403, refusals: 9, ..page(&disk) });
    let error = images(folder.path(), &site.url).fetch(&named(REF), &NoProgress).await.unwrap_err();
    assert_eq!((error.code(), site.asked(".img").len()), (Code::Unavailable, 1), "{error}");
}

#[tokio::test]
async fn redirects_are_followed_and_not_without_an_end() {
    let (folder, site, mirror) = (tempdir().unwrap(), Site::start().await, Site::start().await);
    let disk = raw_disk(2, 1);
    let path = format!("{UBUNTU}{}", ubuntu_file());
    site.put_ubuntu(page(&disk));
    site.put(&path, Page { redirect: "../elsewhere".into(), ..Page::default() });
    site.put(
        &format!("{UBUNTU}../elsewhere"),
        Page { redirect: format!("{}x.img", mirror.url), ..Page::default() },
    );
    mirror.put("/x.img", Page { cut_at: MIB, cuts: 1, ..page(&disk) });
    let images = images(folder.path(), &site.url);
    images.fetch(&named(REF), &NoProgress).await.unwrap();
    // What was cut off is gone on with at the address where it really is.
    assert_eq!(mirror.asked("x.img")[1].range, Some(format!("bytes={MIB}-")));
    images.remove(&named(REF)).await.unwrap();
    site.put(&path, Page { redirect: path.clone(), ..Page::default() });
    let error = images.fetch(&named(REF), &NoProgress).await.unwrap_err();
    assert!(error.message().contains("without an end"), "{error}");
}

#[tokio::test]
async fn https_is_not_left_and_not_given_up() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let (folder, plain) = (tempdir().unwrap(), Site::start().await);
    let site = Site::with_tls(tokio_rustls::TlsAcceptor::from(Arc::new(tls))).await;
    let disk = raw_disk(1, 1);
    site.put_ubuntu(page(&disk));
    plain.put_ubuntu(page(&disk));

    // Its authority is none that this machine trusts.
    let error = images(folder.path(), &site.url).fetch(&named(REF), &NoProgress).await.unwrap_err();
    assert!(error.code() == Code::Unavailable && error.message().contains("TLS"), "{error}");

    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, cert.pem()).unwrap();
    let trusting = Images::open(clawfarm_vm_images::ImagesConfig {
        site_ca: Some(ca),
        ..config(folder.path(), &site.url)
    })
    .unwrap();
    let path = format!("{UBUNTU}{}", ubuntu_file());
    let to = format!("{}{}", plain.url.trim_end_matches('/'), path);
    site.put(&path, Page { redirect: to, ..Page::default() });
    let error = trusting.fetch(&named(REF), &NoProgress).await.unwrap_err();
    assert_eq!(error.code(), Code::Forbidden, "{error}");
    assert!(plain.asked(".img").is_empty());
    site.put(&path, page(&disk));
    trusting.fetch(&named(REF), &NoProgress).await.unwrap();
}

#[tokio::test]
async fn one_who_sends_nothing_is_not_waited_for() {
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let disk = raw_disk(2, 1);
    site.put_ubuntu(Page { hold_at: Some(MIB), ..page(&disk) });
    let mut config = config(folder.path(), &site.url);
    config.limits.stall = Duration::from_millis(500);
    config.limits.tries = 1;
    let error = Images::open(config).unwrap().fetch(&named(REF), &NoProgress).await.unwrap_err();
    assert_eq!(error.code(), Code::Timeout, "{error}");
    assert!(error.message().contains("sent nothing"), "{error}");
    // What came is not lost; how much that is, the machine decides.
    let images = images(folder.path(), &site.url);
    let listed = images.list().await.unwrap();
    let came = listed.iter().find_map(|one| one.partial_bytes).filter(|bytes| *bytes > 0);
    site.let_go();
    images.fetch(&named(REF), &NoProgress).await.unwrap();
    let asked = site.asked(".img").last().unwrap().range.clone();
    assert_eq!(asked, came.map(|bytes| format!("bytes={bytes}-")));
}

#[tokio::test]
async fn what_is_no_image_or_too_large_is_refused() {
    let (folder, site) = (tempdir().unwrap(), Site::start().await);
    let images = images(folder.path(), &site.url);
    site.put_ubuntu(page(b"<html>log in to the network first</html>"));
    let error = images.fetch(&named(REF), &NoProgress).await.unwrap_err();
    assert_eq!((error.code(), error.field_name()), (Code::InvalidInput, Some("image")), "{error}");
    site.put_ubuntu(Page { claimed: Some(3 << 40), ..page(&raw_disk(1, 1)) });
    let error = images.fetch(&named(REF), &NoProgress).await.unwrap_err();
    assert_eq!(error.code(), Code::Insufficient, "{error}");
    // More than the disk has.
    site.put_ubuntu(Page { claimed: Some(1 << 40), ..page(&raw_disk(1, 1)) });
    let error = images.fetch(&named(REF), &NoProgress).await.unwrap_err();
    assert!(error.code() == Code::Insufficient && error.message().contains("MiB free"), "{error}");
    assert!(names(&folder.path().join("images")).is_empty());
}
