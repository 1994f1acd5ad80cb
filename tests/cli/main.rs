//! The `sterna` command as a person meets it: what it prints, where, and with which exit code.

mod basics;
mod bench;
mod convert;
mod data;
mod docs;
mod images;
mod inspect;
#[cfg(unix)]
mod interrupt;
mod looks;
mod models;
mod pull;
mod qat;
mod support;
mod train;
