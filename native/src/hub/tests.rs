//! The hub against a server of our own on this machine.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::fetch::testing::{Interrupting, Says, Server, body, sha};

fn listing(files: &[(&str, &[u8])]) -> Vec<u8> {
    let siblings: Vec<_> = files
        .iter()
        .map(|(name, body)| {
            serde_json::json!({
                "rfilename": name, "size": body.len(), "blobId": "x",
                "lfs": { "sha256": sha(body), "size": body.len(), "pointerSize": 130 }
            })
        })
        .collect();
    serde_json::to_vec(&serde_json::json!({ "id": "a/b", "sha": "c0ffee", "siblings": siblings })).unwrap()
}

fn hub(server: &str, cache: &Path) -> Hub {
    Hub::new(HubOptions {
        endpoint: server.to_owned(),
        token: Some("hf_secret".to_owned()),
        cache: Cache::new(cache),
        offline: false,
        waits: vec![Duration::from_millis(1); 3],
    })
    .unwrap()
}

fn name(text: &str) -> ModelName {
    text.parse().unwrap()
}

fn wanted(text: &str) -> Wanted {
    Wanted::parse(text, DEFAULT_ENDPOINT).unwrap()
}

/// A server with one repository a/b holding these files.
fn repository(files: &'static [(&'static str, usize)]) -> Server {
    Server::start(move |asked, _| {
        let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(name, len)| (*name, body(*len))).collect();
        if asked.path.starts_with("/api/models/a/b") {
            let pairs: Vec<(&str, &[u8])> = files.iter().map(|(name, body)| (*name, &body[..])).collect();
            return Says::new(200, listing(&pairs));
        }
        match files.iter().find(|(name, _)| asked.path == format!("/a/b/resolve/c0ffee/{name}")) {
            Some((_, body)) => Says::file(asked, body, &sha(body)),
            None => Says::new(404, "").with("x-error-code", "EntryNotFound"),
        }
    })
}

#[test]
fn a_model_is_fetched_whole_once_and_then_found() {
    let dir = TempDir::new().unwrap();
    let server = repository(&[("m-TQ2_0.gguf", 700_000), ("m-F16.gguf", 10), ("README.md", 5)]);
    let hub = hub(&server.address, dir.path());
    let model = hub.pull(&name("a/b"), None, &mut Silent).unwrap();
    assert_eq!((model.fetched, model.size), (1, 700_000));
    assert_eq!(model.paths, [dir.path().join("models/a/b/m-TQ2_0.gguf")]);
    assert_eq!(fs::read(&model.paths[0]).unwrap(), body(700_000));
    assert!(!dir.path().join("models/a/b/m-TQ2_0.gguf.part").exists());
    assert!(!dir.path().join("models/a/b/m-TQ2_0.gguf.part.json").exists());
    assert_eq!(server.asked()[0].headers["authorization"], "Bearer hf_secret");

    assert_eq!(hub.pull(&name("a/b"), None, &mut Silent).unwrap().fetched, 0);
    assert_eq!(server.asked_for("/resolve/").len(), 1);
    let before = server.asked().len();
    assert_eq!(hub.locate(&name("a/b:tq2_0"), None, &mut Silent).unwrap().paths, model.paths);
    assert_eq!(server.asked().len(), before, "a model that is here needs no network");
}

#[test]
fn a_cut_connection_is_taken_up_where_it_broke() {
    let dir = TempDir::new().unwrap();
    let content = body(900_000);
    let served = content.clone();
    let server = Server::start(move |asked, before| {
        if asked.path.starts_with("/api/") {
            return Says::new(200, listing(&[("m.gguf", &served)]));
        }
        let mut says = Says::file(asked, &served, "v1");
        says.cut = (before < 2).then_some(300_000);
        says
    });
    let model = hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap();
    assert_eq!(fs::read(&model.paths[0]).unwrap(), content);
    let gets = server.asked_for("/resolve/");
    assert_eq!(gets.len(), 3);
    assert_eq!(gets[0].headers.get("range"), None);
    assert_eq!(gets[1].headers["range"], "bytes=300000-");
    assert_eq!(gets[1].headers["if-range"], "\"v1\"");
    assert_eq!(gets[2].headers["range"], "bytes=600000-");
}

