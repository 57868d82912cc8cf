//! What runtimes of other languages import: all of it is there, and nothing of it reaches the outside.

use sandmill::sandbox::Limits;
use sandmill_tests::{
    calls::{sandbox, unhurried},
    handmade,
};

/// That it traps when it is asked what it is means that everything it imports was linked.
#[test]
fn all_of_wasi_is_linked_at_every_minor() {
    let sandbox = sandbox(Limits { instances: 2, ..unhurried() });
    for version in ["0.2.0", "0.2.3", "0.2.12"] {
        let refused = sandbox.load(&handmade::importing_wasi(version)).err().expect("it traps").to_string();
        assert!(refused.starts_with("`describe` failed: trap: wasm trap: wasm `unreachable`"), "{version}: {refused}");
    }
}
