//! The program under test, files for it, and a server that stands in for the hub.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;
use sterna_core::formats::Format;
use sterna_core::gguf::{Gguf, Metadata, TensorDecl, Writer};

/// `sterna`, without anything that the surroundings might set.
pub fn sterna() -> Command {
    Command::from_std(process())
}

/// The same for a test that looks at it while it runs.
pub fn process() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sterna"));
    for variable in [
        "COLUMNS",
        "HF_ENDPOINT",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "NO_COLOR",
        "STERNA_CACHE",
        "STERNA_DATA_MIRROR",
        "STERNA_KERNEL",
    ] {
        command.env_remove(variable);
    }
    // Nothing of this machine's user is read or written.
    command.env("STERNA_CACHE", "/nonexistent/cache").env("HF_TOKEN_PATH", "/nonexistent/token");
    command
}

/// A model that ships.
pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name)
}

/// What a finished command wrote to stdout.
pub fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

/// What was printed as JSON.
pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A Python that has gguf-py, or `None` after saying that the test is skipped.
pub fn gguf_python() -> Option<OsString> {
    let python = std::env::var_os("STERNA_PYTHON");
    if python.is_none() {
        println!("skipped: STERNA_PYTHON does not name a Python that has gguf; npm test sets it");
    }
    python
}

/// Holds names, shapes and every element that gguf-py finds in a file to what the runtime finds; gives all that gguf-py said.
pub fn read_by_gguf_py(python: &OsStr, path: &Path) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/read_gguf.py");
    let read = std::process::Command::new(python).arg(script).arg(path).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let read = json(&String::from_utf8(read.stdout).unwrap());
    let bytes = std::fs::read(path).unwrap();
    let file = Gguf::parse(&bytes).unwrap();
    let theirs = read["tensors"].as_array().unwrap();
    assert_eq!(theirs.len(), file.header().tensors.len());
    for (info, theirs) in file.header().tensors.iter().zip(theirs) {
        assert_eq!(theirs["name"], info.name.as_str());
        let shape: Vec<u64> = info.dims.iter().rev().copied().collect();
        assert_eq!(theirs["shape"], serde_json::json!(shape), "{}", info.name);
        let format = Format::identify(info).unwrap();
        let mut values = vec![0.0f32; info.elements() as usize];
        let size = format.tensor_bytes(info.rows(), info.cols()).unwrap() as usize;
        format.dequantize(&file.data(info)[..size], &mut values).unwrap();
        let theirs = theirs["values"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32);
        assert!(values.iter().copied().eq(theirs), "{}: {}", path.display(), info.name);
    }
    read
}

/// The file `name` of the real data, or `None` after saying that the test is skipped.
pub fn data(name: &str) -> Option<PathBuf> {
    match std::env::var_os("STERNA_DATA_DIR") {
        Some(dir) => Some(Path::new(&dir).join(name)),
        None if std::env::var("STERNA_REQUIRE_DATA").is_ok_and(|v| v == "1") => panic!("STERNA_DATA_DIR is not set"),
        None => {
            println!("skipped: needs {name} from STERNA_DATA_DIR");
            None
        }
    }
}

/// The folder of a checkpoint that stands with the tests.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/checkpoints").join(name)
}

/// A GGUF with these tensors, all zero: name, dimensions, type number, bytes.
pub fn gguf(metadata: &Metadata, tensors: &[(&str, &[u64], u32, u64)]) -> Vec<u8> {
    let decl = |(name, dims, type_id, size): &(&str, &[u64], u32, u64)| TensorDecl {
        name: (*name).into(),
        dims: dims.to_vec(),
        type_id: *type_id,
        size: *size,
    };
    let mut writer = Writer::new(Vec::new(), metadata, tensors.iter().map(decl).collect()).unwrap();
    for (name, _, _, size) in tensors {
        writer.tensor(name, &vec![0; *size as usize]).unwrap();
    }
    writer.finish().unwrap()
}

/// Bytes of a tensor.
pub fn size(format: Format, cols: u64, rows: u64) -> u64 {
    format.tensor_bytes(rows, cols).unwrap()
}

/// Serves one repository, a/b, with one file, over and over; gives its address.
pub fn hub(name: &str, content: Vec<u8>) -> String {
    hub_of(vec![(name.to_owned(), content)])
}

/// Serves one repository, a/b, with these files, over and over; gives its address.
pub fn hub_of(files: Vec<(String, Vec<u8>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let path = lines.next().and_then(|line| line.split(' ').nth(1).map(str::to_owned)).unwrap_or_default();
            lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
            let (status, body) = if path.starts_with("/api/models/a/b") {
                let sibling =
                    |(name, content): &(String, Vec<u8>)| serde_json::json!({"rfilename": name, "size": content.len()});
                let siblings: Vec<Value> = files.iter().map(sibling).collect();
                (200, serde_json::json!({"sha": "c0ffee", "siblings": siblings}).to_string().into_bytes())
            } else {
                let name = path.strip_prefix("/a/b/resolve/c0ffee/").unwrap_or_default();
                let found = files.iter().find(|file| file.0 == name);
                found.map_or((404, Vec::new()), |(_, content)| (200, content.clone()))
            };
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    address
}