#[test]
fn a_later_process_goes_on_with_what_an_earlier_one_left() {
    let dir = TempDir::new().unwrap();
    let content = body(500_000);
    let served = content.clone();
    let works = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let switch = Arc::clone(&works);
    let server = Server::start(move |asked, before| {
        if asked.path.starts_with("/api/") {
            return Says::new(200, listing(&[("m.gguf", &served)]));
        }
        if switch.load(std::sync::atomic::Ordering::SeqCst) {
            return Says::file(asked, &served, "v1");
        }
        let mut says = if before == 0 { Says::file(asked, &served, "v1") } else { Says::new(503, "") };
        says.cut = Some(200_000);
        says
    });
    let hub = hub(&server.address, dir.path());
    let error = hub.pull(&name("a/b"), None, &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Fetch(FetchError::ServerFailed { status: 503, .. })), "{error}");
    assert_eq!(fs::metadata(dir.path().join("models/a/b/m.gguf.part")).unwrap().len(), 200_000);
    let listed = hub.cache().list().unwrap();
    assert_eq!((listed.len(), listed[0].complete, listed[0].size), (1, false, 200_000));

    works.store(true, std::sync::atomic::Ordering::SeqCst);
    let model = self::hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap();
    assert_eq!(fs::read(&model.paths[0]).unwrap(), content);
    assert_eq!(server.asked_for("/resolve/").last().unwrap().headers["range"], "bytes=200000-");
}

#[test]
fn a_part_of_other_content_is_not_gone_on_with() {
    let dir = TempDir::new().unwrap();
    let server = repository(&[("m.gguf", 400_000)]);
    let folder = dir.path().join("models/a/b");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("m.gguf.part"), vec![7; 1000]).unwrap();
    fs::write(folder.join("m.gguf.part.json"), format!("{{\"sha256\":\"{}\"}}", sha(b"older"))).unwrap();
    let model = hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap();
    assert_eq!(fs::read(&model.paths[0]).unwrap(), body(400_000));
    assert_eq!(server.asked_for("/resolve/")[0].headers.get("range"), None);
}

#[test]
fn a_part_that_is_complete_already_is_checked_and_named() {
    let dir = TempDir::new().unwrap();
    let server = repository(&[("m.gguf", 4000)]);
    let folder = dir.path().join("models/a/b");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("m.gguf.part"), body(4000)).unwrap();
    fs::write(folder.join("m.gguf.part.json"), format!("{{\"sha256\":\"{}\"}}", sha(&body(4000)))).unwrap();
    hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap();
    assert!(server.asked_for("/resolve/").is_empty());
    assert_eq!(fs::read(folder.join("m.gguf")).unwrap(), body(4000));
}

#[test]
fn changed_content_under_the_same_name_is_fetched_again() {
    let dir = TempDir::new().unwrap();
    let server = repository(&[("m.gguf", 4000)]);
    let newer = repository(&[("m.gguf", 5000)]);
    hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap();
    let model = hub(&newer.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap();
    assert_eq!((model.fetched, fs::read(&model.paths[0]).unwrap().len()), (1, 5000));
}

#[test]
fn content_that_is_not_what_was_announced_is_deleted() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(|asked, _| {
        if asked.path.starts_with("/api/") {
            return Says::new(200, listing(&[("m.gguf", &body(1000))]));
        }
        Says::new(200, vec![0; 1000])
    });
    let error = hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Fetch(FetchError::Checksum { .. })), "{error}");
    assert!(!dir.path().join("models/a/b/m.gguf").exists());
    assert!(!dir.path().join("models/a/b/m.gguf.part").exists());
}

#[test]
fn more_or_fewer_bytes_than_listed_are_an_error() {
    for served in [900, 1100] {
        let dir = TempDir::new().unwrap();
        let server = Server::start(move |asked, _| match asked.path.starts_with("/api/") {
            true => Says::new(200, listing(&[("m.gguf", &body(1000))])),
            false => Says::new(200, body(served)),
        });
        let error = hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap_err();
        assert!(matches!(error, HubError::Fetch(FetchError::WrongSize { expected: 1000, .. })), "{error}");
    }
}

