//! The `sterna` command as a person meets it: what it prints, where, and with which exit code.

mod basics;
mod bench;
mod convert;
mod data;
mod divergence;
mod docs;
#[cfg(unix)]
mod files;
mod flags;
mod images;
mod inspect;
#[cfg(unix)]
mod interrupt;
mod looks;
mod models;
mod names;
mod pull;
mod qat;
mod support;
mod train;
