//! The plugin's settings, as operators set them. A tenant's own values override the common ones.
//! Settings do not change during a batch.

use std::{fmt::Display, str::FromStr};

use crate::Halt;

/// Parses a setting as a number, a `bool` or any other type with [`FromStr`]. `None` if it is not
/// set.
///
/// # Errors
///
/// A value that does not parse stops the lane with the code `invalid-setting`, so that a person
/// corrects it.
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

/// A setting as text. `None` if it is not set.
pub fn get(key: &str) -> Option<String> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::sandmill::processor::settings::get(key);
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::setting(key)
}

/// All settings, as keys and values.
pub fn get_all() -> Vec<(String, String)> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::sandmill::processor::settings::get_all();
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::settings()
}