#[test]
fn a_checksum_on_the_redirect_is_honoured_when_the_listing_has_none() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(|asked, _| {
        if asked.path.starts_with("/api/") {
            return Says::new(200, r#"{"siblings":[{"rfilename":"m.gguf"}]}"#);
        }
        match asked.path.as_str() {
            "/a/b/resolve/main/m.gguf" => {
                Says::new(302, "").with("location", "/blob").with("x-linked-etag", format!("\"{}\"", sha(b"other")))
            }
            _ => Says::new(200, "GGUF"),
        }
    });
    let error = hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Fetch(FetchError::Checksum { .. })), "{error}");
}

#[test]
fn a_redirect_to_another_host_does_not_carry_the_token() {
    let dir = TempDir::new().unwrap();
    let storage = Server::start(|asked, _| Says::file(asked, &body(3000), "s"));
    // The same machine under another name is another host.
    let target = storage.address.replace("127.0.0.1", "localhost") + "/blob?signature=x";
    let server = Server::start(move |asked, _| {
        if asked.path.starts_with("/api/") {
            return Says::new(200, listing(&[("m.gguf", &body(3000))]));
        }
        if asked.path.contains("/resolve/") {
            return Says::new(307, "").with("location", "/moved/m.gguf");
        }
        Says::new(302, "").with("location", target.clone())
    });
    hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap();
    assert!(server.asked().iter().all(|asked| asked.headers["authorization"] == "Bearer hf_secret"));
    assert_eq!(server.asked_for("/moved/").len(), 1);
    assert_eq!(storage.asked().len(), 1);
    assert_eq!(storage.asked()[0].headers.get("authorization"), None);
}

#[test]
fn redirects_to_files_or_in_circles_end() {
    for target in ["file:///etc/passwd", "/a/b/resolve/c0ffee/m.gguf"] {
        let dir = TempDir::new().unwrap();
        let server = Server::start(move |asked, _| match asked.path.starts_with("/api/") {
            true => Says::new(200, listing(&[("m.gguf", b"x")])),
            false => Says::new(302, "").with("location", target),
        });
        let error = hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap_err();
        assert!(matches!(error, HubError::Fetch(FetchError::BadRedirect { .. })), "{error}");
    }
}

#[test]
fn each_refusal_has_its_own_message() {
    let failure = |status: u16, code: &'static str| {
        let dir = TempDir::new().unwrap();
        let server =
            Server::start(move |_, _| Says::new(status, "").with("x-error-code", code).with("retry-after", "0"));
        let error = hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap_err();
        (error, server.asked().len())
    };
    assert!(matches!(failure(401, ""), (HubError::Unauthorized { .. }, 1)));
    assert!(matches!(failure(401, "GatedRepo"), (HubError::Forbidden { .. }, 1)));
    assert!(matches!(failure(403, "GatedRepo"), (HubError::Forbidden { .. }, 1)));
    assert!(matches!(failure(404, ""), (HubError::NotFound { .. }, 1)));
    assert!(matches!(failure(429, ""), (HubError::TooManyRequests { .. }, 4)));
    assert!(matches!(failure(502, ""), (HubError::Fetch(FetchError::ServerFailed { status: 502, .. }), 4)));
    assert!(matches!(failure(418, ""), (HubError::Fetch(FetchError::Refused { status: 418, .. }), 1)));
}

#[test]
fn a_busy_server_is_asked_again() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(|asked, before| match (asked.path.starts_with("/api/"), before) {
        (_, 0) => Says::new(429, "").with("retry-after", "0"),
        (_, 1) => Says::new(500, ""),
        (true, _) => Says::new(200, listing(&[("m.gguf", b"GGUF")])),
        (false, _) => Says::new(200, "GGUF"),
    });
    assert_eq!(hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap().fetched, 1);
}

#[test]
fn a_range_the_server_cannot_serve_starts_over() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(|asked, _| {
        if asked.path.starts_with("/api/") {
            return Says::new(200, listing(&[("m.gguf", &body(1000))]));
        }
        if asked.headers.contains_key("range") { Says::new(416, "") } else { Says::new(200, body(1000)) }
    });
    let folder = dir.path().join("models/a/b");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("m.gguf.part"), &body(1000)[..10]).unwrap();
    fs::write(folder.join("m.gguf.part.json"), format!("{{\"sha256\":\"{}\"}}", sha(&body(1000)))).unwrap();
    let model = hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap();
    assert_eq!(fs::read(&model.paths[0]).unwrap(), body(1000));
}

