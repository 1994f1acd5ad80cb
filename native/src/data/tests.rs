//! Fetching against a server of our own on this machine, and looking in folders of all layouts.

use std::io::Write;

use tempfile::TempDir;

use super::*;
use crate::fetch::testing::{Interrupting, Says, Server, body, sha};
use crate::fetch::{FetchError, Silent};

fn leaked(text: impl Into<String>) -> &'static str {
    Box::leak(text.into().into_boxed_str())
}

fn gzip(content: &[u8], level: u32) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    writer.write_all(content).unwrap();
    writer.finish().unwrap()
}

/// A set of a text and an archive, found in folders `one` and `two`.
fn set(text: &[u8], packed: &[u8]) -> DataSet {
    let file = |name, content: &[u8]| DataFile {
        name,
        url: "https://nowhere.invalid/",
        bytes: content.len() as u64,
        sha256: leaked(sha(content)),
        inside: None,
    };
    DataSet {
        name: "one",
        about: "for tests",
        licence: "none",
        files: Vec::leak(vec![file("a.txt", text), file("b.gz", packed)]),
        folders: &["two"],
        instead: &[&["whole.bin"]],
    }
}

fn fetcher(server: &Server) -> Fetcher {
    Fetcher::new(Some(format!("{}/mirror/", server.address)), vec![Duration::from_millis(1); 2]).unwrap()
}

/// Serves a set's files, the archive compressed anew.
fn serving(text: &'static [u8], packed: &'static [u8]) -> Server {
    Server::start(move |asked, _| match asked.path.as_str() {
        "/mirror/one/a.txt" => Says::file(asked, text, "a"),
        "/mirror/one/b.gz" => Says::file(asked, &gzip(packed, 1), "b"),
        _ => Says::new(404, ""),
    })
}

#[test]
fn a_set_is_fetched_once_and_then_only_checked() {
    let (text, packed): (&[u8], &[u8]) = (b"to be", b"or not to be");
    let (dir, server, set) = (TempDir::new().unwrap(), serving(text, packed), set(text, packed));
    let kept = fetcher(&server).get(&set, dir.path(), &mut Silent).unwrap();
    assert_eq!(kept, Kept { path: dir.path().join("one"), fetched: 2 });
    assert_eq!(read(&kept.path, "a.txt").unwrap(), text);
    assert_eq!(read(&kept.path, "b").unwrap(), packed);
    assert_eq!(fetcher(&server).get(&set, dir.path(), &mut Silent).unwrap().fetched, 0);
    assert_eq!(server.asked().len(), 2);
    // Only what is missing is fetched again.
    fs::remove_file(dir.path().join("one/a.txt")).unwrap();
    assert_eq!(fetcher(&server).get(&set, dir.path(), &mut Silent).unwrap().fetched, 1);
}

#[test]
fn files_that_are_there_in_another_layout_count_if_their_content_does() {
    let (text, packed): (&[u8], &[u8]) = (b"to be", b"or not to be");
    let (dir, server, set) = (TempDir::new().unwrap(), serving(text, packed), set(text, packed));
    let two = dir.path().join("two");
    fs::create_dir(&two).unwrap();
    fs::write(two.join("a.txt"), text).unwrap();
    fs::write(two.join("b"), packed).unwrap(); // unpacked by hand
    assert_eq!(fetcher(&server).get(&set, dir.path(), &mut Silent).unwrap(), Kept { path: two.clone(), fetched: 0 });
    assert!(server.asked().is_empty());
    for (name, content) in [("a.txt", &b"to bee"[..]), ("b.gz", b"no archive"), ("b.gz", &gzip(b"other", 9))] {
        let before = fs::read(two.join(name)).ok();
        fs::write(two.join(name), content).unwrap();
        let error = fetcher(&server).get(&set, dir.path(), &mut Silent).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("delete"), "{error}");
        assert_eq!(fs::read(two.join(name)).unwrap(), content, "the user's file was touched");
        match before {
            Some(before) => fs::write(two.join(name), before).unwrap(),
            None => fs::remove_file(two.join(name)).unwrap(),
        }
    }
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let (text, packed) = (body(400_000), body(600_000));
    let (dir, set) = (TempDir::new().unwrap(), set(&text, &packed));
    let archive = gzip(&packed, 0);
    let server = Server::start(move |asked, before| {
        let content = if asked.path.ends_with("a.txt") { &text } else { &archive };
        let mut says = Says::file(asked, content, "x");
        says.cut = (before == 0).then_some(100_000);
        says
    });
    fetcher(&server).get(&set, dir.path(), &mut Silent).unwrap();
    for name in ["a.txt", "b.gz"] {
        let asked = server.asked_for(name);
        assert_eq!((asked.len(), asked[1].headers["range"].as_str()), (2, "bytes=100000-"), "{name}");
    }
    assert_eq!(read(&dir.path().join("one"), "b").unwrap(), packed);
}

