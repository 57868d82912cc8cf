//! Log lines, one macro a level: `log::info!("{count} orders")`. The line's context is the module that wrote it. The host counts
//! and drops lines over the plugin's volume limit. Without a host, in a plugin's own tests, lines go to stderr.
//!
//! ```
//! use sandmill_guest::prelude::*;
//!
//! let (orders, customer) = (2, "ann");
//! log::info!("{orders} orders of {customer}");
//! log::warn!("{} has no name", customer.len());
//! ```

use std::fmt;

#[doc(no_inline)]
pub use crate::bindings::sandmill::processor::logging::Level;
pub use crate::{
    __log_critical as critical, __log_debug as debug, __log_error as error, __log_info as info, __log_trace as trace,
    __log_warn as warn,
};

/// Writes one line; what the macros stand on.
pub fn write(level: Level, context: &str, message: fmt::Arguments<'_>) {
    #[cfg(target_arch = "wasm32")]
    match message.as_str() {
        Some(message) => crate::bindings::sandmill::processor::logging::log(level, context, message),
        None => crate::bindings::sandmill::processor::logging::log(level, context, &message.to_string()),
    }
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?} {context}: {message}");
}

/// Writes a line of a level.
#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $($message:tt)+) => {
        $crate::log::write(
            $crate::log::Level::$level,
            ::core::module_path!(),
            ::core::format_args!($($message)+),
        )
    };
}

/// Finer than `debug`.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_trace { ($($message:tt)+) => { $crate::__log!(Trace, $($message)+) }; }

/// What helps to find a mistake in the plugin.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_debug { ($($message:tt)+) => { $crate::__log!(Debug, $($message)+) }; }

/// What an operator may want to know.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_info { ($($message:tt)+) => { $crate::__log!(Info, $($message)+) }; }

/// What an operator should look at some day.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_warn { ($($message:tt)+) => { $crate::__log!(Warn, $($message)+) }; }

/// What went wrong.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_error { ($($message:tt)+) => { $crate::__log!(Error, $($message)+) }; }

/// What ends the plugin's work; panics are logged with it.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_critical { ($($message:tt)+) => { $crate::__log!(Critical, $($message)+) }; }