#[test]
fn offline_uses_the_cache_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let server = repository(&[("m-TQ2_0.gguf", 100), ("m-F16.gguf", 10)]);
    hub(&server.address, dir.path()).pull(&name("a/b:F16"), None, &mut Silent).unwrap();
    let asked = server.asked().len();
    let offline = Hub::new(HubOptions {
        endpoint: server.address.clone(),
        token: None,
        cache: Cache::new(dir.path()),
        offline: true,
        waits: Vec::new(),
    })
    .unwrap();
    assert!(offline.locate(&name("a/b:F16"), None, &mut Silent).is_ok());
    assert!(offline.pull(&name("a/b:F16"), None, &mut Silent).is_ok());
    // Without a quant the name means TQ2_0, with and without a network; that one is not here.
    let error = offline.locate(&name("a/b"), None, &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
    assert!(offline.locate(&name("x/y"), None, &mut Silent).is_err());
    assert_eq!(server.asked().len(), asked);
}

#[test]
fn hostile_listings_write_nothing() {
    for file in ["../../evil.gguf", "/tmp/evil.gguf", "a\\..\\evil.gguf", ".sterna.gguf", "C:evil.gguf"] {
        let dir = TempDir::new().unwrap();
        let server = Server::start(move |_, _| Says::new(200, listing(&[(file, b"GGUF")])));
        let error = hub(&server.address, &dir.path().join("cache")).pull(&name("a/b"), None, &mut Silent).unwrap_err();
        assert!(matches!(error, HubError::UnsafeFileName { .. }), "{error}");
        assert_eq!(server.asked().len(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    for text in [&b"<html>"[..], b"{}", b"[]", br#"{"siblings":[{"size":-1,"rfilename":"m.gguf"}]}"#] {
        let dir = TempDir::new().unwrap();
        let server = Server::start(move |_, _| Says::new(200, text));
        let error = hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap_err();
        assert!(matches!(error, HubError::BadListing { .. }), "{error}");
    }
}

#[test]
fn a_listing_without_end_is_not_swallowed() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(|_, _| Says::new(200, vec![b' '; (MAX_LISTING + 1) as usize]));
    let error = hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap_err();
    assert!(matches!(&error, HubError::BadListing { why, .. } if why.contains("longer")), "{error}");
}

#[test]
fn shards_and_revisions_are_fetched_and_removed_together() {
    let dir = TempDir::new().unwrap();
    let server = repository(&[("q/m-TQ2_0-00001-of-00002.gguf", 300), ("q/m-TQ2_0-00002-of-00002.gguf", 200)]);
    let hub = hub(&server.address, dir.path());
    let model = hub.pull(&name("a/b@refs/pr/1"), None, &mut Silent).unwrap();
    assert_eq!((model.paths.len(), model.fetched, model.size), (2, 2, 500));
    assert!(model.paths[0].ends_with("models/a/b@refs%2Fpr%2F1/q/m-TQ2_0-00001-of-00002.gguf"));
    assert_eq!(server.asked()[0].path, "/api/models/a/b/revision/refs%2Fpr%2F1?blobs=true");
    let listed = hub.cache().list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_str(), listed[0].size), ("a/b@refs/pr/1:TQ2_0", 500));
    assert!(matches!(hub.cache().remove(&wanted("a/b"), &mut Silent), Err(HubError::NotCached { .. })));
    assert_eq!(hub.cache().remove(&wanted("a/b@refs/pr/1"), &mut Silent).unwrap(), listed);
    assert_eq!(fs::read_dir(dir.path().join("models")).unwrap().count(), 0);
}

#[test]
fn list_and_remove_know_one_quant_from_another() {
    let dir = TempDir::new().unwrap();
    let server = repository(&[("m-TQ2_0.gguf", 100), ("m-Q2_0.gguf", 50)]);
    let hub = hub(&server.address, dir.path());
    hub.pull(&name("a/b:TQ2_0"), None, &mut Silent).unwrap();
    hub.pull(&name("a/b"), Some("m-Q2_0.gguf"), &mut Silent).unwrap();
    let names = |hub: &Hub| hub.cache().list().unwrap().into_iter().map(|model| model.name).collect::<Vec<_>>();
    assert_eq!(names(&hub), ["a/b:Q2_0", "a/b:TQ2_0"]);
    assert!(hub.cache().remove(&wanted("a/b:TQ1_0"), &mut Silent).is_err());
    assert_eq!(hub.cache().remove(&wanted("a/b:q2_0"), &mut Silent).unwrap().len(), 1);
    assert_eq!(names(&hub), ["a/b:TQ2_0"]);
    assert!(!dir.path().join("models/a/b/m-Q2_0.gguf").exists());
    assert!(hub.cache().remove(&wanted("a/b"), &mut Silent).is_ok());
    assert!(names(&hub).is_empty());
}

