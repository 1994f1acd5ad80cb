//! Generation: chat templates.

pub mod chat;
