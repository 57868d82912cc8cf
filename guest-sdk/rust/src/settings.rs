//! What operators set for this plugin, with the tenant's own values laid over it. The same during a whole batch.

use std::{fmt::Display, str::FromStr};

use crate::Halt;

/// One setting, read as a number, a `bool` or whatever else is made of text; `None` where it is not set. One that does not fit stops
/// the lane with the code `invalid-setting`, so that a person corrects it:
///
/// ```
/// # use sandmill_guest::prelude::*;
/// fn most_items() -> Result<u32, Halt> {
///     Ok(settings::parse("most-items")?.unwrap_or(100))
/// }
/// ```
pub fn parse<T: FromStr<Err: Display>>(key: &str) -> Result<Option<T>, Halt> {
    let Some(text) = get(key) else { return Ok(None) };
    text.parse().map(Some).map_err(|error| Halt::stop("invalid-setting", format!("{key} = {text:?}: {error}")))
}

/// One setting, as it was written.
pub fn get(key: &str) -> Option<String> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::sandmill::processor::settings::get(key);
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::setting(key)
}

/// All settings.
pub fn get_all() -> Vec<(String, String)> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::sandmill::processor::settings::get_all();
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::settings()
}
