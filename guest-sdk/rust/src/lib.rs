//! Write Sandmill plugins in Rust.