#[test]
fn two_at_once_fetch_once() {
    let dir = TempDir::new().unwrap();
    let server = repository(&[("m.gguf", 3_000_000)]);
    let fetched: usize = std::thread::scope(|scope| {
        let pull = || hub(&server.address, dir.path()).pull(&name("a/b"), None, &mut Silent).unwrap().fetched;
        let both = [scope.spawn(pull), scope.spawn(pull)];
        both.map(|thread| thread.join().unwrap()).iter().sum()
    });
    assert_eq!(fetched, 1);
}

#[test]
fn an_interrupt_keeps_the_part() {
    let dir = TempDir::new().unwrap();
    let server = repository(&[("m.gguf", 3_000_000)]);
    let hub = hub(&server.address, dir.path());
    let error = hub.pull(&name("a/b"), None, &mut Interrupting::default()).unwrap_err();
    assert!(matches!(error, HubError::Fetch(FetchError::Interrupted)), "{error}");
    assert!(fs::metadata(dir.path().join("models/a/b/m.gguf.part")).unwrap().len() > 0);
    hub.pull(&name("a/b"), None, &mut Silent).unwrap();
    assert!(server.asked_for("/resolve/")[1].headers.contains_key("range"));
}

/// A server with one repository a/b of these files. Only weights are in LFS, so only they have a checksum in the listing, as on the
/// hub.
fn checkpoint_repository(files: Vec<(&'static str, Vec<u8>)>) -> Server {
    Server::start(move |asked, _| {
        if asked.path.starts_with("/api/models/a/b") {
            let siblings: Vec<_> = files
                .iter()
                .map(|(name, body)| {
                    let lfs = name.ends_with(".safetensors").then(|| serde_json::json!({"sha256": sha(body)}));
                    serde_json::json!({"rfilename": name, "size": body.len(), "lfs": lfs})
                })
                .collect();
            return Says::new(200, serde_json::json!({"sha": "c0ffee", "siblings": siblings}).to_string());
        }
        match files.iter().find(|(name, _)| asked.path == format!("/a/b/resolve/c0ffee/{name}")) {
            Some((name, body)) => Says::file(asked, body, name),
            None => Says::new(404, ""),
        }
    })
}

const SHARDS: &str = r#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors"}}"#;

fn sharded() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{}".to_vec()),
        ("model.safetensors.index.json", SHARDS.into()),
        ("m-1.safetensors", body(3000)),
        ("m-2.safetensors", body(2000)),
        ("tokenizer.json", b"{}".to_vec()),
        ("merges.txt", b"#".to_vec()),
        ("consolidated.safetensors", body(10)),
        ("onnx/model.onnx", body(10)),
        ("original/config.json", body(10)),
        ("README.md", b"hello".to_vec()),
    ]
}

#[test]
fn a_checkpoint_is_fetched_as_one_folder_and_then_found() {
    let dir = TempDir::new().unwrap();
    let server = checkpoint_repository(sharded());
    let hub = hub(&server.address, dir.path());
    let folder = hub.checkpoint(&name("a/b"), &mut Silent).unwrap();
    assert_eq!(folder, dir.path().join("models/a/b"));
    let mut here: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    here.retain(|name| !name.starts_with('.'));
    here.sort();
    let expected = [
        "README.md",
        "config.json",
        "m-1.safetensors",
        "m-2.safetensors",
        "merges.txt",
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(here, expected);
    assert_eq!(fs::read(folder.join("m-2.safetensors")).unwrap(), body(2000));
    let asked = server.asked().len();
    assert_eq!(hub.checkpoint(&name("a/b"), &mut Silent).unwrap(), folder);
    assert_eq!(server.asked().len(), asked, "a checkpoint that is here needs no network");
    // It is listed, beside GGUFs, and removed with them.
    let listed = hub.cache().list().unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str(), &listed[0].quant, listed[0].complete), (1, "a/b", &None, true));
    assert_eq!((listed[0].size, &listed[0].path), (5000 + 2 + 2 + 1 + 5 + SHARDS.len() as u64, &folder));
    assert_eq!(hub.cache().remove(&wanted("a/b"), &mut Silent).unwrap(), listed);
    assert!(!folder.exists());
}

