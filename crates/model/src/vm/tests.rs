use proptest::prelude::*;

use super::*;

fn spec() -> VmSpec {
    VmSpec::new(VmImageReference::new("debian:12").unwrap())
}

fn volume(text: &str) -> VolumeMount {
    text.parse().expect(text)
}

fn port(text: &str) -> PublishedPort {
    text.parse().expect(text)
}

/// The field and the message of what is refused after `change`.
#[track_caller]
fn refused(change: impl FnOnce(&mut VmSpec)) -> (String, String) {
    let mut spec = spec();
    change(&mut spec);
    let error = spec.check().expect_err("it was taken");
    assert!(error.fix_text().is_some(), "{error}");
    (error.field_name().unwrap_or_default().to_owned(), error.message().to_owned())
}

#[test]
fn the_documents_example_is_fine() {
    let spec = VmSpec {
        disk_gib: Some(20),
        volumes: vec![volume(".openclaw:/root/.openclaw"), volume("data:/srv/data")],
        workspace: Some("/home/alice/project".into()),
        publish: vec![port("8080:80"), port("8443:443"), port("8081:80")],
        setup: vec!["curl -fsSL https://example.org/install.sh | bash".into(), "openclaw onboard".into()],
        ..spec()
    };
    spec.check().unwrap();
    let again: VmSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
    assert_eq!(again, spec);
    let least: VmSpec = serde_json::from_str(r#"{"image":"ubuntu:24.04"}"#).unwrap();
    assert_eq!(least, VmSpec::new(VmImageReference::new("ubuntu:24.04").unwrap()));
    assert_eq!(serde_json::to_string(&least).unwrap(), r#"{"image":"ubuntu:24.04"}"#);
}

#[test]
fn volumes_are_refused_by_their_flaw() {
    for (text, why) in [
        ("data", "no path"),
        (":/x", "'' can't be a volume's name"),
        (".:/x", "'.' can't be"),
        ("..:/x", "'..' can't be"),
        ("a..b:/x", "'a..b' can't be"),
        ("a/b:/x", "'a/b' can't be"),
        ("a b:/x", "'a b' can't be"),
        ("data:", "not absolute"),
        ("data:x", "not absolute"),
        ("data:~/x", "not absolute"),
        ("data:/", "the whole machine"),
        ("data:/x/", "empty part"),
        ("data:/x//y", "empty part"),
        ("data:/x/../etc", "'.' or '..'"),
        ("data:/x/./y", "'.' or '..'"),
        ("data:/x y", "other characters"),
        ("data:/x:ro", "other characters"),
        ("data:/x\n", "other characters"),
        ("data:/proc", "system's own"),
        ("data:/proc/1", "system's own"),
        ("data:/sys", "system's own"),
        ("data:/dev/shm", "system's own"),
        ("data:/run/user", "system's own"),
        ("data:/etc", "system's own"),
        ("data:/usr", "system's own"),
        ("data:/root", "system's own"),
        ("data:/root/.ssh", "system's own"),
    ] {
        let error = text.parse::<VolumeMount>().expect_err(text);
        assert_eq!(error.field_name(), Some("volume"), "{text}");
        assert!(error.message().contains(why), "{text:?}: {error}");
        assert!(error.fix_text().is_some());
    }
    for text in
        ["data:/procs", "a-b_c.d:/etc/openclaw", "x:/usr/local", "x:/var/lib/claw", ".a.:/root/.openclaw"]
    {
        assert_eq!(volume(text).to_string(), text);
    }
}

#[test]
fn volumes_do_not_hide_each_other() {
    let given = |texts: &[&str]| texts.iter().map(|text| volume(text)).collect::<Vec<_>>();
    for (texts, workspace, field, why) in [
        (&["a:/x", "a:/y"][..], false, "vm.volumes[1].name", "two volumes named 'a'"),
        (&["a:/x", "b:/x"], false, "vm.volumes[1].guest", "the volume 'a' is at '/x' already"),
        (&["a:/x/y/z", "b:/x"], false, "vm.volumes[1].guest", "'/x' would hide the volume 'a' at '/x/y/z'"),
        (&["a:/workspace"], true, "vm.volumes[0].guest", "the workspace is at '/workspace' already"),
    ] {
        let (at, message) = refused(|spec| {
            spec.volumes = given(texts);
            spec.workspace = workspace.then(|| "/home".to_owned());
        });
        assert_eq!(at, field);
        assert!(message.contains(why), "{message}");
    }
    for (texts, workspace) in [
        (&["a:/x", "b:/x/y", "c:/xy"][..], false),
        (&["a:/workspace"], false),
        (&["a:/workspace/cache"], true),
    ] {
        let workspace = workspace.then(|| "/home".to_owned());
        VmSpec { volumes: given(texts), workspace, ..spec() }.check().unwrap();
    }
}

#[test]
fn ports_are_refused_by_their_flaw() {
    for text in
        ["", "80", "80:", ":80", "0:80", "80:0", "65536:80", "80:65536", "-1:80", "+1:80", "a:b", "1:2:3"]
    {
        let error = text.parse::<PublishedPort>().expect_err(text);
        assert_eq!(error.field_name(), Some("publish"), "{text}");
        assert!(error.fix_text().is_some());
    }
    let (field, message) = refused(|spec| spec.publish = vec![port("80:80"), port("80:81")]);
    assert_eq!(field, "vm.publish[1].host");
    assert!(message.contains("80 leads to the machine's port 80 already"), "{message}");
    for (publish, field) in [
        (PublishedPort { host: 0, guest: 1 }, "vm.publish[0].host"),
        (PublishedPort { host: 1, guest: 0 }, "vm.publish[0].guest"),
    ] {
        assert_eq!(refused(|spec| spec.publish = vec![publish]).0, field);
    }
}

#[test]
fn sizes_numbers_and_commands_have_limits() {
    for size in [0, 2049, u32::MAX] {
        assert_eq!(refused(|spec| spec.disk_gib = Some(size)).0, "vm.disk_gib");
    }
    // A base snapshot has a disk of its own size.
    let of_base = refused(|spec| (spec.from_snapshot, spec.disk_gib) = (true, Some(20)));
    assert_eq!(of_base.0, "vm.disk_gib");
    for folder in ["", "x", "../x", "~/x", "/a\0b"] {
        assert_eq!(refused(|spec| spec.workspace = Some(folder.into())).0, "vm.workspace");
    }
    assert_eq!(refused(|spec| spec.setup = vec!["true".into(), " \n".into()]).0, "vm.setup[1]");
    assert_eq!(refused(|spec| spec.setup = vec!["a\0b".into()]).0, "vm.setup[0]");
    assert_eq!(refused(|spec| spec.setup = vec!["x".repeat(VmSpec::SETUP_LEN + 1)]).0, "vm.setup[0]");
    assert_eq!(refused(|spec| spec.setup = vec!["x".into(); VmSpec::SETUP_MAX + 1]).0, "vm.setup");
    assert_eq!(
        refused(|spec| spec.volumes = (0..17).map(|n| volume(&format!("v{n}:/v{n}"))).collect()).0,
        "vm.volumes"
    );
    assert_eq!(
        refused(|spec| spec.publish = (1..=65).map(|n| PublishedPort { host: n, guest: 1 }).collect()).0,
        "vm.publish"
    );
}

/// What a shell user or a hostile client might give.
fn nasty() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9._/:~@+ -]{0,40}",
        ".{0,20}",
        "(/(\\.|\\.\\.|[a-z]{1,3}|proc|sys|dev|root|\\.ssh)){1,5}/?",
    ]
}