#[test]
fn other_content_than_the_published_is_not_kept() {
    let (text, packed): (&[u8], &[u8]) = (b"to be", b"or not to be");
    let set = set(text, packed);
    for (path, content) in [("a.txt", b"to me".to_vec()), ("b.gz", gzip(b"or", 6)), ("b.gz", b"<html>".to_vec())] {
        let dir = TempDir::new().unwrap();
        let server = Server::start(move |asked, _| match asked.path.ends_with(path) {
            true => Says::new(200, content.clone()),
            false if asked.path.ends_with(".gz") => Says::new(200, gzip(packed, 6)),
            false => Says::new(200, text),
        });
        let error = fetcher(&server).get(&set, dir.path(), &mut Silent).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(FetchError::Checksum { file, .. }) if file == path), "{error}");
        assert!(!dir.path().join("one").join(path).exists());
        assert!(found_in(&set, &dir.path().join("one")).is_none());
    }
}

#[test]
fn refusals_name_the_address() {
    let (dir, server) = (TempDir::new().unwrap(), Server::start(|_, _| Says::new(404, "")));
    let error = fetcher(&server).get(&set(b"a", b"b"), dir.path(), &mut Silent).unwrap_err().to_string();
    assert!(error.contains("/mirror/one/a.txt") && error.contains("404") && !error.contains("HF_"), "{error}");
    for mirror in ["mirror.example", "ftp://mirror.example", "file:///tmp"] {
        assert!(Fetcher::new(Some(mirror.to_owned()), Vec::new()).is_err(), "{mirror} was taken");
    }
    assert!(Fetcher::new(Some(String::new()), Vec::new()).unwrap().mirror.is_none());
}

#[test]
fn an_interrupt_is_one_and_keeps_the_part() {
    let text = Vec::leak(body(3_000_000));
    let (dir, server, set) = (TempDir::new().unwrap(), serving(text, b"x"), set(text, b"x"));
    let error = fetcher(&server).get(&set, dir.path(), &mut Interrupting::default()).unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(FetchError::Interrupted)), "{error}");
    assert!(fs::metadata(dir.path().join("one/a.txt.part")).unwrap().len() > 0);
    fetcher(&server).get(&set, dir.path(), &mut Silent).unwrap();
    assert!(server.asked_for("a.txt")[1].headers.contains_key("range"));
}

#[test]
fn sets_are_found_in_every_layout_and_order() {
    let set = set(b"a", b"b");
    let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let locate = |data_dir: Option<&Path>| locate_in(&set, data_dir, &[None, Some(second.path().to_owned())]);
    let error = locate(None).unwrap_err().to_string();
    assert!(error.contains(&second.path().display().to_string()) && error.contains("`sterna data get one`"), "{error}");
    let error = locate(Some(first.path())).unwrap_err().to_string();
    let command = format!("`sterna data get one --data-dir {}`", first.path().display());
    assert!(error.contains(&command) && !error.contains(&second.path().display().to_string()), "{error}");

    let put = |folder: &Path, names: &[&str]| {
        fs::create_dir_all(folder).unwrap();
        names.iter().for_each(|name| fs::write(folder.join(name), "x").unwrap());
    };
    put(&second.path().join("one"), &["a.txt"]);
    assert!(locate(None).is_err(), "half a set was found");
    put(&second.path().join("two"), &["whole.bin"]);
    assert_eq!(locate(None).unwrap(), second.path().join("two"));
    put(&second.path().join("one"), &["b"]);
    assert_eq!(locate(None).unwrap(), second.path().join("one"));
    // With --data-dir no other place is looked into, and it may be the folder itself; the other places may not.
    let error = locate(Some(first.path())).unwrap_err().to_string();
    assert!(error.contains(&first.path().display().to_string()) && !error.contains(" or /"), "{error}");
    put(first.path(), &["a.txt", "b.gz"]);
    assert_eq!(locate(Some(first.path())).unwrap(), first.path());
    assert!(locate_in(&set, None, &[Some(first.path().to_owned())]).is_err());
}

#[test]
fn a_set_of_one_file_is_that_file() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("input.txt"), "x").unwrap();
    let found = locate("tinyshakespeare", Some(dir.path())).unwrap();
    assert_eq!(found, dir.path().join("input.txt"));
    assert!(locate("nothing", None).unwrap_err().to_string().contains("tinyshakespeare"));
}

