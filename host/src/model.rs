//! The vocabulary: what every other module speaks of. No tokio, SQL, wasmtime or HTTP in any of it.

pub mod cursor;
pub mod effects;
pub mod event;
pub mod handler;
pub mod ids;
pub mod json;
pub mod loading;
pub mod nearest;
pub mod partition_key;
pub mod settings;
pub mod text;
