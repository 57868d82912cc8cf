//! The domain types that all other rooms share. None of them depends on tokio, SQL, wasmtime or
//! HTTP.

pub mod cursor;
pub mod diagnostics;
pub mod effects;
pub mod event;
pub mod handler;
pub mod ids;
pub mod json;
pub mod loading;
pub mod nearest;
pub mod outbound;
pub mod partition_key;
pub mod reaction;
pub mod settings;
pub mod share;
pub mod spec;
pub mod text;
pub mod time;
pub mod user_cache;
