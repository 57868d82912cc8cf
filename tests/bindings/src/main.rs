//! Writes the guest SDK's bindings (`make bindings`).

use anyhow::{Context, Result};
use sandmill_bindings::BINDINGS;

fn main() -> Result<()> {
    for bindings in BINDINGS {
        let code = bindings.generate().with_context(|| format!("generate the world {}", bindings.world))?;
        std::fs::write(bindings.path(), code).with_context(|| format!("write {}", bindings.file))?;
        println!("{}", bindings.file);
    }
    Ok(())
}