proptest! {
    #[test]
    fn a_name_that_is_taken_stays_in_its_folder(text in nasty()) {
        if let Ok(name) = VolumeName::new(text.clone()) {
            let folder = std::path::Path::new("/volumes").join(name.as_str());
            prop_assert_eq!(folder.parent(), Some(std::path::Path::new("/volumes")));
            prop_assert_eq!(folder.components().count(), 3);
            prop_assert!(!text.contains(|c: char| c.is_control() || c.is_whitespace()));
        }
    }

    #[test]
    fn a_path_that_is_taken_is_absolute_and_means_what_it_says(text in nasty()) {
        if let Ok(path) = GuestPath::new(text.clone()) {
            let parts: std::path::PathBuf = std::path::Path::new(path.as_str()).components().collect();
            prop_assert_eq!(parts.to_str(), Some(text.as_str()));
            let normal = parts.components().skip(1).all(|c| matches!(c, std::path::Component::Normal(_)));
            prop_assert!(parts.is_absolute() && normal && parts.components().count() > 1);
            for system in ["/proc", "/sys", "/dev"] {
                prop_assert!(!parts.starts_with(system));
            }
        }
    }

    #[test]
    fn accepted_volumes_are_all_seen(paths in proptest::collection::vec("(/[ab]){1,4}", 1..6)) {
        let volumes: Vec<_> =
            paths.iter().enumerate().map(|(n, path)| volume(&format!("v{n}:{path}"))).collect();
        if (VmSpec { volumes, ..spec() }).check().is_ok() {
            for (at, path) in paths.iter().enumerate() {
                // Nothing that is mounted later is at the path, or above it.
                for later in &paths[at + 1..] {
                    prop_assert!(!std::path::Path::new(path).starts_with(later), "{paths:?}");
                }
            }
        }
    }

    #[test]
    fn no_message_has_raw_control_characters(text in ".{0,60}") {
        for error in [text.parse::<VolumeMount>().err(), text.parse::<PublishedPort>().err()] {
            prop_assert!(!error.is_some_and(|error| error.to_string().contains(char::is_control)));
        }
    }
}
