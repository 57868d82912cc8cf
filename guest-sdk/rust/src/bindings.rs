//! Bindings that `wit-bindgen` generates from the contract in `wit/`. Not for direct use: the rest
//! of the crate wraps them, and [`raw`](crate::raw) has the types. The module is public but hidden,
//! because [`export_projector!`](crate::export_projector) expands its export macro in the plugin's
//! crate.
#![allow(missing_docs, unreachable_pub, reason = "generated code, documented in the contract")]
#![allow(clippy::all, reason = "generated code is not ours to style")]

wit_bindgen::generate!({
    path: "../../wit",
    world: "projector-plugin",
    ownership: Borrowing { duplicate_if_necessary: true },
    pub_export_macro: true,
    export_macro_name: "export_projector_plugin",
    default_bindings_module: "::sandmill_guest::bindings",
});
