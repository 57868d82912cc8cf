//! Log lines, one macro per level: `log::info!("{count} orders")`. A line's context is the module
//! that wrote it. The host drops and counts lines beyond the plugin's volume limit. In a plugin's
//! own tests, lines go to standard error.
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

/// Writes a line. The macros call this.
pub fn write(level: Level, context: &str, message: fmt::Arguments<'_>) {
    #[cfg(target_arch = "wasm32")]
    match message.as_str() {
        Some(message) => crate::bindings::sandmill::processor::logging::log(level, context, message),
        None => crate::bindings::sandmill::processor::logging::log(level, context, &message.to_string()),
    }
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?} {context}: {message}");
}

/// Writes a line at a level.
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

/// Details finer than `debug`.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_trace { ($($message:tt)+) => { $crate::__log!(Trace, $($message)+) }; }

/// Details that help to debug the plugin.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_debug { ($($message:tt)+) => { $crate::__log!(Debug, $($message)+) }; }

/// Information for operators.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_info { ($($message:tt)+) => { $crate::__log!(Info, $($message)+) }; }

/// A condition that an operator should look at eventually.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_warn { ($($message:tt)+) => { $crate::__log!(Warn, $($message)+) }; }

/// A failure.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_error { ($($message:tt)+) => { $crate::__log!(Error, $($message)+) }; }

/// A failure that ends the plugin's call. Panics are logged at this level.
#[macro_export]
#[doc(hidden)]
macro_rules! __log_critical { ($($message:tt)+) => { $crate::__log!(Critical, $($message)+) }; }