#[test]
fn a_checkpoint_that_stopped_goes_on_and_offline_takes_whole_ones_only() {
    let dir = TempDir::new().unwrap();
    let server = checkpoint_repository(sharded());
    let hub = hub(&server.address, dir.path());
    let error = hub.checkpoint(&name("a/b@v1"), &mut Interrupting::default()).unwrap_err();
    assert!(matches!(error, HubError::Fetch(FetchError::Interrupted)), "{error}");
    let offline = Hub::new(HubOptions {
        endpoint: server.address.clone(),
        token: None,
        cache: Cache::new(dir.path()),
        offline: true,
        waits: Vec::new(),
    })
    .unwrap();
    assert!(matches!(offline.checkpoint(&name("a/b@v1"), &mut Silent), Err(HubError::Offline { .. })));
    hub.checkpoint(&name("a/b@v1"), &mut Silent).unwrap();
    assert!(server.asked()[0].path.starts_with("/api/models/a/b/revision/v1"));
    assert!(offline.checkpoint(&name("a/b@v1"), &mut Silent).unwrap().ends_with("models/a/b@v1"));
    assert!(matches!(offline.checkpoint(&name("a/b"), &mut Silent), Err(HubError::Offline { .. })));
}

#[test]
fn what_is_no_checkpoint_is_said_before_anything_is_fetched() {
    let file = |name: &'static str| (name, body(5));
    let index =
        |text: &str| vec![file("config.json"), ("model.safetensors.index.json", text.into()), file("m-1.safetensors")];
    for (files, said) in [
        (vec![file("m-TQ2_0.gguf")], "it holds GGUF files"),
        (vec![file("config.json"), file("pytorch_model.bin")], "look for a version in safetensors"),
        (vec![file("config.json"), file("adapter_model.safetensors")], "merge_and_unload()"),
        (vec![file("config.json")], "it has no model.safetensors"),
        (vec![file("model.safetensors")], "it has no config.json"),
        (index("{"), "model.safetensors.index.json: it is no JSON"),
        (index(r#"{"weight_map":{"a":"../x.safetensors"}}"#), "not one beside the index"),
        (index(r#"{"weight_map":{"a":"m-9.safetensors"}}"#), "names m-9.safetensors, which is not there"),
    ] {
        let dir = TempDir::new().unwrap();
        let server = checkpoint_repository(files);
        let error = hub(&server.address, dir.path()).checkpoint(&name("a/b"), &mut Silent).unwrap_err();
        assert!(matches!(error, HubError::NoCheckpoint { .. }), "{error}");
        assert!(error.to_string().contains(said), "{error}");
        assert!(server.asked_for("/resolve/").iter().all(|asked| asked.path.ends_with(".index.json")));
    }
    let dir = TempDir::new().unwrap();
    let server = checkpoint_repository(vec![file("config.json"), file("..\\evil.safetensors")]);
    let error = hub(&server.address, dir.path()).checkpoint(&name("a/b"), &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::UnsafeFileName { .. }), "{error}");
    // Weights that are not what was announced are not kept.
    let server = Server::start(|asked, _| match asked.path.as_str() {
        path if path.starts_with("/api/") => {
            let weights =
                serde_json::json!({"rfilename": "model.safetensors", "size": 5, "lfs": {"sha256": sha(&body(5))}});
            let listing = serde_json::json!({"sha": "c0ffee", "siblings": [{"rfilename": "config.json"}, weights]});
            Says::new(200, listing.to_string())
        }
        _ => Says::new(200, "wrong"),
    });
    let error = hub(&server.address, dir.path()).checkpoint(&name("a/b"), &mut Silent).unwrap_err();
    assert!(matches!(error, HubError::Fetch(FetchError::Checksum { .. })), "{error}");
}
