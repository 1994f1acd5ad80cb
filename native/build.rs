//! Tells the program which commit it is built from: that of the checkout, or the one that a published package names. Where there is
//! neither, or no git, it does without.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let exact = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = packaged().or_else(|| checked_out(exact)).unwrap_or_default();
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let named = match (commit.as_str(), exact) {
        ("", _) => version,
        (_, true) => format!("{version} ({commit})"),
        (_, false) => format!("{version} ({commit} or later, debug build)"),
    };
    println!("cargo:rustc-env=STERNA_COMMIT={commit}");
    println!("cargo:rustc-env=STERNA_VERSION={named}");
}

/// The commit in the note that `cargo package` leaves.
fn packaged() -> Option<String> {
    let note = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let after = note.split_once("\"sha1\"")?.1;
    short(after.split('"').nth(1)?)
}

/// The commit of the checkout. What stands in a checkout of something else has none.
fn checked_out(exact: bool) -> Option<String> {
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    // A branch's next commit changes the branch's file and not HEAD. To watch that file compiles the crate anew after every commit,
    // so only releases do; a debug build may be of a later commit than it names, and says so.
    let mut watched = vec!["HEAD".to_owned()];
    if exact {
        watched.extend(git(&["symbolic-ref", "-q", "HEAD"]));
        watched.push("packed-refs".to_owned());
    }
    for name in watched {
        if let Some(path) = git(&["rev-parse", "--git-path", &name]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    short(&git(&["rev-parse", "HEAD"])?)
}

fn short(commit: &str) -> Option<String> {
    let hex = commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| commit[..10].to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