#[test]
fn texts_are_files_or_data_sets_by_name() {
    let dir = TempDir::new().unwrap();
    let text = |name: &str| text_file(Path::new(name), Some(dir.path())).map_err(|error| error.to_string());
    assert_eq!(text("-").unwrap(), Path::new("-"));
    assert_eq!(text("no-such.txt").unwrap(), Path::new("no-such.txt"));
    let error = text("tinyshakespeare").unwrap_err();
    assert!(error.contains("sterna data get tinyshakespeare"), "{error}");
    fs::write(dir.path().join("input.txt"), "x").unwrap();
    assert_eq!(text("tinyshakespeare").unwrap(), dir.path().join("input.txt"));
    let error = text("tinyshakespeare.txt").unwrap_err();
    assert!(error.contains("by its name, tinyshakespeare"), "{error}");
    for name in
        ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"]
    {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    let error = text("mnist").unwrap_err();
    assert!(error.contains("no text") && error.contains("tinyshakespeare, wikitext-2"), "{error}");
}

#[test]
fn a_file_comes_out_of_an_archive() {
    const ARCHIVE: &[u8] = include_bytes!("../../../tests/fixtures/two-files.zip");
    let text = "or not to be, ".repeat(64);
    let server = Server::start(move |asked, _| match asked.path.as_str() {
        "/x/two.zip" => Says::file(asked, ARCHIVE, "z"),
        "/mirror/one/a.txt" => Says::file(asked, "or not to be, ".repeat(64).as_bytes(), "a"),
        _ => Says::new(404, ""),
    });
    let url = leaked(format!("{}/x/two.zip", server.address));
    let set = |sha256: String, inside| DataSet {
        files: Vec::leak(vec![DataFile {
            name: "a.txt",
            url,
            bytes: 896,
            sha256: leaked(sha256),
            inside: Some(inside),
        }]),
        ..set(b"", b"")
    };
    let plain = || Fetcher::new(None, Vec::new()).unwrap();
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("one");
    for (wrong, said) in
        [(set(sha(b"other"), "a/packed"), "SHA-256"), (set(sha(text.as_bytes()), "a/none"), "holds no a/none")]
    {
        let error = format!("{:#}", plain().get(&wrong, dir.path(), &mut Silent).unwrap_err());
        assert!(error.contains(said), "{error}");
        assert!(fs::read_dir(&folder).unwrap().all(|entry| entry.unwrap().file_name() == ".lock"));
    }
    let right = set(sha(text.as_bytes()), "a/packed");
    let kept = plain().get(&right, dir.path(), &mut Silent).unwrap();
    assert_eq!(kept, Kept { path: folder.join("a.txt"), fetched: 1 });
    assert_eq!(fs::read_to_string(&kept.path).unwrap(), text);
    assert!(!folder.join("a.txt.zip").exists());
    // A mirror serves the file itself.
    let dir = TempDir::new().unwrap();
    let kept = fetcher(&server).get(&right, dir.path(), &mut Silent).unwrap();
    assert_eq!(fs::read_to_string(&kept.path).unwrap(), text);
}

#[test]
fn damaged_archives_are_errors_with_a_remedy() {
    let dir = TempDir::new().unwrap();
    let archive = gzip(&body(10_000), 6);
    for damaged in [&archive[..archive.len() / 2], &archive[..archive.len() - 1], &b"no archive"[..], &[]] {
        fs::write(dir.path().join("b.gz"), damaged).unwrap();
        let error = format!("{:#}", read(dir.path(), "b").unwrap_err());
        assert!(error.contains("b.gz") && error.contains("sterna data get"), "{error}");
    }
    assert!(format!("{:#}", read(dir.path(), "c").unwrap_err()).contains("cannot read"));
}

/// The catalogue against copies of the published files.
#[test]
fn the_published_files_have_the_catalogues_checksums() {
    let Some(folder) = std::env::var_os("STERNA_DATA_DIR").map(PathBuf::from) else {
        assert_ne!(std::env::var("STERNA_REQUIRE_DATA").as_deref(), Ok("1"), "STERNA_DATA_DIR is not set");
        println!("skipped: needs mnist/, fashion-mnist/, gpt2/ and text/ from STERNA_DATA_DIR");
        return;
    };
    let unreachable = Fetcher::new(Some("http://127.0.0.1:1".to_owned()), Vec::new()).unwrap();
    for set in CATALOGUE {
        let kept = unreachable.get(set, &folder, &mut Silent).unwrap();
        assert_eq!((kept.fetched, kept.path), (0, locate(set.name, Some(&folder)).unwrap()));
        let folder = folder.join(set.folders.first().unwrap_or(&set.name));
        for file in set.files {
            assert_eq!(read(&folder, file.plain_name()).unwrap().len() as u64, file.bytes, "{}", file.name);
        }
    }
}
